//! Leases: what a running command may use is not pruned.
//!
//! Whoever uses layers or blobs holds a lease: a locked file that says since when. A layer's last use is the time of its
//! `record` file, renewed when it is more than an hour old. So what a lease holder may have looked up was used at most an hour
//! before the lease began, and a pruner that leaves that alone takes nothing from anybody. The `gate` keeps the two apart: a
//! pruner holds it alone while it looks and renames; beginning a lease and renewing a time share it for a moment.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::lock::{self, FileLock};
use super::{Store, StoreError, temp};

/// A last use is noted at most so often.
const USE_STEP: Duration = Duration::from_secs(3600);

/// Automatic collection happens at most so often.
const COLLECTION_STEP: Duration = Duration::from_secs(24 * 3600);

/// Keeps what its holder uses from being pruned. Freed by the kernel if the process dies.
pub struct Lease {
    _lock: FileLock,
}

/// The right to drop what nobody uses; nobody can begin to use the store while it is held.
pub struct Pruning {
    _gate: File,
    /// How many commands use the store now.
    pub users: usize,
    /// What was used since then may be in use; `None` if nobody uses the store.
    pub in_use_since: Option<SystemTime>,
}

impl Store {
    /// Announces a user of the store.
    ///
    /// # Errors
    /// `Io` when the store cannot be written.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        let gate = self.gate()?;
        gate.lock_shared().map_err(StoreError::io("lock", &self.gate_path()))?;
        loop {
            let path = self.root().join("leases").join(format!("{}.lease", temp::fresh_name()));
            if let Some(lock) = lock::try_lock(&path)? {
                return Ok(Lease { _lock: lock });
            }
        }
    }

    /// Waits for the right to drop what nobody uses. Blocks.
    ///
    /// # Errors
    /// `Io` when the store cannot be written.
    pub fn pruning(&self) -> Result<Pruning, StoreError> {
        let gate = self.gate()?;
        gate.lock().map_err(StoreError::io("lock", &self.gate_path()))?;
        let (mut users, mut oldest) = (0, None::<SystemTime>);
        let leases = self.root().join("leases");
        for entry in fs::read_dir(&leases).map_err(StoreError::io("read", &leases))? {
            let path = entry.map_err(StoreError::io("read", &leases))?.path();
            if path.extension().is_none_or(|extension| extension != "lease") {
                continue;
            }
            // dropping the lock of a dead process's lease deletes it
            if lock::try_lock_existing(&path)?.is_none()
                && let Ok(since) = fs::metadata(&path).and_then(|metadata| metadata.modified())
            {
                users += 1;
                oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            }
        }
        Ok(Pruning { _gate: gate, users, in_use_since: oldest.map(|oldest| oldest - USE_STEP) })
    }

    /// Renews the last use of what `path`, last modified at `modified`, is the sign of; whether it is still there.
    pub(super) fn note_use(&self, path: &Path, modified: SystemTime) -> Result<bool, StoreError> {
        let is_old = SystemTime::now().duration_since(modified).is_ok_and(|age| age > USE_STEP);
        if !is_old {
            return Ok(true);
        }
        let renew = || {
            let gate = self.gate().map_err(io::Error::other)?;
            gate.lock_shared()?;
            File::open(path)?.set_modified(SystemTime::now())
        };
        match renew() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // a store that cannot be written cannot be pruned either
            _ => Ok(true),
        }
    }

    /// Whether nobody has collected for a day; whoever is told so does it.
    ///
    /// # Errors
    /// `Io` when the store cannot be written.
    pub fn collection_is_due(&self, now: SystemTime) -> Result<bool, StoreError> {
        let gate = self.gate()?;
        // the gate's own time says when it was done last; that of a fresh store is now
        let last =
            gate.metadata().and_then(|metadata| metadata.modified()).map_err(StoreError::io("inspect", &self.gate_path()))?;
        let is_due = now.duration_since(last).is_ok_and(|age| age > COLLECTION_STEP);
        if is_due {
            gate.set_modified(now).map_err(StoreError::io("write", &self.gate_path()))?;
        }
        Ok(is_due)
    }

    fn gate(&self) -> Result<File, StoreError> {
        let path = self.gate_path();
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open().or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // stores made before there were leases
            DirBuilder::new().recursive(true).mode(0o700).create(self.root().join("leases"))?;
            open()
        });
        file.map_err(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                let reason = "its file system is mounted read-only; choose another directory".to_owned();
                StoreError::Unusable { path: self.root().to_owned(), reason }
            }
            _ => StoreError::io("open", &path)(error),
        })
    }

    fn gate_path(&self) -> PathBuf {
        self.root().join("leases/gate")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pruner_sees_users_and_forgets_dead_ones() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let lease = store.lease().expect("leased");
        // as a killed process leaves it
        fs::write(space.path().join("leases/0.lease"), "").expect("write");
        let pruning = store.pruning().expect("the gate is free again");
        assert_eq!(pruning.users, 1);
        assert!(pruning.in_use_since.is_some_and(|since| since < SystemTime::now() - USE_STEP + Duration::from_secs(60)));
        drop((pruning, lease));
        let pruning = store.pruning().expect("alone");
        assert_eq!((pruning.users, pruning.in_use_since), (0, None));
        assert_eq!(fs::read_dir(space.path().join("leases")).expect("read").count(), 1, "the gate alone");
    }

    #[test]
    fn a_use_renews_an_old_time_only() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let path = space.path().join("sign");
        fs::write(&path, "").expect("write");
        let modified = || fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("there");
        let fresh = modified();
        assert!(store.note_use(&path, modified()).expect("noted"));
        assert_eq!(modified(), fresh);
        let old = SystemTime::now() - 2 * USE_STEP;
        File::open(&path).and_then(|file| file.set_modified(old)).expect("set");
        assert!(store.note_use(&path, modified()).expect("noted"));
        assert!(modified() > old);
        assert!(!store.note_use(&space.path().join("gone"), old).expect("asked"));
    }
}
