//! Changes of messages whose records could not be written, for want of room or of a descriptor for the next file, and how they get written after all.
//!
//! A change takes effect in memory although its record cannot be written: a delivery has happened, whatever the disk says. Its ticket tells of the error; the
//! record is owed. `Core::journal` and the log's callback put it here, `Core::pay` appends it when there is room: before the next change, or from the keeper.
//! Until then a crash brings the older state back, and a checkpoint carries what is owed.
//!
//! Invariants: journal records reach the log in the order of the changes, because nothing newer is appended while something is owed; so a crash leaves a
//! beginning of the changes. A message is moved or accepted only while nothing is owed. A segment with an earlier record of a message whose
//! end is owed stays as long as the segment that accepted it. Fails: not at all; what cannot be paid is tried again, and ends with the process.

use std::collections::{BTreeSet, HashMap, VecDeque};

use gatepost_log::{Class, Loc, LogError, Loss, LostRecord};

use crate::codec::{Journal, KIND_JOURNAL, decode_journal, encode_journal};
use crate::id::MessageId;
use crate::index::Index;
use crate::spool::{Core, Shared};
use crate::transition::kind;

/// Octets of details kept; beyond that a record is owed without its detail, which no state depends on.
const DETAILS: usize = 32 << 20;

/// A record that is to be appended again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Debt {
    pub journal: Journal,
    /// Segments that the record's segment has to vouch for.
    pub vouches: Vec<u32>,
}

impl Debt {
    /// Is this record the payment of it?
    pub fn is_paid_by(&self, journal: &Journal) -> bool {
        let key = |j: &Journal| (j.id, j.time_us, j.next_us, j.recipient, j.kind, j.finished);
        key(&self.journal) == key(journal)
    }
}

/// What is owed, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Debts {
    pub queue: VecDeque<Debt>,
    /// The log's losses of which the records are in here.
    pub losses: u64,
    /// Counts what ever was put in.
    pub incurred: u64,
    /// Ends of messages that were lost on the way to the disk: where the messages' earlier records are has to be looked up.
    pub unresolved: Vec<Journal>,
    /// Newest record of messages that have left the queue and may have more debts.
    last: HashMap<MessageId, Loc>,
    details: usize,
}

impl Debts {
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The error for whoever asks for something while something is owed.
    pub fn error(&self) -> LogError {
        LogError::DiskFull(format!("{} changes of the queue wait to be written", self.queue.len()))
    }

    fn note(&mut self, debt: &mut Debt) {
        self.incurred += 1;
        if debt.journal.kind != kind::REROUTED && self.details > DETAILS {
            debt.journal.detail = Vec::new();
        }
        self.details += debt.journal.detail.len();
    }

    fn owe(&mut self, mut debt: Debt) {
        self.note(&mut debt);
        self.queue.push_back(debt);
    }

    /// It was appended and lost, hence is older than all that is here.
    fn owe_again(&mut self, mut debt: Debt) {
        self.note(&mut debt);
        self.last.remove(&debt.journal.id);
        self.queue.push_front(debt);
    }

    /// Takes over what a checkpoint says was owed and the log does not hold.
    pub fn restore(&mut self, owed: VecDeque<Debt>) {
        for debt in owed.into_iter().rev() {
            if debt.journal.finished {
                self.unresolved.push(Journal { detail: Vec::new(), ..debt.journal.clone() });
            }
            self.owe_again(debt);
        }
    }

    fn paid(&mut self) {
        if let Some(debt) = self.queue.pop_front() {
            self.details -= debt.journal.detail.len();
        }
        if self.queue.is_empty() {
            self.last.clear();
        }
    }
}

impl Shared {
    /// The log's callback: these records were given up for want of space.
    pub fn lost(&self, loss: &Loss<'_>) {
        let mut index = self.index.lock();
        index.debts.losses = loss.losses;
        let records = &loss.records;
        let journal = |(loc, kind, payload): &LostRecord<'_>| Some((*loc, decode_journal(payload).filter(|_| *kind == KIND_JOURNAL)?));
        let mut written = HashMap::new();
        for (loc, journal) in records.iter().filter_map(journal) {
            written.insert(loc, written.get(&journal.previous).copied().unwrap_or(journal.previous));
        }
        for (loc, mut journal) in records.iter().rev().filter_map(journal) {
            if let Some(slot) = index.lookup(&journal.id).filter(|slot| index.message(*slot).head == loc) {
                index.retreat_head(slot, journal.previous);
            }
            // What comes before it may be lost as well.
            journal.previous = written[&loc];
            let mut vouches = Vec::new();
            if journal.finished {
                vouches = index.segments.vouched_by(loc.segment);
                index.debts.unresolved.push(Journal { detail: Vec::new(), ..journal.clone() });
            }
            index.debts.owe_again(Debt { journal, vouches });
        }
        self.settle(&mut index, &loss.tokens, Err(&loss.error));
    }
}

impl Core {
    /// Appends the record of a change of the message in `slot`, or owes it if there is no room.
    pub fn journal(&self, index: &mut Index, slot: u32, mut journal: Journal, detail: &[u8]) -> Result<(), LogError> {
        let appended = self.pay(index).and_then(|()| {
            journal.previous = index.message(slot).head;
            self.log.append_after(index.debts.losses, KIND_JOURNAL, &[&encode_journal(&journal), detail], Class::Journal, None)
        });
        let accepted = index.message(slot).accepted.segment;
        let moving = index.moving.get(&journal.id).copied();
        match appended {
            Ok(loc) => {
                index.advance_head(slot, loc);
                self.note_segment(index, loc.segment);
                for segment in [Some(accepted), moving].into_iter().flatten().filter(|_| journal.finished) {
                    index.segments.vouch(loc.segment, segment);
                }
                Ok(())
            }
            Err(error) => {
                if error.may_pass() {
                    let vouches = if journal.finished { [Some(accepted), moving].into_iter().flatten().collect() } else { Vec::new() };
                    if journal.finished {
                        index.keep_behind_accepted(slot);
                    }
                    journal.detail = detail.to_vec();
                    index.debts.owe(Debt { journal, vouches });
                    self.want_sweep();
                }
                Err(error)
            }
        }
    }

    /// Appends what is owed. Fails as soon as there is no room.
    pub fn pay(&self, index: &mut Index) -> Result<(), LogError> {
        if index.debts.is_empty() {
            return Ok(());
        }
        let exists: BTreeSet<u32> = self.log.segments().iter().map(|(n, _)| *n).collect();
        while let Some(debt) = index.debts.queue.front() {
            let slot = index.lookup(&debt.journal.id);
            let before = slot.map(|slot| index.message(slot).head).or_else(|| index.debts.last.get(&debt.journal.id).copied());
            let journal = Journal { previous: before.unwrap_or(debt.journal.previous), detail: Vec::new(), ..debt.journal };
            let parts = [&encode_journal(&journal)[..], &debt.journal.detail];
            let loc = self.log.append_after(index.debts.losses, KIND_JOURNAL, &parts, Class::Journal, None)?;
            for segment in debt.vouches.clone().into_iter().filter(|segment| exists.contains(segment)) {
                index.segments.vouch(loc.segment, segment);
            }
            match slot {
                Some(slot) => index.advance_head(slot, loc),
                None => drop(index.debts.last.insert(journal.id, loc)),
            }
            self.note_segment(index, loc.segment);
            index.debts.paid();
        }
        Ok(())
    }

    /// Finds the earlier records of messages whose end was lost, so that they stay until it is written. False when something cannot be read for now.
    pub fn resolve_debts(&self) -> bool {
        let unresolved = self.shared.index.lock().debts.unresolved.clone();
        let mut prefix = Vec::new();
        for (count, journal) in unresolved.iter().enumerate() {
            let (mut segments, mut at) = (BTreeSet::new(), journal.previous);
            loop {
                segments.insert(at.segment);
                match self.log.read_prefix(at, encode_journal(journal).len(), &mut prefix) {
                    Ok((KIND_JOURNAL, _)) => {}
                    // The accepted record, or no record any more: replay comes no further either.
                    Ok(_) | Err(LogError::Damaged { .. } | LogError::NotFound(_)) => break,
                    Err(_) => {
                        self.shared.index.lock().debts.unresolved.drain(..count);
                        return false;
                    }
                }
                let Some(earlier) = decode_journal(&prefix).filter(|earlier| earlier.id == journal.id && earlier.previous < at) else {
                    break;
                };
                at = earlier.previous;
            }
            let mut index = self.shared.index.lock();
            let exists = self.log.segments().iter().any(|(n, _)| *n == at.segment);
            for segment in segments.iter().filter(|_| exists) {
                index.segments.vouch(*segment, at.segment);
            }
        }
        self.shared.index.lock().debts.unresolved.drain(..unresolved.len());
        true
    }
}
