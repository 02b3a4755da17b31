//! Finding out whether a stored layer still is what it was.

use std::io;

use super::LayerError;
use super::packed::{self, Opened};
use super::tar::write_tar;
use crate::digest::{ContentDigest, DiffId};
use crate::store::{Soundness, Store, StoredLayer, Touched};

/// What reading a layer through has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// It holds what was written.
    Whole,
    /// It holds something else.
    Damaged,
    /// It came as another builder's tar, which its tree does not give again: only that tar could tell.
    Open {
        /// What the tree holds.
        content: ContentDigest,
    },
}

/// Reads a layer through; `None` if it is not there.
///
/// # Errors
/// The store or the layer cannot be read.
pub fn examine(store: &Store, diff_id: &DiffId) -> Result<Option<Proof>, LayerError> {
    let Some((opened, layer)) = packed::open(store, diff_id)? else { return Ok(None) };
    let record = &layer.record;
    let is_named_after_tar = record.content.0 == diff_id.0;
    Ok(Some(match opened {
        Opened::Tar(tar) => match packed::unpacked(store, tar) {
            Ok((_temp, tree, found)) => {
                let is_same_tar = (found.diff_id, found.tar_bytes) == (*diff_id, record.tar_bytes);
                match is_same_tar && write_tar(&tree, None, &mut io::sink())?.content == record.content {
                    true => Proof::Whole,
                    false => Proof::Damaged,
                }
            }
            Err(LayerError::Damaged { .. }) => Proof::Damaged,
            Err(error) => return Err(error),
        },
        Opened::Tree(tree) => {
            let found = write_tar(&tree, None, &mut io::sink())?;
            let is_same_tar = found.diff_id == *diff_id;
            match found.content == record.content || (is_named_after_tar && is_same_tar) {
                // the content says nothing of times, so the tar may be another one and the record still true
                true if is_same_tar && found.tar_bytes != record.tar_bytes => Proof::Damaged,
                true => Proof::Whole,
                false if is_named_after_tar => Proof::Open { content: found.content },
                false => Proof::Damaged,
            }
        }
    }))
}

/// The stored layer `diff_id`, ready for use. One that was written before the machine last started is read through first: if a
/// power cut took a part of it, or nothing can tell, it is dropped and counts as absent.
///
/// # Errors
/// The store or the layer cannot be read.
pub fn sound(store: &Store, diff_id: &DiffId) -> Result<Option<StoredLayer>, LayerError> {
    let Some(layer) = store.layer(diff_id)? else { return Ok(None) };
    if layer.soundness == Soundness::Sound {
        return Ok(Some(layer));
    }
    let proof = match packed::open(store, diff_id)? {
        // its name is enough
        Some((Opened::Tar(tar), _)) => match packed::copy(tar, &mut io::sink())?.0 == *diff_id {
            true => Some(Proof::Whole),
            false => Some(Proof::Damaged),
        },
        Some((Opened::Tree(_), _)) => examine(store, diff_id)?,
        None => None,
    };
    match proof {
        Some(Proof::Whole) => {
            store.layer_proven(diff_id)?;
            Ok(Some(StoredLayer { soundness: Soundness::Sound, ..layer }))
        }
        Some(Proof::Damaged | Proof::Open { .. }) => {
            store.drop_lost_layer(diff_id)?;
            Ok(None)
        }
        None => Ok(None),
    }
}

/// Whether a layer may be read: nobody has written to its files, or they are right all the same. One that turns out to be
/// damaged, or that nothing can tell of, is dropped, and so is what was learned from it.
///
/// # Errors
/// The store or the layer cannot be read.
pub fn is_untouched(store: &Store, diff_id: &DiffId) -> Result<bool, LayerError> {
    let touched = match store.touched(diff_id)? {
        Touched::No => return Ok(true),
        touched => touched,
    };
    let is_right = match examine(store, diff_id)? {
        None | Some(Proof::Whole) => true,
        Some(Proof::Damaged) => false,
        // in a copy of a store, files of the right sizes and times are most likely right; in a store that is somebody's
        // mistake or a damaged disk's, they are not
        Some(Proof::Open { .. }) => touched == Touched::Copied,
    };
    match is_right {
        true => store.seal_again(diff_id),
        false => store.drop_damaged_layer(diff_id)?,
    }
    Ok(is_right)
}

/// Drops a layer whose files have turned out not to give its tar, if that means that they are damaged: the tar of another
/// builder is not given again by sound files either.
pub(super) fn condemn(store: &Store, diff_id: &DiffId) -> Result<(), LayerError> {
    let Some(layer) = store.layer(diff_id)? else { return Ok(()) };
    let is_named_after_tar = layer.record.content.0 == diff_id.0;
    if !is_named_after_tar || store.touched(diff_id)? == Touched::Yes {
        store.drop_damaged_layer(diff_id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::layer::{Compression, LayerLimits, Lower, unpack};

    #[test]
    fn an_unpacked_layer_of_an_earlier_boot_is_proven_by_its_tar() {
        let space = tempfile::tempdir().unwrap();
        fs::create_dir(space.path().join("tree")).unwrap();
        fs::write(space.path().join("tree/f"), "x").unwrap();
        let mut tar = Vec::new();
        write_tar(&space.path().join("tree"), None, &mut tar).unwrap();
        let store = Store::open(&space.path().join("store")).unwrap();
        let layer = unpack(&store, &mut tar.as_slice(), Compression::None, None, Lower::Nothing, LayerLimits::NONE).unwrap();
        let diff_id = layer.record.diff_id;
        let tree = packed::tree(&store, &diff_id, &[]).unwrap().unwrap();
        let record = tree.parent().unwrap().join("record");
        let text = fs::read_to_string(&record).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        // without its sum, as earlier versions wrote it
        let text = text.lines().next().unwrap().replace(boot.trim(), "an-earlier-one");
        fs::write(&record, &text).unwrap();
        // what a process has found it does not look for again
        let store = || Store::open(&space.path().join("store")).unwrap();
        assert_eq!(store().layer(&diff_id).unwrap().unwrap().soundness, Soundness::Unproven);
        assert_eq!(sound(&store(), &diff_id).unwrap().unwrap().soundness, Soundness::Sound);
        fs::write(&record, text).unwrap();
        drop(fs::remove_file(tree.parent().unwrap().join("proven")));
        fs::write(tree.join("f"), "y").unwrap();
        assert!(sound(&store(), &diff_id).unwrap().is_none());
    }
}
