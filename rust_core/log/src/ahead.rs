//! Zeros written ahead of the records of a fresh segment, by the keeper.
//!
//! A sync of octets in blocks that were never written costs the file system a commit of its own journal, one in blocks that were
//! written before does not: a third of its time and half of its processor time. Freed segments that are used again have such blocks; a fresh
//! one gets them here, a stretch at a time and well ahead of the records, while the records come in small batches. Large
//! batches pay for that commit by themselves, and the zeros would take the disk from them.
//!
//! Invariants: no append reaches a stretch while it is being written (`await_zeros`), and no segment is cut to its length meanwhile, so zeros
//! never stand on a record and never lengthen a segment that has ended. Failure: the segment goes on without zeros; what is wrong with the
//! disk shows itself at the next record. The file is never synced here: that would take the error of a failed write from the committer.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::batch::SpareFile;
use crate::format::SEGMENT_HEADER;
use crate::state::{Shared, State};
use crate::storage::StorageFile;

/// A stretch is this part of a segment, and the gap between the records and a stretch that is being written is a stretch at least.
const STRETCHES: u32 = 64;
const LONGEST: u32 = 1 << 20;
/// Stretches that are to be ready ahead of the records.
const LEAD: u32 = 4;
/// Batches of more than this need no zeros.
const SMALL_BATCH: usize = 192 << 10;
const PAGE: u32 = 4096;
/// Written again and again: a stretch of zeros of its own would be a megabyte of the process's memory.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The active segment's file, and how far its blocks were written before.
#[derive(Default)]
pub(crate) struct Ahead {
    /// None before there is a segment.
    file: Option<Arc<dyn StorageFile>>,
    /// All blocks up to here have been written, but for those that records passed without zeros.
    ready: u32,
    /// Where the stretch begins that is being written now.
    busy: Option<u32>,
    /// Size of batches, the last ones above all.
    batch: usize,
}

impl Ahead {
    /// For a file that is about to become the active segment, behind the one this was for.
    pub fn next(&self, spare: &SpareFile) -> Self {
        let ready = if spare.former.is_some() { spare.size } else { SEGMENT_HEADER };
        Self { file: Some(Arc::clone(&spare.file)), ready, busy: None, batch: self.batch }
    }

    /// A batch of that many octets is about to be written.
    pub fn note_batch(&mut self, octets: usize) {
        self.batch = (3 * self.batch + octets) / 4;
    }
}

impl State {
    /// Whether the records come close to where no zeros are: half of what is to be ready is left.
    pub fn zeros_wanted(&self) -> bool {
        self.ahead.batch <= SMALL_BATCH
            && self.ahead.ready < self.limit
            && self.offset.saturating_add(LEAD / 2 * self.stretch()) > self.ahead.ready
    }

    fn stretch(&self) -> u32 {
        (self.limit / STRETCHES).clamp(PAGE, LONGEST)
    }

    /// Whether zeros are being written somewhere before `offset`.
    pub fn zeros_before(&self, offset: u32) -> bool {
        self.ahead.busy.is_some_and(|start| start < offset)
    }

    /// The next stretch to be written, if there is reason to.
    fn zeros_due(&self) -> Option<Range<u32>> {
        let ahead = &self.ahead;
        if self.closing || self.cut || self.fatal.is_some() || ahead.batch > SMALL_BATCH {
            return None;
        }
        if ahead.file.is_none() || ahead.ready >= self.limit || ahead.ready > self.offset.saturating_add(LEAD * self.stretch()) {
            return None;
        }
        let start = ahead.ready.max(self.offset.saturating_add(self.stretch())).next_multiple_of(PAGE);
        let end = start.saturating_add(self.stretch()).min(self.limit);
        (start < end).then_some(start..end)
    }
}

/// Writes the next stretch; false when none is due. The state is unlocked meanwhile.
pub(crate) fn write_zeros(state: &mut MutexGuard<'_, State>) -> bool {
    let (Some(stretch), Some(file)) = (state.zeros_due(), state.ahead.file.clone()) else { return false };
    let number = state.segment;
    state.ahead.busy = Some(stretch.start);
    let written = MutexGuard::unlocked(state, || {
        for at in stretch.clone().step_by(ZEROS.len()) {
            let piece = ZEROS.len().min((stretch.end - at) as usize);
            file.write_at(&ZEROS[..piece], u64::from(at))?;
        }
        file.begin_writing(u64::from(stretch.start), stretch.len() as u64);
        Ok::<(), std::io::Error>(())
    });
    state.ahead.busy = None;
    if state.segment == number {
        state.ahead.ready = if written.is_ok() { stretch.end } else { state.limit };
    }
    true
}

impl Shared {
    /// Until no zeros are being written at or before `offset`.
    pub fn await_zeros(&self, state: &mut MutexGuard<'_, State>, offset: u32) {
        while state.zeros_before(offset) {
            self.settled.wait(state);
        }
    }
}
