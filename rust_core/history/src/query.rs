//! Searching: which rows of all files fit, in the order of ids, newest first or oldest first, page by page.
//!
//! Each file gives a sorted list of candidates (`candidates`). The lists are merged by id; each candidate's row is read and looked at. A row that may
//! go on in a newer file is looked for there first. A call ends when the page is full or its time is over; then it says where to go on.

use std::sync::Arc;
use std::time::Instant;

use gatepost_queue::{MessageId, State};
use rusqlite::Connection;

use crate::candidates::{Candidate, open_candidates, sealed_candidates};
use crate::error::HistoryError;
use crate::file::{FileInfo, Row, row, spans_by_row};
use crate::filter::Filter;
use crate::record::Message;
use crate::shelf::{Gap, Shelf};
use crate::span::Window;
use crate::state::{View, ended_us, views};

/// Candidates looked at between two looks at the clock.
const CLOCK: usize = 32;

/// Which rows to look at, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All messages, as they are now.
    All,
    /// Those that were in the queue at this moment (Unix microseconds), as they were.
    At(u64),
    /// Those of which the queue differs at two moments.
    Between {
        /// The first moment.
        from: u64,
        /// The second.
        to: u64,
        /// Also those that came and left in between.
        passed: bool,
    },
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
    /// Where records are missing that may concern what was asked for.
    pub gaps: Vec<Gap>,
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
    let window = Window::new(bounds(filter, scope, paging), filter, scope);
    let mut merge = Merge { shelf, filter, window, ascending: paging.ascending, warnings: Vec::new(), sources: Vec::new() };
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
    page.gaps = shelf.gaps().into_iter().filter(|gap| gap.concerns(filter, scope)).collect();
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
        Scope::At(at) | Scope::Between { to: at, .. } => at,
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
    let newer = shelf.find(files, &found.message.id, info.number)?.map(|(_, row)| row);
    Ok(newer.or(Some(found)))
}

/// What of a row is to be shown, if it fits.
fn judge(filter: &Filter, scope: Scope, row: Row) -> Option<Found> {
    let message = row.message;
    let (first, later) = match scope {
        Scope::All => (views(&message, None), Vec::new()),
        Scope::At(at) => (views(&message, Some(at)), Vec::new()),
        Scope::Between { from, to, .. } => (views(&message, Some(from)), views(&message, Some(to))),
    };
    let queued = |views: &[View], at: u64| message.received_us <= at && views.iter().any(|v| v.state == State::Pending);
    let fits = match scope {
        Scope::All => true,
        Scope::At(at) => queued(&first, at),
        Scope::Between { from, to, passed } => {
            let new = message.received_us > from && message.received_us <= to;
            new && (passed || queued(&later, to)) || queued(&first, from) && first != later
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
    window: Window,
    ascending: bool,
    sources: Vec<Source>,
    warnings: Vec<String>,
}

impl Merge<'_> {
    /// The next candidate of all files; of several rows of one message the one in the newest file.
    fn next(&mut self) -> Option<(MessageId, Arc<FileInfo>, u32)> {
        loop {
            let best = self.best();
            // A file is asked only when it could have something that comes before.
            let wanted = |s: &Source| s.list.is_none() && best.is_none_or(|b| self.may_precede(&s.info, b));
            // The likeliest first: then most of the others need not be asked.
            let next = if self.ascending { self.sources.iter().position(wanted) } else { self.sources.iter().rposition(wanted) };
            let Some(at) = next else {
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
        let (low, high) = self.window.ids;
        if low > high || info.sealed.as_ref().is_some_and(|s| s.ids.1 < low || s.ids.0 > high) {
            return Vec::new();
        }
        let found = self.shelf.read(&info, |db| self.list(db, &info));
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

    fn list(&self, db: &Connection, info: &FileInfo) -> Result<Vec<Candidate>, HistoryError> {
        if let Some(sealed) = &info.sealed {
            return sealed_candidates(db, sealed, self.filter, &self.window, &self.shelf.voids(info.number));
        }
        let spans = self.shelf.open_spans(info.number).map_or_else(|| spans_by_row(db), Ok)?;
        open_candidates(db, &spans, self.filter, &self.window)
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

/// When the message of a find left the queue; None while it is in it.
pub fn left_us(found: &Found) -> Option<u64> {
    ended_us(&found.views)
}
