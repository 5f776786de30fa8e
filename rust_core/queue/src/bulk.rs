//! One change of very many messages. Carried out in batches, so that nobody else waits for the index for long and what waits for the disk stays
//! bounded. Not atomic: a crash leaves a part of it done, which repeating it completes (a transition that is illegal by then is skipped).

use gatepost_log::LogError;
use parking_lot::MutexGuard;

use crate::codec::ALL;
use crate::id::{MessageId, now_us};
use crate::index::{HELD, IN_FLIGHT, NOWHERE};
use crate::keeper::trim;
use crate::spool::Spool;
use crate::transition::{Transition, kind};

/// Messages changed while the index is locked once: less than a millisecond, since a delivery asks for the lock several times.
const BATCH: usize = 128;
/// Messages looked at while the index is locked once.
const LOOK: usize = 8192;
/// Messages of which a change leaves enough memory behind to give it back to the system.
const MANY: usize = 100_000;
/// Octets that may wait for the disk before the next batch.
const PENDING: u64 = 8 << 20;

/// Some messages in figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measure {
    /// Messages.
    pub messages: u64,
    /// Their pending recipients.
    pub recipients: u64,
    /// Of these, held ones.
    pub held: u64,
    /// Of these, those being delivered.
    pub in_flight: u64,
    /// Octets of the messages.
    pub octets: u64,
}

impl Spool {
    /// One transition for all pending recipients of each message. Messages for which it is illegal are skipped; returns how many were not. Of mail that is due
    /// already nothing is written when it is to be retried. `ticket` (0: none) comes back when all is durable, or with the first error. Waits for the disk.
    pub fn change_all(&self, ticket: u64, ids: &[MessageId], kind: u8, next_us: u64, detail: &[u8]) -> usize {
        let (now, losses) = (now_us(), self.core.log.losses());
        let mut failure: Option<LogError> = None;
        let mut done = 0;
        let transition = Transition::asked(kind, next_us, now);
        for batch in ids.chunks(BATCH) {
            let Some(transition) = &transition else { break };
            self.core.log.wait_for_room(PENDING);
            let mut index = self.core.shared.index.lock();
            for id in batch {
                if kind == kind::RETRY && next_us == 0 && index.find(id).is_some_and(|slot| index.is_due(slot)) {
                    done += 1;
                    continue;
                }
                if let Some(result) = self.core.transition(&mut index, id, ALL, transition, detail, kind, now) {
                    done += 1;
                    failure = failure.or(result.err());
                }
            }
            self.core.shared.wake(&index);
            MutexGuard::unlock_fair(index);
        }
        let mut index = self.core.shared.index.lock();
        self.answer(&mut index, ticket, losses, failure);
        self.core.shared.wake(&index);
        drop(index);
        if ids.len() >= MANY {
            trim();
        }
        done
    }

    /// Those of these messages for which the transition would be legal now, in the same order.
    pub fn changeable(&self, ids: &[MessageId], kind: u8) -> Vec<MessageId> {
        let mut found = Vec::new();
        let Some(transition) = Transition::from_kind(kind, 0) else { return found };
        for batch in ids.chunks(LOOK) {
            let index = self.core.shared.index.lock();
            let legal = |id: &&MessageId| index.find(id).is_some_and(|slot| index.judge(slot, ALL, &transition).0);
            found.extend(batch.iter().filter(legal).copied());
            MutexGuard::unlock_fair(index);
        }
        found
    }

    /// Figures of those of these messages that are in the queue.
    pub fn measure(&self, ids: &[MessageId]) -> Measure {
        let mut total = Measure::default();
        for batch in ids.chunks(LOOK) {
            let index = self.core.shared.index.lock();
            for slot in batch.iter().filter_map(|id| index.find(id)) {
                let message = index.message(slot);
                total.messages += 1;
                total.octets += u64::from(message.size);
                for r in message.recipients.as_slice().iter().filter(|r| r.pending()) {
                    total.recipients += 1;
                    total.held += u64::from(r.has(HELD));
                    total.in_flight += u64::from(r.has(IN_FLIGHT));
                }
            }
            MutexGuard::unlock_fair(index);
        }
        total
    }

    /// Names of the destinations of pending recipients of these messages, each once.
    pub fn destinations_of(&self, ids: &[MessageId]) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        for batch in ids.chunks(LOOK) {
            let index = self.core.shared.index.lock();
            let recipients = batch.iter().filter_map(|id| index.find(id)).flat_map(|slot| index.message(slot).recipients.as_slice());
            let numbers: std::collections::HashSet<u32> = recipients.filter(|r| r.pending()).map(|r| r.destination).collect();
            names.extend(numbers.iter().filter(|n| **n != NOWHERE).map(|n| index.destination_name(*n).to_owned()));
            MutexGuard::unlock_fair(index);
        }
        names.into_iter().collect()
    }
}
