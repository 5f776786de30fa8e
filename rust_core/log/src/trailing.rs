//! What of long records the system need not keep in memory any more.
//!
//! The system keeps what is written until memory is short, and takes fresh memory for what is written next. In a virtual machine the host has to
//! find each page of that, which was seen to cost ten times as much as the copy: 3 ms for a MiB instead of 0.3. So of long messages only what
//! was written last stays, for deliveries that follow at once, and the memory of what lies further back takes what comes next. Called by the
//! committer with what is synced. Short records stay: searches read them. Nothing depends on it: all is hints, and what is gone is read from the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::batch::Run;
use crate::segment::Segment;

/// Octets that stay in memory.
const KEPT: u64 = 64 << 20;
/// Runs of less are not worth a call.
const LEAST: usize = 64 << 10;

/// The runs of long records that were written last.
#[derive(Default)]
pub(crate) struct Trailing {
    runs: VecDeque<(Weak<Segment>, u64, u64)>,
    octets: u64,
}

impl Trailing {
    /// A run of this segment is on the disk.
    pub fn note(&mut self, segment: &Arc<Segment>, run: &Run) {
        if run.bytes.len() < LEAST || run.long < run.bytes.len() / 2 {
            return;
        }
        let length = run.bytes.len() as u64;
        self.runs.push_back((Arc::downgrade(segment), u64::from(run.start), length));
        self.octets += length;
        while self.octets > KEPT
            && let Some((segment, start, length)) = self.runs.pop_front()
        {
            self.octets -= length;
            if let Some(segment) = segment.upgrade() {
                segment.file().forget_read(start, length);
            }
        }
    }
}
