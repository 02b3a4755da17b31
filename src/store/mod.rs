//! One directory that several processes share: verified blobs, layer trees, names, records, locks.
//!
//! Owns: everything below the store's root; the SQLite index (`db` and `index`).
//! In:   bytes, layer trees, records.
//! Out:  the same, verified; nothing half-written is ever visible: what appears, appears by rename or by one commit.
//!
//! ```text
//! ROOT/version               format version and flavour
//! ROOT/blobs/sha256/HEX      manifests, configs, compressed layers
//! ROOT/layers/HEX/tree       a layer by diff_id, overlay-ready; or
//! ROOT/layers/HEX/packed     its tar, until somebody needs the files
//! ROOT/layers/HEX/record     LayerRecord as JSON, and the boot it was written in; HEX/ appears by one rename
//! ROOT/layers/HEX/seal       what stat says of the tree: whether somebody has written to it ([`Touched`])
//! ROOT/layers/HEX/proven     empty; the layer was found whole after the machine was started anew
//! ROOT/names/HOST/REPO/:TAG  NameRecord as JSON; the colon keeps tags apart from deeper repositories
//! ROOT/cache-mounts/HEX/     data/: contents of RUN --mount=type=cache; about: MountAbout as JSON
//! ROOT/secret-key            what secrets that take part in keys are digested with
//! ROOT/index.sqlite          records, memos, compressed variants, stat index; can be rebuilt or dropped
//! ROOT/locks/KEY             a step that some process runs now (file lock)
//! ROOT/leases/N.lease        a command that uses the store now (file lock); leases/gate keeps pruners and users apart
//! ROOT/tmp/N.lock, tmp/N/    temporary data of a running process; swept by the next one when the lock is free
//! ROOT/trash/                what is dropped, deleted late
//! ```
//!
//! No call here waits for a disk to become durable. What a power cut can take is recognised where it is read: blobs by their
//! digest, the index by its structure and sums in its rows, layer records and names by a sum behind their JSON; each is then
//! dropped and made anew. A layer tree of an earlier boot is read through once before it is used ([`Soundness`]).

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::digest::{DiffId, Digest};

mod blob;
mod boot;
mod db;
mod format;
mod index;
mod layers;
mod lease;
mod lock;
mod mounts;
mod names;
mod origin;
mod seal;
mod secret_key;
mod sum;
mod temp;
mod usage;

pub use blob::{BlobWriter, VerifiedBlob};
pub use format::Flavour;
pub use index::{IndexCheck, Record, StatEntries, StatEntry, Variant};
pub use layers::{Gone, Kept, LayerRecord, Soundness, StoredLayer};
pub use lease::{Lease, Pruning};
pub use lock::StepLock;
pub use mounts::MountAbout;
pub use names::{NameCheck, NameOrigin, NameRecord};
pub use seal::Touched;
pub use temp::TempDir;
pub use usage::{Usage, UsageKind};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes on their way in are not what was asked for.
    #[error("blob {expected} holds {found} instead")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A stored blob was damaged; it has been put aside.
    #[error("blob {digest} was damaged (its bytes are {found}) and has been put aside")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// What it held.
        found: Digest,
    },
    /// The file of a name was damaged; it has been put aside.
    #[error("the name `{name}` of the store was damaged (`{path}`) and has been put aside")]
    DamagedName {
        /// The name, short form.
        name: String,
        /// Its file.
        path: PathBuf,
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

impl StoreError {
    /// For `map_err`: what was tried, on which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io { action, path, source }
    }
}

/// An open store. Cheap to clone; safe to use from many threads.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    flavour: Flavour,
    was_mended: bool,
    db: db::Db,
    /// This process's corner of `tmp/`, made when first needed: a build that finds everything cached writes nothing.
    scratch: OnceLock<temp::Scratch>,
    boot: boot::Boot,
    /// Layers that this process found whole, kept as files: nobody drops what a running command has looked at.
    seen: Mutex<HashMap<DiffId, StoredLayer>>,
    /// Blobs that this process wrote.
    written: Mutex<HashSet<Digest>>,
    root: PathBuf,
}

impl Store {
    /// Opens the store at `root`, creating it if nothing (or an empty directory) is there.
    ///
    /// # Errors
    /// `Unusable` for a directory with other content, or a store of another version, owner or flavour.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let format::Opened { flavour, was_mended } = format::open_or_create(&root)?;
        let boot = boot::Boot::default();
        let db = db::Db::new(&root, boot.clone());
        let (scratch, seen, written) = Default::default();
        Ok(Store { inner: Arc::new(Inner { flavour, was_mended, db, scratch, boot, seen, written, root }) })
    }

    /// Whether the file that says what the directory is was found damaged, and has been written anew.
    pub fn was_mended(&self) -> bool {
        self.inner.was_mended
    }

    /// The store's directory, absolute.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// How whiteouts and opaque marks are kept in this store's layer trees.
    pub fn flavour(&self) -> Flavour {
        self.inner.flavour
    }
}

/// Reads a small file; `None` if it does not exist. A cached build does little else, so it makes do with the calls it needs:
/// `std::fs::read` takes twice as many.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(file) = open_if_there(path)? else { return Ok(None) };
    read_open(&file).map(Some).map_err(StoreError::io("read", path))
}

/// The same, and when it was modified last.
fn read_with_time(path: &Path) -> Result<Option<(Vec<u8>, SystemTime)>, StoreError> {
    let Some(file) = open_if_there(path)? else { return Ok(None) };
    let stat = rustix::fs::fstat(&file).map_err(|errno| StoreError::io("inspect", path)(errno.into()))?;
    let since_1970 = Duration::new(u64::try_from(stat.st_mtime).unwrap_or(0), u32::try_from(stat.st_mtime_nsec).unwrap_or(0));
    let bytes = read_open(&file).map_err(StoreError::io("read", path))?;
    Ok(Some((bytes, UNIX_EPOCH + since_1970)))
}

fn open_if_there(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(StoreError::io("read", path)(errno.into())),
    }
}

fn read_open(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SMALL_BYTES);
    loop {
        bytes.reserve(SMALL_BYTES);
        let room = bytes.capacity() - bytes.len();
        match retry_on_intr(|| rustix::io::read(file, spare_capacity(&mut bytes))) {
            // a regular file gives less than was asked for only at its end
            Ok(count) if count < room => return Ok(bytes),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Larger than a layer's record; documents take a few rounds.
const SMALL_BYTES: usize = 1 << 10;

/// Whether `file` is still what `path` names, or was unlinked or replaced meanwhile.
fn is_named(file: impl AsFd, path: &Path) -> io::Result<bool> {
    let open = rustix::fs::fstat(file)?;
    match rustix::fs::stat(path) {
        Ok(named) => Ok((open.st_dev, open.st_ino) == (named.st_dev, named.st_ino)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
