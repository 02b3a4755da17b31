//! What takes space in the store, and the dropping of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::lease::Pruning;
use super::{Store, StoreError};
use crate::digest::{DiffId, Digest};

/// One thing that takes space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What it is.
    pub kind: UsageKind,
    /// Its bytes: those of a layer's tar, of a blob's file, of all files in a cache mount.
    pub size_bytes: u64,
    /// When it was used last; of a blob, when it was written.
    pub used: SystemTime,
}

/// Kinds of things that take space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageKind {
    /// A layer tree.
    Layer(DiffId),
    /// A document or a compressed layer.
    Blob(Digest),
    /// The content of `RUN --mount=type=cache`, by the name of its directory.
    CacheMount(Digest),
}

impl UsageKind {
    /// The digest that names it, as hexadecimal digits.
    pub fn id(&self) -> String {
        match self {
            UsageKind::Layer(diff_id) => diff_id.0.hex(),
            UsageKind::Blob(digest) | UsageKind::CacheMount(digest) => digest.hex(),
        }
    }
}

impl Store {
    /// All that takes space, in no order. What is unreadable is left out: `fsck` tells of it.
    ///
    /// # Errors
    /// A directory of the store cannot be read.
    pub fn usage(&self) -> Result<Vec<Usage>, StoreError> {
        let mut found = Vec::new();
        for (digest, path) in self.named_by_digest("layers")? {
            let diff_id = DiffId(digest);
            let record = path.join("record");
            let used = fs::metadata(&record).and_then(|metadata| metadata.modified());
            if let (Ok(used), Some(stored)) = (used, self.layer_untouched(&diff_id)?) {
                found.push(Usage { kind: UsageKind::Layer(diff_id), size_bytes: stored.tar_bytes, used });
            }
        }
        for (digest, path) in self.named_by_digest("blobs/sha256")? {
            if let Ok(metadata) = fs::metadata(&path)
                && let Ok(used) = metadata.modified()
            {
                found.push(Usage { kind: UsageKind::Blob(digest), size_bytes: metadata.len(), used });
            }
        }
        for (digest, path) in self.named_by_digest("cache-mounts")? {
            let (all_bytes, used) = tree_usage(&path).map_err(StoreError::io("read", &path))?;
            // what the store itself wrote beside them
            let about_bytes = fs::metadata(path.join("about")).map_or(0, |metadata| metadata.len());
            let size_bytes = all_bytes.saturating_sub(about_bytes);
            found.push(Usage { kind: UsageKind::CacheMount(digest), size_bytes, used });
        }
        Ok(found)
    }

    /// Moves one thing to the trash. `_right` proves that nobody uses it: the caller compared its last use with
    /// [`Pruning::in_use_since`].
    ///
    /// # Errors
    /// `Io` when it cannot be renamed.
    pub fn prune(&self, kind: &UsageKind, now_secs: i64, _right: &Pruning) -> Result<(), StoreError> {
        match kind {
            UsageKind::Layer(diff_id) => {
                self.note_pruned(diff_id, now_secs)?;
                self.drop_layer(diff_id)
            }
            UsageKind::Blob(digest) => self.trash(&self.blob_path(digest)),
            UsageKind::CacheMount(name) => self.trash(&self.root().join("cache-mounts").join(name.hex())),
        }
    }

    /// The entries of a directory of the store whose names are digests.
    pub fn named_by_digest(&self, directory: &str) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let directory = self.root().join(directory);
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(StoreError::io("read", &directory))? {
            let entry = entry.map_err(StoreError::io("read", &directory))?;
            let name = entry.file_name();
            if let Some(Ok(digest)) = name.to_str().map(|name| format!("sha256:{name}").parse()) {
                found.push((digest, entry.path()));
            }
        }
        Ok(found)
    }
}

/// Bytes of all files below `root`, and the latest change of anything there. What goes away meanwhile does not count.
fn tree_usage(root: &Path) -> io::Result<(u64, SystemTime)> {
    let (mut size_bytes, mut used) = (0, SystemTime::UNIX_EPOCH);
    // a stack instead of recursion: the depth of a tree is not ours to choose
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        used = used.max(metadata.modified()?);
        if metadata.is_dir() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            todo.extend(entries.flatten().map(|entry| entry.path()));
        } else {
            size_bytes += metadata.len();
        }
    }
    Ok((size_bytes, used))
}
