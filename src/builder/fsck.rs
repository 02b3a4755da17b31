//! `croze fsck`: reads everything in the store, and drops what is not what its name says.

use std::fs::File;
use std::io;

use super::{BuildError, report};
use crate::digest::{DiffId, Digest, Hasher};
use crate::layer;
use crate::store::{Store, StoreError};

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
    for (digest, path) in store.named_by_digest("blobs/sha256")? {
        // it may have been dropped meanwhile
        let Ok(mut file) = File::open(&path) else { continue };
        checked.blobs += 1;
        if hash(&mut file).ok() != Some(digest) {
            store.trash(&path)?;
            checked.faults.push(format!("blob {digest} was damaged and is dropped"));
        }
    }
    for (digest, _) in store.named_by_digest("layers")? {
        checked.layers += 1;
        let diff_id = DiffId(digest);
        let fault = match store.layer(&diff_id)? {
            None => Some("had no valid record"),
            // the content rather than the tar: a tree of another builder's layer need not give that builder's tar again
            Some(stored) => match layer::write_tar(&stored.tree, None, &mut io::sink()) {
                Ok(summary) if summary.content == stored.record.content => {
                    let differs = summary.diff_id == diff_id && summary.tar_bytes != stored.record.tar_bytes;
                    differs.then_some("had a damaged record")
                }
                Ok(_) => Some("holds other files than were written"),
                Err(_) => Some("cannot be read"),
            },
        };
        if let Some(fault) = fault {
            store.drop_layer(&diff_id)?;
            checked.faults.push(format!("layer {digest} {fault} and is dropped"));
        }
    }
    let names = store.check_names()?;
    checked.names = names.sound;
    checked
        .faults
        .extend(names.damaged.into_iter().map(|path| format!("the name in `{}` was damaged and is dropped", path.display())));
    let index = store.check_index()?;
    checked.records = index.records;
    if index.replaced {
        checked
            .faults
            .push("the index was damaged and is replaced by an empty one: the next build runs all its steps".to_owned());
    }
    if index.dangling > 0 {
        checked.faults.push(format!("{} records of steps whose layers are gone are dropped", index.dangling));
    }
    Ok(())
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
