//! What a history does not know: rows that newer ones replaced, and spans of time of which records are missing.
//!
//! Records are missing when the log had let go of them before they were read (the history lagged too far, space was short) or when files of the history
//! were lost. A message that was in the queue in such a span may have left it without a word here: it must not be told as surely pending.

use gatepost_queue::now_us;
use rusqlite::Connection;

use crate::error::HistoryError;
use crate::file::{meta, pair_of};
use crate::filter::Filter;
use crate::query::Scope;

/// Gaps kept at most; beyond them the two oldest become one.
const MAX: usize = 64;

/// Records of this span of time are missing, all or some. Unix microseconds, both ends inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Time of the last record known before it.
    pub from_us: u64,
    /// Time of a record known after it.
    pub to_us: u64,
}

impl Gap {
    /// Whether it may concern what a search asks for.
    pub fn concerns(&self, filter: &Filter, scope: Scope) -> bool {
        let until = match scope {
            Scope::All => u64::MAX,
            Scope::At(at) | Scope::Between { to: at, .. } => at,
        };
        let since = filter.ids.map_or(0, |(low, _)| id_us(&low)).max(filter.since_us);
        self.to_us >= since && self.from_us <= until
    }

    /// Whether a message may have been in the queue meanwhile. `left_us`: when it left, None while it is there.
    pub fn meets(&self, received_us: u64, left_us: Option<u64>) -> bool {
        received_us <= self.to_us && left_us.is_none_or(|left| left >= self.from_us)
    }
}

fn id_us(id: &[u8; 16]) -> u64 {
    id[..6].iter().fold(0u64, |ms, octet| ms << 8 | u64::from(*octet)) * 1000
}

/// All gaps of a history, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps(pub Vec<Gap>);

impl Gaps {
    /// Takes one in; joined with those it touches.
    pub fn add(&mut self, mut gap: Gap) {
        self.0.retain(|one| {
            let apart = one.to_us < gap.from_us || one.from_us > gap.to_us;
            if !apart {
                (gap.from_us, gap.to_us) = (gap.from_us.min(one.from_us), gap.to_us.max(one.to_us));
            }
            apart
        });
        self.0.push(gap);
        self.0.sort_unstable_by_key(|gap| gap.from_us);
        while self.0.len() > MAX {
            let oldest = self.0.remove(0);
            self.0[0].from_us = oldest.from_us;
        }
    }

    /// Forgets those that ended before.
    pub fn forget(&mut self, before_us: u64) {
        self.0.retain(|gap| gap.to_us >= before_us);
    }

    /// As they are kept.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|gap| gap.from_us.to_le_bytes().into_iter().chain(gap.to_us.to_le_bytes())).collect()
    }

    /// Adds those that a file tells.
    pub fn read(&mut self, db: &Connection) -> Result<(), HistoryError> {
        let octets: Vec<u8> = meta(db, "gaps")?.unwrap_or_default();
        let number = |b: &[u8]| b.try_into().map(u64::from_le_bytes);
        for one in octets.chunks_exact(16) {
            if let (Ok(from_us), Ok(to_us)) = (number(&one[..8]), number(&one[8..])) {
                self.add(Gap { from_us, to_us: to_us.min(now_us()) });
            }
        }
        Ok(())
    }
}

/// Rows of one file that newer files replaced: a bit each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voids(Vec<u64>);

impl Voids {
    /// Notes a row.
    pub fn set(&mut self, row: u32) {
        let word = row as usize / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (row % 64);
    }

    /// Whether it was noted.
    pub fn has(&self, row: u32) -> bool {
        self.0.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }
}

/// Calls `f` with file and row of what the rows of a file replaced.
pub fn read_voids(db: &Connection, f: &mut dyn FnMut(u32, u32)) -> Result<(), HistoryError> {
    let mut query = db.prepare("SELECT data FROM void")?;
    let mut blobs = query.query([])?;
    while let Some(blob) = blobs.next()? {
        for pair in blob.get_ref(0)?.as_blob().unwrap_or_default().chunks_exact(8) {
            let (file, row) = pair_of(pair);
            f(file, row.min(1 << 24));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_that_touch_are_one_and_the_oldest_are_joined_when_there_are_many() {
        let gap = |from_us, to_us| Gap { from_us, to_us };
        let mut gaps = Gaps::default();
        [gap(10, 20), gap(40, 50), gap(20, 30)].into_iter().for_each(|one| gaps.add(one));
        assert_eq!(gaps.0, [gap(10, 30), gap(40, 50)]);
        gaps.forget(31);
        assert_eq!(gaps.0, [gap(40, 50)]);
        (0..200).for_each(|n| gaps.add(gap(100 + 10 * n, 101 + 10 * n)));
        assert_eq!((gaps.0.len(), gaps.0[0].from_us), (MAX, 40));
    }

    #[test]
    fn a_gap_meets_messages_that_were_in_the_queue_meanwhile() {
        let gap = Gap { from_us: 10, to_us: 20 };
        assert!(gap.meets(5, None) && gap.meets(20, None) && gap.meets(5, Some(10)));
        assert!(!gap.meets(21, None) && !gap.meets(5, Some(9)));
    }
}
