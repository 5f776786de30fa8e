//! New routes for very many recipients at once. Carried out in batches, so that nobody else waits for the index for long and what waits for the disk
//! stays bounded. Not atomic: a crash leaves a part of it done, which repeating it completes.

use gatepost_log::LogError;
use parking_lot::MutexGuard;

use crate::codec::encode_reroute;
use crate::error::QueueError;
use crate::id::{MessageId, now_us};
use crate::index::Index;
use crate::spool::{Core, Spool};
use crate::transition::{Transition, kind};

/// Recipients rerouted while the index is locked once.
const BATCH: usize = 256;
/// Octets that may wait for the disk before the next batch.
const PENDING: u64 = 8 << 20;

/// Where a recipient is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Of which message.
    pub id: MessageId,
    /// Which recipient.
    pub recipient: u16,
    /// New address.
    pub address: String,
    /// New scheduling key.
    pub destination: String,
    /// Opaque.
    pub route: Vec<u8>,
    /// It is held there, else it is let go.
    pub held: bool,
}

impl Spool {
    /// Gives pending recipients new routes, due now. Those that are gone or not pending are passed over; returns how many were not. `note` is JSON
    /// that says who did it. `ticket` comes back when all is durable, or with the first error. Waits for the disk.
    pub fn reroute_all(&self, ticket: u64, ways: &[Way], note: &[u8]) -> Result<usize, QueueError> {
        if ways.iter().any(|way| way.destination.is_empty()) {
            return Err(QueueError::Invalid("a route needs a destination".into()));
        }
        let details =
            ways.iter().map(|way| encode_reroute(&way.address, &way.destination, &way.route, note)).collect::<Result<Vec<_>, _>>()?;
        let losses = self.core.log.losses();
        let (mut done, mut failure) = (0, None);
        for (ways, details) in ways.chunks(BATCH).zip(details.chunks(BATCH)) {
            self.core.log.wait_for_room(PENDING);
            let mut index = self.core.shared.index.lock();
            for (way, detail) in ways.iter().zip(details) {
                done += usize::from(self.core.send(&mut index, way, detail, note, &mut failure));
            }
            self.core.shared.wake(&index);
            MutexGuard::unlock_fair(index);
        }
        let mut index = self.core.shared.index.lock();
        self.answer(&mut index, ticket, losses, failure);
        self.core.shared.wake(&index);
        Ok(done)
    }
}

impl Core {
    fn send(&self, index: &mut Index, way: &Way, detail: &[u8], note: &[u8], failure: &mut Option<LogError>) -> bool {
        let now = now_us();
        let number = index.intern(&way.destination);
        let reroute = Transition::Reroute { destination: number, next_us: now };
        let sent = self.transition(index, &way.id, way.recipient, &reroute, detail, kind::REROUTED, now);
        index.release_destination(number);
        let Some(result) = sent else { return false };
        // Passed over where it is so already.
        let (then, number) = if way.held { (Transition::Held, kind::HELD) } else { (Transition::Released, kind::RELEASED) };
        let second = self.transition(index, &way.id, way.recipient, &then, note, number, now);
        *failure = failure.take().or(result.err()).or(second.and_then(Result::err));
        true
    }
}
