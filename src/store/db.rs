//! The index: what is looked up by key and could be found out again. The only file that knows `rusqlite`.
//!
//! Many processes read and write at once: write-ahead log, reads in autocommit, writes in short `BEGIN IMMEDIATE`
//! transactions. `synchronous=NORMAL` never loses consistency, only recent commits, and waits for no disk. A checkpoint
//! does wait, so it happens when the process is done, and only if the log has grown enough to slow the next opening.
//!
//! The index is opened when it is first asked. One that is damaged, or of another schema, is put into the trash and replaced
//! by an empty one: what it knew is rebuilt by building.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, config::DbConfig, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, lock, temp};
use crate::digest::{CacheKey, DiffId, Digest};

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
    /// Whether the index was damaged and an empty one is in its place.
    pub replaced: bool,
}

impl Store {
    /// The record of a key.
    pub fn record(&self, key: &CacheKey) -> Result<Option<Record>, StoreError> {
        self.inner.db.read(|connection| {
            connection
                .prepare_cached("SELECT diff_id, created_secs FROM records WHERE key = ?1")?
                .query_row([bytes(&key.0)], |row| Ok(Record { diff_id: DiffId(digest(row, 0)?), created_secs: row.get(1)? }))
                .optional()
        })
    }

    /// Writes records, replacing older ones of the same keys, in one transaction.
    pub fn set_records(&self, records: &[(CacheKey, Record)]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        self.inner.db.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO records VALUES (?1, ?2, ?3)")?;
            for (key, record) in records {
                insert.execute(params![bytes(&key.0), bytes(&record.diff_id.0), record.created_secs])?;
            }
            Ok(())
        })
    }

    /// A remembered pure computation: `key` names function and input, the value is its small result.
    pub fn memo(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.read(|connection| {
            connection
                .prepare_cached("SELECT value FROM memos WHERE key = ?1")?
                .query_row([bytes(&key.0)], |row| row.get(0))
                .optional()
        })
    }

    /// Those of `keys` that nothing is remembered under.
    pub fn absent_memos<'a>(&self, keys: impl Iterator<Item = &'a CacheKey> + Clone) -> Result<HashSet<CacheKey>, StoreError> {
        self.inner.db.read(|connection| {
            let mut exists = connection.prepare_cached("SELECT 1 FROM memos WHERE key = ?1")?;
            let mut absent = HashSet::new();
            for key in keys.clone() {
                if !exists.exists([bytes(&key.0)])? {
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
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO memos VALUES (?1, ?2)")?;
            for (key, value) in memos {
                insert.execute(params![bytes(&key.0), value.as_ref()])?;
            }
            Ok(())
        })
    }

    /// The variant of a layer called `kind` (such as `gzip-6-1`, `epoch-123+gzip-6-1`), if its blob is there too.
    pub fn variant(&self, diff_id: &DiffId, kind: &str) -> Result<Option<Variant>, StoreError> {
        let variant = self.inner.db.read(|connection| {
            connection
                .prepare_cached("SELECT digest, size_bytes, inner_diff_id FROM variants WHERE diff_id = ?1 AND kind = ?2")?
                .query_row(params![bytes(&diff_id.0), kind], |row| {
                    Ok(Variant {
                        digest: digest(row, 0)?,
                        size_bytes: row.get::<_, i64>(1)?.cast_unsigned(),
                        diff_id: DiffId(digest(row, 2)?),
                    })
                })
                .optional()
        })?;
        let Some(variant) = variant else { return Ok(None) };
        let there = self.blob_size(&variant.digest)? == Some(variant.size_bytes);
        Ok(Some(variant).filter(|_| there))
    }

    /// Remembers a variant.
    pub fn set_variant(&self, diff_id: &DiffId, kind: &str, variant: &Variant) -> Result<(), StoreError> {
        self.inner.db.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO variants VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let (blob, inner) = (bytes(&variant.digest), bytes(&variant.diff_id.0));
            insert.execute(params![bytes(&diff_id.0), kind, blob, variant.size_bytes.cast_signed(), inner]).map(drop)
        })
    }

    /// Reads the whole index, and drops the records of steps whose layers are gone.
    pub fn check_index(&self) -> Result<IndexCheck, StoreError> {
        let replaced = !self.inner.db.is_whole()?;
        if replaced {
            self.inner.db.replace()?;
        }
        let records: Vec<([u8; 32], [u8; 32])> = self.inner.db.read(|connection| {
            let mut all = connection.prepare("SELECT key, diff_id FROM records")?;
            all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })?;
        let mut gone = Vec::new();
        for (key, diff_id) in &records {
            if self.layer_untouched(&DiffId(Digest::from_bytes(*diff_id)))?.is_none() {
                gone.push(*key);
            }
        }
        self.inner.db.write(|transaction| {
            let mut delete = transaction.prepare_cached("DELETE FROM records WHERE key = ?1")?;
            gone.iter().try_for_each(|key| delete.execute([key]).map(drop))
        })?;
        Ok(IndexCheck { records: records.len() - gone.len(), dangling: gone.len(), replaced })
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

/// `user_version` of the tables below; an index with another one is dropped.
const SCHEMA: i64 = 1;

const TABLES: &str = "
    CREATE TABLE records (key BLOB PRIMARY KEY, diff_id BLOB NOT NULL, created_secs INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE memos (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE variants (diff_id BLOB, kind TEXT, digest BLOB NOT NULL, size_bytes INTEGER NOT NULL,
        inner_diff_id BLOB NOT NULL, PRIMARY KEY (diff_id, kind)) WITHOUT ROWID;
    CREATE TABLE stat_indexes (directory BLOB PRIMARY KEY, entries BLOB NOT NULL);
";

/// Long enough for two hundred writers in a row; whoever waits longer faces a stuck machine.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);

/// A log of this size costs the next opening about 0.1 ms; a longer one is folded into the database at exit.
const LOG_BYTES_TO_KEEP: u64 = 256 << 10;

/// Folds a log that nobody folds (processes that are killed before they exit): 16 MiB.
const PAGES_BEFORE_FORCED_CHECKPOINT: i64 = 4096;

pub(super) struct Db {
    root: PathBuf,
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Db {
    pub(super) fn new(root: &Path) -> Db {
        Db { root: root.to_owned(), path: root.join("index.sqlite"), connection: Mutex::new(None) }
    }

    fn read<T>(&self, ask: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        // a poisoned lock: a thread died between two statements; the connection itself is sound
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(self.open()?);
        }
        match ask(slot.as_ref().expect("opened above")) {
            Err(error) if is_damage(&error) => {
                *slot = None;
                self.put_aside()?;
                ask(slot.insert(self.open()?)).map_err(|error| self.failed(&error))
            }
            result => result.map_err(|error| self.failed(&error)),
        }
    }

    fn write(&self, change: impl Fn(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        self.read(|connection| {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            change(&transaction)?;
            transaction.commit()
        })
    }

    /// A connection to a sound index; makes an empty one if there is none or it is damaged.
    fn open(&self) -> Result<Connection, StoreError> {
        loop {
            if !self.path.try_exists().map_err(StoreError::io("inspect", &self.path))? {
                self.create()?;
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            match Connection::open_with_flags(&self.path, flags).and_then(prepare) {
                Ok(Some(connection)) => return Ok(connection),
                Ok(None) => self.put_aside()?,
                Err(error) if is_damage(&error) => self.put_aside()?,
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    /// Publishes an empty index by one rename: no process ever sees one without tables.
    fn create(&self) -> Result<(), StoreError> {
        let _lock = lock::lock(&self.root.join("locks/index"))?;
        if self.path.try_exists().map_err(StoreError::io("inspect", &self.path))? {
            return Ok(());
        }
        // one name is enough under the lock, and a killed process leaves no more than one behind
        let draft = self.root.join("tmp/index.sqlite.draft");
        remove_with_logs(&draft)?;
        // the log of a former index must never meet the new one
        remove_logs(&self.path)?;
        let made = Connection::open(&draft).and_then(|connection| {
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; BEGIN;")?;
            connection.execute_batch(TABLES)?;
            connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA}; COMMIT;"))?;
            // the last one to close folds the log and deletes it
            connection.close().map_err(|(_, error)| error)
        });
        if let Err(error) = made {
            // the disk may be full, then a half-made index only makes it fuller; the failure to tell is the first one
            drop(remove_with_logs(&draft));
            return Err(self.failed(&error));
        }
        fs::rename(&draft, &self.path).map_err(StoreError::io("create", &self.path))
    }

    /// Whether SQLite finds the whole file sound.
    fn is_whole(&self) -> Result<bool, StoreError> {
        let connection = match self.open() {
            Ok(connection) => connection,
            Err(StoreError::Index { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let answer = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        Ok(answer.is_ok_and(|answer| answer == "ok"))
    }

    fn replace(&self) -> Result<(), StoreError> {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.put_aside()
    }

    /// Moves the index to the trash unless another process has replaced it by a sound one meanwhile.
    fn put_aside(&self) -> Result<(), StoreError> {
        let _lock = lock::lock(&self.root.join("locks/index"))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sound = Connection::open_with_flags(&self.path, flags).and_then(prepare).and_then(|connection| match connection {
            Some(connection) => connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0)),
            None => Ok(String::new()),
        });
        if sound.is_ok_and(|answer| answer == "ok") {
            return Ok(());
        }
        let aside = self.root.join("trash").join(temp::fresh_name());
        ignore_missing(fs::rename(&self.path, &aside)).map_err(StoreError::io("put aside", &self.path))?;
        remove_logs(&self.path)
    }

    fn failed(&self, error: &rusqlite::Error) -> StoreError {
        if is_full(error) {
            return StoreError::io("write", &self.path)(io::ErrorKind::StorageFull.into());
        }
        StoreError::Index { path: self.path.clone(), reason: error.to_string() }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        let slot = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(connection) = slot.take() else { return };
        let log_bytes = fs::metadata(with_suffix(&self.path, "-wal")).map_or(0, |metadata| metadata.len());
        if log_bytes > LOG_BYTES_TO_KEEP {
            // whatever other processes still read stays in the log, and they fold it later: an answer of "busy" is fine
            drop(connection.busy_timeout(Duration::ZERO));
            drop(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        }
    }
}

/// Sets a new connection up; `None` if its tables are not ours.
fn prepare(connection: Connection) -> rusqlite::Result<Option<Connection>> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // the last process to close would otherwise fold the log, and wait for the disk, after every build
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA {
        return Ok(None);
    }
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", PAGES_BEFORE_FORCED_CHECKPOINT)?;
    Ok(Some(connection))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => true,
        // a file cut short
        Some(ErrorCode::SystemIoFailure) => {
            error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
        }
        // a table is missing, or a column holds what we never wrote
        Some(ErrorCode::Unknown) => true,
        Some(_) => false,
        None => matches!(error, rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)),
    }
}

/// Whether a full disk is the reason. The shared memory beside the log is a file too, and grows.
fn is_full(error: &rusqlite::Error) -> bool {
    let shared_memory = |error: &rusqlite::ffi::Error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || error.sqlite_error().is_some_and(shared_memory)
}

fn remove_with_logs(path: &Path) -> Result<(), StoreError> {
    ignore_missing(fs::remove_file(path)).map_err(StoreError::io("delete", path))?;
    remove_logs(path)
}

fn remove_logs(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm"] {
        let log = with_suffix(path, suffix);
        ignore_missing(fs::remove_file(&log)).map_err(StoreError::io("delete", &log))?;
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned();
    path.as_mut_os_string().push(suffix);
    path
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn bytes(digest: &Digest) -> &[u8] {
    digest.as_bytes()
}

fn digest(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
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
    use super::*;

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
}
