//! Directories that outlive builds: the contents of `RUN --mount=type=cache`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sum::{with_sum, without_sum};
use super::{Store, StoreError, read_if_there};
use crate::digest::Digest;

/// What the directory of a cache mount is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAbout {
    /// `id=` of the mount, else its target.
    pub id: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Store {
    /// The directory of the cache mount called `name`, created empty if it is not there. Its content belongs to the caller.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be created.
    pub fn cache_mount(&self, name: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.cache_mount_path(name);
        fs::create_dir_all(&path).map_err(StoreError::io("create", &path))?;
        Ok(path)
    }

    /// Where the cache mount called `name` is or would be: `data` in it are its files, `about` says what it is for.
    pub fn cache_mount_path(&self, name: &Digest) -> PathBuf {
        self.root().join("cache-mounts").join(name.hex())
    }

    /// Whether the cache mount called `name` has files, or may have.
    pub fn has_cache_mount(&self, name: &Digest) -> bool {
        self.cache_mount_path(name).join("data").exists()
    }

    /// Makes the finished directory `tree` the files of a cache mount, unless it has some by now.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be moved.
    pub fn publish_cache_mount(&self, name: &Digest, tree: &Path, about: &MountAbout) -> Result<(), StoreError> {
        let place = self.cache_mount(name)?;
        let (text, path) = (serde_json::to_vec(about).expect("plain data"), place.join("about"));
        fs::write(&path, with_sum(text)).map_err(StoreError::io("write", &path))?;
        let data = place.join("data");
        match fs::rename(tree, &data) {
            Ok(()) => Ok(()),
            // another process was faster
            Err(_) if data.exists() => Ok(()),
            Err(error) => Err(StoreError::io("create", &data)(error)),
        }
    }

    /// All cache mounts that have files, by name; `None` for one that does not say what it is for.
    ///
    /// # Errors
    /// [`StoreError::Io`] when they cannot be listed.
    pub fn cache_mounts(&self) -> Result<Vec<(Digest, Option<MountAbout>)>, StoreError> {
        let mut found = Vec::new();
        for (name, path) in self.named_by_digest("cache-mounts")? {
            if path.join("data").is_dir() {
                let about = read_if_there(&path.join("about"))?;
                found.push((name, about.and_then(|bytes| parse(&bytes))));
            }
        }
        found.sort_by_key(|(name, _)| *name);
        Ok(found)
    }

    /// Drops what cache mounts say they are for where that was damaged; their names. Nothing tells what their files should be.
    ///
    /// # Errors
    /// [`StoreError::Io`] when they cannot be read.
    pub fn check_cache_mounts(&self) -> Result<Vec<Digest>, StoreError> {
        let mut damaged = Vec::new();
        for (name, path) in self.named_by_digest("cache-mounts")? {
            let path = path.join("about");
            if read_if_there(&path)?.is_some_and(|bytes| parse(&bytes).is_none()) {
                self.trash(&path)?;
                damaged.push(name);
            }
        }
        damaged.sort();
        Ok(damaged)
    }

    /// Bytes of the files of a cache mount, and how many there are.
    ///
    /// # Errors
    /// [`StoreError::Io`] when they cannot be read.
    pub fn cache_mount_size(&self, name: &Digest) -> Result<(u64, u64), StoreError> {
        let root = self.cache_mount_path(name).join("data");
        let (mut bytes, mut files) = (0, 0);
        // a stack instead of recursion: the depth of a tree is not ours to choose
        let mut todo = vec![root];
        while let Some(path) = todo.pop() {
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                // somebody may be using it
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("inspect", &path)(error)),
            };
            if metadata.is_dir() {
                let entries = fs::read_dir(&path).map_err(StoreError::io("read", &path))?;
                todo.extend(entries.flatten().map(|entry| entry.path()));
            } else {
                bytes += metadata.len();
                files += 1;
            }
        }
        Ok((bytes, files))
    }

    /// Drops a cache mount.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be renamed.
    pub fn drop_cache_mount(&self, name: &Digest) -> Result<(), StoreError> {
        self.trash(&self.cache_mount_path(name))
    }
}

fn parse(bytes: &[u8]) -> Option<MountAbout> {
    serde_json::from_slice(without_sum(bytes)?).ok()
}
