//! What is in the log but not in the index yet. The index notes how far a stream is applied; that mark may pass no record that
//! is still on its way, or a crash would lose it. A flight is announced before its first append and ends with its commit.

use std::collections::BTreeSet;

use gatepost_log::{Loc, Log};
use parking_lot::Mutex;

/// Open flights of the own stream, by the place their records are at or behind.
#[derive(Default)]
pub struct Flights(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeSet<(u64, u64)>,
}

/// One announced flight. It stays open until [`Flights::end`], which comes when its records are in the index or its caller has been told that they are not.
pub struct Flight {
    key: (u64, u64),
    /// The log's count of losses before the flight's first append: a sync covers its records only while it stays.
    pub losses: u64,
}

impl Flight {
    /// Tells it from every other.
    pub fn key(&self) -> (u64, u64) {
        self.key
    }
}

impl Flights {
    /// Announce appends to `log`.
    pub fn begin(&self, log: &Log) -> Flight {
        let mut state = self.0.lock();
        state.next += 1;
        let losses = log.losses();
        let key = (log.tail().pack(), state.next);
        state.open.insert(key);
        Flight { key, losses }
    }

    /// How far the stream is applied once `flight` is committed: everything before this place.
    pub fn applied_without(&self, flight: &Flight, log: &Log) -> Loc {
        let state = self.0.lock();
        let first = state.open.iter().find(|k| **k != flight.key);
        first.map_or_else(|| log.tail(), |(at, _)| Loc::unpack(*at))
    }

    /// The flight's records are in the index, or whoever wanted them there knows that they are not.
    pub fn end(&self, flight: &Flight) {
        self.0.lock().open.remove(&flight.key);
    }

    /// First segment that may hold records of an open flight.
    pub fn first_segment(&self) -> Option<u32> {
        self.0.lock().open.first().map(|(at, _)| Loc::unpack(*at).segment)
    }
}
