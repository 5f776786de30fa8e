//! Reading what was in a log before it was opened, while new records are appended to it already. Used by a recovery that does not keep its
//! callers waiting (the spool's).
//!
//! [`crate::Prepared::replay`] must have sealed the last segment of the former run; so every segment is whole, and what is no record is damage.

use crate::error::LogError;
use crate::format::Loc;
use crate::log::Log;
use crate::recover::{Recovery, Replay, scan, set_aside};
use crate::segment::Segment;

impl Log {
    /// Hands over every valid record at or after `from` in the segments before `before`, in log order; sets damaged places aside and reports them.
    /// An error of the callback ends the replay. None of these segments may be freed meanwhile.
    pub fn replay_before(&self, from: Loc, before: u32, each: &mut Replay<'_>) -> Result<Recovery, LogError> {
        let mut recovery = Recovery::default();
        let older = self.segments().into_iter().map(|(number, _)| number).filter(|n| (from.segment..before).contains(n));
        for number in older {
            let (segment, _) = Segment::open(self.storage(), self.dir(), number, false)?;
            let start = if number == from.segment { from.offset } else { 0 };
            let known = recovery.damaged.len();
            let mut wanted = |loc: Loc, kind: u8, payload: &[u8]| if loc < from { Ok(()) } else { each(loc, kind, payload) };
            if scan(&segment, start, false, &mut wanted, &mut recovery)?.unread {
                self.shared.unread.lock().insert(number);
            }
            for damage in &mut recovery.damaged[known..] {
                if let Err(error) = set_aside(self.storage(), self.dir(), &segment, damage) {
                    damage.reason = format!("{}; no copy could be made: {error}", damage.reason);
                }
            }
        }
        Ok(recovery)
    }

    /// Closes the log for good, as a failed sync does: its owner cannot vouch for what is in it.
    pub fn fail(&self, error: LogError) {
        let mut state = self.shared.state.lock();
        state.fatal.get_or_insert(error);
        drop(state);
        self.shared.work.notify_all();
        self.shared.settled.notify_all();
    }
}
