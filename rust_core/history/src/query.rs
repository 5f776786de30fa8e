//! Searching: which rows of all files fit, in the order of ids, newest first or oldest first, page by page.
//!
//! Each file gives a sorted list of candidates: the rows that have all indexed terms of the filter (and, for a moment of the
//! past, those that had not ended by then). The lists are merged by id; each candidate's row is read and looked at. A row that may go on in a newer
//! file is looked for there first. A call ends when the page is full or its time is over; then it says where to go on.

use std::sync::Arc;
use std::time::Instant;

use gatepost_queue::{MessageId, State};
use rusqlite::Connection;

use crate::error::HistoryError;
use crate::file::{FileInfo, ID_BLOCK, ID_ENTRY, LIVE, Row, pair_of, row};
use crate::filter::Filter;
use crate::record::Message;
use crate::shelf::Shelf;
use crate::state::{View, ended_us, views};

/// Candidates looked at between two looks at the clock.
const CLOCK: usize = 32;
/// Single blocks of ids are read up to this number of candidates, else all of them.
const FEW: usize = 100;

/// A candidate: id and row.
type Candidate = (MessageId, u32);

/// Which rows to look at, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All messages, as they are now.
    All,
    /// Those that were in the queue at this moment (Unix microseconds), as they were.
    At(u64),
    /// Those that were in the queue at one of two moments, or only in between.
    Between(u64, u64),
}

/// A message that fits.
#[derive(Debug, Clone)]
pub struct Found {
    /// The message with all its events.
    pub message: Message,
    /// Its recipients now, or at the (first) moment asked for.
    pub views: Vec<View>,
    /// For two moments: its recipients at the second.
    pub later: Vec<View>,
}

/// A page of results.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In order.
    pub found: Vec<Found>,
    /// The last id that was looked at; None when there is nothing behind it.
    pub next: Option<MessageId>,
    /// What could not be looked at.
    pub warnings: Vec<String>,
}

/// How to go through the results.
#[derive(Debug, Clone, Copy)]
pub struct Paging {
    /// Go on behind this id.
    pub after: Option<MessageId>,
    /// Messages at most.
    pub limit: usize,
    /// Oldest first.
    pub ascending: bool,
    /// When to stop.
    pub deadline: Instant,
}

/// Searches all files of a shelf.
pub fn search(shelf: &Shelf, filter: &Filter, scope: Scope, paging: Paging) -> Page {
    let files = shelf.files();
    let (low, high) = bounds(filter, scope, paging);
    let mut merge = Merge { shelf, filter, scope, ascending: paging.ascending, low, high, warnings: Vec::new(), sources: Vec::new() };
    merge.sources = files.iter().map(|info| Source { info: Arc::clone(info), list: None }).collect();
    let mut page = Page::default();
    let mut looked = 0;
    while let Some((id, info, number)) = merge.next() {
        match current(shelf, &files, &info, number) {
            Ok(Some(row)) => page.found.extend(judge(filter, scope, row)),
            Ok(None) => {}
            Err(error) => merge.failed(&info, &error),
        }
        looked += 1;
        if page.found.len() >= paging.limit || (looked % CLOCK == 0 && Instant::now() >= paging.deadline) {
            page.next = Some(id);
            break;
        }
    }
    page.warnings = merge.warnings;
    page
}

/// Messages whose id lies in a range (a prefix), at most `limit`.
pub fn by_id(shelf: &Shelf, low: MessageId, high: MessageId, limit: usize) -> Page {
    let filter = Filter { ids: Some((low, high)), ..Filter::default() };
    let deadline = Instant::now() + std::time::Duration::from_secs(5);
    search(shelf, &filter, Scope::All, Paging { after: None, limit, ascending: true, deadline })
}

/// The ids that can matter, both inclusive.
fn bounds(filter: &Filter, scope: Scope, paging: Paging) -> (MessageId, MessageId) {
    let (mut low, mut high) = filter.ids.unwrap_or(([0; 16], [0xff; 16]));
    let born = match scope {
        Scope::All => u64::MAX,
        Scope::At(at) | Scope::Between(_, at) => at,
    };
    low = low.max(id_at(filter.since_us, 0));
    high = high.min(id_at(filter.until_us.min(born), 0xff));
    match paging.after {
        Some(after) if paging.ascending => low = low.max(next_id(after)),
        Some(after) => high = high.min(previous_id(after)),
        None => {}
    }
    (low, high)
}

/// The first (fill 0) or last (fill 0xff) id of a moment.
fn id_at(us: u64, fill: u8) -> MessageId {
    let mut id = [fill; 16];
    let ms = (us / 1000).min((1 << 48) - 1);
    id[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    id
}

fn next_id(id: MessageId) -> MessageId {
    u128::from_be_bytes(id).saturating_add(1).to_be_bytes()
}

fn previous_id(id: MessageId) -> MessageId {
    u128::from_be_bytes(id).saturating_sub(1).to_be_bytes()
}

/// The row of a candidate, or the one in a newer file that holds instead.
fn current(shelf: &Shelf, files: &[Arc<FileInfo>], info: &FileInfo, number: u32) -> Result<Option<Row>, HistoryError> {
    let Some(found) = shelf.read(info, |db| row(db, number))? else { return Ok(None) };
    if found.is_final {
        return Ok(Some(found));
    }
    Ok(shelf.find(files, &found.message.id, info.number)?.or(Some(found)))
}

/// What of a row is to be shown, if it fits.
fn judge(filter: &Filter, scope: Scope, row: Row) -> Option<Found> {
    let message = row.message;
    let (first, later) = match scope {
        Scope::All => (views(&message, None), Vec::new()),
        Scope::At(at) => (views(&message, Some(at)), Vec::new()),
        Scope::Between(a, b) => (views(&message, Some(a)), views(&message, Some(b))),
    };
    let queued = |views: &[View], at: u64| message.received_us <= at && views.iter().any(|v| v.state == State::Pending);
    let fits = match scope {
        Scope::All => true,
        Scope::At(at) => queued(&first, at),
        Scope::Between(a, b) => {
            let passed = message.received_us > a && message.received_us <= b;
            passed || (queued(&first, a) && first != later)
        }
    };
    (fits && filter.fits(&message, &first)).then_some(Found { message, views: first, later })
}

/// One file of the merge.
struct Source {
    info: Arc<FileInfo>,
    /// Its candidates, the next one last; None: not asked yet.
    list: Option<Vec<Candidate>>,
}

struct Merge<'a> {
    shelf: &'a Shelf,
    filter: &'a Filter,
    scope: Scope,
    ascending: bool,
    low: MessageId,
    high: MessageId,
    sources: Vec<Source>,
    warnings: Vec<String>,
}

impl Merge<'_> {
    /// The next candidate of all files; of several rows of one message the one in the newest file.
    fn next(&mut self) -> Option<(MessageId, Arc<FileInfo>, u32)> {
        loop {
            let best = self.best();
            // A file is asked only when it could have something that comes before.
            let Some(at) = self.sources.iter().position(|s| s.list.is_none() && best.is_none_or(|b| self.may_precede(&s.info, b))) else {
                return best.map(|id| self.take(id));
            };
            let list = self.candidates(at);
            self.sources[at].list = Some(list);
        }
    }

    fn best(&self) -> Option<MessageId> {
        let heads = self.sources.iter().filter_map(|s| s.list.as_ref()?.last().map(|(id, _)| *id));
        if self.ascending { heads.min() } else { heads.max() }
    }

    fn may_precede(&self, info: &FileInfo, best: MessageId) -> bool {
        info.sealed.as_ref().is_none_or(|s| if self.ascending { s.ids.0 <= best } else { s.ids.1 >= best })
    }

    fn take(&mut self, id: MessageId) -> (MessageId, Arc<FileInfo>, u32) {
        let mut chosen = None;
        for source in &mut self.sources {
            if let Some(list) = &mut source.list
                && let Some((_, row)) = list.pop_if(|(head, _)| *head == id)
            {
                chosen = Some((Arc::clone(&source.info), row));
            }
        }
        let (info, row) = chosen.unwrap_or_else(|| unreachable!("the best head is the head of a list"));
        (id, info, row)
    }

    /// The candidates of a file, the next one last.
    fn candidates(&mut self, at: usize) -> Vec<Candidate> {
        let info = Arc::clone(&self.sources[at].info);
        let (low, high) = (self.low, self.high);
        if low > high || info.sealed.as_ref().is_some_and(|s| s.ids.1 < low || s.ids.0 > high) {
            return Vec::new();
        }
        let found = self.shelf.read(&info, |db| {
            let mut list = match &info.sealed {
                Some(sealed) => sealed_candidates(db, sealed.rows, self.filter, self.scope)?,
                None => open_candidates(db, self.filter, self.scope)?,
            };
            list.retain(|(id, _)| (low..=high).contains(id));
            Ok(list)
        });
        let mut list = found.unwrap_or_else(|error| {
            self.failed(&info, &error);
            Vec::new()
        });
        list.sort_unstable();
        if self.ascending {
            list.reverse();
        }
        list
    }

    /// A file that cannot be read makes the answer partial, no more; a damaged one is set aside.
    fn failed(&mut self, info: &FileInfo, error: &HistoryError) {
        if let (HistoryError::Damaged(why), true) = (error, info.sealed.is_some()) {
            self.shelf.set_aside(info, why);
        }
        let text = format!("{}: {error}", info.path.display());
        if !self.warnings.contains(&text) && self.warnings.len() < 10 {
            self.warnings.push(text);
        }
    }
}

/// Candidates of a file that is still written to: its terms are looked through one by one.
fn open_candidates(db: &Connection, filter: &Filter, scope: Scope) -> Result<Vec<Candidate>, HistoryError> {
    let mut rows: Option<Vec<u32>> = None;
    let terms = filter.terms();
    if !terms.is_empty() {
        let mut lists = vec![Vec::new(); terms.len()];
        let mut query = db.prepare_cached("SELECT data FROM terms")?;
        let mut blobs = query.query([])?;
        while let Some(blob) = blobs.next()? {
            for pair in blob.get_ref(0)?.as_blob().unwrap_or_default().chunks_exact(8) {
                let (hash, row) = pair_of(pair);
                terms.iter().zip(&mut lists).filter(|(term, _)| **term == hash).for_each(|(_, list)| list.push(row));
            }
        }
        rows = lists.into_iter().map(sorted).reduce(|a, b| intersect(&a, &b));
    }
    if let Some(ended) = ended_sql(filter, scope) {
        let alive = sorted(
            db.prepare(&format!("SELECT row FROM message WHERE {ended}"))?.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?,
        );
        rows = Some(rows.map_or_else(|| alive.clone(), |rows| intersect(&rows, &alive)));
    }
    match rows {
        None => {
            let mut query = db.prepare_cached("SELECT id, row FROM message ORDER BY id")?;
            Ok(query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?)
        }
        Some(rows) => {
            let mut query = db.prepare_cached("SELECT id FROM message WHERE row=?1")?;
            let ids = rows.into_iter().map(|row| Ok((query.query_row([row], |r| r.get(0))?, row)));
            // A row can have been replaced between the two looks.
            Ok(ids
                .filter(|found: &rusqlite::Result<_>| !matches!(found, Err(rusqlite::Error::QueryReturnedNoRows)))
                .collect::<Result<_, _>>()?)
        }
    }
}

/// Candidates of a sealed file, by its postings.
fn sealed_candidates(db: &Connection, rows: u32, filter: &Filter, scope: Scope) -> Result<Vec<Candidate>, HistoryError> {
    let mut ranks: Option<Vec<u32>> = None;
    for term in filter.terms() {
        let found = posting(db, term)?;
        ranks = Some(ranks.map_or_else(|| found.clone(), |ranks| intersect(&ranks, &found)));
        if ranks.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
    }
    let mut list = match ranks {
        Some(ranks) if ranks.len() <= FEW => ids_of(db, &ranks)?,
        Some(ranks) => {
            let all = all_ids(db, rows)?;
            ranks.into_iter().filter_map(|rank| all.get(rank as usize).copied()).collect()
        }
        None => Vec::new(),
    };
    if let Some(ended) = ended_sql(filter, scope) {
        let mut query = db.prepare(&format!("SELECT row FROM message INDEXED BY by_ended WHERE {ended}"))?;
        let alive: std::collections::HashSet<u32> = query.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
        if filter.terms().is_empty() && !alive.is_empty() {
            list = all_ids(db, rows)?;
        }
        list.retain(|(_, row)| alive.contains(row));
    } else if filter.terms().is_empty() {
        list = all_ids(db, rows)?;
    }
    Ok(list)
}

/// The condition on `ended` that a scope and a filter make, if any.
fn ended_sql(filter: &Filter, scope: Scope) -> Option<String> {
    match scope {
        Scope::At(at) | Scope::Between(at, _) => Some(format!("ended > {}", i64::try_from(at).unwrap_or(LIVE))),
        Scope::All if filter.outcome == Some(State::Pending) => Some(format!("ended = {LIVE}")),
        Scope::All => None,
    }
}

/// Ranks that have a term, ascending.
fn posting(db: &Connection, term: u32) -> Result<Vec<u32>, HistoryError> {
    let (low, high) = ((u64::from(term) << 24) as i64, (u64::from(term) << 24 | 0x00ff_ffff) as i64);
    let mut query = db.prepare_cached(
        "SELECT data FROM posting WHERE first BETWEEN coalesce((SELECT max(first) FROM posting WHERE first <= ?1), ?1) AND ?2 ORDER BY first",
    )?;
    let mut blocks = query.query([low, high])?;
    let mut ranks = Vec::new();
    while let Some(block) = blocks.next()? {
        let data = block.get_ref(0)?.as_blob().unwrap_or_default();
        let entries = data.chunks_exact(8).map(|e| u64::from_le_bytes([e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7]]));
        ranks.extend(entries.filter(|e| e >> 24 == u64::from(term)).map(|e| (e & 0x00ff_ffff) as u32));
    }
    Ok(ranks)
}

fn ids_of(db: &Connection, ranks: &[u32]) -> Result<Vec<Candidate>, HistoryError> {
    let mut query = db.prepare_cached("SELECT substr(data, ?2, 20) FROM ids WHERE block=?1")?;
    let mut list = Vec::with_capacity(ranks.len());
    for rank in ranks {
        let (block, place) = (*rank as usize / ID_BLOCK, *rank as usize % ID_BLOCK);
        let entry: Vec<u8> = query.query_row([block as i64, (place * ID_ENTRY + 1) as i64], |r| r.get(0))?;
        list.extend(candidate(&entry));
    }
    Ok(list)
}

fn all_ids(db: &Connection, rows: u32) -> Result<Vec<Candidate>, HistoryError> {
    let mut list = Vec::with_capacity(rows as usize);
    let mut query = db.prepare_cached("SELECT data FROM ids ORDER BY block")?;
    let mut blocks = query.query([])?;
    while let Some(block) = blocks.next()? {
        list.extend(block.get_ref(0)?.as_blob().unwrap_or_default().chunks_exact(ID_ENTRY).filter_map(candidate));
    }
    Ok(list)
}

fn candidate(entry: &[u8]) -> Option<Candidate> {
    Some((entry.get(..16)?.try_into().ok()?, u32::from_le_bytes(entry.get(16..20)?.try_into().ok()?)))
}

fn sorted(mut rows: Vec<u32>) -> Vec<u32> {
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// What both ascending lists have.
fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut out = Vec::new();
    let mut b = b.iter().peekable();
    for x in a {
        while b.next_if(|y| *y < x).is_some() {}
        if b.peek() == Some(&x) {
            out.push(*x);
        }
    }
    out
}

/// When the message of a find left the queue; None while it is in it.
pub fn left_us(found: &Found) -> Option<u64> {
    ended_us(&found.views)
}
