//! Making a finished tree a layer, and finding out whether it still is one.

use std::io;
use std::path::PathBuf;

use super::LayerError;
use super::tar::write_tar;
use crate::digest::DiffId;
use crate::store::{LayerRecord, Soundness, Store, StoredLayer};

/// Publishes the layer tree at `tree`, a directory in one of the store's temporary ones, under the digest of its tar.
///
/// The tree is read once: the tar is hashed and thrown away. If the store has the layer already, `tree` is dropped.
///
/// # Errors
/// As [`write_tar`]; `Store` if the tree cannot be moved into place.
pub fn commit(store: &Store, tree: PathBuf) -> Result<StoredLayer, LayerError> {
    let summary = write_tar(&tree, None, &mut io::sink())?;
    let record = LayerRecord { diff_id: summary.diff_id, tar_bytes: summary.tar_bytes, content: summary.content };
    Ok(store.publish_layer(tree, record)?)
}

/// The stored layer `diff_id`, ready for use. One that was written before the machine last started is read through first: if a
/// power cut took a part of it, it is dropped and counts as absent.
///
/// # Errors
/// The store or the tree cannot be read.
pub fn sound(store: &Store, diff_id: &DiffId) -> Result<Option<StoredLayer>, LayerError> {
    let Some(layer) = store.layer(diff_id)? else { return Ok(None) };
    if layer.soundness == Soundness::Sound {
        return Ok(Some(layer));
    }
    let found = write_tar(&layer.tree, None, &mut io::sink())?;
    // an unpacked layer's record knows the tar alone; a tree that does not give it again is unpacked anew, from its blob
    if found.content == layer.record.content || found.diff_id == *diff_id {
        store.layer_proven(diff_id)?;
        return Ok(Some(StoredLayer { soundness: Soundness::Sound, ..layer }));
    }
    store.drop_layer(diff_id)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::layer::{Compression, LayerLimits, unpack};

    #[test]
    fn an_unpacked_layer_of_an_earlier_boot_is_proven_by_its_tar() {
        let space = tempfile::tempdir().unwrap();
        fs::create_dir(space.path().join("tree")).unwrap();
        fs::write(space.path().join("tree/f"), "x").unwrap();
        let mut tar = Vec::new();
        write_tar(&space.path().join("tree"), None, &mut tar).unwrap();
        let store = Store::open(&space.path().join("store")).unwrap();
        let layer = unpack(&store, &mut tar.as_slice(), Compression::None, None, None, LayerLimits::NONE).unwrap();
        let diff_id = layer.record.diff_id;
        let record = layer.tree.parent().unwrap().join("record");
        let text = fs::read_to_string(&record).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(&record, text.replace(boot.trim(), "an-earlier-one")).unwrap();
        assert_eq!(store.layer(&diff_id).unwrap().unwrap().soundness, Soundness::Unproven);
        assert_eq!(sound(&store, &diff_id).unwrap().unwrap().soundness, Soundness::Sound);
        fs::write(&record, text.replace(boot.trim(), "an-earlier-one")).unwrap();
        drop(fs::remove_file(layer.tree.parent().unwrap().join("proven")));
        fs::write(layer.tree.join("f"), "y").unwrap();
        assert!(sound(&store, &diff_id).unwrap().is_none());
    }
}
