//! Sealing: what has gathered in a file is sorted into what is searched, in one transaction. Used by the writer, and for files of the first layout.
//!
//! Written are posting blocks (hash and rank), blocks of spans in the order of ids, and the lists of addresses that globs are looked for in.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params};

use crate::error::HistoryError;
use crate::file::{SECOND, Sealed, VERSION, encode_blocks, filter_of, meta, pair_of, set_meta, spans};
use crate::record::{addresses, rerouted};
use crate::span::{SPAN, Span};
use crate::terms::Field;

/// Entries of a posting block.
const BLOCK: usize = 480;
/// Spans of a block: as many as one page of the database holds.
pub const SPANS: usize = 110;
/// Octets of a list of addresses, roughly.
const LIST: usize = 64 << 10;

/// Sorts and marks a file. One transaction. The file must have rows.
pub fn seal(db: &Connection, now_us: u64) -> Result<Sealed, HistoryError> {
    let transaction = db.unchecked_transaction()?;
    let mut spans = spans(db)?;
    spans.sort_unstable();
    write_postings(db, &spans)?;
    let sealed = finish(db, &spans, now_us)?;
    transaction.commit()?;
    Ok(sealed)
}

/// All but the postings.
fn finish(db: &Connection, spans: &[Span], until_us: u64) -> Result<Sealed, HistoryError> {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return Err(HistoryError::Damaged("an empty file is not sealed".into()));
    };
    let ids = (first.id, last.id);
    let blocks = write_spans(db, spans)?;
    write_addresses(db)?;
    let filter = filter_of(spans.iter().map(|span| &span.id));
    set_meta(db, "first", &&ids.0[..])?;
    set_meta(db, "last", &&ids.1[..])?;
    set_meta(db, "filter", &filter)?;
    set_meta(db, "blocks", &encode_blocks(&blocks))?;
    set_meta(db, "until", &(until_us as i64))?;
    set_meta(db, "rows", &(spans.len() as u32))?;
    Ok(Sealed { rows: spans.len() as u32, ids, until_us, blocks, filter })
}

/// Makes a file of the first layout one of this; nothing it says changes.
pub fn migrate(path: &Path) -> Result<(), HistoryError> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let transaction = db.unchecked_transaction()?;
    db.execute_batch("ALTER TABLE message ADD COLUMN last INTEGER NOT NULL DEFAULT 9223372036854775807; DROP TABLE ids;")?;
    db.execute_batch(SECOND)?;
    if meta::<u32>(&db, "rows")?.is_some() {
        db.execute_batch("DROP INDEX by_ended")?;
        let mut spans = spans(&db)?;
        spans.sort_unstable();
        let until: Option<i64> = meta(&db, "until")?;
        finish(&db, &spans, until.unwrap_or(0).max(0) as u64)?;
    }
    db.execute_batch(&format!("PRAGMA user_version={VERSION}"))?;
    Ok(transaction.commit()?)
}

/// (hash, row) pairs become sorted (hash, rank) entries, rank being the place in the order of ids.
fn write_postings(db: &Connection, spans: &[Span]) -> Result<(), HistoryError> {
    let rank: HashMap<u32, u32> = spans.iter().enumerate().map(|(rank, span)| (span.row, rank as u32)).collect();
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

/// Returns of each block its first id and the latest end in it.
fn write_spans(db: &Connection, spans: &[Span]) -> Result<Vec<(gatepost_queue::MessageId, i64)>, HistoryError> {
    let mut insert = db.prepare("INSERT INTO span (block, data) VALUES (?1, ?2)")?;
    let mut blocks = Vec::new();
    let mut data = Vec::with_capacity(SPANS * SPAN);
    for (number, chunk) in spans.chunks(SPANS).enumerate() {
        data.clear();
        chunk.iter().for_each(|span| span.encode(&mut data));
        insert.execute(params![number as i64, data])?;
        blocks.push((chunk[0].id, chunk.iter().map(|span| span.ended).max().unwrap_or(i64::MIN)));
    }
    Ok(blocks)
}

/// The addresses of all rows, each once, a line each.
fn write_addresses(db: &Connection) -> Result<(), HistoryError> {
    let (mut senders, mut recipients) = (BTreeSet::new(), BTreeSet::new());
    let mut lower = String::new();
    let mut note = |field: Field, address: &str| {
        let known = if field == Field::Sender { &mut senders } else { &mut recipients };
        lower.clear();
        lower.push_str(address);
        if address.is_ascii() {
            lower.make_ascii_lowercase();
        } else {
            lower = address.to_lowercase();
        }
        if !known.contains(lower.as_str()) {
            known.insert(lower.clone());
        }
    };
    each_address(db, &mut |_, field, address| note(field, address))?;
    let mut insert = db.prepare("INSERT INTO address (field, data) VALUES (?1, ?2)")?;
    for (field, known) in [(Field::Sender, senders), (Field::Recipient, recipients)] {
        let mut list = String::with_capacity(LIST);
        for address in known {
            list.push_str(&address);
            list.push('\n');
            if list.len() >= LIST {
                insert.execute(params![field as u8, list.as_bytes()])?;
                list.clear();
            }
        }
        if !list.is_empty() {
            insert.execute(params![field as u8, list.as_bytes()])?;
        }
    }
    Ok(())
}

/// Calls `f` with row, field and value of every address of all rows, those of reroutes too.
pub fn each_address(db: &Connection, f: &mut dyn FnMut(u32, Field, &str)) -> Result<(), HistoryError> {
    let mut query = db.prepare_cached("SELECT row, head, events FROM message")?;
    let mut rows = query.query([])?;
    while let Some(found) = rows.next()? {
        let row: u32 = found.get(0)?;
        addresses(found.get_ref(1)?.as_blob().unwrap_or_default(), &mut |field, address| f(row, field, address));
        rerouted(found.get_ref(2)?.as_blob().unwrap_or_default(), &mut |address| f(row, Field::Recipient, address));
    }
    let mut query = db.prepare_cached("SELECT row, data FROM event")?;
    let mut rows = query.query([])?;
    while let Some(found) = rows.next()? {
        let row: u32 = found.get(0)?;
        rerouted(found.get_ref(1)?.as_blob().unwrap_or_default(), &mut |address| f(row, Field::Recipient, address));
    }
    Ok(())
}
