//! Which segments are still needed.
//!
//! A segment may go when no live message and no message being received has a record in it, and when every segment it vouches for is gone. It vouches for
//! segment A when it holds the record that finished a message accepted in A: as long as A can be replayed, so must be
//! the word that its message is finished. Thus replaying whatever segments exist, with no checkpoint, always gives the right state.
//!
//! By that alone one message that stays long would keep every later segment: B vouches for its segment A, C for B, and so on. So
//! when enough segments are kept only by others, a remain record says at once what is left of the segments that live messages keep.
//! Its segment then vouches for those, and no older one needs to ([`Segments::supersede`]).

use std::collections::{BTreeMap, BTreeSet};

/// Segments a message has records in besides the one of its accepted record and the one of its newest record.
pub(crate) type Extra = Vec<u32>;

#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Live messages (and messages being received) with a record in the segment.
    live: BTreeMap<u32, u32>,
    /// By segment: the older ones it vouches for.
    vouches: BTreeMap<u32, BTreeSet<u32>>,
    /// Something may have become free since the last sweep.
    pub dirty: bool,
}

/// Segments without a live record that are kept for those they vouch for.
#[derive(Debug, Default)]
pub(crate) struct Blocked {
    pub count: usize,
    pub octets: u64,
    /// The older segments with live records that keep them.
    pub by: BTreeSet<u32>,
    /// Live messages with records in those, one with records in several counted for each.
    pub messages: u64,
}

impl Segments {
    pub fn add(&mut self, segment: u32) {
        *self.live.entry(segment).or_insert(0) += 1;
    }

    pub fn drop(&mut self, segment: u32) {
        if let Some(count) = self.live.get_mut(&segment) {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&segment);
                self.dirty = true;
            }
        }
    }

    /// `finisher` holds the record that finished a message accepted in `accepted`.
    pub fn vouch(&mut self, finisher: u32, accepted: u32) {
        if finisher != accepted {
            self.vouches.entry(finisher).or_default().insert(accepted);
        }
    }

    /// The segments it vouches for.
    pub fn vouched_by(&self, finisher: u32) -> Vec<u32> {
        self.vouches.get(&finisher).map(|older| older.iter().copied().collect()).unwrap_or_default()
    }

    /// Live messages with a record in the segment.
    pub fn count(&self, segment: u32) -> u32 {
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// No live message has a record in it.
    pub fn is_dead(&self, segment: u32) -> bool {
        !self.live.contains_key(&segment)
    }

    pub fn is_free(&self, segment: u32) -> bool {
        !self.live.contains_key(&segment) && !self.vouches.contains_key(&segment)
    }

    /// Which of these segments are kept only because they vouch, and what it takes to free them all.
    pub fn blocked(&self, sealed: &[(u32, u64)]) -> Blocked {
        let mut blocked = Blocked::default();
        for (number, octets) in sealed.iter().filter(|(n, _)| !self.live.contains_key(n)) {
            let Some(older) = self.vouches.get(number) else { continue };
            blocked.count += 1;
            blocked.octets += octets;
            // The others are blocked themselves, and go with them.
            blocked.by.extend(older.iter().filter(|n| self.live.contains_key(n)));
        }
        blocked.messages = blocked.by.iter().filter_map(|n| self.live.get(n)).map(|count| u64::from(*count)).sum();
        blocked
    }

    /// A durable record in `by` says what is left of each of these segments: those before it need not vouch for them any more.
    pub fn supersede(&mut self, segments: &BTreeSet<u32>, by: u32) {
        for (_, older) in self.vouches.range_mut(..by) {
            older.retain(|n| !segments.contains(n));
        }
        self.vouches.retain(|_, older| !older.is_empty());
    }

    /// The segment does not exist any more.
    pub fn gone(&mut self, segment: u32) {
        self.live.remove(&segment);
        self.vouches.remove(&segment);
        for older in self.vouches.values_mut() {
            older.remove(&segment);
        }
        self.vouches.retain(|_, older| !older.is_empty());
    }

    /// Forgets what is said about segments that do not exist.
    pub fn retain(&mut self, exists: &BTreeSet<u32>) {
        for older in self.vouches.values_mut() {
            older.retain(|s| exists.contains(s));
        }
        self.vouches.retain(|finisher, older| exists.contains(finisher) && !older.is_empty());
    }

    /// (finisher, accepted) pairs, for the checkpoint.
    pub fn vouched(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.vouches.iter().flat_map(|(finisher, older)| older.iter().map(|accepted| (*finisher, *accepted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_finished_a_message_outlives_the_one_that_accepted_it() {
        let mut segments = Segments::default();
        segments.add(1);
        segments.add(1);
        segments.drop(1);
        segments.vouch(2, 1);
        segments.vouch(1, 1);
        assert!(!segments.is_free(1) && !segments.is_free(2));
        segments.drop(1);
        assert!(segments.dirty && segments.is_free(1) && !segments.is_free(2));
        segments.gone(1);
        assert!(segments.is_free(2));
    }

    #[test]
    fn a_chain_of_vouchers_ends_at_the_segment_that_says_what_is_left() {
        let mut segments = Segments::default();
        segments.add(1);
        for n in 2..=5 {
            segments.vouch(n, n - 1);
        }
        segments.vouch(4, 1);
        let sealed: Vec<_> = (1..=4).map(|n| (n, 10)).collect();
        let blocked = segments.blocked(&sealed);
        assert_eq!((blocked.count, blocked.octets, blocked.messages), (3, 30, 1));
        assert_eq!(blocked.by, BTreeSet::from([1]));
        segments.vouch(5, 1);
        segments.supersede(&BTreeSet::from([1]), 5);
        assert!(segments.is_free(2) && !segments.is_free(3));
        for n in 2..=4 {
            assert!(segments.is_free(n));
            segments.gone(n);
        }
        assert!(!segments.is_free(1) && !segments.is_free(5));
        segments.drop(1);
        segments.gone(1);
        assert!(segments.is_free(5));
    }
}
