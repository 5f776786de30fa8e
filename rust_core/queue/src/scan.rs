//! Listing, counting and selecting by a [`Filter`].
//!
//! The index is walked in slices, so that its lock is never held for long; what changes meanwhile is seen or not. What the index cannot answer is
//! read from the records of each slice's candidates, or the briefs of their segments (`briefs`), afterwards, without the lock, by two threads in the order of the log. A message
//! whose record is unusual (rerouted, unreadable) is judged by its [`Summary`], which is slower and says the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_log::{Loc, Segment, Window};

use crate::briefs::{Brief, Shelf};
use crate::codec::{ALL, Glance, KIND_ACCEPTED, KIND_JOURNAL, KIND_MOVED, accepted_length, decode_journal};
use crate::error::QueueError;
use crate::filter::{Filter, Matcher};
use crate::id::MessageId;
use crate::index::{Index, NOWHERE, REROUTED, Recipient};
use crate::query::Summary;
use crate::spool::{Core, Spool};
use crate::transition::kind;

/// Messages looked at while the index is locked once: the first slice is small, since most pages are full after it.
const SLICE: std::ops::RangeInclusive<usize> = 256..=8192;
/// How long one call of `list` looks for matches before it returns with what it has.
const LIST_BUDGET: Duration = Duration::from_millis(60);
/// Octets read of an accepted record at first, and of a journal record.
const ENVELOPE_GUESS: usize = 768;
const JOURNAL_GUESS: usize = 512;
/// Octets that hold most records of a message as far as a summary reads them.
const RECORD_GUESS: u64 = 2048;
/// Nice value of threads that go through the whole queue.
const NICE: i32 = 10;
/// Candidates from which on two threads are worth their start.
const SHARE_FROM: usize = 512;

/// A page of messages, and the id to go on after; None at the end.
pub type Page = (Vec<Summary>, Option<MessageId>);

/// A message that matches as far as the index can tell.
#[allow(clippy::struct_excessive_bools)] // each says on its own what must be read
struct Candidate {
    id: MessageId,
    accepted: Loc,
    head: Loc,
    /// Recipients that match so far; None for all.
    only: Option<Vec<u16>>,
    recipients: u16,
    /// Its records do not simply tell.
    unusual: bool,
    /// Some recipient had an attempt, so that the journal tells something.
    attempted: bool,
    /// Only its record knows when it was accepted.
    undated: bool,
    /// The domains of its destinations answer what is asked of addresses.
    at_home: bool,
}

impl Candidate {
    /// What was accepted has to be looked at.
    fn asks_accepted(&self, matcher: &Matcher) -> bool {
        self.undated || matcher.asks_sender() || matcher.asks_address() && !self.at_home
    }

    fn asks_records(&self, matcher: &Matcher) -> bool {
        self.unusual || self.asks_accepted(matcher) || matcher.asks_reply()
    }
}

/// One walk over a part of the index.
struct Slice {
    candidates: Vec<Candidate>,
    /// The last message looked at.
    last: Option<MessageId>,
    ended: bool,
}

impl Spool {
    /// Up to `limit` messages that match, in id order after `after`. Looks for a bounded time: a page may be short, or empty, and still have a next one.
    /// Reads records, so it may wait for the disk.
    pub fn list(&self, filter: &Filter, after: Option<MessageId>, limit: usize) -> Result<Page, QueueError> {
        let (found, next) = self.core.search(filter, after, limit, Some(LIST_BUDGET))?;
        self.core.foresee(&found);
        let mut page = Vec::with_capacity(found.len());
        for id in found {
            match self.get(&id) {
                Err(QueueError::NotFound(_)) => {}
                summary => page.push(summary?),
            }
        }
        Ok((page, next))
    }

    /// How many messages match, and how many of their recipients do (all of them when the filter asks for none). Waits for the disk.
    pub fn count(&self, filter: &Filter) -> Result<(u64, u64), QueueError> {
        let mut total = (0, 0);
        self.core.each(filter, None, None, &mut |_, recipients| {
            total.0 += 1;
            total.1 += recipients as u64;
            true
        })?;
        Ok(total)
    }

    /// Ids of the first `limit` messages that match, in order. Waits for the disk.
    pub fn select(&self, filter: &Filter, limit: usize) -> Result<Vec<MessageId>, QueueError> {
        Ok(self.core.search(filter, None, limit, None)?.0)
    }
}

impl Core {
    /// The records of these messages will be read: the disk may fetch them side by side.
    fn foresee(&self, ids: &[MessageId]) {
        let places: Vec<Loc> = {
            let index = self.shared.index.lock();
            let messages = ids.iter().filter_map(|id| index.find(id)).map(|slot| index.message(slot));
            messages.flat_map(|m| [m.accepted, m.head]).collect()
        };
        self.log.begin_reading(places.into_iter(), RECORD_GUESS);
    }

    fn search(
        &self,
        filter: &Filter,
        after: Option<MessageId>,
        limit: usize,
        budget: Option<Duration>,
    ) -> Result<(Vec<MessageId>, Option<MessageId>), QueueError> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok((found, after));
        }
        let next = self.each(filter, after, budget, &mut |id, _| {
            found.push(id);
            found.len() < limit
        })?;
        Ok((found, next))
    }

    /// Hands over each match with its number of matching recipients until `take` says that it is enough or the budget is spent. Returns where to go on.
    fn each(
        &self,
        filter: &Filter,
        after: Option<MessageId>,
        budget: Option<Duration>,
        take: &mut dyn FnMut(MessageId, usize) -> bool,
    ) -> Result<Option<MessageId>, QueueError> {
        let matcher = Matcher::new(filter)?;
        let end = budget.map(|budget| Instant::now() + budget);
        let (mut after, mut size) = (after, *SLICE.start());
        let (mut known, briefs) = (Known::default(), Shelf::new(self));
        loop {
            let slice = self.slice(&matcher, after, size, &mut known);
            let counts = self.counts(&matcher, &slice.candidates, &briefs, budget.is_none());
            for (candidate, recipients) in slice.candidates.iter().zip(counts).filter(|(_, recipients)| *recipients > 0) {
                if !take(candidate.id, recipients) {
                    return Ok(Some(candidate.id));
                }
            }
            after = slice.last.or(after);
            if slice.ended {
                return Ok(None);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Ok(after);
            }
            size = (size * 4).min(*SLICE.end());
        }
    }

    fn slice(&self, matcher: &Matcher, after: Option<MessageId>, size: usize, known: &mut Known) -> Slice {
        let (low, high) = matcher.ids();
        let mut slice = Slice { candidates: Vec::new(), last: None, ended: true };
        let index = self.shared.index.lock();
        // Numbers of destinations that went may have been given to others.
        known.0.clear();
        for (seen, (id, slot)) in index.visible(after.as_ref(), &low).enumerate() {
            if id > high {
                break;
            }
            if seen == size {
                slice.ended = false;
                break;
            }
            slice.last = Some(id);
            slice.candidates.extend(candidate(&index, slot, matcher, known));
        }
        slice
    }

    /// Of each candidate the number of recipients that match when records are looked at as well. `behind` mail: what goes through the whole queue.
    fn counts(&self, matcher: &Matcher, candidates: &[Candidate], briefs: &Shelf<'_>, behind: bool) -> Vec<usize> {
        let asked = candidates.iter().filter(|c| c.asks_records(matcher)).count();
        briefs.used(asked);
        if asked < SHARE_FROM {
            return Sweep::new(self, matcher, briefs, asked).counts(candidates);
        }
        let look = |some| {
            if behind {
                lower_priority();
            }
            Sweep::new(self, matcher, briefs, asked).counts(some)
        };
        let (first, second) = candidates.split_at(candidates.len() / 2);
        std::thread::scope(|scope| {
            let threads = [first, second].map(|some| (scope.spawn(move || look(some)), some.len()));
            threads.into_iter().flat_map(|(thread, count)| thread.join().unwrap_or_else(|_| vec![0; count])).collect()
        })
    }
}

/// The calling thread, which ends soon, has less of a busy processor than those that carry mail.
pub(crate) fn lower_priority() {
    // SAFETY: plain system calls on this thread, without pointers; a failure only leaves the priority as it is.
    unsafe {
        let thread = libc::gettid();
        libc::setpriority(libc::PRIO_PROCESS, thread.cast_unsigned(), NICE);
    }
}

/// What the filter makes of destinations, by their numbers.
#[derive(Default)]
struct Known(Vec<Option<Fit>>);

/// What a destination says about its recipients.
#[derive(Clone, Copy)]
struct Fit {
    /// Its name matches.
    named: bool,
    /// Whether their addresses match, but of those rerouted to it; None when that has to be read.
    home: Option<bool>,
}

impl Known {
    fn fit(&mut self, index: &Index, matcher: &Matcher, r: &Recipient) -> Fit {
        // What a recipient without one had, if it ever had one, stands in its records.
        if r.destination == NOWHERE || !matcher.asks_destination() && !matcher.asks_address() {
            return Fit { named: true, home: None };
        }
        if self.0.is_empty() {
            self.0.resize(index.destinations.len(), None);
        }
        let fit = *self.0[r.destination as usize].get_or_insert_with(|| Fit {
            named: matcher.destination(index.destination_name(r.destination)),
            home: index.home(r.destination).and_then(|domain| matcher.home(domain)),
        });
        if r.has(REROUTED) { Fit { home: None, ..fit } } else { fit }
    }
}

/// Some condition needs more than the index.
fn asks_records(matcher: &Matcher) -> bool {
    matcher.asks_sender() || matcher.asks_address() || matcher.asks_reply()
}

/// The message, if it matches as far as the index can tell.
fn candidate(index: &Index, slot: u32, matcher: &Matcher, known: &mut Known) -> Option<Candidate> {
    let message = index.message(slot);
    if !matcher.size(u64::from(message.size)) || message.shadow() && !matcher.asks_removed() {
        return None;
    }
    let received = message.received_us().filter(|_| matcher.asks_received());
    if received.is_some_and(|received| !matcher.received(received)) {
        return None;
    }
    let list = message.recipients.as_slice();
    let mut at_home = true;
    let mut fits = |r: &Recipient| {
        let fit = known.fit(index, matcher, r);
        let may = matcher.status(r) && fit.named && fit.home != Some(false);
        at_home &= !may || fit.home.is_some();
        may
    };
    let only = if let [one] = list {
        fits(one).then_some(None)?
    } else {
        let some: Vec<u16> = list.iter().enumerate().filter(|(_, r)| fits(r)).map(|(n, _)| n as u16).collect();
        if some.is_empty() {
            return None;
        }
        (some.len() < list.len()).then_some(some)
    };
    let rerouted = asks_records(matcher) && list.iter().any(|r| r.has(REROUTED));
    let waits = matcher.asks_reply() && list.iter().any(|r| index.waits_for(r).is_some());
    Some(Candidate {
        id: message.id,
        accepted: message.accepted,
        head: message.head,
        unusual: rerouted || waits || matcher.asks_destination() && list.iter().any(|r| r.destination == NOWHERE),
        attempted: list.iter().any(|r| r.attempts > 0 || !r.pending()),
        undated: matcher.asks_received() && received.is_none(),
        recipients: list.len() as u16,
        at_home,
        only,
    })
}

/// Does what was accepted match? Takes recipients whose addresses do not out of `wanted`. None when it is not what it should be.
fn judge(matcher: &Matcher, mut glance: Glance<'_>, recipients: u16, wanted: &mut Vec<u16>) -> Option<bool> {
    if !matcher.received(glance.received_us) || !matcher.sender(glance.reverse_path) {
        return Some(false);
    }
    if matcher.asks_address() {
        let mut fits = Vec::with_capacity(wanted.len());
        for n in 0..recipients {
            if matcher.address(glance.address()?) && wanted.contains(&n) {
                fits.push(n);
            }
        }
        *wanted = fits;
    }
    Some(!wanted.is_empty())
}

/// Reads records of candidates, one after the other.
struct Sweep<'a> {
    core: &'a Core,
    matcher: &'a Matcher,
    shelf: &'a Shelf<'a>,
    /// Candidates of the slice whose records are asked.
    asked: usize,
    /// Of the segments of the last accepted and the last journal record.
    briefs: [(u32, Option<Arc<Brief>>); 2],
    segment: Option<Arc<Segment>>,
    window: Window,
    buffer: Vec<u8>,
}

/// Places in [`Sweep::briefs`].
const ACCEPTED: usize = 0;
const JOURNAL: usize = 1;

impl<'a> Sweep<'a> {
    fn new(core: &'a Core, matcher: &'a Matcher, shelf: &'a Shelf<'a>, asked: usize) -> Self {
        let briefs = [(0, None), (0, None)];
        Self { core, matcher, shelf, asked, briefs, segment: None, window: Window::default(), buffer: Vec::new() }
    }

    /// The brief of the segment of a record, if there is one.
    fn brief(&mut self, which: usize, loc: Loc) -> Option<&Brief> {
        if self.briefs[which].0 != loc.segment {
            self.briefs[which] = (loc.segment, self.shelf.get(loc.segment, self.asked));
        }
        self.briefs[which].1.as_deref()
    }

    fn counts(&mut self, candidates: &[Candidate]) -> Vec<usize> {
        candidates.iter().map(|c| self.count(c)).collect()
    }

    fn count(&mut self, candidate: &Candidate) -> usize {
        if candidate.unusual {
            return self.slow(candidate);
        }
        let mut wanted = candidate.only.clone().unwrap_or_else(|| (0..candidate.recipients).collect());
        // What the journal tells needs no look at what was accepted.
        if candidate.asks_accepted(self.matcher) {
            match self.accepted(candidate, &mut wanted) {
                Some(true) => {}
                Some(false) => return 0,
                None => return self.slow(candidate),
            }
        }
        if self.matcher.asks_reply() && !wanted.is_empty() && self.told(candidate, &mut wanted).is_none() {
            return self.slow(candidate);
        }
        wanted.len()
    }

    /// By the same summary that operators see.
    fn slow(&self, candidate: &Candidate) -> usize {
        self.core.summary(&candidate.id).map_or(0, |summary| self.matcher.summary(&summary))
    }

    /// Does the accepted record match? Takes recipients whose addresses do not out of `wanted`. None when it cannot be read.
    fn accepted(&mut self, candidate: &Candidate, wanted: &mut Vec<u16>) -> Option<bool> {
        let matcher = self.matcher;
        if let Some((KIND_ACCEPTED | KIND_MOVED, entry)) =
            self.brief(ACCEPTED, candidate.accepted).and_then(|b| b.find(candidate.accepted.offset))
        {
            let glance = Glance::of_brief(entry).filter(|glance| glance.id == candidate.id)?;
            return judge(matcher, glance, candidate.recipients, wanted);
        }
        let length = match self.prefix(candidate.accepted, ENVELOPE_GUESS)? {
            KIND_ACCEPTED | KIND_MOVED => accepted_length(&self.buffer)?,
            _ => return None,
        };
        if length > self.buffer.len() {
            self.prefix(candidate.accepted, length)?;
        }
        let glance = Glance::new(&self.buffer).filter(|glance| glance.id == candidate.id)?;
        judge(matcher, glance, candidate.recipients, wanted)
    }

    /// Leaves those in `wanted` whose last attempt was told what is asked for. None when the journal cannot be read.
    fn told(&mut self, candidate: &Candidate, wanted: &mut Vec<u16>) -> Option<()> {
        let (mut open, mut fits) = (std::mem::take(wanted), Vec::new());
        let mut at = if candidate.attempted { candidate.head } else { candidate.accepted };
        while !open.is_empty() && at > candidate.accepted {
            if self.whole(at)? != KIND_JOURNAL {
                return None;
            }
            let journal = decode_journal(&self.buffer).filter(|j| j.previous < at)?;
            if (kind::DELIVERED..=kind::REMOVED).contains(&journal.kind) {
                let named = |n: &u16| journal.recipient == ALL || journal.recipient == *n;
                if open.iter().any(named) && self.matcher.reply(&journal.detail) {
                    fits.extend(open.iter().copied().filter(named));
                }
                open.retain(|n| !named(n));
            }
            at = journal.previous;
        }
        if candidate.attempted && !open.is_empty() && self.kind(candidate.accepted)? == KIND_MOVED {
            return None;
        }
        if self.matcher.reply(b"") {
            fits.append(&mut open);
        }
        *wanted = fits;
        Some(())
    }

    /// Kind of an accepted record.
    fn kind(&mut self, loc: Loc) -> Option<u8> {
        let told = self.brief(ACCEPTED, loc).and_then(|brief| brief.find(loc.offset)).map(|(kind, _)| kind);
        told.or_else(|| self.prefix(loc, 0))
    }

    /// First octets of a record into the buffer. Its kind; None when it cannot be read.
    fn prefix(&mut self, loc: Loc, limit: usize) -> Option<u8> {
        let (mut buffer, mut window) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.window));
        let written = self.segment(loc).and_then(|segment| segment.read_within(loc.offset, limit, &mut window).ok());
        let read = written.map(|(kind, _, payload)| {
            buffer.clear();
            buffer.extend_from_slice(payload);
            kind
        });
        // What is not written yet is in the log's memory.
        let read = read.or_else(|| self.core.log.read_prefix(loc, limit, &mut buffer).ok().map(|(kind, _)| kind));
        (self.buffer, self.window) = (buffer, window);
        read
    }

    /// A whole journal record into the buffer.
    fn whole(&mut self, loc: Loc) -> Option<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        if let Some((kind @ KIND_JOURNAL, entry)) = self.brief(JOURNAL, loc).and_then(|brief| brief.find(loc.offset)) {
            buffer.clear();
            buffer.extend_from_slice(entry);
            self.buffer = buffer;
            return Some(kind);
        }
        let written = self.segment(loc).and_then(|segment| segment.read_ahead(loc.offset, JOURNAL_GUESS, &mut buffer).ok());
        let kind = written.or_else(|| self.core.log.read(loc, &mut buffer).ok());
        self.buffer = buffer;
        kind
    }

    fn segment(&mut self, loc: Loc) -> Option<&Segment> {
        if self.segment.as_ref().is_none_or(|segment| segment.number() != loc.segment) {
            self.segment = self.core.segment(loc).ok();
        }
        self.segment.as_deref()
    }
}
