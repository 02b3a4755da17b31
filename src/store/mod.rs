//! One directory that several processes share: verified blobs, layer trees, names, records, locks.
//!
//! Owns: everything below the store's root; the SQLite index (in `db`, the only file that knows `rusqlite`).
//! In:   bytes, layer trees, records.
//! Out:  the same, verified; nothing half-written is ever visible: what appears, appears by rename or by one commit.
//!
//! ```text
//! ROOT/version               format version and flavour
//! ROOT/blobs/sha256/HEX      manifests, configs, compressed layers
//! ROOT/layers/HEX/tree       a layer by diff_id, overlay-ready
//! ROOT/layers/HEX/record     LayerRecord as JSON; HEX/ appears by one rename
//! ROOT/names/HOST/REPO/TAG   NameRecord as JSON (path components percent-encoded where needed)
//! ROOT/cache-mounts/ID/      contents of RUN --mount=type=cache
//! ROOT/index.sqlite          records, memos, compressed variants, stat index; can be rebuilt or dropped
//! ROOT/locks/KEY             a step that some process runs now (OFD lock)
//! ROOT/tmp/N.lock, tmp/N/    temporary data of a running process; swept by the next one when the lock is free
//! ROOT/trash/                what is dropped, deleted late
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{CacheKey, ContentDigest, DiffId, Digest};
use crate::reference::ImageRef;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes are not what their name says.
    #[error("blob {expected} holds {found} instead")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Nothing under that digest.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// What was asked for.
        digest: Digest,
    },
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory is no store, or one of another version, owner or flavour.
    #[error("`{path}` cannot be used as a store: {reason}")]
    Unusable {
        /// The root.
        path: PathBuf,
        /// In words, with what to do.
        reason: String,
    },
    /// The index failed.
    #[error("the store's index `{path}` failed: {reason}")]
    Index {
        /// The database file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
}

/// An open store. Cheap to clone; safe to use from many threads.
#[derive(Clone)]
pub struct Store {
    _todo: (),
}

/// What a step's result is: the layers it added on top of its first input, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The layer that the step made.
    pub diff_id: DiffId,
    /// When the layer was made, seconds since 1970.
    pub created_secs: i64,
}

/// What is known of a layer beside its tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of its tar.
    pub diff_id: DiffId,
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// Names, modes, owners, targets, xattrs, data and whiteouts, without times: equal for layers that differ in times only.
    pub content: ContentDigest,
}

/// What a name stands for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NameRecord {
    /// The manifest, or an index of several.
    pub manifest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// When the name was set, seconds since 1970.
    pub set_secs: i64,
    /// How it came here.
    pub origin: NameOrigin,
}

/// How a name came into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NameOrigin {
    /// By a build.
    Built,
    /// By `croze import`.
    Imported,
    /// From a registry.
    Pulled,
}

/// A compressed form of a layer, or one with rewritten times.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// The blob in the store.
    pub digest: Digest,
    /// Its bytes.
    pub size_bytes: u64,
    /// Digest of the tar inside (differs from the layer's where times were rewritten).
    pub diff_id: DiffId,
}

/// Identity of a file on disk and what its bytes hashed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatEntry {
    /// Device.
    pub device: u64,
    /// Inode.
    pub inode: u64,
    /// Bytes.
    pub size_bytes: u64,
    /// Modification time in nanoseconds.
    pub mtime_nanos: i64,
    /// Change time in nanoseconds.
    pub ctime_nanos: i64,
    /// SHA-256 of the bytes.
    pub digest: Digest,
}

/// A layer tree that is there.
#[derive(Clone, Debug)]
pub struct StoredLayer {
    /// Its directory.
    pub tree: PathBuf,
    /// Its record.
    pub record: LayerRecord,
}

/// A directory for one process's unfinished work, inside the store. Its content goes to the trash when dropped.
pub struct TempDir {
    /// Where it is.
    pub path: PathBuf,
}

/// Held while this process runs the step of a key; other processes wait for it. Freed by the kernel if the process dies.
pub struct StepLock {
    _todo: (),
}

/// A blob being written; nothing is visible before [`BlobWriter::finish`].
pub struct BlobWriter {
    _todo: (),
}

impl io::Write for BlobWriter {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        todo!()
    }

    fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

impl BlobWriter {
    /// Publishes the blob under the digest of its bytes and returns it with its size; with `expected`, refuses others.
    pub fn finish(self, expected: Option<Digest>) -> Result<(Digest, u64), StoreError> {
        let _ = expected;
        todo!()
    }
}

impl Store {
    /// Opens the store at `root`, creating it if nothing is there.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let _ = root;
        todo!()
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// Where the blob is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let _ = digest;
        todo!()
    }

    /// The blob's size if it is there.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// The whole blob, verified. For documents, not layers.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let _ = digest;
        todo!()
    }

    /// Stores small bytes; finding them there already is fine.
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let _ = bytes;
        todo!()
    }

    /// Starts a blob of unknown digest.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        todo!()
    }

    /// A fresh temporary directory on the store's file system.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        todo!()
    }

    /// The layer tree of `diff_id`, if it is there.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<StoredLayer>, StoreError> {
        let _ = diff_id;
        todo!()
    }

    /// Moves a finished tree into place with its record by one rename; if another process was faster, its layer is taken.
    pub fn publish_layer(&self, tree: PathBuf, record: LayerRecord) -> Result<StoredLayer, StoreError> {
        let _ = (tree, record);
        todo!()
    }

    /// What `image_ref` (without digest) stands for.
    pub fn name(&self, image_ref: &ImageRef) -> Result<Option<NameRecord>, StoreError> {
        let _ = image_ref;
        todo!()
    }

    /// Sets what `image_ref` stands for.
    pub fn set_name(&self, image_ref: &ImageRef, record: &NameRecord) -> Result<(), StoreError> {
        let _ = (image_ref, record);
        todo!()
    }

    /// All names, sorted.
    pub fn names(&self) -> Result<Vec<(ImageRef, NameRecord)>, StoreError> {
        todo!()
    }

    /// The record of a key.
    pub fn record(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Writes records, replacing older ones of the same keys, in one transaction.
    pub fn set_records(&self, records: &[(CacheKey, Record)]) -> Result<(), StoreError> {
        let _ = records;
        todo!()
    }

    /// A remembered pure computation: `key` names function and input, the value is its small result.
    pub fn memo(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Remembers a pure computation.
    pub fn set_memo(&self, key: &CacheKey, value: &[u8]) -> Result<(), StoreError> {
        let _ = (key, value);
        todo!()
    }

    /// The variant of a layer called `kind` (such as `gzip-6-1`, `epoch-123+gzip-6-1`).
    pub fn variant(&self, diff_id: &DiffId, kind: &str) -> Result<Option<Variant>, StoreError> {
        let _ = (diff_id, kind);
        todo!()
    }

    /// Remembers a variant.
    pub fn set_variant(&self, diff_id: &DiffId, kind: &str, variant: &Variant) -> Result<(), StoreError> {
        let _ = (diff_id, kind, variant);
        todo!()
    }

    /// The stat index of the context at `directory` (its canonical path), sorted by (device, inode); empty if there is none.
    pub fn stat_index(&self, directory: &Path) -> Result<Vec<StatEntry>, StoreError> {
        let _ = directory;
        todo!()
    }

    /// Replaces the stat index of a context. Losing it costs a re-hash, so it is written without sync.
    pub fn set_stat_index(&self, directory: &Path, entries: &[StatEntry]) -> Result<(), StoreError> {
        let _ = (directory, entries);
        todo!()
    }

    /// Waits until no other process runs the step of `key`, and takes its lock. Blocks.
    pub fn lock_step(&self, key: &CacheKey) -> Result<StepLock, StoreError> {
        let _ = key;
        todo!()
    }

    /// Takes the lock of `key` if nobody holds it.
    pub fn try_lock_step(&self, key: &CacheKey) -> Result<Option<StepLock>, StoreError> {
        let _ = key;
        todo!()
    }

    /// Drops a tree or file of the store: renames it into the trash.
    pub fn trash(&self, path: &Path) -> Result<(), StoreError> {
        let _ = path;
        todo!()
    }
}
