//! Temporary data and the trash: what is unfinished, and what is no longer wanted.
//!
//! Each process that writes has `tmp/N/`, held by a lock on `tmp/N.lock` that the kernel frees when the process dies. The
//! next process that writes moves the leavings of dead ones to the trash. Deleting is slow, renaming is not: things are
//! dropped by rename, and deleted when somebody has time ([`Store::empty_trash`]).

use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::lock::{self, FileLock};
use super::{Store, StoreError};

/// A directory for one process's unfinished work, inside the store. Its content goes to the trash when dropped.
pub struct TempDir {
    /// Where it is.
    pub path: PathBuf,
    store: Store,
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // a directory that is left over here is found by the sweep of a later process
        drop(self.store.trash(&self.path));
    }
}

/// A file in the process's temporary directory; deleted when dropped, unless it was renamed away.
pub(super) struct TempFile {
    pub(super) file: File,
    path: PathBuf,
    // keeps the directory and its lock
    store: Store,
}

impl TempFile {
    /// Moves the file to `to`, replacing what is there.
    pub(super) fn publish(self, to: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, to).map_err(StoreError::io("create", to))
    }

    pub(super) fn path(&self) -> &Path {
        debug_assert!(self.path.starts_with(self.store.root()));
        &self.path
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // NotFound after `publish`; whatever else fails leaves the file to the sweep
        drop(fs::remove_file(&self.path));
    }
}

impl Store {
    /// A fresh temporary directory on the store's file system.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        let path = self.scratch()?.join(fresh_name());
        DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("create", &path))?;
        Ok(TempDir { path, store: self.clone() })
    }

    /// Drops a tree or file of the store: renames it into the trash. Nothing there is fine.
    pub fn trash(&self, path: &Path) -> Result<(), StoreError> {
        discard(self.root(), path)
    }

    /// Deletes what is in the trash, at most `max_files` files and directories; returns whether the trash is empty now.
    ///
    /// Several processes may do this at once.
    pub fn empty_trash(&self, max_files: usize) -> Result<bool, StoreError> {
        let trash = self.root().join("trash");
        let mut budget = max_files;
        // directories inside dropped ones are first moved up into the trash itself, so depth costs neither stack nor
        // descriptors; they come up in the next round
        loop {
            let names = list(&trash)?;
            if names.is_empty() {
                return Ok(true);
            }
            for (name, kind) in names {
                if budget == 0 {
                    return Ok(false);
                }
                let path = trash.join(name);
                if kind.is_dir() {
                    empty(&trash, &path, &mut budget)?;
                } else {
                    budget -= 1;
                    gone(fs::remove_file(&path)).map_err(StoreError::io("delete", &path))?;
                }
            }
        }
    }

    /// Bytes that may still be written to the store's file system; none if it has no files left to give.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(self.root()).map_err(io::Error::from).map_err(StoreError::io("inspect", self.root()))?;
        // some file systems count no files
        let out_of_files = stat.f_files > 0 && stat.f_favail == 0;
        Ok(if out_of_files { 0 } else { stat.f_bavail.saturating_mul(stat.f_frsize) })
    }

    /// Bytes of the store's whole file system.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(self.root()).map_err(io::Error::from).map_err(StoreError::io("inspect", self.root()))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    /// Whether this process has made temporary files here: only then may it have dropped something, and only then does it
    /// write at all.
    pub fn has_written(&self) -> bool {
        self.inner.scratch.get().is_some()
    }

    pub(super) fn temp_file(&self) -> Result<TempFile, StoreError> {
        let path = self.scratch()?.join(fresh_name());
        let file = File::create_new(&path).map_err(StoreError::io("create", &path))?;
        Ok(TempFile { file, path, store: self.clone() })
    }

    fn scratch(&self) -> Result<&Path, StoreError> {
        if let Some(scratch) = self.inner.scratch.get() {
            return Ok(&scratch.path);
        }
        sweep(self.root())?;
        let scratch = Scratch::create(self.root())?;
        self.inner.db.settle()?;
        // another thread may have been faster; then ours is dropped again
        Ok(&self.inner.scratch.get_or_init(|| scratch).path)
    }
}

/// This process's directory below `tmp/`.
pub(super) struct Scratch {
    path: PathBuf,
    root: PathBuf,
    _lock: FileLock,
}

impl Scratch {
    fn create(root: &Path) -> Result<Scratch, StoreError> {
        loop {
            let name = fresh_name();
            let path = root.join("tmp").join(&name);
            // the lock comes before the directory, so a directory whose lock is missing or free is garbage
            let Some(lock) = lock::try_lock(&root.join("tmp").join(format!("{name}.lock")))? else { continue };
            DirBuilder::new().mode(0o700).create(&path).map_err(StoreError::io("create", &path))?;
            return Ok(Scratch { path, root: root.to_owned(), _lock: lock });
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what cannot be dropped now is left to the sweep of the next process, as after a crash
        drop(discard(&self.root, &self.path));
    }
}

/// A name that no other file has: 64 random bits in hex.
pub(super) fn fresh_name() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Moves what dead processes left in `tmp/` to the trash, and deletes the locks of steps that they ran.
fn sweep(root: &Path) -> Result<(), StoreError> {
    let (tmp, locks) = (root.join("tmp"), root.join("locks"));
    for (name, _) in list(&locks)? {
        // deleted when it is dropped; who wants it at this very moment waits for that
        drop(lock::try_lock_existing(&locks.join(name))?);
    }
    for (name, kind) in list(&tmp)? {
        let path = tmp.join(&name);
        if kind.is_dir() {
            let mut lock = path.clone();
            lock.as_mut_os_string().push(".lock");
            if !lock.try_exists().map_err(StoreError::io("inspect", &lock))? {
                discard(root, &path)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            let Some(_lock) = lock::try_lock_existing(&path)? else { continue };
            discard(root, &path.with_extension(""))?;
        }
    }
    Ok(())
}

fn discard(root: &Path, path: &Path) -> Result<(), StoreError> {
    // most temporary directories are empty by now
    if fs::remove_dir(path).is_ok() {
        return Ok(());
    }
    gone(fs::rename(path, root.join("trash").join(fresh_name()))).map_err(StoreError::io("drop", path))
}

/// Empties and removes one directory of the trash; its own directories move up beside it.
fn empty(trash: &Path, path: &Path, budget: &mut usize) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { action: "delete", path: path.to_owned(), source };
    // a directory that its owner may not enter cannot be emptied; root never needs this
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        gone(fs::set_permissions(path, fs::Permissions::from_mode(0o700))).map_err(failed)?;
    }
    for (name, kind) in list(path)? {
        if *budget == 0 {
            return Ok(());
        }
        *budget -= 1;
        let entry = path.join(&name);
        if kind.is_dir() {
            if fs::remove_dir(&entry).is_err() {
                gone(fs::rename(&entry, trash.join(fresh_name()))).map_err(failed)?;
            }
        } else {
            gone(fs::remove_file(&entry)).map_err(failed)?;
        }
    }
    gone(fs::remove_dir(path)).map_err(failed)
}

/// The entries of a directory; none if it does not exist.
fn list(path: &Path) -> Result<Vec<(std::ffi::OsString, fs::FileType)>, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    };
    entries
        .map(|entry| entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))))
        .filter(|entry| !matches!(entry, Err(error) if error.kind() == io::ErrorKind::NotFound))
        .collect::<io::Result<_>>()
        .map_err(StoreError::io("read", path))
}

/// Somebody else was faster: fine.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(&space.path().join("store")).expect("store");
        (space, store)
    }

    fn names(path: PathBuf) -> usize {
        list(&path).expect("listed").len()
    }

    #[test]
    fn opening_leaves_no_temporary_files() {
        let (_space, store) = store();
        assert_eq!(names(store.root().join("tmp")), 0);
    }

    #[test]
    fn a_dropped_directory_goes_to_the_trash_and_a_dropped_store_cleans_up() {
        let (_space, store) = store();
        let root = store.root().to_owned();
        let dir = store.temp_dir().expect("temp");
        fs::write(dir.path.join("file"), "x").expect("write");
        drop(dir);
        assert_eq!(names(root.join("trash")), 1);
        drop(store);
        assert_eq!(names(root.join("tmp")), 0);
    }

    #[test]
    fn a_dead_process_is_swept_and_a_living_one_is_not() {
        let (_space, dead) = store();
        let root = dead.root().to_owned();
        let leaving = dead.temp_dir().expect("temp").path.clone();
        let dead_dir = leaving.parent().expect("below tmp").to_owned();
        fs::write(dead_dir.join("half"), "x").expect("write");
        let kept = root.join("kept");
        fs::rename(&dead_dir, &kept).expect("put aside");
        drop(dead);
        // as a killed process leaves it: a directory and a lock that nobody holds
        fs::rename(&kept, &dead_dir).expect("put back");
        fs::write(dead_dir.with_extension("lock"), "").expect("write");
        fs::create_dir(root.join("tmp/without-lock")).expect("mkdir");

        let living = Store::open(&root).expect("store");
        let living_dir = living.temp_dir().expect("temp");
        let other = Store::open(&root).expect("store");
        let _other_dir = other.temp_dir().expect("temp");
        assert!(!dead_dir.exists() && living_dir.path.exists());
        assert_eq!(names(root.join("tmp")), 4, "two living processes, each a directory and a lock");
    }

    #[test]
    fn the_trash_is_emptied_within_its_budget() {
        let (space, store) = store();
        let outside = space.path().join("outside");
        fs::write(&outside, "x").expect("write");
        let dir = store.temp_dir().expect("temp");
        let mut deep = dir.path.clone();
        for _ in 0..50 {
            deep.push("d");
            fs::create_dir(&deep).expect("mkdir");
            fs::write(deep.join("f"), "x").expect("write");
            std::os::unix::fs::symlink(space.path(), deep.join("link")).expect("symlink");
        }
        drop(dir);
        assert!(!store.empty_trash(10).expect("part"));
        assert!(store.empty_trash(1000).expect("all"));
        assert!(outside.exists());
    }
}
