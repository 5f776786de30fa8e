//! Which segments are still needed.
//!
//! A segment may go when no live message and no message being received has a record in it, and when every segment it vouches for is gone. It vouches for
//! segment A when it holds the record that finished a message accepted in A: as long as A can be replayed, so must be
//! the word that its message is finished. Thus replaying whatever segments exist, with no checkpoint, always gives the right state.

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

    pub fn is_free(&self, segment: u32) -> bool {
        !self.live.contains_key(&segment) && !self.vouches.contains_key(&segment)
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
}
