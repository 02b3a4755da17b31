//! Directories that outlive builds: the contents of `RUN --mount=type=cache`.

use std::path::PathBuf;

use super::{Store, StoreError};
use crate::digest::Digest;

impl Store {
    /// The directory of the cache mount called `name`, created empty if it is not there. Its content belongs to the caller.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be created.
    pub fn cache_mount(&self, name: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.root().join("cache-mounts").join(name.hex());
        std::fs::create_dir_all(&path).map_err(|source| StoreError::Io { action: "create", path: path.clone(), source })?;
        Ok(path)
    }
}
