//! What the index knows: results of steps, remembered computations, compressed forms of layers, what files hashed to.
//!
//! A row is found by a number, the first bytes of its key, so that looking for it reads nothing of the rows beside it, however large
//! they are. It has the whole key and a seal of what it says: one that was damaged, or half written when the power went, is as
//! good as none.

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::digest::{CacheKey, DiffId, Digest, Hasher};

/// What a step's result is: the layers it added on top of its first input, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The layer that the step made.
    pub diff_id: DiffId,
    /// When the layer was made, seconds since 1970.
    pub created_secs: i64,
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

/// The stat index of a context: what its files hashed to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StatEntries {
    /// Most of it.
    pub base: Vec<StatEntry>,
    /// What came later; replaces what `base` says of the same inodes.
    pub recent: Vec<StatEntry>,
}

/// What [`Store::check_index`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexCheck {
    /// Records whose layers are there.
    pub records: usize,
    /// Records that were dropped, since their layers are gone.
    pub dangling: usize,
    /// Rows that were dropped, since they are not what was written.
    pub damaged: usize,
    /// Whether the index was damaged and an empty one is in its place.
    pub replaced: bool,
}

impl Store {
    /// The record of a key.
    pub fn record(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        self.inner.db.read(|connection| {
            let mut select =
                connection.prepare_cached("SELECT diff_id, created_secs, seal FROM records WHERE id = ?1 AND key = ?2")?;
            Ok(select.query_row(params![id(key), bytes(&key.0)], |row| sealed_record(row, key)).optional()?.flatten())
        })
    }

    /// Writes records, replacing older ones of the same keys, in one transaction.
    pub fn set_records(&self, records: &[(CacheKey, Record)]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        self.inner.db.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO records VALUES (?1, ?2, ?3, ?4, ?5)")?;
            for (key, record) in records {
                let said = (bytes(&record.diff_id.0), record.created_secs);
                insert.execute(params![id(key), bytes(&key.0), said.0, said.1, record_seal(key, record)])?;
            }
            Ok(())
        })
    }

    /// A remembered pure computation: `key` names function and input, the value is its small result.
    pub fn memo(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.read(|connection| {
            let mut select = connection.prepare_cached("SELECT value, seal FROM memos WHERE id = ?1 AND key = ?2")?;
            Ok(select.query_row(params![id(key), bytes(&key.0)], |row| sealed_memo(row, key)).optional()?.flatten())
        })
    }

    /// Those of `keys` that nothing is remembered under.
    pub fn absent_memos<'a>(&self, keys: impl Iterator<Item = &'a CacheKey> + Clone) -> Result<HashSet<CacheKey>, StoreError> {
        self.inner.db.read(|connection| {
            let mut exists = connection.prepare_cached("SELECT 1 FROM memos WHERE id = ?1 AND key = ?2")?;
            let mut absent = HashSet::new();
            for key in keys.clone() {
                if !exists.exists(params![id(key), bytes(&key.0)])? {
                    absent.insert(*key);
                }
            }
            Ok(absent)
        })
    }

    /// Remembers a pure computation.
    pub fn set_memo(&self, key: &CacheKey, value: &[u8]) -> Result<(), StoreError> {
        self.set_memos(&[(*key, value)])
    }

    /// Remembers several, in one transaction.
    pub fn set_memos(&self, memos: &[(CacheKey, impl AsRef<[u8]>)]) -> Result<(), StoreError> {
        self.inner.db.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO memos VALUES (?1, ?2, ?3, ?4)")?;
            for (key, value) in memos {
                let value = value.as_ref();
                insert.execute(params![id(key), bytes(&key.0), value, seal(key, &[value])])?;
            }
            Ok(())
        })
    }

    /// Forgets all that is remembered: it is found out again.
    pub(super) fn forget_memos(&self) -> Result<(), StoreError> {
        self.inner.db.write(|transaction| transaction.execute("DELETE FROM memos", []).map(drop))
    }

    /// The variant of a layer called `kind` (such as `gzip-6-1`, `epoch-123+gzip-6-1`), if its blob is there too.
    pub fn variant(&self, diff_id: &DiffId, kind: &str) -> Result<Option<Variant>, StoreError> {
        let value = self.memo(&variant_key(diff_id, kind))?;
        // one that cannot be read is of another version
        let Some(variant) = value.and_then(|value| serde_json::from_slice::<Variant>(&value).ok()) else { return Ok(None) };
        let there = self.blob_size(&variant.digest)? == Some(variant.size_bytes);
        Ok(Some(variant).filter(|_| there))
    }

    /// Remembers a variant.
    pub fn set_variant(&self, diff_id: &DiffId, kind: &str, variant: &Variant) -> Result<(), StoreError> {
        let value = serde_json::to_vec(variant).expect("a variant is plain data");
        self.set_memo(&variant_key(diff_id, kind), &value)
    }

    /// Reads the whole index, drops rows that are not what was written, and the records of steps whose layers are gone.
    pub fn check_index(&self) -> Result<IndexCheck, StoreError> {
        let replaced = !self.inner.db.is_whole()?;
        if replaced {
            self.inner.db.replace()?;
        }
        let records: Vec<(i64, Option<Record>)> = self.inner.db.read(|connection| {
            let mut all = connection.prepare("SELECT diff_id, created_secs, seal, key, id FROM records")?;
            let rows = all.query_map([], |row| {
                let key = CacheKey(digest(row, 3)?);
                let number = row.get(4)?;
                Ok((number, sealed_record(row, &key)?.filter(|_| number == id(&key))))
            })?;
            rows.collect()
        })?;
        let damaged_memos: Vec<i64> = self.inner.db.read(|connection| {
            let mut all = connection.prepare("SELECT value, seal, key, id FROM memos")?;
            let rows = all.query_map([], |row| {
                let key = CacheKey(digest(row, 2)?);
                let number = row.get(3)?;
                Ok((number, number == id(&key) && sealed_memo(row, &key)?.is_some()))
            })?;
            rows.filter(|row| !matches!(row, Ok((_, true)))).map(|row| row.map(|(number, _)| number)).collect()
        })?;
        let (mut gone, mut damaged) = (Vec::new(), damaged_memos.len());
        for (number, record) in &records {
            match record {
                None => damaged += 1,
                Some(record) if self.layer_untouched(&record.diff_id)?.is_some() => continue,
                Some(_) => {}
            }
            gone.push(*number);
        }
        self.inner.db.write(|transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM records WHERE id = ?1")?;
            gone.iter().try_for_each(|number| delete.execute([number]).map(drop))?;
            let mut delete = transaction.prepare_cached("DELETE FROM memos WHERE id = ?1")?;
            damaged_memos.iter().try_for_each(|number| delete.execute([number]).map(drop))
        })?;
        let dangling = gone.len() + damaged_memos.len() - damaged;
        Ok(IndexCheck { records: records.len() - gone.len(), dangling, damaged, replaced })
    }

    /// The stat index of the context at `directory` (its canonical path); empty if there is none.
    pub fn stat_index(&self, directory: &Path) -> Result<StatEntries, StoreError> {
        self.inner.db.read(|connection| {
            let mut select = connection.prepare_cached("SELECT entries FROM stat_indexes WHERE directory = ?1")?;
            let mut entries = |name: &[u8]| -> rusqlite::Result<Vec<StatEntry>> {
                let packed = select.query_row([name], |row| Ok(unpack(row.get_ref(0)?.as_blob()?))).optional()?;
                Ok(packed.unwrap_or_default())
            };
            let directory = directory.as_os_str().as_encoded_bytes();
            Ok(StatEntries { base: entries(directory)?, recent: entries(&recent_of(directory))? })
        })
    }

    /// Replaces the stat index of a context. Losing it costs a re-hash, so it is written without sync.
    pub fn set_stat_index(&self, directory: &Path, entries: &[StatEntry]) -> Result<(), StoreError> {
        let packed = pack(entries);
        let directory = directory.as_os_str().as_encoded_bytes();
        self.inner.db.write(|transaction| {
            set_stat_entries(transaction, directory, &packed)?;
            let mut delete = transaction.prepare_cached("DELETE FROM stat_indexes WHERE directory = ?1")?;
            delete.execute([recent_of(directory)]).map(drop)
        })
    }

    /// Replaces what a context's stat index keeps apart, and leaves the rest of it as it is.
    pub fn set_recent_stat_index(&self, directory: &Path, entries: &[StatEntry]) -> Result<(), StoreError> {
        let packed = pack(entries);
        let name = recent_of(directory.as_os_str().as_encoded_bytes());
        self.inner.db.write(|transaction| set_stat_entries(transaction, &name, &packed))
    }
}

fn set_stat_entries(transaction: &Transaction<'_>, name: &[u8], packed: &[u8]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO stat_indexes VALUES (?1, ?2)")?;
    insert.execute(params![name, packed]).map(drop)
}

/// Where the recent entries of a context's stat index are: no path has a zero byte.
fn recent_of(directory: &[u8]) -> Vec<u8> {
    [directory, b"\0recent"].concat()
}

/// The number of a key's row: the first bytes of a digest are as good as chance.
fn id(key: &CacheKey) -> i64 {
    number(&key.0)
}

fn number(digest: &Digest) -> i64 {
    let (first, _) = digest.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    i64::from_le_bytes(*first)
}

/// What a row says, in eight bytes.
fn seal(key: &CacheKey, parts: &[&[u8]]) -> i64 {
    let mut hasher = Hasher::new();
    hasher.update(key.0.as_bytes());
    parts.iter().for_each(|part| hasher.update(part));
    number(&hasher.finish())
}

fn record_seal(key: &CacheKey, record: &Record) -> i64 {
    seal(key, &[bytes(&record.diff_id.0), &record.created_secs.to_le_bytes()])
}

/// The record in the first columns of a row, unless it is another than was written.
fn sealed_record(row: &Row<'_>, key: &CacheKey) -> rusqlite::Result<Option<Record>> {
    let record = Record { diff_id: DiffId(digest(row, 0)?), created_secs: row.get(1)? };
    let is_right = row.get::<_, i64>(2)? == record_seal(key, &record);
    Ok(is_right.then_some(record))
}

/// The value in the first columns of a row, unless it is another than was written.
fn sealed_memo(row: &Row<'_>, key: &CacheKey) -> rusqlite::Result<Option<Vec<u8>>> {
    let value = row.get_ref(0)?.as_blob()?;
    let is_right = row.get::<_, i64>(1)? == seal(key, &[value]);
    Ok(is_right.then(|| value.to_vec()))
}

fn variant_key(diff_id: &DiffId, kind: &str) -> CacheKey {
    let mut hasher = Hasher::new();
    hasher.field(b"variant 1");
    hasher.field(kind.as_bytes());
    hasher.update(diff_id.0.as_bytes());
    CacheKey(hasher.finish())
}

fn bytes(digest: &Digest) -> &[u8] {
    digest.as_bytes()
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get::<_, [u8; 32]>(column).map(Digest::from_bytes)
}

/// Bytes of one packed entry: five numbers and a digest.
const ENTRY_BYTES: usize = 5 * 8 + 32;

fn pack(entries: &[StatEntry]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        for number in [entry.device, entry.inode, entry.size_bytes] {
            packed.extend_from_slice(&number.to_le_bytes());
        }
        for number in [entry.mtime_nanos, entry.ctime_nanos] {
            packed.extend_from_slice(&number.to_le_bytes());
        }
        packed.extend_from_slice(entry.digest.as_bytes());
    }
    packed
}

fn unpack(packed: &[u8]) -> Vec<StatEntry> {
    let (entries, _) = packed.as_chunks::<ENTRY_BYTES>();
    entries
        .iter()
        .map(|entry| {
            let (numbers, digest) = entry.split_at(5 * 8);
            let (numbers, _) = numbers.as_chunks::<8>();
            StatEntry {
                device: u64::from_le_bytes(numbers[0]),
                inode: u64::from_le_bytes(numbers[1]),
                size_bytes: u64::from_le_bytes(numbers[2]),
                mtime_nanos: i64::from_le_bytes(numbers[3]),
                ctime_nanos: i64::from_le_bytes(numbers[4]),
                digest: Digest::from_bytes(digest.try_into().expect("what is left of an entry is its digest")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;

    use super::*;
    use crate::store::boot::Boot;

    fn key(text: &str) -> CacheKey {
        CacheKey(Digest::of(text.as_bytes()))
    }

    fn record(text: &str) -> Record {
        Record { diff_id: DiffId(Digest::of(text.as_bytes())), created_secs: 5 }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let space = tempfile::tempdir().expect("space");
        let store = Store::open(space.path()).expect("store");
        (space, store)
    }

    #[test]
    fn records_and_memos_survive_the_process() {
        let (space, store) = store();
        assert_eq!(store.record(&key("a")).expect("asked"), None);
        store.set_records(&[(key("a"), record("1")), (key("b"), record("2"))]).expect("set");
        store.set_records(&[(key("a"), record("3"))]).expect("set");
        store.set_memo(&key("a"), b"value").expect("set");
        drop(store);
        let store = Store::open(space.path()).expect("store");
        assert_eq!(store.record(&key("a")).expect("asked"), Some(record("3")));
        assert_eq!(store.record(&key("b")).expect("asked"), Some(record("2")));
        assert_eq!(store.memo(&key("a")).expect("asked"), Some(b"value".to_vec()));
        assert_eq!(store.memo(&key("b")).expect("asked"), None);
    }

    #[test]
    fn opening_a_store_does_not_open_its_index() {
        let (space, _store) = store();
        assert!(!space.path().join("index.sqlite").exists());
    }

    #[test]
    fn a_variant_without_its_blob_is_none() {
        let (_space, store) = store();
        let layer = DiffId(Digest::of(b"tar"));
        let digest = store.write_blob(b"gz").expect("written");
        let variant = Variant { digest, size_bytes: 2, diff_id: layer };
        store.set_variant(&layer, "gzip-6-1", &variant).expect("set");
        assert_eq!(store.variant(&layer, "gzip-6-1").expect("asked"), Some(variant));
        assert_eq!(store.variant(&layer, "zstd-3-1").expect("asked"), None);
        fs::write(store.blob_path(&digest), "").expect("truncated");
        assert_eq!(store.variant(&layer, "gzip-6-1").expect("asked"), None);
    }

    #[test]
    fn a_stat_index_comes_back() {
        let (_space, store) = store();
        let entry = |inode| StatEntry {
            device: 1,
            inode,
            size_bytes: u64::MAX,
            mtime_nanos: -1,
            ctime_nanos: i64::MAX,
            digest: Digest::of(b"x"),
        };
        let asked = |directory: &str| store.stat_index(Path::new(directory)).expect("asked");
        store.set_stat_index(Path::new("/ctx"), &[entry(1), entry(2)]).expect("set");
        store.set_recent_stat_index(Path::new("/ctx"), &[entry(3)]).expect("set");
        assert_eq!(asked("/ctx"), StatEntries { base: vec![entry(1), entry(2)], recent: vec![entry(3)] });
        assert_eq!(asked("/other"), StatEntries::default());
        store.set_stat_index(Path::new("/ctx"), &[entry(4)]).expect("set");
        assert_eq!(asked("/ctx"), StatEntries { base: vec![entry(4)], recent: Vec::new() });
    }

    #[test]
    fn a_damaged_index_is_replaced_by_an_empty_one() {
        let (space, first) = store();
        let path = space.path().join("index.sqlite");
        let many: Vec<_> = (0..20_000).map(|index: u32| (key(&index.to_string()), record("1"))).collect();
        first.set_records(&many).expect("set");
        drop(first);
        let whole = fs::read(&path).expect("read");
        assert!(whole.len() > 1 << 20, "the log was folded at exit: {} bytes", whole.len());
        let half = &whole[..whole.len() / 2];
        let mut scrambled = whole.clone();
        scrambled[4096..].iter_mut().for_each(|byte| *byte ^= 0x55);
        for damage in [
            &b""[..],
            b"not a database, but long enough to have a header of 100 bytes.......................................",
            half,
            &scrambled,
        ] {
            fs::write(&path, damage).expect("damaged");
            let store = Store::open(space.path()).expect("store");
            assert_eq!(store.record(&key("7")).expect("asked"), None);
            store.set_records(&[(key("7"), record("2"))]).expect("set");
            assert_eq!(store.record(&key("7")).expect("asked"), Some(record("2")));
        }
    }

    #[test]
    fn an_index_deleted_between_two_builds_is_made_anew() {
        let (space, store) = store();
        store.set_records(&[(key("a"), record("1"))]).expect("set");
        drop(store);
        fs::remove_file(space.path().join("index.sqlite")).expect("removed");
        let store = Store::open(space.path()).expect("store");
        assert_eq!(store.record(&key("a")).expect("asked"), None);
    }

    /// Changes the index of a store behind its back.
    fn spoil(space: &Path, statement: &str) {
        let connection = Connection::open(space.join("index.sqlite")).expect("opened");
        assert_eq!(connection.execute(statement, []).expect("changed"), 1, "{statement}");
    }

    #[test]
    fn a_row_that_was_changed_is_as_good_as_none() {
        let (space, store) = store();
        let diff_id = record("1").diff_id;
        let digest = store.write_blob(b"gz").expect("written");
        for spoiled in [
            "UPDATE records SET created_secs = 6",
            "UPDATE records SET diff_id = zeroblob(32)",
            "UPDATE memos SET value = X'00' WHERE length(value) = 5",
            "UPDATE memos SET value = CAST(replace(value, '\"size_bytes\":2', '\"size_bytes\":3') AS BLOB) WHERE length(value) > 5",
        ] {
            store.set_records(&[(key("a"), record("1"))]).expect("set");
            store.set_memo(&key("a"), b"value").expect("set");
            store.set_variant(&diff_id, "gzip", &Variant { digest, size_bytes: 2, diff_id }).expect("set");
            spoil(space.path(), spoiled);
            let is_there = [
                store.record(&key("a")).expect("asked").is_some(),
                store.memo(&key("a")).expect("asked").is_some(),
                store.variant(&diff_id, "gzip").expect("asked").is_some(),
            ];
            assert_eq!(is_there.iter().filter(|there| !**there).count(), 1, "{spoiled}: {is_there:?}");
            let check = store.check_index().expect("checked");
            assert_eq!(check.damaged, 1, "{spoiled}");
        }
    }

    #[test]
    fn an_index_of_an_earlier_boot_is_read_through_once() {
        let (space, first) = store();
        let many: Vec<_> = (0..2_000).map(|index: u32| (key(&index.to_string()), record("1"))).collect();
        first.set_records(&many).expect("set");
        drop(first);
        let path = space.path().join("index.sqlite");
        let boot = || -> String {
            let connection = Connection::open(&path).expect("opened");
            connection.query_row("SELECT id FROM boot", [], |row| row.get(0)).expect("asked")
        };
        assert_eq!(boot(), Boot::default().id());
        spoil(space.path(), "UPDATE boot SET id = 'an-earlier-one'");
        let found = || Store::open(space.path()).expect("store").record(&key("7")).expect("asked");
        assert_eq!(found(), Some(record("1")), "it is whole");
        assert_eq!(boot(), Boot::default().id());
        spoil(space.path(), "UPDATE boot SET id = 'an-earlier-one'");
        // a page that the power cut has kept from the disk, far from what is asked for
        let mut bytes = fs::read(&path).expect("read");
        let last = bytes.len() - 4096;
        bytes[last..].fill(0);
        fs::write(&path, bytes).expect("damaged");
        assert_eq!(found(), None);
    }

    #[test]
    fn what_others_write_is_seen_with_the_lock_of_a_step() {
        let (space, store) = store();
        let other = Store::open(space.path()).expect("store");
        assert_eq!(store.record(&key("a")).expect("asked"), None);
        other.set_records(&[(key("a"), record("1"))]).expect("set");
        assert_eq!(store.record(&key("a")).expect("asked"), None, "as it was when it was first asked");
        let _lock = store.lock_step(&key("a")).expect("locked");
        assert_eq!(store.record(&key("a")).expect("asked"), Some(record("1")));
        other.set_memo(&key("b"), b"value").expect("set");
        assert_eq!(store.memo(&key("b")).expect("asked"), Some(b"value".to_vec()));
    }
}
