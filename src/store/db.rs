//! The index's database. The rooms' only files that know `rusqlite` are this one and `index`, which knows its tables' meaning.
//!
//! Many processes read and write at once: write-ahead log, writes in short `BEGIN IMMEDIATE` transactions, and no wait for a disk:
//! `synchronous=OFF`. A power cut may take a part of what was written then, so the first who opens the index after the machine
//! was started reads it through. A checkpoint happens when the process is done, and only if the log has grown enough to slow
//! the next opening.
//!
//! Until a process writes or takes a lock, its reads see the index as it was when it first asked: a build that finds everything
//! cached asks hundreds of times, and each read that stands alone costs two calls to lock the log. What it finds absent it looks
//! up again when it has the step's lock.
//!
//! The index is opened when it is first asked. One that is damaged, or of another schema, is put into the trash and replaced
//! by an empty one: what it knew is rebuilt by building.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};

use super::boot::Boot;
use super::{StoreError, lock, temp};

/// `user_version` of the tables below; an index with another one is dropped.
const SCHEMA: i64 = 2;

/// `boot` has one row: the boot in which the index was written, or read through, last.
const TABLES: &str = "
    CREATE TABLE boot (id TEXT NOT NULL);
    CREATE TABLE records (id INTEGER PRIMARY KEY, key BLOB NOT NULL, diff_id BLOB NOT NULL, created_secs INTEGER NOT NULL,
        seal INTEGER NOT NULL);
    CREATE TABLE memos (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB NOT NULL, seal INTEGER NOT NULL);
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
    boot: Boot,
    slot: Mutex<Slot>,
}

struct Slot {
    connection: Option<Connection>,
    snapshot: Snapshot,
}

/// Whether reads share one transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    /// The next read begins it.
    Due,
    /// They do.
    Held,
    /// Each sees what there is.
    Over,
}

impl Slot {
    fn end_snapshot(&mut self) -> rusqlite::Result<()> {
        let former = std::mem::replace(&mut self.snapshot, Snapshot::Over);
        match &self.connection {
            // an error of the disk may have ended it
            Some(connection) if former == Snapshot::Held && !connection.is_autocommit() => connection.execute_batch("COMMIT"),
            _ => Ok(()),
        }
    }
}

impl Db {
    pub(super) fn new(root: &Path, boot: Boot) -> Db {
        let slot = Mutex::new(Slot { connection: None, snapshot: Snapshot::Due });
        Db { root: root.to_owned(), path: root.join("index.sqlite"), boot, slot }
    }

    pub(super) fn read<T>(&self, ask: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        self.with(|snapshot, connection| {
            if snapshot == Snapshot::Due {
                connection.execute_batch("BEGIN")?;
            }
            ask(connection)
        })
    }

    pub(super) fn write(&self, change: impl Fn(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        self.settle()?;
        self.with(|_, connection| {
            let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            change(&transaction)?;
            transaction.commit()
        })
    }

    /// From now on, every read sees what other processes have written.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        self.lock().end_snapshot().map_err(|error| self.failed(&error))
    }

    fn with<T>(&self, act: impl Fn(Snapshot, &Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut slot = self.lock();
        if slot.connection.is_none() {
            slot.connection = Some(self.open()?);
        }
        let snapshot = slot.snapshot;
        if snapshot == Snapshot::Due {
            slot.snapshot = Snapshot::Held;
        }
        match act(snapshot, slot.connection.as_ref().expect("opened above")) {
            Err(error) if is_damage(&error) => {
                *slot = Slot { connection: None, snapshot: Snapshot::Over };
                self.put_aside()?;
                act(Snapshot::Over, slot.connection.insert(self.open()?)).map_err(|error| self.failed(&error))
            }
            result => result.map_err(|error| self.failed(&error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // a poisoned lock: a thread died between two statements; the connection itself is sound
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a sound index; makes an empty one if there is none or it is damaged.
    fn open(&self) -> Result<Connection, StoreError> {
        loop {
            if !self.path.try_exists().map_err(StoreError::io("inspect", &self.path))? {
                self.create()?;
            }
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            match Connection::open_with_flags(&self.path, flags).and_then(|connection| prepare(connection, &self.boot)) {
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
            connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = WAL; BEGIN;")?;
            connection.execute_batch(TABLES)?;
            connection.execute("INSERT INTO boot VALUES (?1)", [self.boot.id()])?;
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
    pub(super) fn is_whole(&self) -> Result<bool, StoreError> {
        let connection = match self.open() {
            Ok(connection) => connection,
            Err(StoreError::Index { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(is_whole(&connection).unwrap_or(false))
    }

    pub(super) fn replace(&self) -> Result<(), StoreError> {
        *self.lock() = Slot { connection: None, snapshot: Snapshot::Over };
        self.put_aside()
    }

    /// Moves the index to the trash unless another process has replaced it by a sound one meanwhile.
    fn put_aside(&self) -> Result<(), StoreError> {
        let _lock = lock::lock(&self.root.join("locks/index"))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sound = Connection::open_with_flags(&self.path, flags);
        let sound = sound.and_then(|connection| prepare(connection, &self.boot)).and_then(|connection| match connection {
            Some(connection) => is_whole(&connection),
            None => Ok(false),
        });
        if sound.unwrap_or(false) {
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
        let slot = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(slot.end_snapshot());
        let Some(connection) = slot.connection.take() else { return };
        let log_bytes = fs::metadata(with_suffix(&self.path, "-wal")).map_or(0, |metadata| metadata.len());
        if log_bytes > LOG_BYTES_TO_KEEP {
            // whatever other processes still read stays in the log, and they fold it later: an answer of "busy" is fine
            drop(connection.busy_timeout(Duration::ZERO));
            drop(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        }
    }
}

/// Sets a new connection up; `None` if its tables are not ours, or a power cut has taken a part of them.
fn prepare(connection: Connection, boot: &Boot) -> rusqlite::Result<Option<Connection>> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(32);
    // the last process to close would otherwise fold the log after every build
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version != SCHEMA {
        return Ok(None);
    }
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "wal_autocheckpoint", PAGES_BEFORE_FORCED_CHECKPOINT)?;
    let written_in: String = connection.query_row("SELECT id FROM boot", [], |row| row.get(0))?;
    if !boot.is(&written_in) {
        if !is_whole(&connection)? {
            return Ok(None);
        }
        connection.execute("UPDATE boot SET id = ?1", [boot.id()])?;
    }
    Ok(Some(connection))
}

/// Whether SQLite finds nothing wrong.
fn is_whole(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA integrity_check(1)", [], |row| Ok(row.get::<_, String>(0)? == "ok"))
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
