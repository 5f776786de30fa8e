//! One database file of the history: written to while it is the newest, then sealed (indexed in bulk) and never changed again, at last unlinked.
//!
//! A row is a message with its events so far. A message that goes on after its file was sealed is carried: its row is copied into the
//! newest file and grows there, so the row in the newest file is the whole truth and older ones are void.
//! While a file is open, each transaction adds one blob of (term, row) pairs; sealing sorts them all into blocks.
//! Layout: docs/formats.md, "History".

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use gatepost_queue::MessageId;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::error::HistoryError;
use crate::record::{Message, decode_events, decode_head};

/// Version of the layout, in `PRAGMA user_version`.
pub const VERSION: i64 = 1;
/// `ended` of a message that is in the queue.
pub const LIVE: i64 = i64::MAX;
/// Entries of a posting block.
pub const BLOCK: usize = 480;
/// Entries of a block of ids.
pub const ID_BLOCK: usize = 190;
/// Octets of an entry in a block of ids: id, row.
pub const ID_ENTRY: usize = 20;
/// Bits of the filter per row.
const FILTER_BITS: usize = 10;
const FILTER_PROBES: usize = 5;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE message (row INTEGER PRIMARY KEY, id BLOB NOT NULL, ended INTEGER NOT NULL, final INTEGER NOT NULL,
                      head BLOB NOT NULL, events BLOB NOT NULL);
CREATE UNIQUE INDEX by_id ON message (id);
CREATE TABLE event (row INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (row, n)) WITHOUT ROWID;
CREATE TABLE terms (batch INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE posting (first INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE ids (block INTEGER PRIMARY KEY, data BLOB NOT NULL);
";

/// What is known of a file without looking into it.
#[derive(Debug, Clone)]
pub struct FileInfo {
    /// Its number; files ascend with time.
    pub number: u32,
    /// Where it is.
    pub path: PathBuf,
    /// What sealing found; None while it is written to.
    pub sealed: Option<Sealed>,
    /// It has no write-ahead log any more, and will never have one again.
    pub merged: bool,
}

/// Figures of a sealed file.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Rows.
    pub rows: u32,
    /// Least and greatest id.
    pub ids: (MessageId, MessageId),
    /// Time of sealing, Unix microseconds: nothing in it happened later.
    pub until_us: u64,
    filter: Vec<u8>,
}

impl Sealed {
    /// False when no row has this id; true when perhaps one has.
    pub fn may_have(&self, id: &MessageId) -> bool {
        (self.ids.0..=self.ids.1).contains(id) && probes(id, self.filter.len()).all(|(at, bit)| self.filter[at] & bit != 0)
    }
}

fn probes(id: &MessageId, octets: usize) -> impl Iterator<Item = (usize, u8)> {
    let bits = (octets * 8).max(1) as u32;
    let (a, b) = (crc32c::crc32c(id), crc32c::crc32c_append(7, id) | 1);
    (0..FILTER_PROBES as u32).map(move |n| {
        let bit = a.wrapping_add(b.wrapping_mul(n)).rotate_left(n) % bits;
        ((bit / 8) as usize, 1 << (bit % 8))
    })
}

/// Name of a file.
pub fn file_name(number: u32) -> String {
    format!("{number:08}.db")
}

/// Inverse of [`file_name`].
pub fn parse_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".db")?;
    (digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Opens the newest file for writing, made if need be.
pub fn open_writer(path: &Path) -> Result<Connection, HistoryError> {
    let db = Connection::open(path)?;
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=-4096; PRAGMA busy_timeout=2000;",
    )?;
    match version(&db)? {
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;"))?,
        VERSION => {}
        found => return Err(newer(path, found)),
    }
    Ok(db)
}

/// Opens a file for reading. A sealed one is opened as what it is: unchangeable.
pub fn open_reader(info: &FileInfo) -> Result<Connection, HistoryError> {
    let mut uri = String::from("file:");
    for byte in info.path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            other => uri.extend(['%', hex(other >> 4), hex(other & 15)]),
        }
    }
    if info.merged {
        uri.push_str("?immutable=1");
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(uri, flags)?;
    db.execute_batch("PRAGMA cache_size=-1024; PRAGMA busy_timeout=1000;")?;
    match version(&db)? {
        VERSION => Ok(db),
        found => Err(newer(&info.path, found)),
    }
}

fn hex(digit: u8) -> char {
    char::from_digit(u32::from(digit), 16).unwrap_or('0')
}

/// Brings what the process that sealed a file left in its write-ahead log into it: it is opened as unchangeable from now on.
pub fn merge_wal(path: &Path) -> Result<(), HistoryError> {
    let wal = path.with_extension("db-wal");
    if !wal.exists() {
        return Ok(());
    }
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
    if busy == 0 { Ok(()) } else { Err(HistoryError::Storage(format!("{} is in use", wal.display()))) }
}

fn version(db: &Connection) -> Result<i64, HistoryError> {
    Ok(db.query_row("PRAGMA user_version", [], |r| r.get(0))?)
}

fn newer(path: &Path, found: i64) -> HistoryError {
    HistoryError::Version { file: path.display().to_string(), found, known: VERSION }
}

/// A value of the meta table.
pub fn meta<T: rusqlite::types::FromSql>(db: &Connection, key: &str) -> Result<Option<T>, HistoryError> {
    Ok(db.prepare_cached("SELECT value FROM meta WHERE key=?1")?.query_row([key], |r| r.get(0)).optional()?)
}

/// Sets a value of the meta table.
pub fn set_meta(db: &Connection, key: &str, value: &dyn rusqlite::ToSql) -> Result<(), HistoryError> {
    db.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value=?2")?
        .execute(params![key, value])?;
    Ok(())
}

/// What sealing wrote, None for a file that is not sealed.
pub fn read_sealed(db: &Connection) -> Result<Option<Sealed>, HistoryError> {
    let Some(rows) = meta::<u32>(db, "rows")? else { return Ok(None) };
    let id = |key: &str| -> Result<MessageId, HistoryError> {
        let bytes: Option<Vec<u8>> = meta(db, key)?;
        bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| HistoryError::Damaged(format!("{key} is missing")))
    };
    let until: Option<i64> = meta(db, "until")?;
    let filter: Option<Vec<u8>> = meta(db, "filter")?;
    Ok(Some(Sealed {
        rows,
        ids: (id("first")?, id("last")?),
        until_us: until.unwrap_or(0).max(0) as u64,
        filter: filter.filter(|f| !f.is_empty()).unwrap_or_else(|| vec![0xff]),
    }))
}

/// Sorts what has gathered into what is searched, and marks the file. One transaction. The file must have rows.
pub fn seal(db: &Connection, now_us: u64) -> Result<Sealed, HistoryError> {
    let transaction = db.unchecked_transaction()?;
    let ids = sorted_ids(db)?;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
        return Err(HistoryError::Damaged("an empty file is not sealed".into()));
    };
    let bounds = (first.0, last.0);
    let mut filter = vec![0u8; ids.len() * FILTER_BITS / 8 + 1];
    for (id, _) in &ids {
        probes(id, filter.len()).for_each(|(at, bit)| filter[at] |= bit);
    }
    write_postings(db, &ids)?;
    write_ids(db, &ids)?;
    db.execute_batch("CREATE INDEX by_ended ON message (ended)")?;
    set_meta(db, "first", &&bounds.0[..])?;
    set_meta(db, "last", &&bounds.1[..])?;
    set_meta(db, "filter", &filter)?;
    set_meta(db, "until", &(now_us as i64))?;
    set_meta(db, "rows", &(ids.len() as u32))?;
    transaction.commit()?;
    Ok(Sealed { rows: ids.len() as u32, ids: bounds, until_us: now_us, filter })
}

fn sorted_ids(db: &Connection) -> Result<Vec<(MessageId, u32)>, HistoryError> {
    let mut query = db.prepare("SELECT id, row FROM message ORDER BY id")?;
    Ok(query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?)
}

/// (hash, row) pairs become sorted (hash, rank) entries, rank being the place in the order of ids.
fn write_postings(db: &Connection, ids: &[(MessageId, u32)]) -> Result<(), HistoryError> {
    let rank: HashMap<u32, u32> = ids.iter().enumerate().map(|(rank, (_, row))| (*row, rank as u32)).collect();
    let mut entries: Vec<u64> = Vec::new();
    let mut query = db.prepare("SELECT data FROM terms ORDER BY batch")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let pairs = row.get_ref(0)?.as_blob().unwrap_or_default();
        entries.extend(pairs.chunks_exact(8).filter_map(|pair| {
            let (hash, row) = pair_of(pair);
            Some(u64::from(hash) << 24 | u64::from(*rank.get(&row)?))
        }));
    }
    drop(rows);
    entries.sort_unstable();
    entries.dedup();
    db.execute("DELETE FROM terms", [])?;
    let mut insert = db.prepare("INSERT INTO posting (first, data) VALUES (?1, ?2)")?;
    let mut block = Vec::with_capacity(BLOCK * 8);
    for chunk in entries.chunks(BLOCK) {
        block.clear();
        chunk.iter().for_each(|entry| block.extend_from_slice(&entry.to_le_bytes()));
        insert.execute(params![chunk[0] as i64, block])?;
    }
    Ok(())
}

fn write_ids(db: &Connection, ids: &[(MessageId, u32)]) -> Result<(), HistoryError> {
    let mut insert = db.prepare("INSERT INTO ids (block, data) VALUES (?1, ?2)")?;
    for (number, chunk) in ids.chunks(ID_BLOCK).enumerate() {
        let block: Vec<u8> = chunk.iter().flat_map(|(id, row)| id.iter().copied().chain(row.to_le_bytes())).collect();
        insert.execute(params![number as i64, block])?;
    }
    Ok(())
}

/// The parts of an entry of a terms blob.
pub fn pair_of(pair: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
    (number(0), number(4))
}

/// A row as it is kept.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// The message with all events.
    pub message: Message,
    /// Nothing will come after it.
    pub is_final: bool,
    /// Further rows of events.
    pub pieces: u32,
}

/// The row of a message.
pub fn row_by_id(db: &Connection, id: &MessageId) -> Result<Option<Row>, HistoryError> {
    let number: Option<u32> = db.prepare_cached("SELECT row FROM message WHERE id=?1")?.query_row([&id[..]], |r| r.get(0)).optional()?;
    number.map_or(Ok(None), |number| row(db, number))
}

/// A row by its number.
pub fn row(db: &Connection, number: u32) -> Result<Option<Row>, HistoryError> {
    let mut query = db.prepare_cached("SELECT id, final, head, events FROM message WHERE row=?1")?;
    let mut rows = query.query([number])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    let damaged = || HistoryError::Damaged(format!("row {number} cannot be read"));
    let id: MessageId = found.get(0)?;
    let is_final = found.get::<_, i64>(1)? != 0;
    let mut message = decode_head(id, found.get_ref(2)?.as_blob().unwrap_or_default()).ok_or_else(damaged)?;
    decode_events(found.get_ref(3)?.as_blob().unwrap_or_default(), &mut message.events).ok_or_else(damaged)?;
    drop(rows);
    let mut pieces = 0;
    let mut query = db.prepare_cached("SELECT data FROM event WHERE row=?1 ORDER BY n")?;
    let mut rows = query.query([number])?;
    while let Some(piece) = rows.next()? {
        decode_events(piece.get_ref(0)?.as_blob().unwrap_or_default(), &mut message.events).ok_or_else(damaged)?;
        pieces += 1;
    }
    Ok(Some(Row { number, message, is_final, pieces }))
}
