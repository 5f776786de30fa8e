//! What the index keeps of a message: 64 octets, and a list when it has several recipients. Addresses, routes and replies are in its records.

use gatepost_log::Loc;

use crate::id::MessageId;
use crate::transition::State;

pub(crate) const HELD: u8 = 1;
pub(crate) const IN_FLIGHT: u8 = 2;
/// An entry of the destination's ready queue is valid for this recipient.
pub(crate) const READY: u8 = 4;
/// An entry of the timer heap is valid for this recipient.
pub(crate) const TIMED: u8 = 8;
/// A journal record holds its address and route.
pub(crate) const REROUTED: u8 = 16;
/// Removed, but restorable until its `next_us`; such a recipient keeps its hold flag and its destination's name.
pub(crate) const GRACE: u8 = 32;
/// A note of the journal names it: its sender was told of the delay.
pub(crate) const NOTED: u8 = 64;
/// Flags that survive a restart.
pub(crate) const LASTING: u8 = HELD | REROUTED | GRACE | NOTED;

/// Destination number of recipients that have none.
pub(crate) const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub next_us: u64,
    pub destination: u32,
    pub attempts: u16,
    pub state: State,
    pub flags: u8,
}

impl Recipient {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn pending(&self) -> bool {
        self.state == State::Pending
    }

    pub fn in_grace(&self) -> bool {
        self.has(GRACE)
    }
}

/// Takes 16 octets: the state's unused values tell the two apart, as long as the list is behind a thin pointer.
#[derive(Debug, Clone)]
pub(crate) enum Recipients {
    One(Recipient),
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Recipient>>),
}

impl Recipients {
    pub fn new(list: Vec<Recipient>) -> Self {
        match list.as_slice() {
            [one] => Self::One(*one),
            _ => Self::Many(Box::new(list)),
        }
    }

    pub fn as_slice(&self) -> &[Recipient] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub fn as_mut_slice(&mut self) -> &mut [Recipient] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub id: MessageId,
    /// Its accepted record; NONE marks a free slot.
    pub accepted: Loc,
    /// Its newest record.
    pub head: Loc,
    pub size: u32,
    /// Number of the set of further segments with records of it.
    pub others: u32,
    /// Microseconds from the time in its id to when it was accepted; `UNKNOWN_DELAY` when the record has to be asked.
    pub delay: u32,
    /// Appended but not yet durable, or found by a recovery that is not complete: not visible to anyone.
    pub hidden: bool,
    pub recipients: Recipients,
}

/// A session of more than an hour, a foreign id, or a checkpoint that does not say it.
pub(crate) const UNKNOWN_DELAY: u32 = u32::MAX;

// A million messages are to fit in 160 MB, with their timers and everything else.
const _: () = assert!(size_of::<Message>() == 64 && size_of::<Recipients>() == 16);

/// When an id was made, Unix microseconds.
pub(crate) fn time_of(id: &MessageId) -> u64 {
    id[..6].iter().fold(0, |ms, octet| ms << 8 | u64::from(*octet)) * 1000
}

impl Message {
    /// See [`Message::delay`].
    pub fn delay_of(id: &MessageId, received_us: u64) -> u32 {
        received_us.checked_sub(time_of(id)).and_then(|delay| u32::try_from(delay).ok()).unwrap_or(UNKNOWN_DELAY)
    }

    /// When it was accepted, Unix microseconds; None when the record has to be asked.
    pub fn received_us(&self) -> Option<u64> {
        (self.delay != UNKNOWN_DELAY).then(|| time_of(&self.id) + u64::from(self.delay))
    }

    /// No recipient is pending: what is left of it is a removal that can still be undone. Not counted, not listed unless asked for.
    pub fn shadow(&self) -> bool {
        !self.recipients.as_slice().iter().any(Recipient::pending)
    }
}
