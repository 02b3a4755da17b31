//! `croze fsck`: reads everything in the store, and drops what is not what its name says.

use std::collections::HashMap;
use std::fs::File;
use std::io;

use super::{BuildError, report};
use crate::digest::{ContentDigest, DiffId, Digest, Hasher};
use crate::image::{ImageConfig, Manifest};
use crate::layer::{self, Compression, LayerError, LayerLimits, Proof};
use crate::snapshot::View;
use crate::store::{Store, StoreError, Touched};

/// What a check of the store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blobs that were read.
    pub blobs: usize,
    /// Layers that were read.
    pub layers: usize,
    /// Names of images that were read.
    pub names: usize,
    /// Records of steps in the index.
    pub records: usize,
    /// What was wrong and what became of it, one sentence each.
    pub faults: Vec<String>,
}

/// Checks every blob, layer, name and record. What is damaged goes to the trash and is made or fetched again when it is needed.
///
/// # Errors
/// The store cannot be read or written.
pub fn check(store: &Store) -> Result<Checked, BuildError> {
    let mut checked = Checked::default();
    check_store(store, &mut checked).map_err(|error| report::store_error(&error))?;
    Ok(checked)
}

fn check_store(store: &Store, checked: &mut Checked) -> Result<(), StoreError> {
    if store.was_mended() {
        checked.faults.push("the file `version` was damaged and is written anew".to_owned());
    }
    let mut sound = Vec::new();
    for (digest, path) in store.named_by_digest("blobs/sha256")? {
        // it may have been dropped meanwhile
        let Ok(mut file) = File::open(&path) else { continue };
        checked.blobs += 1;
        if hash(&mut file).ok() != Some(digest) {
            store.trash(&path)?;
            checked.faults.push(format!("blob {digest} was damaged and is dropped"));
        } else {
            sound.push(digest);
        }
    }
    // now that every damaged blob was told: reading one drops it
    let mut origins = HashMap::new();
    sound.iter().for_each(|digest| note_origins(store, digest, &mut origins));
    for (digest, _) in store.named_by_digest("layers")? {
        checked.layers += 1;
        let diff_id = DiffId(digest);
        let fault = match store.layer(&diff_id)?.map(|_| layer::examine(store, &diff_id)) {
            None | Some(Ok(None)) => Some("had no valid record"),
            Some(Ok(Some(Proof::Whole))) => None,
            Some(Ok(Some(Proof::Damaged))) => Some("holds other files than were written"),
            Some(Ok(Some(Proof::Open { content }))) => match content_of_blob(store, origins.get(&diff_id)) {
                Ok(Some(expected)) if expected == content => None,
                Ok(Some(_)) => Some("holds other files than were written"),
                Ok(None) | Err(_) => Some("cannot be checked without its blob"),
            },
            Some(Err(_)) => Some("cannot be read"),
        };
        match fault {
            Some(fault) => {
                store.drop_damaged_layer(&diff_id)?;
                checked.faults.push(format!("layer {digest} {fault} and is dropped"));
            }
            None => match store.touched(&diff_id)? {
                Touched::No => {}
                Touched::Copied => store.seal_again(&diff_id),
                Touched::Yes => {
                    store.seal_again(&diff_id);
                    checked.faults.push(format!("layer {digest} had a wrong seal and is sealed again: its files are right"));
                }
            },
        }
    }
    let names = store.check_names()?;
    checked.names = names.sound;
    checked
        .faults
        .extend(names.damaged.into_iter().map(|path| format!("the name in `{}` was damaged and is dropped", path.display())));
    for name in store.check_cache_mounts()? {
        checked.faults.push(format!("what cache mount {} is for was damaged and is forgotten; its files stay", name.hex()));
    }
    let index = store.check_index()?;
    checked.records = index.records;
    if index.replaced {
        checked
            .faults
            .push("the index was damaged and is replaced by an empty one: the next build runs all its steps".to_owned());
    }
    if index.damaged > 0 {
        checked.faults.push(format!("{} rows of the index were damaged and are dropped", index.damaged));
    }
    if index.dangling > 0 {
        checked.faults.push(format!("{} records of steps whose layers are gone are dropped", index.dangling));
    }
    Ok(())
}

/// Where a layer of another builder's came from.
struct Origin {
    blob: Digest,
    compression: Compression,
    below: Vec<DiffId>,
}

/// Documents are small: what is bigger is a layer.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// Notes which blobs the layers of a manifest came from, if the blob `digest` is one.
fn note_origins(store: &Store, digest: &Digest, origins: &mut HashMap<DiffId, Origin>) {
    let Ok(Some(1..=MAX_DOCUMENT_BYTES)) = store.blob_size(digest) else { return };
    let parsed = |digest: &Digest| store.read_blob(digest).ok();
    let Some(Ok(manifest)) = parsed(digest).map(|bytes| serde_json::from_slice::<Manifest>(&bytes)) else { return };
    let Some(Ok(config)) = parsed(&manifest.config.digest).map(|bytes| serde_json::from_slice::<ImageConfig>(&bytes)) else {
        return;
    };
    for (number, (layer, diff_id)) in manifest.layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
        if let Some(compression) = Compression::of_media_type(&layer.media_type) {
            let below = config.rootfs.diff_ids[..number].to_vec();
            origins.insert(*diff_id, Origin { blob: layer.digest, compression, below });
        }
    }
}

/// What a layer's blob holds when it is unpacked again; `None` if the blob is gone.
fn content_of_blob(store: &Store, origin: Option<&Origin>) -> Result<Option<ContentDigest>, LayerError> {
    let Some(Origin { blob, compression, below }) = origin else { return Ok(None) };
    let Ok(mut file) = File::open(store.blob_path(blob)) else { return Ok(None) };
    let lower = View::new(layer::trees(store, below)?)?;
    let temp = store.temp_dir()?;
    let tree = temp.path.join("tree");
    std::fs::create_dir(&tree).map_err(LayerError::Write)?;
    layer::unpack_into(&tree, &mut file, *compression, Some(&lower), LayerLimits::NONE)?;
    Ok(Some(layer::write_tar(&tree, None, &mut io::sink())?.content))
}

fn hash(file: &mut File) -> io::Result<Digest> {
    struct Sink(Hasher);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Hasher::new());
    io::copy(file, &mut sink)?;
    Ok(sink.0.finish())
}
