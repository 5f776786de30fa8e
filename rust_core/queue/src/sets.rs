//! Sets of segments that messages have records in besides those of their accepted and their newest record. Messages that went through the same
//! operations share one set, so that a million messages held and released cost a few sets, not a million lists.

use std::collections::HashMap;
use std::sync::Arc;

/// The set of nothing.
pub(crate) const EMPTY: u32 = 0;

#[derive(Debug)]
struct Set {
    segments: Arc<[u32]>,
    /// Messages that have it.
    users: u32,
}

/// All sets in use, by number.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    /// From number 1 on.
    all: Vec<Set>,
    free: Vec<u32>,
    known: HashMap<Arc<[u32]>, u32>,
}

impl Sets {
    /// Number of the set of these segments, for one more user.
    pub fn take(&mut self, mut segments: Vec<u32>) -> u32 {
        segments.sort_unstable();
        segments.dedup();
        if segments.is_empty() {
            return EMPTY;
        }
        if let Some(number) = self.known.get(segments.as_slice()) {
            self.all[*number as usize - 1].users += 1;
            return *number;
        }
        let segments: Arc<[u32]> = segments.into();
        let set = Set { segments: Arc::clone(&segments), users: 1 };
        let number = if let Some(number) = self.free.pop() {
            self.all[number as usize - 1] = set;
            number
        } else {
            self.all.push(set);
            self.all.len() as u32
        };
        self.known.insert(segments, number);
        number
    }

    /// The set with one segment more; the user changes over to it.
    pub fn with(&mut self, number: u32, segment: u32) -> u32 {
        let mut segments = self.segments(number).to_vec();
        segments.push(segment);
        self.release(number);
        self.take(segments)
    }

    /// The set with one segment less; the user changes over to it.
    pub fn without(&mut self, number: u32, segment: u32) -> u32 {
        let segments = self.segments(number).iter().copied().filter(|s| *s != segment).collect();
        self.release(number);
        self.take(segments)
    }

    pub fn segments(&self, number: u32) -> &[u32] {
        if number == EMPTY { &[] } else { &self.all[number as usize - 1].segments }
    }

    /// One user less. Gives the segments it had.
    pub fn release(&mut self, number: u32) -> Arc<[u32]> {
        if number == EMPTY {
            return Arc::default();
        }
        let set = &mut self.all[number as usize - 1];
        set.users -= 1;
        let segments = Arc::clone(&set.segments);
        if set.users == 0 {
            set.segments = Arc::default();
            self.known.remove(&segments);
            self.free.push(number);
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_segments_are_one_set_until_nobody_has_it() {
        let mut sets = Sets::default();
        assert_eq!(sets.take(Vec::new()), EMPTY);
        let one = sets.take(vec![7, 3, 7]);
        assert_eq!((sets.take(vec![3, 7]), sets.segments(one)), (one, &[3, 7][..]));
        let more = sets.with(one, 9);
        assert_eq!(sets.segments(more), [3, 7, 9]);
        let less = sets.with(one, 8);
        let one = sets.without(less, 8);
        assert_eq!(sets.segments(one), [3, 7]);
        assert_eq!(&*sets.release(one), [3, 7]);
        assert_eq!(&*sets.release(more), [3, 7, 9]);
        assert_eq!((sets.known.len(), sets.take(vec![5]), sets.free.len()), (0, more, 1));
        assert!(sets.release(EMPTY).is_empty());
    }
}
