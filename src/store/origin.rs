//! Where registries have blobs: the repository that one was pulled from or pushed to last, so that the registry takes it over
//! from there when it is pushed again.

use super::{Store, StoreError};
use crate::digest::{CacheKey, Digest, Hasher};

impl Store {
    /// A repository of `host` that had the blob.
    pub fn blob_source(&self, host: &str, digest: &Digest) -> Result<Option<String>, StoreError> {
        let found = self.memo(&key(host, digest))?;
        // what is no text was damaged: then nobody knows
        Ok(found.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Remembers that `repository` of `host` has the blob; what is known already is not written again.
    pub fn set_blob_source(&self, host: &str, digest: &Digest, repository: &str) -> Result<(), StoreError> {
        if self.blob_source(host, digest)?.as_deref() == Some(repository) {
            return Ok(());
        }
        self.set_memo(&key(host, digest), repository.as_bytes())
    }
}

fn key(host: &str, digest: &Digest) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"blob source");
    hasher.field(host.as_bytes());
    hasher.field(digest.as_bytes());
    CacheKey(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_known_by_host() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let digest = Digest::of(b"abc");
        assert_eq!(store.blob_source("h", &digest).expect("asked"), None);
        store.set_blob_source("h", &digest, "a/b").expect("set");
        store.set_blob_source("h", &digest, "c").expect("set");
        assert_eq!(store.blob_source("h", &digest).expect("asked").as_deref(), Some("c"));
        assert_eq!(store.blob_source("other", &digest).expect("asked"), None);
    }
}
