//! Locks between processes: empty files, locked as open file descriptions, freed by the kernel when their holder dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError, is_named};
use crate::digest::CacheKey;

/// Held while this process runs the step of a key; other processes wait for it. Freed by the kernel if the process dies.
pub struct StepLock {
    _lock: FileLock,
}

impl Store {
    /// Waits until nobody else, in this process or another, runs the step of `key`, and takes its lock. Blocks.
    ///
    /// Who had to wait looks the key up again: the other one may have finished the step.
    pub fn lock_step(&self, key: &CacheKey) -> Result<StepLock, StoreError> {
        let lock = lock(&self.step_lock_path(key))?;
        self.inner.db.settle()?;
        Ok(StepLock { _lock: lock })
    }

    /// Takes the lock of `key` if nobody holds it.
    pub fn try_lock_step(&self, key: &CacheKey) -> Result<Option<StepLock>, StoreError> {
        let lock = try_lock(&self.step_lock_path(key))?;
        self.inner.db.settle()?;
        Ok(lock.map(|lock| StepLock { _lock: lock }))
    }

    fn step_lock_path(&self, key: &CacheKey) -> PathBuf {
        self.root().join("locks").join(key.0.hex())
    }
}

/// A locked file; unlinked when dropped.
pub(super) struct FileLock {
    // closing it frees the lock
    _file: File,
    path: PathBuf,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // unlinked while still locked: whoever locks the file next sees that it has no name and starts over.
        // A file that stays is a free lock, nothing worse.
        drop(fs::remove_file(&self.path));
    }
}

/// Waits for the lock.
pub(super) fn lock(path: &Path) -> Result<FileLock, StoreError> {
    loop {
        let file = open(path, Open::OrCreate)?.expect("created when it was not there");
        loop {
            match file.lock() {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("lock", path)(error)),
            }
        }
        if is_named(&file, path).map_err(StoreError::io("inspect", path))? {
            return Ok(FileLock { _file: file, path: path.to_owned() });
        }
    }
}

/// Takes the lock unless it is held.
pub(super) fn try_lock(path: &Path) -> Result<Option<FileLock>, StoreError> {
    try_lock_with(path, Open::OrCreate)
}

/// Takes the lock if its file is there and free.
pub(super) fn try_lock_existing(path: &Path) -> Result<Option<FileLock>, StoreError> {
    try_lock_with(path, Open::Existing)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Existing,
    OrCreate,
}

fn try_lock_with(path: &Path, how: Open) -> Result<Option<FileLock>, StoreError> {
    loop {
        let Some(file) = open(path, how)? else { return Ok(None) };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(StoreError::io("lock", path)(error)),
        }
        if is_named(&file, path).map_err(StoreError::io("inspect", path))? {
            return Ok(Some(FileLock { _file: file, path: path.to_owned() }));
        }
    }
}

fn open(path: &Path, how: Open) -> Result<Option<File>, StoreError> {
    match File::options().read(true).write(true).create(how == Open::OrCreate).truncate(false).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && how == Open::Existing => Ok(None),
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_lock_is_held_once_and_leaves_no_file() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let key = CacheKey(Digest::of(b"step"));
        let held = store.lock_step(&key).expect("locked");
        assert!(store.try_lock_step(&key).expect("tried").is_none());
        assert!(store.try_lock_step(&CacheKey(Digest::of(b"other"))).expect("tried").is_some());
        drop(held);
        assert!(store.try_lock_step(&key).expect("tried").is_some());
        assert_eq!(fs::read_dir(space.path().join("locks")).expect("read").count(), 0);
    }

    #[test]
    fn waiting_threads_never_hold_it_together() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let key = CacheKey(Digest::of(b"step"));
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = store.lock_step(&key).expect("locked");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
