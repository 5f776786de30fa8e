//! One database file of the history: written to while it is the newest, then sealed (indexed in bulk) and never changed again, at last unlinked.
//!
//! A row is a message with its events so far. A message that goes on after its file was sealed is carried: its row is copied into the
//! newest file and grows there, so the row in the newest file is the whole truth and older ones are void.
//! While a file is open, each transaction adds one blob of (term, row) pairs; sealing sorts them all into blocks.
//! Layout: docs/formats.md, "History". `seal` writes what is searched in a sealed file.

use std::path::{Path, PathBuf};

use gatepost_queue::MessageId;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::error::HistoryError;
use crate::record::{Message, decode_events, decode_head};
use crate::span::{Span, place};

/// Version of the layout, in `PRAGMA user_version`.
pub const VERSION: i64 = 2;
/// The version before.
pub const FIRST_VERSION: i64 = 1;
/// `ended` of a message that is in the queue.
pub const LIVE: i64 = i64::MAX;
/// Bits of the filter per row.
const FILTER_BITS: usize = 10;
const FILTER_PROBES: usize = 5;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE message (row INTEGER PRIMARY KEY, id BLOB NOT NULL, ended INTEGER NOT NULL, final INTEGER NOT NULL,
                      last INTEGER NOT NULL DEFAULT 9223372036854775807, head BLOB NOT NULL, events BLOB NOT NULL);
CREATE UNIQUE INDEX by_id ON message (id);
CREATE TABLE event (row INTEGER NOT NULL, n INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (row, n)) WITHOUT ROWID;
CREATE TABLE terms (batch INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE posting (first INTEGER PRIMARY KEY, data BLOB NOT NULL);
";
/// Tables that the first layout did not have.
pub const SECOND: &str = "
CREATE TABLE span (block INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE address (n INTEGER PRIMARY KEY, field INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE void (batch INTEGER PRIMARY KEY, data BLOB NOT NULL);
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
    /// Of each block of spans its first id and the latest end in it.
    pub blocks: Vec<(MessageId, i64)>,
    /// Which ids it has, by and large.
    pub filter: Vec<u8>,
}

impl Sealed {
    /// False when no row has this id; true when perhaps one has.
    pub fn may_have(&self, id: &MessageId) -> bool {
        (self.ids.0..=self.ids.1).contains(id) && probes(id, self.filter.len()).all(|(at, bit)| self.filter[at] & bit != 0)
    }
}

/// The filter of some ids.
pub fn filter_of<'a>(ids: impl ExactSizeIterator<Item = &'a MessageId>) -> Vec<u8> {
    let mut filter = vec![0u8; ids.len() * FILTER_BITS / 8 + 1];
    let octets = filter.len();
    ids.for_each(|id| probes(id, octets).for_each(|(at, bit)| filter[at] |= bit));
    filter
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
        0 => db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} {SECOND} PRAGMA user_version={VERSION}; COMMIT;"))?,
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
        blocks: decode_blocks(&meta::<Vec<u8>>(db, "blocks")?.unwrap_or_default()),
        filter: filter.filter(|f| !f.is_empty()).unwrap_or_else(|| vec![0xff]),
    }))
}

/// First ids and latest ends of blocks, as they are kept.
pub fn encode_blocks(blocks: &[(MessageId, i64)]) -> Vec<u8> {
    blocks.iter().flat_map(|(id, ended)| id.iter().copied().chain(ended.to_le_bytes())).collect()
}

fn decode_blocks(octets: &[u8]) -> Vec<(MessageId, i64)> {
    let block = |b: &[u8]| Some((b[..16].try_into().ok()?, i64::from_le_bytes(b[16..].try_into().ok()?)));
    octets.chunks_exact(24).filter_map(block).collect()
}

/// The spans of a file, row by row; void ones where a row is missing.
pub fn spans_by_row(db: &Connection) -> Result<Vec<Span>, HistoryError> {
    let mut list = Vec::new();
    place(&mut list, &spans(db)?);
    Ok(list)
}

/// The spans of all rows, in the order of rows.
pub fn spans(db: &Connection) -> Result<Vec<Span>, HistoryError> {
    let mut query = db.prepare("SELECT id, row, ended, last FROM message ORDER BY row")?;
    let span = |r: &rusqlite::Row<'_>| Ok(Span { id: r.get(0)?, row: r.get(1)?, ended: r.get(2)?, last: r.get(3)? });
    Ok(query.query_map([], span)?.collect::<rusqlite::Result<_>>()?)
}

/// The parts of an entry of a terms blob: hash and row; of a void blob: file and row.
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
