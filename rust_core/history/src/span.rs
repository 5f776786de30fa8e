//! How long a message was in the queue, which row tells of it, and which spans a search has to look at.
//!
//! Spans answer questions about a moment without a look at any row: those of sealed files lie in blocks in the order of ids, of each of which the latest
//! end is known in memory; those of the file that is written to are all in memory (36 octets a row).

use gatepost_queue::{MessageId, State};

use crate::file::LIVE;
use crate::filter::Filter;
use crate::query::Scope;

/// Octets of a span in a block: id, row, ended, last.
pub const SPAN: usize = 36;

/// One row of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// The message; all zero when the row is void.
    pub id: MessageId,
    /// Its row.
    pub row: u32,
    /// When it left the queue, Unix microseconds; [`LIVE`] while it is in it.
    pub ended: i64,
    /// When something happened to it last; `i64::MAX` when nobody knows.
    pub last: i64,
}

impl Span {
    /// A row that says nothing any more.
    pub const fn void(row: u32) -> Self {
        Self { id: [0; 16], row, ended: i64::MIN, last: 0 }
    }

    /// Appends its octets.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.row.to_le_bytes());
        out.extend_from_slice(&self.ended.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
    }

    /// Inverse of [`Span::encode`].
    pub fn decode(octets: &[u8]) -> Option<Self> {
        Some(Self {
            id: octets.get(..16)?.try_into().ok()?,
            row: u32::from_le_bytes(octets.get(16..20)?.try_into().ok()?),
            ended: i64::from_le_bytes(octets.get(20..28)?.try_into().ok()?),
            last: i64::from_le_bytes(octets.get(28..36)?.try_into().ok()?),
        })
    }
}

/// Puts spans into a list that has one for each row, void ones where there is none.
pub fn place(list: &mut Vec<Span>, spans: &[Span]) {
    for span in spans {
        let place = (span.row as usize).saturating_sub(1);
        if place < list.len() {
            list[place] = *span;
        } else {
            list.extend((list.len()..place).map(|n| Span::void(n as u32 + 1)));
            list.push(*span);
        }
    }
}

/// What a search asks of spans.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Least and greatest id.
    pub ids: (MessageId, MessageId),
    ended_above: i64,
    scope: Scope,
}

impl Window {
    /// The spans between two ids that can matter to a filter and a scope.
    pub fn new(ids: (MessageId, MessageId), filter: &Filter, scope: Scope) -> Self {
        let ended_above = match scope {
            Scope::At(at) | Scope::Between { from: at, .. } => i64::try_from(at).unwrap_or(LIVE),
            Scope::All if filter.outcome == Some(State::Pending) => LIVE - 1,
            Scope::All => i64::MIN,
        };
        Self { ids, ended_above, scope }
    }

    /// Whether spans that do not matter are to be expected: a time, a moment or a state is asked for.
    pub fn narrows(&self) -> bool {
        self.ids != ([0; 16], [0xff; 16]) || self.ended_above != i64::MIN
    }

    /// Whether a message that left the queue then can matter.
    pub fn reaches(&self, ended: i64) -> bool {
        ended > self.ended_above
    }

    /// Whether a row can matter. What differs at two moments: what was there at the first and left or changed since, and what came since and is there.
    pub fn takes(&self, span: &Span) -> bool {
        if !(self.ids.0..=self.ids.1).contains(&span.id) || !self.reaches(span.ended) {
            return false;
        }
        let Scope::Between { from, to, passed: false } = self.scope else { return true };
        let (from, to) = (i64::try_from(from).unwrap_or(LIVE), i64::try_from(to).unwrap_or(LIVE));
        // An id is made when a message begins to come in: never after the message was accepted.
        let old = time_of(&span.id) <= from;
        span.ended > to && (!old || span.last > from) || old && span.ended <= to
    }
}

/// When an id was made, Unix microseconds, to the millisecond below.
fn time_of(id: &MessageId) -> i64 {
    id[..6].iter().fold(0i64, |ms, octet| ms << 8 | i64::from(*octet)) * 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(born_ms: u64, ended: i64, last: i64) -> Span {
        let mut id = [7; 16];
        id[..6].copy_from_slice(&born_ms.to_be_bytes()[2..]);
        Span { id, row: 1, ended, last }
    }

    #[test]
    fn a_span_reads_back() {
        let (one, mut out) = (span(5, 6, 7), Vec::new());
        one.encode(&mut out);
        assert_eq!((out.len(), Span::decode(&out), Span::decode(&out[1..])), (SPAN, Some(one), None));
    }

    #[test]
    fn two_moments_ask_only_for_what_can_differ() {
        let takes = |passed, span| {
            let scope = Scope::Between { from: 10_000, to: 20_000, passed };
            Window::new(([0; 16], [0xff; 16]), &Filter::default(), scope).takes(&span)
        };
        let (left, still, changed) = (span(5, 15_000, 15_000), span(5, LIVE, 6000), span(5, LIVE, 12_000));
        let (arrived, came_and_went, before) = (span(12, 30_000, 30_000), span(12, 15_000, 15_000), span(5, 9000, 9000));
        for passed in [false, true] {
            assert!(takes(passed, left) && takes(passed, changed) && takes(passed, arrived) && !takes(passed, before));
            assert!(takes(passed, came_and_went) == passed && takes(passed, still) == passed);
        }
    }
}
