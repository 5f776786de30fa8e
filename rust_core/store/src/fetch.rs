//! FETCH responses as a stream of octets: rows in batches, messages one at a time, bodies piece by piece straight from the log.
//!
//! A message that is gone by the time it is read is passed over (RFC 3501 7.4.1 leaves that to the server). One that is damaged gets the items that need no octets;
//! the error is reported once, at the end, so that it does not cost the other messages their answers.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use gatepost_mime::decode::{Decoder, Encoding};
use gatepost_mime::section::{Located, Section, What};
use gatepost_mime::{Index, date, imap};

use crate::content::{Content, Place};
use crate::error::{Result, StoreError};
use crate::fetch_item::{Item, Need, SectionItem};
use crate::id::{Id, hex};
use crate::info::{self, MessageInfo};
use crate::messages::Mode;
use crate::records::{Flags, SEEN};
use crate::volume::Volume;

/// Rows read from the index at a time.
const ROWS: usize = 256;

/// How to fetch.
#[derive(Debug, Clone, Copy, Default)]
pub struct FetchOptions {
    /// Items without PEEK set `\Seen`.
    pub set_seen: bool,
    /// Messages from this UID on are `\Recent`; 0 = none.
    pub recent_from: i64,
    /// UTF-8 in quoted strings is allowed.
    pub utf8: bool,
}

enum Piece {
    Octets(Vec<u8>),
    Message(Range<u64>),
    Decoded { range: Range<u64>, decoder: Decoder, skip: u64, left: u64 },
}

/// Responses under way.
pub struct FetchStream {
    volume: Arc<Volume>,
    folder: i64,
    items: Vec<Item>,
    need: Need,
    options: FetchOptions,
    targets: VecDeque<(u32, i64)>,
    rows: VecDeque<(u32, MessageInfo, Place)>,
    pieces: VecDeque<Piece>,
    content: Option<Content>,
    seen: Vec<MessageInfo>,
    seen_uids: HashSet<i64>,
    failure: Option<StoreError>,
}

impl FetchStream {
    /// Begin; sets `\Seen` first where it is due.
    pub fn new(volume: &Arc<Volume>, folder: &Id, targets: &[(u32, i64)], items: &[String], options: FetchOptions) -> Result<Self> {
        let items = items.iter().map(|i| Item::parse(i)).collect::<Result<Vec<_>>>()?;
        let key = volume.folder_by_id(folder)?.key;
        let mut seen = Vec::new();
        if options.set_seen && items.iter().any(Item::sets_seen) {
            let unseen = unseen(volume, key, targets)?;
            if !unseen.is_empty() {
                let flag = Flags { bits: SEEN, keywords: String::new() };
                seen = volume.store_flags(folder, &unseen, Mode::Add, &flag, None)?.0;
            }
        }
        Ok(Self {
            volume: Arc::clone(volume),
            folder: key,
            need: items.iter().map(Item::need).max().unwrap_or(Need::Row),
            items,
            options,
            targets: targets.iter().copied().collect(),
            rows: VecDeque::new(),
            pieces: VecDeque::new(),
            content: None,
            seen_uids: seen.iter().map(|m| m.uid).collect(),
            seen,
            failure: None,
        })
    }

    /// Messages whose `\Seen` this fetch set.
    pub fn seen(&self) -> &[MessageInfo] {
        &self.seen
    }

    /// About `n` octets more, empty at the end. A damaged message is reported here, once, after everything else.
    pub fn read(&mut self, n: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(n.min(1 << 20));
        while out.len() < n {
            match self.pieces.pop_front() {
                Some(piece) => self.emit(piece, &mut out, n),
                None if self.next_message()? => {}
                None => break,
            }
        }
        match self.failure.take() {
            Some(error) if out.is_empty() => Err(error),
            failure => {
                self.failure = failure;
                Ok(out)
            }
        }
    }

    fn emit(&mut self, piece: Piece, out: &mut Vec<u8>, n: usize) {
        match piece {
            Piece::Octets(octets) => out.extend_from_slice(&octets),
            Piece::Message(range) => {
                let limit = (n - out.len()).max(1).min(usize::try_from(range.end - range.start).unwrap_or(usize::MAX));
                let taken = self.copy(range.start, limit, |octets| out.extend_from_slice(octets));
                if range.start + taken < range.end {
                    self.pieces.push_front(Piece::Message(range.start + taken..range.end));
                }
            }
            Piece::Decoded { range, decoder, skip, left } => self.emit_decoded(range, decoder, skip, left, out),
        }
    }

    /// Hand a stretch of the message to `use_octets`. What cannot be read is replaced by spaces: its length has been announced already.
    fn copy(&mut self, from: u64, limit: usize, mut use_octets: impl FnMut(&[u8])) -> u64 {
        let read = self.content.as_mut().map(|content| content.at(from, limit));
        match read {
            Some(Ok(octets)) if !octets.is_empty() => {
                use_octets(octets);
                octets.len() as u64
            }
            other => {
                if let Some(Err(error)) = other {
                    self.failure.get_or_insert(error);
                }
                let blank = vec![b' '; limit.min(64 << 10)];
                use_octets(&blank);
                blank.len() as u64
            }
        }
    }

    fn emit_decoded(&mut self, range: Range<u64>, mut decoder: Decoder, mut skip: u64, mut left: u64, out: &mut Vec<u8>) {
        let limit = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(64 << 10);
        let mut octets = Vec::new();
        let taken = if limit == 0 { 0 } else { self.copy(range.start, limit, |raw| decoder.feed(raw, &mut octets)) };
        let rest = range.start + taken..range.end;
        if rest.is_empty() {
            decoder.finish(&mut octets);
        }
        let from = skip.min(octets.len() as u64);
        skip -= from;
        let shown = &octets[from as usize..];
        let shown = &shown[..shown.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        left -= shown.len() as u64;
        out.extend_from_slice(shown);
        if left > 0 && !rest.is_empty() {
            self.pieces.push_front(Piece::Decoded { range: rest, decoder, skip, left });
        }
    }

    /// Queue the pieces of the next message's response; false when there is none.
    fn next_message(&mut self) -> Result<bool> {
        let Some((number, message, place)) = self.next_row()? else { return Ok(false) };
        self.content = None;
        if self.respond(number, &message, &place, self.need).is_err_and(|error| self.note(error)) {
            self.pieces.clear();
            self.respond(number, &message, &place, Need::Row)?;
        }
        Ok(true)
    }

    fn note(&mut self, error: StoreError) -> bool {
        self.failure.get_or_insert(error);
        true
    }

    fn next_row(&mut self) -> Result<Option<(u32, MessageInfo, Place)>> {
        while self.rows.is_empty() && !self.targets.is_empty() {
            let batch: Vec<(u32, i64)> = self.targets.drain(..self.targets.len().min(ROWS)).collect();
            let (volume, folder) = (&self.volume, self.folder);
            self.rows = volume.read(|db| {
                let mut rows = VecDeque::with_capacity(batch.len());
                for (number, uid) in batch {
                    if let Some(message) = info::message(db, folder, uid)? {
                        let place = message.place(volume, db)?;
                        rows.push_back((number, message, place));
                    }
                }
                Ok(rows)
            })?;
        }
        Ok(self.rows.pop_front())
    }

    /// Queue one response with all items that `upto` allows.
    fn respond(&mut self, number: u32, message: &MessageInfo, place: &Place, upto: Need) -> Result<()> {
        let mut index = None;
        if upto > Need::Row {
            let mut content = Content::open_listed(&self.volume, message, place)?;
            index = match upto {
                Need::Structure => Some(self.volume.cache.get(place, &mut content)?),
                Need::Header => Some(Arc::new(content.index(true)?)),
                _ => None,
            };
            self.content = Some(content);
        }
        let mut line = format!("* {number} FETCH (").into_bytes();
        let start = line.len();
        let items = std::mem::take(&mut self.items);
        for item in items.iter().filter(|i| i.need() <= upto) {
            if line.len() > start || !self.pieces.is_empty() {
                line.push(b' ');
            }
            if let Err(error) = self.item(item, message, index.as_deref(), &mut line) {
                self.items = items;
                return Err(error);
            }
        }
        if self.seen_uids.contains(&message.uid) && !items.iter().any(|i| matches!(i, Item::Flags)) {
            line.extend_from_slice(b" ");
            self.flags(message, &mut line);
        }
        self.items = items;
        line.extend_from_slice(b")\r\n");
        self.pieces.push_back(Piece::Octets(line));
        Ok(())
    }

    fn flags(&self, message: &MessageInfo, line: &mut Vec<u8>) {
        let mut words = message.flag_words();
        if self.options.recent_from > 0 && message.uid >= self.options.recent_from {
            words.push("\\Recent".to_owned());
        }
        line.extend_from_slice(format!("FLAGS ({})", words.join(" ")).as_bytes());
    }

    fn item(&mut self, item: &Item, message: &MessageInfo, index: Option<&Index>, line: &mut Vec<u8>) -> Result<()> {
        let utf8 = self.options.utf8;
        let mut text = String::new();
        let written = match item {
            Item::Uid => write!(text, "UID {}", message.uid),
            Item::Size => write!(text, "RFC822.SIZE {}", message.octets),
            Item::Modseq => write!(text, "MODSEQ ({})", message.modseq),
            Item::EmailId => write!(text, "EMAILID (M{})", hex(&message.email)),
            Item::InternalDate => write!(text, "INTERNALDATE \"{}\"", internal_date(message.date)),
            _ => Ok(()),
        };
        debug_assert!(written.is_ok());
        line.extend_from_slice(text.as_bytes());
        match (item, index) {
            (Item::Flags, _) => self.flags(message, line),
            (Item::Envelope, Some(index)) => {
                line.extend_from_slice(b"ENVELOPE ");
                imap::envelope(line, index, 0, utf8);
            }
            (Item::Structure { extended }, Some(index)) => {
                line.extend_from_slice(if *extended { &b"BODYSTRUCTURE "[..] } else { &b"BODY "[..] });
                imap::body_structure(line, index, 0, *extended, utf8);
            }
            (Item::Section(section), _) => self.section(section, message, index, line)?,
            (Item::BinarySize { label, section }, _) => {
                let size = self.decoded_size(section, message, index)?;
                line.extend_from_slice(format!("{label} {size}").as_bytes());
            }
            _ => {}
        }
        Ok(())
    }

    fn section(&mut self, item: &SectionItem, message: &MessageInfo, index: Option<&Index>, line: &mut Vec<u8>) -> Result<()> {
        line.extend_from_slice(item.label.as_bytes());
        let Some(located) = locate(&item.section, message, index) else {
            line.extend_from_slice(b" NIL");
            return Ok(());
        };
        let encoding = if item.binary { encoding_of(&item.section, index)? } else { Encoding::Identity };
        let (from, count) = item.partial.unwrap_or((0, u64::MAX));
        match located {
            Found::Octets(octets) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(octets.len());
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(octets.len() - from);
                line.extend_from_slice(format!(" {{{count}}}\r\n").as_bytes());
                line.extend_from_slice(&octets[from..from + count]);
            }
            Found::Range(range) if encoding == Encoding::Identity => {
                let start = range.start.saturating_add(from).min(range.end);
                let end = start.saturating_add(count).min(range.end);
                self.literal(line, if item.binary { " ~" } else { " " }, end - start, Piece::Message(start..end));
            }
            Found::Range(range) => {
                let size = self.count_decoded(range.clone(), encoding)?;
                let skip = from.min(size);
                let left = count.min(size - skip);
                self.literal(line, " ~", left, Piece::Decoded { range, decoder: Decoder::new(encoding), skip, left });
            }
        }
        Ok(())
    }

    fn literal(&mut self, line: &mut Vec<u8>, lead: &str, size: u64, piece: Piece) {
        line.extend_from_slice(format!("{lead}{{{size}}}\r\n").as_bytes());
        self.pieces.push_back(Piece::Octets(std::mem::take(line)));
        if size > 0 {
            self.pieces.push_back(piece);
        }
    }

    fn decoded_size(&mut self, section: &Section, message: &MessageInfo, index: Option<&Index>) -> Result<u64> {
        match locate(section, message, index) {
            Some(Found::Range(range)) => self.count_decoded(range, encoding_of(section, index)?),
            _ => Ok(0),
        }
    }

    fn count_decoded(&mut self, range: Range<u64>, encoding: Encoding) -> Result<u64> {
        let Some(content) = self.content.as_mut().filter(|_| encoding != Encoding::Identity) else { return Ok(range.end - range.start) };
        let mut decoder = Decoder::new(encoding);
        let (mut out, mut size) = (Vec::new(), 0u64);
        content.walk(range, |octets| {
            decoder.feed(octets, &mut out);
            size += out.len() as u64;
            out.clear();
            true
        })?;
        decoder.finish(&mut out);
        Ok(size + out.len() as u64)
    }
}

enum Found {
    Range(Range<u64>),
    Octets(Vec<u8>),
}

fn locate(section: &Section, message: &MessageInfo, index: Option<&Index>) -> Option<Found> {
    let size = message.octets.cast_unsigned();
    let Some(index) = index else { return Some(Found::Range(0..size)) };
    if section.path.is_empty() && section.what == What::Content {
        return Some(Found::Range(0..size));
    }
    Some(match section.locate(index)? {
        Located::Bytes(octets) => Found::Octets(octets),
        // The index may have seen the header only.
        Located::Range(range) if section.path.is_empty() && section.what == What::Text => Found::Range(range.start as u64..size),
        Located::Range(range) => Found::Range(range.start as u64..range.end as u64),
    })
}

fn encoding_of(section: &Section, index: Option<&Index>) -> Result<Encoding> {
    let Some(index) = index.filter(|_| !section.path.is_empty()) else { return Ok(Encoding::Identity) };
    let Some(part) = section.part(index) else { return Ok(Encoding::Identity) };
    let name = &index.parts[part as usize].encoding;
    Encoding::from_name(name).ok_or_else(|| StoreError::Invalid(format!("UNKNOWN-CTE {name}")))
}

/// Those of the targets that lack `\Seen`.
fn unseen(volume: &Volume, folder: i64, targets: &[(u32, i64)]) -> Result<Vec<i64>> {
    volume.read(|db| {
        let mut query = db.prepare_cached("SELECT flags FROM message WHERE folder = ?1 AND uid = ?2")?;
        let mut found = Vec::new();
        for (_, uid) in targets {
            use rusqlite::OptionalExtension;
            let flags: Option<u32> = query.query_row([folder, *uid], |r| r.get(0)).optional()?;
            if flags.is_some_and(|f| f & SEEN == 0) {
                found.push(*uid);
            }
        }
        Ok(found)
    })
}

/// RFC 3501 date-time, in UTC.
fn internal_date(us: i64) -> String {
    let seconds = us.div_euclid(1_000_000);
    let (year, month, day) = date::civil_from_days(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    format!("{day:2}-{}-{year:04} {:02}:{:02}:{:02} +0000", date::month_name(month), time / 3_600, time / 60 % 60, time % 60)
}
