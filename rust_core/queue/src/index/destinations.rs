//! Destinations by number: how many recipients each has, and which have news. A number is given again when nobody names it any more.

use std::collections::BTreeSet;

use crate::index::parked::{Outage, Parked};
use crate::index::ready::Queue;
use crate::index::{Index, NOWHERE};

#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub name: Box<str>,
    pub pending: u32,
    /// Recipients in grace that name it.
    pub kept: u32,
    pub in_flight: u32,
    /// Recipients whose READY flag is set.
    pub ready: u32,
    pub queue: Queue,
    /// Ready ones that wait for the end of an outage, or did, the longest in the queue first. Taken when `queue` is empty.
    pub parked: BTreeSet<Parked>,
    pub outage: Option<Box<Outage>>,
    /// Its name waits in the outbox.
    pub announced: bool,
}

impl Index {
    /// Number of a destination, made if need be.
    pub fn intern(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return NOWHERE;
        }
        if let Some(found) = self.by_name.get(name) {
            return *found;
        }
        let destination = Destination { name: name.into(), ..Destination::default() };
        let number = if let Some(number) = self.free_destinations.pop() {
            self.destinations[number as usize] = destination;
            number
        } else {
            self.destinations.push(destination);
            (self.destinations.len() - 1) as u32
        };
        self.by_name.insert(name.into(), number);
        number
    }

    pub fn destination(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub fn destination_name(&self, number: u32) -> &str {
        self.destinations.get(number as usize).map_or("", |d| &d.name)
    }

    /// Forgets a destination that nobody uses.
    pub fn release_destination(&mut self, number: u32) {
        let Some(d) = self.destinations.get_mut(number as usize) else { return };
        if d.pending == 0 && d.kept == 0 && !d.announced && !d.name.is_empty() {
            let name = std::mem::take(&mut d.name);
            d.queue = Queue::default();
            self.come_up(number);
            self.by_name.remove(&name);
            self.free_destinations.push(number);
        }
    }

    /// Its name is to be told, if it has something ready.
    pub(super) fn announce(&mut self, number: u32) {
        let d = &mut self.destinations[number as usize];
        if d.ready > 0 && !d.announced {
            d.announced = true;
            self.outbox.ready.push(number);
        }
    }

    /// Recipients that may be taken now.
    pub fn takeable(&self, number: u32, now_us: u64) -> u32 {
        let d = &self.destinations[number as usize];
        let down = d.outage.as_ref().is_some_and(|outage| now_us < outage.until_us);
        if down { 0 } else { d.ready }
    }

    /// Names of the destinations that became ready since the last call.
    pub fn drain_ready(&mut self) -> Vec<String> {
        let numbers = std::mem::take(&mut self.outbox.ready);
        let mut names = Vec::with_capacity(numbers.len());
        for number in numbers {
            let d = &mut self.destinations[number as usize];
            d.announced = false;
            if d.ready > 0 {
                names.push(d.name.to_string());
            }
            self.release_destination(number);
        }
        names
    }

    pub(super) fn count_pending(&mut self, destination: u32, by: i32) {
        if destination != NOWHERE {
            let d = &mut self.destinations[destination as usize];
            d.pending = d.pending.saturating_add_signed(by);
        }
    }
}
