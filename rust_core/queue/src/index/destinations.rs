//! Destinations by number: how many recipients each has, and which have news. A number is given again when nobody names it any more.

use std::collections::BTreeSet;

use crate::filter::domain_of;
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
    pub homes: Homes,
}

/// The domains of the addresses that came with a destination: of all its recipients but those rerouted to it. So what is looked for by domain
/// need not be read from the records of every message. A set that only grows while the destination is known.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Homes {
    /// None came yet.
    #[default]
    None,
    /// All have this one, in lower case.
    One(Box<str>),
    /// Several, or it is not known.
    Many,
}

impl Homes {
    /// The domain that all have.
    pub fn one(&self) -> Option<&str> {
        if let Self::One(domain) = self { Some(domain) } else { None }
    }

    /// An address came.
    fn add(&mut self, domain: &str) {
        match self {
            Self::None => *self = Self::One(domain.to_lowercase().into()),
            Self::One(known) if **known != *domain && **known != *domain.to_lowercase() => *self = Self::Many,
            _ => {}
        }
    }
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

    /// Number of the destination that a message came with for this address.
    pub fn intern_for(&mut self, name: &str, address: &str) -> u32 {
        let number = self.intern(name);
        if let Some(d) = self.destinations.get_mut(number as usize) {
            d.homes.add(domain_of(address));
        }
        number
    }

    /// What a checkpoint tells of a destination; an empty domain for several, or none that is known.
    pub fn restore_home(&mut self, name: &str, domain: &str) {
        let Some(number) = self.destination(name) else { return };
        let homes = &mut self.destinations[number as usize].homes;
        if domain.is_empty() {
            *homes = Homes::Many;
        } else {
            homes.add(domain);
        }
    }

    /// The domain that all recipients of a destination have, as far as they were not rerouted to it.
    pub fn home(&self, number: u32) -> Option<&str> {
        self.destinations.get(number as usize)?.homes.one()
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
            d.homes = Homes::None;
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
