//! What the spool should hold, said as slowly as possible: every message with the state of its recipients, and every change with what was heard of it.
//! The histories of the spool compare with it.

use gatepost_queue::{MessageId, RecipientState, State, kind};

use crate::operator::Mark;

/// A time that the spool chose.
pub(crate) const UNKNOWN: u64 = u64::MAX;

/// What is known of something appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing was heard of it, or only that the log failed: a crash may keep or lose it.
    Open,
    /// Acknowledged.
    Sure,
    /// Given up for want of space.
    Lost,
}

/// One recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub state: State,
    pub grace: bool,
    pub held: bool,
    pub attempts: u16,
    /// None: the spool chose it.
    pub next_us: Option<u64>,
    pub destination: String,
    pub address: String,
}

impl Recipient {
    pub fn pending(&self) -> bool {
        self.state == State::Pending
    }

    /// Is this what the spool says? What does not matter any more is not compared.
    pub fn matches(&self, r: &RecipientState) -> bool {
        let live = !self.pending()
            || self.held == r.held
                && self.address == r.address
                && self.destination == r.destination
                && self.next_us.is_none_or(|at| at == r.next_us);
        self.state == r.state && self.attempts == r.attempts && live
    }

    /// A recipient of which only the spool's word is known.
    pub fn seen(&self, r: &RecipientState) -> Self {
        Self { next_us: Some(r.next_us), ..self.clone() }
    }
}

/// A change asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// None: all.
    pub recipient: Option<u16>,
    pub kind: u8,
    pub next_us: u64,
    /// For a reroute.
    pub destination: String,
    pub address: String,
}

impl Change {
    fn applies(&self, r: &Recipient) -> bool {
        match self.kind {
            kind::NOTE => false,
            kind::HELD => r.pending() && !r.held,
            kind::RELEASED => r.pending() && r.held,
            kind::RESTORED | kind::PURGED => r.grace,
            kind::DELIVERED | kind::FAILED => r.pending() || self.recipient.is_some() && r.grace,
            _ => r.pending(),
        }
    }

    fn write(&self, r: &mut Recipient) {
        let attempt = r.attempts + 1;
        match self.kind {
            kind::DELIVERED => (r.state, r.grace, r.attempts) = (State::Delivered, false, attempt),
            kind::FAILED => (r.state, r.grace, r.attempts) = (State::Failed, false, attempt),
            kind::EXPIRED => r.state = State::Expired,
            kind::DEFERRED => (r.next_us, r.attempts) = (Some(self.next_us), attempt),
            kind::REMOVED => (r.state, r.grace) = (State::Removed, self.next_us != 0),
            kind::RESTORED => (r.state, r.grace, r.next_us) = (State::Pending, false, Some(self.next_us).filter(|at| *at != UNKNOWN)),
            kind::PURGED => r.grace = false,
            kind::HELD => r.held = true,
            kind::RELEASED => r.held = false,
            kind::RETRY => r.next_us = Some(self.next_us),
            kind::REROUTED => {
                (r.next_us, r.destination, r.address) = (None, self.destination.clone(), self.address.clone());
            }
            _ => {}
        }
    }

    fn named(&self, n: usize) -> bool {
        self.recipient.is_none_or(|wanted| usize::from(wanted) == n)
    }

    /// Would it change anything?
    pub fn legal(&self, list: &[Recipient]) -> bool {
        let exists = self.recipient.is_none_or(|n| usize::from(n) < list.len());
        exists && (self.kind == kind::NOTE || list.iter().enumerate().any(|(n, r)| self.named(n) && self.applies(r)))
    }

    pub fn apply(&self, list: &mut [Recipient]) {
        for (n, r) in list.iter_mut().enumerate() {
            if self.named(n) && self.applies(r) {
                self.write(r);
            }
        }
    }
}

/// A change that was carried out.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub change: Change,
    /// It ended the message.
    pub finished: bool,
    pub fate: Fate,
    /// In the order of all appends.
    pub sequence: u64,
}

/// State of a message; None when it is not there.
pub(crate) type Whole = Option<Vec<Recipient>>;

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub id: MessageId,
    /// Its octets follow from its number and this length.
    pub length: usize,
    pub number: u64,
    /// As accepted, or as found at the last opening.
    pub base: Vec<Recipient>,
    /// Of the commit.
    pub fate: Fate,
    pub sequence: u64,
    pub steps: Vec<Step>,
    /// As it is now for everyone who asks.
    pub now: Whole,
    /// A bit of one of its records was flipped: anything goes but wrong octets.
    pub damaged: bool,
    /// Records that its journal had then.
    pub entries: usize,
    /// A recovery is under way that has not come to it.
    pub hidden: bool,
    /// The operation that changed it last.
    pub mark: Option<Mark>,
}

impl Message {
    /// Every state a crash now may leave, with the number of changes it is after: what is kept of the changes is a beginning of them.
    pub fn possible(&self) -> Vec<(usize, Whole)> {
        let mut found: Vec<(usize, Whole)> = match self.fate {
            Fate::Sure => vec![(0, Some(self.base.clone()))],
            Fate::Open => vec![(0, None), (0, Some(self.base.clone()))],
            Fate::Lost => vec![(0, None)],
        };
        let mut state = found.last().cloned().and_then(|(_, whole)| whole);
        for (n, step) in self.steps.iter().enumerate() {
            state = after(state, step);
            if step.fate == Fate::Sure {
                found.clear();
            }
            found.push((n + 1, state.clone()));
        }
        found
    }
}

fn after(whole: Whole, step: &Step) -> Whole {
    let mut list = whole?;
    step.change.apply(&mut list);
    (!step.finished).then_some(list)
}

/// Nothing is left to do for any of them.
pub(crate) fn finished(list: &[Recipient]) -> bool {
    !list.iter().any(|r| r.pending() || r.grace)
}
