//! The `SQLite` index of a volume: tables, connections, settings. Derived from the logs; only this crate opens the file.
//!
//! WAL with `synchronous=NORMAL`: a commit costs no fsync, since the log it is derived from has been synced by then, and a crash of the
//! operating system leaves a consistent, possibly older, index that the log's tail brings up to date (`replay`). OFF would save the fsyncs of
//! WAL checkpoints, one per some thousand commits, and risk a corrupt file, that is a whole rebuild, at every power failure.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use crate::error::{Result, StoreError};

/// Layout of the index this program reads and writes.
pub const INDEX_VERSION: i64 = 1;
/// Pause between attempts to get the index's write lock, and how many there are: 20 s. `SQLite`'s own handler backs off to 100 ms, which is a
/// hundred transactions.
const BUSY_PAUSE: Duration = Duration::from_micros(500);
const BUSY_ATTEMPTS: i32 = 40_000;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stream (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
  applied INTEGER NOT NULL DEFAULT 0, ops_modseq INTEGER NOT NULL DEFAULT 0, snapshot INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS folder (
  key INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, mailbox BLOB NOT NULL, name TEXT NOT NULL,
  special TEXT NOT NULL DEFAULT '', subscribed INTEGER NOT NULL DEFAULT 1, uid_validity INTEGER NOT NULL,
  uid_next INTEGER NOT NULL DEFAULT 1, recent_from INTEGER NOT NULL DEFAULT 1, messages INTEGER NOT NULL DEFAULT 0,
  unseen INTEGER NOT NULL DEFAULT 0, octets INTEGER NOT NULL DEFAULT 0, modseq INTEGER NOT NULL DEFAULT 0,
  expunge_floor INTEGER NOT NULL DEFAULT 0, UNIQUE (mailbox, name));
CREATE INDEX IF NOT EXISTS folder_modseq ON folder (modseq);
CREATE TABLE IF NOT EXISTS gone_folder (id BLOB PRIMARY KEY, modseq INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS gone_folder_modseq ON gone_folder (modseq);
CREATE TABLE IF NOT EXISTS message (
  folder INTEGER NOT NULL, uid INTEGER NOT NULL, msg BLOB NOT NULL UNIQUE, email BLOB NOT NULL, stream INTEGER NOT NULL,
  first_segment INTEGER NOT NULL, at INTEGER NOT NULL, octets INTEGER NOT NULL, date INTEGER NOT NULL, modseq INTEGER NOT NULL,
  flags INTEGER NOT NULL, keywords TEXT NOT NULL, PRIMARY KEY (folder, uid)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS message_modseq ON message (folder, modseq);
CREATE TABLE IF NOT EXISTS tombstone (
  folder INTEGER NOT NULL, modseq INTEGER NOT NULL, uid INTEGER NOT NULL, PRIMARY KEY (folder, modseq, uid)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery (key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery_late (key BLOB PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
  stream INTEGER NOT NULL, segment INTEGER NOT NULL, live INTEGER NOT NULL, PRIMARY KEY (stream, segment)) WITHOUT ROWID;
";

/// A connection for the one writer of this process.
pub fn writer(path: &Path) -> Result<Connection> {
    let db = Connection::open(path)?;
    settings(&db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "wal_autocheckpoint", 4_000)?;
    Ok(db)
}

/// A connection for reading.
pub fn reader(path: &Path) -> Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    settings(&db)?;
    db.pragma_update(None, "query_only", true)?;
    Ok(db)
}

fn settings(db: &Connection) -> Result<()> {
    db.busy_handler(Some(|attempt| {
        std::thread::sleep(BUSY_PAUSE);
        attempt < BUSY_ATTEMPTS
    }))?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.pragma_update(None, "cache_size", -4_000)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// Refuse an index, or a snapshot of one, that a newer program has written.
pub fn refuse_newer(db: &Connection) -> Result<()> {
    let found: i64 = db.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if found > INDEX_VERSION {
        let path = db.path().unwrap_or("index.db");
        return Err(StoreError::Version(format!("{path}: format version {found}, this program knows up to {INDEX_VERSION}")));
    }
    Ok(())
}

/// Create the tables of a new index; refuse one of a newer program.
pub fn prepare(db: &Connection) -> Result<()> {
    refuse_newer(db)?;
    db.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} COMMIT;"))?;
    db.pragma_update(None, "user_version", INDEX_VERSION)?;
    Ok(())
}

/// A value of the `meta` table.
pub fn meta(db: &Connection, key: &str) -> Result<Option<i64>> {
    Ok(db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |r| r.get(0)).optional()?)
}

/// Set a value of the `meta` table.
pub fn set_meta(db: &Connection, key: &str, value: i64) -> Result<()> {
    db.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")?.execute((key, value))?;
    Ok(())
}

/// A text value of the `meta` table.
pub fn meta_text(db: &Connection, key: &str) -> Result<Option<String>> {
    Ok(db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |r| r.get(0)).optional()?)
}

/// Set a text value of the `meta` table.
pub fn set_meta_text(db: &Connection, key: &str, value: &str) -> Result<()> {
    db.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2")?.execute((key, value))?;
    Ok(())
}
