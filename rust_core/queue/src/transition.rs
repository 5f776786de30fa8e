//! The table of recipient states and what moves them.
//!
//! | transition | from | to | in flight after | counts as attempt |
//! |---|---|---|---|---|
//! | Delivered | Pending | Delivered | no | yes |
//! | Deferred | Pending | Pending, due later | no | yes |
//! | Failed | Pending | Failed | no | yes |
//! | Expired | Pending | Expired | no | no |
//! | Removed, no grace | Pending | Removed | no | no |
//! | Removed, with grace | Pending | in grace | as before | no |
//! | Restored | in grace | Pending, due then, held as before | as before | no |
//! | Purged | in grace | Removed | no | no |
//! | Held | Pending, not held | held | as before | no |
//! | Released | Pending, held | not held | as before | no |
//! | Retry | Pending | due then | as before | no |
//! | Reroute | Pending | new destination, due now | no | no |
//! | Note | any | as before | as before | no |
//!
//! In grace is the state Removed with the flag GRACE: gone for everybody, but its message keeps record and octets until Purged, so that the removal can
//! be undone. Delivered and Failed also apply in grace when they name the recipient: an attempt that was under way when it was removed.
//!
//! Everything else is illegal and skipped. Legality depends on journaled state only, so that replay repeats every decision.

use crate::index::{GRACE, HELD, REROUTED, Recipient};

/// State of one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// To be delivered.
    Pending,
    /// Handed over, or discarded by routing.
    Delivered,
    /// Refused for good.
    Failed,
    /// Given up after the queue's lifetime.
    Expired,
    /// Taken out by an operator.
    Removed,
}

impl State {
    /// Name as Python sees it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
            Self::Expired => "EXPIRED",
            Self::Removed => "REMOVED",
        }
    }

    /// From the checkpoint's octet.
    pub(crate) fn from_u8(value: u8) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Failed, Self::Expired, Self::Removed].into_iter().find(|s| *s as u8 == value)
    }
}

/// Kinds as the journal and Python number them.
pub mod kind {
    /// First entry of every history; not a transition.
    pub const ACCEPTED: u8 = 0;
    /// Handed over.
    pub const DELIVERED: u8 = 1;
    /// Try again at the given time.
    pub const DEFERRED: u8 = 2;
    /// Refused for good.
    pub const FAILED: u8 = 3;
    /// Too old.
    pub const EXPIRED: u8 = 4;
    /// Taken out by an operator.
    pub const REMOVED: u8 = 5;
    /// Held.
    pub const HELD: u8 = 6;
    /// Released.
    pub const RELEASED: u8 = 7;
    /// Due at the given time, 0 for now.
    pub const RETRY: u8 = 8;
    /// A remark.
    pub const NOTE: u8 = 9;
    /// A new route.
    pub const REROUTED: u8 = 10;
    /// A removal undone; due at the given time.
    pub const RESTORED: u8 = 11;
    /// The grace of a removal is over.
    pub const PURGED: u8 = 12;
}

/// One change of one or all recipients of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transition {
    Delivered,
    Deferred {
        next_us: u64,
    },
    Failed,
    Expired,
    /// `until_us` 0: at once, for good.
    Removed {
        until_us: u64,
    },
    Restored {
        next_us: u64,
    },
    Purged,
    Held,
    Released,
    Retry {
        next_us: u64,
    },
    Note,
    Reroute {
        destination: u32,
        next_us: u64,
    },
}

impl Transition {
    /// From a journal kind; reroutes are made by their own call.
    pub fn from_kind(kind: u8, next_us: u64) -> Option<Self> {
        Some(match kind {
            kind::DELIVERED => Self::Delivered,
            kind::DEFERRED => Self::Deferred { next_us },
            kind::FAILED => Self::Failed,
            kind::EXPIRED => Self::Expired,
            kind::REMOVED => Self::Removed { until_us: next_us },
            kind::RESTORED => Self::Restored { next_us },
            kind::PURGED => Self::Purged,
            kind::HELD => Self::Held,
            kind::RELEASED => Self::Released,
            kind::RETRY => Self::Retry { next_us },
            kind::NOTE => Self::Note,
            _ => return None,
        })
    }

    /// As a caller asks for it: time 0 is now, and a grace that is over already is none.
    pub fn asked(kind: u8, next_us: u64, now_us: u64) -> Option<Self> {
        let next_us = match kind {
            kind::REMOVED if next_us <= now_us => 0,
            kind::REMOVED => next_us,
            _ if next_us == 0 => now_us,
            _ => next_us,
        };
        Self::from_kind(kind, next_us)
    }

    /// Legal for this recipient? `named`: it is meant by its number, not as one of all.
    pub fn applies(&self, r: &Recipient, named: bool) -> bool {
        match self {
            Self::Note => false,
            Self::Held => r.pending() && !r.has(HELD),
            Self::Released => r.pending() && r.has(HELD),
            Self::Restored { .. } | Self::Purged => r.in_grace(),
            Self::Delivered | Self::Failed => r.pending() || named && r.in_grace(),
            _ => r.pending(),
        }
    }

    pub fn is_note(&self) -> bool {
        *self == Self::Note
    }

    /// Does it make the recipient's state final?
    pub fn ends(&self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Expired | Self::Removed { until_us: 0 } | Self::Purged)
    }

    /// The time in its journal record.
    pub fn time(&self) -> u64 {
        match self {
            Self::Deferred { next_us } | Self::Retry { next_us } | Self::Reroute { next_us, .. } | Self::Restored { next_us } => *next_us,
            Self::Removed { until_us } => *until_us,
            _ => 0,
        }
    }

    /// Writes the journaled part of the outcome.
    pub fn write(&self, r: &mut Recipient) {
        match self {
            Self::Delivered => (r.state, r.attempts) = (State::Delivered, r.attempts.saturating_add(1)),
            Self::Failed => (r.state, r.attempts) = (State::Failed, r.attempts.saturating_add(1)),
            Self::Deferred { next_us } => (r.next_us, r.attempts) = (*next_us, r.attempts.saturating_add(1)),
            Self::Expired => r.state = State::Expired,
            Self::Removed { until_us: 0 } => r.state = State::Removed,
            Self::Removed { until_us } => (r.state, r.flags, r.next_us) = (State::Removed, r.flags | GRACE, *until_us),
            Self::Restored { next_us } => (r.state, r.flags, r.next_us) = (State::Pending, r.flags & !GRACE, *next_us),
            Self::Held => r.flags |= HELD,
            Self::Released => r.flags &= !HELD,
            Self::Retry { next_us } => r.next_us = *next_us,
            Self::Reroute { next_us, .. } => (r.next_us, r.flags) = (*next_us, r.flags | REROUTED),
            // The flag of a grace goes when it is left.
            Self::Purged | Self::Note => {}
        }
    }
}
