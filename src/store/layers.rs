//! Layers, named by the digest of their tar: as trees, or as that tar until somebody needs the files ([`Kept`]).
//!
//! No call waits for the disk, so what was written shortly before a power cut may have names without bytes. A layer therefore
//! carries the boot that it was written in. One of an earlier boot is read through before it is used for the first time
//! ([`Soundness::Unproven`]); if it is whole, it has come from the disk and is marked as proven, once and for all.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::sum::{with_sum, without_sum};
use super::{Store, StoreError, Touched, read_if_there, read_with_time, seal};
use crate::digest::{CacheKey, ContentDigest, DiffId, Hasher};

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

/// How the files of a layer are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// As the files of this directory.
    Tree(PathBuf),
    /// As a tar and what goes with it in this directory: nobody has had to see the files so far. When somebody has, a tree
    /// stands in its place, so that opening the tar may fail with `NotFound`.
    Packed(PathBuf),
}

impl Kept {
    /// What a directory of files is called inside a layer's directory.
    pub(super) const TREE: &str = "tree";
    const PACKED: &str = "packed";

    fn path(&self) -> &Path {
        let (Kept::Tree(path) | Kept::Packed(path)) = self;
        path
    }

    /// What it is called inside a layer's directory.
    fn name(&self) -> &'static str {
        match self {
            Kept::Tree(_) => Kept::TREE,
            Kept::Packed(_) => Kept::PACKED,
        }
    }

    /// The same, elsewhere.
    fn inside(&self, place: &Path) -> Kept {
        let path = place.join(self.name());
        match self {
            Kept::Tree(_) => Kept::Tree(path),
            Kept::Packed(_) => Kept::Packed(path),
        }
    }
}

/// A layer that is there.
#[derive(Clone, Debug)]
pub struct StoredLayer {
    /// Its files.
    pub kept: Kept,
    /// Its record.
    pub record: LayerRecord,
    /// Whether it may be used as it is.
    pub soundness: Soundness,
}

impl StoredLayer {
    /// The directory of its files, if it is kept so.
    pub fn tree(&self) -> Option<&Path> {
        match &self.kept {
            Kept::Tree(tree) => Some(tree),
            Kept::Packed(_) => None,
        }
    }
}

/// Why a layer is no longer there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// Somebody wanted the space.
    Pruned {
        /// When, seconds since 1970.
        at_secs: i64,
    },
    /// It was not what its name says.
    Damaged,
}

/// Whether a layer's files are known to hold what was written to them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Soundness {
    /// Written since the machine started, or proven since.
    Sound,
    /// Written before the machine last started: a power cut may have taken a part. To be proven, see [`Store::layer_proven`].
    Unproven,
}

/// The file `record` of a layer.
#[derive(Serialize, Deserialize)]
struct RecordFile {
    #[serde(flatten)]
    record: LayerRecord,
    /// The kernel's name of the time between two starts of the machine, in which the layer was written.
    boot: String,
}

impl RecordFile {
    fn parse(bytes: &[u8]) -> Option<RecordFile> {
        serde_json::from_slice(without_sum(bytes)?).ok()
    }
}

/// An empty file beside the record of a layer that was written in an earlier boot and found whole.
const PROVEN: &str = "proven";

impl Store {
    /// The layer `diff_id`, if it is there. One whose record is damaged or whose files are gone goes to the trash and counts
    /// as absent.
    ///
    /// One that was found as files once is not looked for again: every step of a cached build asks for its layer, so do the
    /// readers of its files and the output.
    pub fn layer(&self, diff_id: &DiffId) -> Result<Option<StoredLayer>, StoreError> {
        if let Some(layer) = self.seen().get(diff_id) {
            return Ok(Some(layer.clone()));
        }
        let found = self.look_for_layer(diff_id)?;
        if let Some(layer @ StoredLayer { kept: Kept::Tree(_), soundness: Soundness::Sound, .. }) = &found {
            self.seen().insert(*diff_id, layer.clone());
        }
        Ok(found)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<DiffId, StoredLayer>> {
        self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_for_layer(&self, diff_id: &DiffId) -> Result<Option<StoredLayer>, StoreError> {
        let place = self.layer_place(diff_id);
        let record_path = place.join("record");
        let Some((text, modified)) = read_with_time(&record_path)? else { return Ok(None) };
        let found = RecordFile::parse(&text).filter(|file| file.record.diff_id == *diff_id);
        match found.zip(kept_at(&place)) {
            Some((RecordFile { record, boot }, kept)) => {
                if !self.note_use(&record_path, modified)? {
                    return Ok(None);
                }
                let sound = self.inner.boot.is(&boot) || place.join(PROVEN).exists();
                let soundness = if sound { Soundness::Sound } else { Soundness::Unproven };
                Ok(Some(StoredLayer { kept, record, soundness }))
            }
            _ => {
                self.trash(&place)?;
                Ok(None)
            }
        }
    }

    /// The record of a layer, if it can be read; looking is no use of it.
    pub(super) fn layer_untouched(&self, diff_id: &DiffId) -> Result<Option<LayerRecord>, StoreError> {
        let text = read_if_there(&self.layer_place(diff_id).join("record"))?;
        Ok(text.and_then(|text| RecordFile::parse(&text)).map(|file| file.record))
    }

    /// Notes that an unproven layer was read through and found whole: its bytes are on the disk.
    pub fn layer_proven(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let path = self.layer_place(diff_id).join(PROVEN);
        // an empty file has no bytes to lose; losing the file costs another look
        fs::write(&path, b"").map_err(StoreError::io("create", &path))
    }

    /// Drops a layer.
    pub fn drop_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.seen().remove(diff_id);
        self.trash(&self.layer_place(diff_id))
    }

    /// Drops a layer that turned out to be damaged before anybody has read it, so that people can be told.
    pub fn drop_lost_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.drop_layer(diff_id)?;
        self.set_memo(&gone_key(diff_id), DAMAGED)
    }

    /// The same of a layer that may have been read since: what was learned from it is forgotten too, which costs finding it out
    /// again.
    pub fn drop_damaged_layer(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        self.forget_memos()?;
        self.drop_lost_layer(diff_id)
    }

    /// Notes that a layer was pruned at this time, seconds since 1970, so that people can be told.
    pub fn note_pruned(&self, diff_id: &DiffId, at_secs: i64) -> Result<(), StoreError> {
        self.set_memo(&gone_key(diff_id), &at_secs.to_le_bytes())
    }

    /// Why a layer went that is not there, as far as anybody noted it.
    pub fn why_gone(&self, diff_id: &DiffId) -> Result<Option<Gone>, StoreError> {
        let value = self.memo(&gone_key(diff_id))?;
        Ok(value.map(|bytes| match <[u8; 8]>::try_from(bytes.as_slice()) {
            Ok(bytes) => Gone::Pruned { at_secs: i64::from_le_bytes(bytes) },
            Err(_) => Gone::Damaged,
        }))
    }

    /// Moves a finished layer into place with its record by one rename. A tree takes the place of a tar, and of a tree that
    /// nobody can be using or that somebody has written to: this one is known to be right, and costs no more to keep than the
    /// other. Otherwise the layer that is there is taken.
    ///
    /// `kept` lies in a [`Store::temp_dir`], so that nothing is copied.
    pub fn publish_layer(&self, kept: Kept, record: LayerRecord) -> Result<StoredLayer, StoreError> {
        let place = self.layer_place(&record.diff_id);
        let bundle = self.temp_dir()?;
        let bundled = bundle.path.join(kept.name());
        fs::rename(kept.path(), bundled).map_err(StoreError::io("move", kept.path()))?;
        let file = RecordFile { record, boot: self.inner.boot.id().to_owned() };
        let text = serde_json::to_vec(&file).expect("a record is plain data");
        let record = file.record;
        let record_path = bundle.path.join("record");
        if let Kept::Tree(_) = kept {
            seal::seal(&bundle.path);
        }
        fs::write(&record_path, with_sum(text)).map_err(StoreError::io("write", &record_path))?;
        loop {
            match fs::rename(&bundle.path, &place) {
                Ok(()) => return Ok(StoredLayer { kept: kept.inside(&place), record, soundness: Soundness::Sound }),
                Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                    // a damaged one is dropped by `layer`, one without a record here; then ours may move in
                    // and so it may in place of one that nobody has looked at since the machine started
                    match self.look_for_layer(&record.diff_id)? {
                        Some(StoredLayer { kept: Kept::Packed(_), .. }) if matches!(kept, Kept::Tree(_)) => {
                            self.take_place(&bundle.path, &place)?;
                            return Ok(StoredLayer { kept: kept.inside(&place), record, soundness: Soundness::Sound });
                        }
                        Some(layer) if layer.soundness == Soundness::Sound => {
                            let is_of_files = matches!((&kept, &layer.kept), (Kept::Tree(_), Kept::Tree(_)));
                            return Ok(match is_of_files && self.replace_tree(&record.diff_id, &bundle.path, &place)? {
                                true => StoredLayer { kept: kept.inside(&place), record, soundness: Soundness::Sound },
                                false => layer,
                            });
                        }
                        _ => self.trash(&place)?,
                    }
                }
                Err(error) => return Err(StoreError::io("create", &place)(error)),
            }
        }
    }

    /// Puts the layer in `bundle` into the place of an equal one if nobody can miss that: this process has not looked it up and
    /// no other uses the store, or its files are not what they were. Whether it did.
    fn replace_tree(&self, diff_id: &DiffId, bundle: &Path, place: &Path) -> Result<bool, StoreError> {
        {
            // held until the end, so that nobody in this process looks it up meanwhile; the gate keeps out other processes
            let seen = self.seen();
            if !seen.contains_key(diff_id) {
                let right = self.pruning()?;
                if right.users <= 1 {
                    return self.take_place(bundle, place).map(|()| true);
                }
            }
        }
        if self.touched(diff_id)? != Touched::Yes {
            return Ok(false);
        }
        self.take_place(bundle, place).map(|()| true)
    }

    fn take_place(&self, bundle: &Path, place: &Path) -> Result<(), StoreError> {
        if exchange(bundle, place).is_ok() {
            return Ok(());
        }
        // a file system that cannot: for a moment the layer is absent, which is no worse than pruned
        self.trash(place)?;
        fs::rename(bundle, place).map_err(StoreError::io("create", place))
    }

    pub(super) fn layer_place(&self, diff_id: &DiffId) -> PathBuf {
        self.root().join("layers").join(diff_id.0.hex())
    }
}

/// What the directory of a layer holds.
fn kept_at(place: &Path) -> Option<Kept> {
    let (tree, packed) = (place.join(Kept::TREE), place.join(Kept::PACKED));
    if tree.is_dir() {
        return Some(Kept::Tree(tree));
    }
    packed.is_dir().then_some(Kept::Packed(packed))
}

/// Two directories swap their names, at once for everybody who looks.
fn exchange(one: &Path, other: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

/// What is noted of a layer that was damaged; of one that was pruned it is the time.
const DAMAGED: &[u8] = b"was damaged";

fn gone_key(diff_id: &DiffId) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"gone 1");
    hasher.update(diff_id.0.as_bytes());
    CacheKey(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn tree(layer: &StoredLayer) -> PathBuf {
        layer.tree().expect("kept as files").to_owned()
    }

    fn record() -> LayerRecord {
        let digest = Digest::of(b"tar");
        LayerRecord { diff_id: DiffId(digest), tar_bytes: 3, content: ContentDigest(digest) }
    }

    fn publish(store: &Store, text: &str) -> StoredLayer {
        let temp = store.temp_dir().expect("temp");
        let tree = temp.path.join("upper");
        fs::create_dir(&tree).expect("mkdir");
        fs::write(tree.join("file"), text).expect("write");
        store.publish_layer(Kept::Tree(tree), record()).expect("published")
    }

    #[test]
    fn a_published_layer_is_found() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        assert!(store.layer(&record().diff_id).expect("asked").is_none());
        let published = publish(&store, "one");
        let found = store.layer(&record().diff_id).expect("asked").expect("there");
        assert_eq!((tree(&found), found.record.clone()), (tree(&published), record()));
        assert_eq!(fs::read_to_string(tree(&found).join("file")).expect("read"), "one");
    }

    #[test]
    fn of_two_equal_trees_the_first_stays_while_it_may_be_in_use() {
        let space = tempfile::tempdir().expect("space");
        let store = || Store::open(space.path()).expect("store");
        let text = |layer: &StoredLayer| fs::read_to_string(tree(layer).join("file")).expect("read");
        publish(&store(), "one");
        assert_eq!(text(&publish(&store(), "two")), "two", "nobody uses the first");
        let user = store();
        user.layer(&record().diff_id).expect("asked").expect("there");
        assert_eq!(text(&publish(&user, "three")), "two", "this process has looked it up");
        let leases = [user.lease().expect("leased"), user.lease().expect("leased")];
        assert_eq!(text(&publish(&store(), "four")), "two", "another process may have");
        fs::write(tree(&publish(&store(), "four")).join("file"), "damaged").expect("written");
        assert_eq!(text(&publish(&store(), "five")), "five", "the first is not what it was");
        drop(leases);
    }

    #[test]
    fn a_damaged_layer_is_replaced() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        for damage in ["", "{}", "missing", "no tree"] {
            let place = tree(&publish(&store, "one")).parent().expect("place").to_owned();
            match damage {
                "missing" => fs::remove_file(place.join("record")).expect("removed"),
                "no tree" => fs::remove_dir_all(place.join("tree")).expect("removed"),
                text => fs::write(place.join("record"), text).expect("damaged"),
            }
            let replaced = publish(&store, "two");
            assert_eq!(fs::read_to_string(tree(&replaced).join("file")).expect("read"), "two", "{damage}");
            store.trash(&place).expect("trashed");
        }
    }

    #[test]
    fn a_tree_takes_the_place_of_a_tar_and_no_tar_that_of_a_tree() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let pack = || {
            let temp = store.temp_dir().expect("temp");
            let packed = temp.path.join("any");
            fs::create_dir(&packed).expect("mkdir");
            fs::write(packed.join("tar"), "tar").expect("write");
            store.publish_layer(Kept::Packed(packed), record()).expect("published")
        };
        let packed = pack();
        assert_eq!(fs::read_to_string(packed.kept.path().join("tar")).expect("read"), "tar");
        assert_eq!(store.layer(&record().diff_id).expect("asked").expect("there").kept, packed.kept);
        publish(&store, "one");
        assert!(!packed.kept.path().exists());
        for layer in [pack(), store.layer(&record().diff_id).expect("asked").expect("there")] {
            assert_eq!(fs::read_to_string(tree(&layer).join("file")).expect("read"), "one");
        }
    }

    #[test]
    fn a_layer_of_an_earlier_boot_is_unproven_until_somebody_has_looked() {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        let layer = publish(&store, "one");
        assert_eq!(layer.soundness, Soundness::Sound);
        let path = tree(&layer).with_file_name("record");
        let text = fs::read_to_string(&path).expect("read").replace(store.inner.boot.id(), "an-earlier-one");
        let (text, _sum) = text.split_once('\n').expect("two lines");
        fs::write(&path, with_sum(text.into())).expect("write");
        let soundness = || store.layer(&record().diff_id).expect("asked").expect("there").soundness;
        assert_eq!(soundness(), Soundness::Unproven);
        store.layer_proven(&record().diff_id).expect("marked");
        assert_eq!(soundness(), Soundness::Sound);
    }
}
