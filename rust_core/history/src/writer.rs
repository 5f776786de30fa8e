//! The writing side: batches of records become rows of the newest file, one transaction each, together with the place in the log up to which they
//! were read. Whatever happens in between, a record is in once.
//!
//! Owned by the follower's thread. Full files are sealed, old ones unlinked; messages of those that are still in the queue are carried
//! over first. A file that turns out to be damaged or gone is replaced by a new one; what is lost is said in the notices.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use gatepost_queue::{Loc, MessageId};
use rusqlite::{Connection, params};

use crate::error::HistoryError;
use crate::file::{self, FileInfo, LIVE, Row, file_name, open_writer, set_meta};
use crate::record::{Event, Message, encode_event, encode_head};
use crate::seal::seal;
use crate::shelf::Shelf;
use crate::span::Span;
use crate::state::{ended_us, views};
use crate::terms;

/// Rows of a file at most: ranks have 24 bits, and sealing holds all terms in memory.
const ROWS: u32 = 50_000;
/// Terms of a file at most.
const TERMS: u64 = 1_500_000;
/// Age at which a file is sealed, so that ageing is true to a day.
const DAY_US: u64 = 86_400_000_000;
/// Rows carried over in one transaction.
const CARRY: usize = 500;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Microseconds after which a file is unlinked.
    pub age_us: u64,
    /// Octets of all files.
    pub octets: u64,
}

impl Keep {
    /// Octets at which a file is sealed: a sixteenth of all, so that unlinking one is a small step.
    fn file_octets(self) -> u64 {
        (self.octets / 16).clamp(256 << 10, 64 << 20)
    }
}

/// What a batch does to one message.
enum Change {
    /// It was accepted in this batch.
    New(Message),
    /// It is known, or was before the history was lost.
    More(Vec<Event>),
}

/// Records read from the log and not yet written.
#[derive(Default)]
pub struct Batch {
    order: Vec<(MessageId, Change)>,
    places: HashMap<MessageId, usize>,
    /// Octets it takes in memory, roughly.
    pub weight: usize,
    /// Records in it.
    pub records: u64,
    /// Time of the first and of the latest record in it, Unix microseconds.
    pub first_us: u64,
    pub seen_us: u64,
}

impl Batch {
    /// A message was moved that nobody knows; its records are older than those around it.
    pub fn moved(&mut self, message: Message) {
        let times = (self.first_us, self.seen_us);
        self.accepted(message);
        (self.first_us, self.seen_us) = times;
    }

    /// A message was accepted.
    pub fn accepted(&mut self, message: Message) {
        self.weight += message.weight();
        self.records += 1;
        self.note(message.received_us);
        let (id, place) = (message.id, self.order.len());
        self.order.push((id, Change::New(message)));
        self.places.insert(id, place);
    }

    /// Something happened to a message.
    pub fn event(&mut self, id: MessageId, event: Event) {
        self.weight += 96 + event.detail.len();
        self.records += 1;
        self.note(event.time_us);
        let place = *self.places.entry(id).or_insert_with(|| {
            self.order.push((id, Change::More(Vec::new())));
            self.order.len() - 1
        });
        match &mut self.order[place].1 {
            Change::New(message) => message.events.push(event),
            Change::More(events) => events.push(event),
        }
    }

    fn note(&mut self, us: u64) {
        if self.first_us == 0 {
            self.first_us = us;
        }
        self.seen_us = self.seen_us.max(us);
    }

    /// Whether it says something of a message.
    pub fn has(&self, id: &MessageId) -> bool {
        self.places.contains_key(id)
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// Writes the newest file.
pub struct Writer {
    shelf: Arc<Shelf>,
    keep: Keep,
    db: Connection,
    number: u32,
    inode: u64,
    rows: u32,
    terms: u64,
    /// When the file was begun, Unix microseconds.
    begun_us: u64,
    /// Time of the latest record that is in, Unix microseconds; 0 when nobody knows.
    pub seen_us: u64,
    /// What is noted of missing records.
    gaps: Vec<u8>,
    /// Messages written so far.
    pub messages: u64,
    head: Vec<u8>,
    events: Vec<u8>,
    pairs: Vec<u8>,
    /// Of the transaction under way: rows that were written, and (file, row) of those they replace.
    fresh: Vec<Span>,
    replaced: Vec<(u32, u32)>,
}

impl Writer {
    /// Opens the newest file, or begins one. Returns the writer and the place in the log to go on from, with the salt of its segment.
    pub fn open(shelf: Arc<Shelf>, keep: Keep, now_us: u64) -> Result<(Self, Loc, u32), HistoryError> {
        let mut place = (Loc::NONE, 0);
        let mut number = 1;
        if let Some(newest) = shelf.files().last() {
            number = newest.number;
            if newest.sealed.is_some() {
                place = sealed_place(&shelf)?;
                number += 1;
            }
        }
        let mut writer = Self::begin(shelf, keep, number, now_us)?;
        if place.0.is_none() {
            place = read_place(&writer.db)?;
        }
        if place.0.is_none() {
            // Made and not written to, or new in the place of a damaged one: the one before knows.
            place = sealed_place(&writer.shelf)?;
        }
        writer.begun_us = file::meta::<i64>(&writer.db, "begun")?.map_or(now_us, |us| us.max(0) as u64);
        writer.seen_us = file::meta::<i64>(&writer.db, "seen")?.map_or(0, |us| us.max(0) as u64);
        Ok((writer, place.0, place.1))
    }

    fn begin(shelf: Arc<Shelf>, keep: Keep, number: u32, now_us: u64) -> Result<Self, HistoryError> {
        let path = shelf.dir().join(file_name(number));
        let info = FileInfo { number, path: path.clone(), sealed: None, merged: false };
        let opened = open_writer(&path).and_then(|db| {
            let octets: i64 = db.query_row("SELECT coalesce(sum(length(data)), 0) FROM terms", [], |r| r.get(0))?;
            let spans = file::spans_by_row(&db)?;
            Ok((db, spans, octets.max(0) as u64 / 8))
        });
        let (db, spans, terms) = match opened {
            Err(HistoryError::Damaged(why)) => {
                shelf.set_aside(&info, &why);
                return Self::begin(shelf, keep, number + 1, now_us);
            }
            other => other?,
        };
        let inode = fs::metadata(&path)?.ino();
        let rows = spans.last().map_or(0, |span| span.row);
        shelf.set_spans(number, spans);
        shelf.put(info);
        let (head, events, pairs, fresh, replaced, gaps) = Default::default();
        let (begun_us, seen_us, messages) = (now_us, 0, 0);
        Ok(Self { shelf, keep, db, number, inode, rows, terms, begun_us, seen_us, gaps, messages, head, events, pairs, fresh, replaced })
    }

    /// The file is not what was opened any more: deleted, or another in its place.
    pub fn is_gone(&self) -> bool {
        fs::metadata(self.shelf.dir().join(file_name(self.number))).map_or(true, |m| m.ino() != self.inode)
    }

    /// The number of the file that is written to.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Writes a batch and the place behind it. On an error nothing of it is in, and the batch is as it was.
    pub fn write(&mut self, batch: &Batch, place: Loc, salt: u32, now_us: u64) -> Result<(), HistoryError> {
        self.transaction(|writer| writer.write_all(batch, place, salt, now_us))
    }

    /// All of it or nothing; readers see it afterwards.
    fn transaction(&mut self, work: impl FnOnce(&mut Self) -> Result<(), HistoryError>) -> Result<(), HistoryError> {
        let (rows, terms, messages) = (self.rows, self.terms, self.messages);
        self.pairs.clear();
        self.fresh.clear();
        self.replaced.clear();
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        let worked = work(self).and_then(|()| self.write_terms()).and_then(|()| Ok(self.db.execute_batch("COMMIT")?));
        if worked.is_err() {
            (self.rows, self.terms, self.messages) = (rows, terms, messages);
            self.gaps.clear();
            let _ = self.db.execute_batch("ROLLBACK");
            return worked;
        }
        self.shelf.put_spans(&self.fresh);
        self.shelf.void(&self.replaced);
        Ok(())
    }

    fn write_all(&mut self, batch: &Batch, place: Loc, salt: u32, now_us: u64) -> Result<(), HistoryError> {
        for (id, change) in &batch.order {
            match change {
                Change::New(message) => self.insert(message)?,
                Change::More(events) => self.append(id, events)?,
            }
        }
        if self.rows > 0 && file::meta::<i64>(&self.db, "begun")?.is_none() {
            self.begun_us = now_us;
            set_meta(&self.db, "begun", &(now_us as i64))?;
        }
        self.seen_us = self.seen_us.max(batch.seen_us);
        self.write_place(place, salt)?;
        let gaps = self.shelf.gap_octets(now_us.saturating_sub(self.keep.age_us));
        if gaps != self.gaps {
            set_meta(&self.db, "gaps", &gaps)?;
            self.gaps = gaps;
        }
        Ok(())
    }

    /// Up to where the log was read, and the time of what was read last.
    fn write_place(&self, place: Loc, salt: u32) -> Result<(), HistoryError> {
        set_meta(&self.db, "place", &(place.pack() as i64))?;
        set_meta(&self.db, "salt", &i64::from(salt))?;
        set_meta(&self.db, "seen", &(self.seen_us as i64))
    }

    /// The terms of the rows written, and which rows of older files they replace.
    fn write_terms(&mut self) -> Result<(), HistoryError> {
        if !self.pairs.is_empty() {
            self.db.prepare_cached("INSERT INTO terms (data) VALUES (?1)")?.execute([&self.pairs])?;
            self.terms += self.pairs.len() as u64 / 8;
        }
        if !self.replaced.is_empty() {
            self.pairs.clear();
            self.replaced.iter().for_each(|(file, row)| push_pair(&mut self.pairs, *file, *row));
            self.db.prepare_cached("INSERT INTO void (data) VALUES (?1)")?.execute([&self.pairs])?;
        }
        self.pairs.clear();
        Ok(())
    }

    /// A whole message as a new row; a row of this file with the same id is replaced.
    fn insert(&mut self, message: &Message) -> Result<(), HistoryError> {
        self.head.clear();
        self.events.clear();
        encode_head(message, &mut self.head);
        message.events.iter().for_each(|event| encode_event(event, &mut self.events));
        let row = self.rows + 1;
        let span = span(message, row);
        let is_final = i64::from(message.is_final());
        let inserted = self
            .db
            .prepare_cached(
                "INSERT OR IGNORE INTO message (row, id, ended, last, final, head, events) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![row, &message.id[..], span.ended, span.last, is_final, self.head, self.events])?;
        if inserted == 0 {
            // Read once more after the log was exchanged: what is said now holds.
            let former: u32 = self.db.query_row("SELECT row FROM message WHERE id=?1", [&message.id[..]], |r| r.get(0))?;
            self.db.execute("DELETE FROM event WHERE row=?1", [former])?;
            self.db.execute("DELETE FROM message WHERE row=?1", [former])?;
            self.fresh.push(Span::void(former));
            return self.insert(message);
        }
        self.fresh.push(span);
        self.rows = row;
        self.messages += 1;
        let pairs = &mut self.pairs;
        terms::of_head(message, &mut |hash| push_pair(pairs, hash, row));
        message.events.iter().for_each(|event| terms::of_event(event, &mut |hash| push_pair(pairs, hash, row)));
        Ok(())
    }

    /// Further events of a message: its row grows, or is carried here from an older file. Of a message nobody knows nothing is kept.
    fn append(&mut self, id: &MessageId, events: &[Event]) -> Result<(), HistoryError> {
        if let Some(row) = file::row_by_id(&self.db, id)? {
            return self.grow(row, events);
        }
        let Some((file, mut row)) = self.find_older(&self.older(), id)? else { return Ok(()) };
        row.message.events.extend_from_slice(events);
        self.replaced.push((file, row.number));
        self.insert(&row.message)
    }

    /// Whether a message has a row, in this or an older file.
    pub fn knows(&self, id: &MessageId) -> Result<bool, HistoryError> {
        Ok(file::row_by_id(&self.db, id)?.is_some() || self.find_older(&self.older(), id)?.is_some())
    }

    fn older(&self) -> Vec<Arc<FileInfo>> {
        self.shelf.files().into_iter().filter(|f| f.number < self.number).collect()
    }

    /// The newest row of older files, and the number of its file. A damaged older file is set aside, and its messages are unknown from then on.
    fn find_older(&self, files: &[Arc<FileInfo>], id: &MessageId) -> Result<Option<(u32, Row)>, HistoryError> {
        match self.shelf.find(files, id, 0) {
            Err(HistoryError::Damaged(why)) => {
                self.check_older(&why);
                Ok(None)
            }
            other => other,
        }
    }

    fn check_older(&self, why: &str) {
        for info in self.shelf.files().iter().filter(|f| f.number < self.number) {
            let sound = self.shelf.read(info, |db| Ok(db.query_row("PRAGMA quick_check(1)", [], |r| r.get::<_, String>(0))?));
            if sound.as_deref() != Ok("ok") {
                self.shelf.set_aside(info, why);
            }
        }
    }

    fn grow(&mut self, mut row: Row, events: &[Event]) -> Result<(), HistoryError> {
        let (number, pieces) = (row.number, row.pieces);
        row.message.events.extend_from_slice(events);
        self.events.clear();
        events.iter().for_each(|event| encode_event(event, &mut self.events));
        self.db.prepare_cached("INSERT INTO event (row, n, data) VALUES (?1, ?2, ?3)")?.execute(params![number, pieces, self.events])?;
        let span = span(&row.message, number);
        self.db.prepare_cached("UPDATE message SET ended=?2, last=?3, final=?4 WHERE row=?1")?.execute(params![
            number,
            span.ended,
            span.last,
            i64::from(row.message.is_final())
        ])?;
        self.fresh.push(span);
        let pairs = &mut self.pairs;
        events.iter().for_each(|event| terms::of_event(event, &mut |hash| push_pair(pairs, hash, number)));
        Ok(())
    }

    /// Octets of the write-ahead log.
    pub fn wal_octets(&self) -> u64 {
        fs::metadata(self.shelf.dir().join(file_name(self.number) + "-wal")).map_or(0, |m| m.len())
    }

    /// Brings the file itself up to date and onto the disk. True when all of it is.
    pub fn checkpoint(&self, truncate: bool) -> Result<bool, HistoryError> {
        let mode = if truncate { "TRUNCATE" } else { "PASSIVE" };
        let (busy, log, done): (i64, i64, i64) =
            self.db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        Ok(busy == 0 && log == done)
    }

    /// True when the file is full or old.
    pub fn is_full(&self, now_us: u64) -> bool {
        if self.rows == 0 {
            return false;
        }
        let octets = fs::metadata(self.shelf.dir().join(file_name(self.number))).map_or(0, |m| m.len()) + self.wal_octets();
        self.rows >= ROWS || self.terms >= TERMS || octets >= self.keep.file_octets() || now_us.saturating_sub(self.begun_us) > DAY_US
    }

    /// Seals the file and begins the next one.
    pub fn roll(&mut self, now_us: u64) -> Result<(), HistoryError> {
        let (place, salt) = read_place(&self.db)?;
        let sealed = seal(&self.db, now_us)?;
        let path = self.shelf.dir().join(file_name(self.number));
        self.shelf.put(FileInfo { number: self.number, path: path.clone(), sealed: Some(sealed.clone()), merged: false });
        let next = Self::begin(Arc::clone(&self.shelf), self.keep, self.number + 1, now_us)?;
        let (messages, seen_us) = (self.messages, self.seen_us);
        let old = std::mem::replace(self, next);
        (self.messages, self.seen_us) = (messages, seen_us);
        // A reader in the middle of something keeps the last pages in the write-ahead log: then the file is read together with it.
        let merged = old.checkpoint(true).unwrap_or(false);
        self.shelf.put(FileInfo { number: old.number, path, sealed: Some(sealed), merged });
        drop(old);
        let transaction = self.db.unchecked_transaction()?;
        self.write_place(place, salt)?;
        Ok(transaction.commit()?)
    }

    /// Unlinks the oldest file if it is too old, or if there is too much. True when one went.
    pub fn age(&mut self, now_us: u64) -> Result<bool, HistoryError> {
        let files = self.shelf.files();
        let Some((oldest, sealed)) = files.first().and_then(|f| Some((f, f.sealed.as_ref()?))) else { return Ok(false) };
        let old = now_us.saturating_sub(sealed.until_us) > self.keep.age_us;
        if !old && self.shelf.octets() <= self.keep.octets {
            return Ok(false);
        }
        self.carry_live(oldest)?;
        self.shelf.remove(oldest.number);
        Ok(true)
    }

    /// Copies the rows of messages that are in the queue, and in no newer file, into the newest; as many as a quarter of a file's octets.
    fn carry_live(&mut self, from: &Arc<FileInfo>) -> Result<(), HistoryError> {
        let found = self.shelf.read(from, |db| {
            let mut query = db.prepare("SELECT row FROM message WHERE ended=?1")?;
            Ok(query.query_map([LIVE], |r| r.get(0))?.collect::<rusqlite::Result<Vec<u32>>>()?)
        });
        let rows = match found {
            Err(HistoryError::Damaged(_)) => return Ok(()),
            other => other?,
        };
        let files = self.shelf.files();
        let mut room = self.keep.file_octets() as usize / 4;
        for (done, some) in rows.chunks(CARRY).enumerate() {
            if room == 0 {
                self.shelf
                    .notice(format!("history: {} messages still in the queue are older than what is kept", rows.len() - done * CARRY));
                break;
            }
            self.transaction(|writer| writer.carry_some(from, &files, some, &mut room))?;
        }
        Ok(())
    }

    fn carry_some(&mut self, from: &FileInfo, files: &[Arc<FileInfo>], rows: &[u32], room: &mut usize) -> Result<(), HistoryError> {
        let older: Vec<_> = files.iter().filter(|f| f.number > from.number && f.number < self.number).cloned().collect();
        for number in rows {
            let row = match self.shelf.read(from, |db| file::row(db, *number)) {
                Ok(None) | Err(HistoryError::Damaged(_)) => continue,
                other => other?,
            };
            let Some(row) = row else { continue };
            let newer = self.find_older(&older, &row.message.id)?;
            if newer.is_none() && file::row_by_id(&self.db, &row.message.id)?.is_none() {
                let weight = row.message.weight() + row.message.events.iter().map(|e| 32 + e.detail.len()).sum::<usize>();
                *room = room.saturating_sub(weight);
                self.insert(&row.message)?;
                self.replaced.push((from.number, *number));
            }
        }
        Ok(())
    }
}

fn push_pair(pairs: &mut Vec<u8>, hash: u32, row: u32) {
    pairs.extend_from_slice(&hash.to_le_bytes());
    pairs.extend_from_slice(&row.to_le_bytes());
}

/// How long a message was in the queue, by its row.
fn span(message: &Message, row: u32) -> Span {
    let ended = ended_us(&views(message, None)).map_or(LIVE, |us| us as i64);
    Span { id: message.id, row, ended, last: message.last_us() as i64 }
}

/// The place behind the newest sealed file; one that cannot say it is set aside.
fn sealed_place(shelf: &Shelf) -> Result<(Loc, u32), HistoryError> {
    while let Some(info) = shelf.files().iter().rev().find(|f| f.sealed.is_some()) {
        match shelf.read(info, read_place) {
            Err(HistoryError::Damaged(why)) => shelf.set_aside(info, &why),
            other => return other,
        }
    }
    Ok((Loc::NONE, 0))
}

/// Place in the log and salt of its segment.
fn read_place(db: &Connection) -> Result<(Loc, u32), HistoryError> {
    let (place, salt) = (file::meta::<i64>(db, "place")?, file::meta::<i64>(db, "salt")?);
    Ok((Loc::unpack(place.unwrap_or(0) as u64), salt.unwrap_or(0) as u32))
}
