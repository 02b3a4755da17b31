//! Layer trees, named by the digest of their tar.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, read_if_there};
use crate::digest::{ContentDigest, DiffId};

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

/// A layer tree that is there.
#[derive(Clone, Debug)]
pub struct StoredLayer {
    /// Its directory.
    pub tree: PathBuf,
    /// Its record.
    pub record: LayerRecord,
}

impl Store {
    /// The layer tree of `diff_id`, if it is there. One whose record is damaged goes to the trash and counts as absent.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<StoredLayer>, StoreError> {
        let place = self.layer_place(diff_id);
        let Some(text) = read_if_there(&place.join("record"))? else { return Ok(None) };
        match serde_json::from_slice::<LayerRecord>(&text) {
            Ok(record) if record.diff_id == *diff_id => Ok(Some(StoredLayer { tree: place.join("tree"), record })),
            _ => {
                self.trash(&place)?;
                Ok(None)
            }
        }
    }

    /// Moves a finished tree into place with its record by one rename; if another process was faster, its layer is taken.
    ///
    /// `tree` lies in a [`Store::temp_dir`], so that nothing is copied.
    pub fn publish_layer(&self, tree: PathBuf, record: LayerRecord) -> Result<StoredLayer, StoreError> {
        let place = self.layer_place(&record.diff_id);
        let bundle = self.temp_dir()?;
        let bundled = bundle.path.join("tree");
        fs::rename(&tree, &bundled).map_err(StoreError::io("move", &tree))?;
        let text = serde_json::to_vec(&record).expect("a record is plain data");
        let record_path = bundle.path.join("record");
        fs::write(&record_path, text).map_err(StoreError::io("write", &record_path))?;
        loop {
            match fs::rename(&bundle.path, &place) {
                Ok(()) => return Ok(StoredLayer { tree: place.join("tree"), record }),
                Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                    // a damaged one is dropped by `layer`, one without a record here; then ours may move in
                    match self.layer(&record.diff_id)? {
                        Some(layer) => return Ok(layer),
                        None => self.trash(&place)?,
                    }
                }
                Err(error) => return Err(StoreError::io("create", &place)(error)),
            }
        }
    }

    fn layer_place(&self, diff_id: &DiffId) -> PathBuf {
        self.root().join("layers").join(diff_id.0.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn record() -> LayerRecord {
        let digest = Digest::of(b"tar");
        LayerRecord { diff_id: DiffId(digest), tar_bytes: 3, content: ContentDigest(digest) }
    }

    fn publish(store: &Store, text: &str) -> StoredLayer {
        let temp = store.temp_dir().expect("temp");
        let tree = temp.path.join("upper");
        fs::create_dir(&tree).expect("mkdir");
        fs::write(tree.join("file"), text).expect("write");
        store.publish_layer(tree, record()).expect("published")
    }

    #[test]
    fn a_published_layer_is_found() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        assert!(store.layer(&record().diff_id).expect("asked").is_none());
        let published = publish(&store, "one");
        let found = store.layer(&record().diff_id).expect("asked").expect("there");
        assert_eq!((found.tree.clone(), found.record), (published.tree, record()));
        assert_eq!(fs::read_to_string(found.tree.join("file")).expect("read"), "one");
    }

    #[test]
    fn the_first_of_two_stays() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        publish(&store, "one");
        let second = publish(&store, "two");
        assert_eq!(fs::read_to_string(second.tree.join("file")).expect("read"), "one");
    }

    #[test]
    fn a_damaged_layer_is_replaced() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        for damage in ["", "{}", "missing"] {
            let place = publish(&store, "one").tree.parent().expect("place").to_owned();
            match damage {
                "missing" => fs::remove_file(place.join("record")).expect("removed"),
                text => fs::write(place.join("record"), text).expect("damaged"),
            }
            let replaced = publish(&store, "two");
            assert_eq!(fs::read_to_string(replaced.tree.join("file")).expect("read"), "two", "{damage}");
            store.trash(&place).expect("trashed");
        }
    }
}
