//! The partition's chores thread: frees segments nobody needs, moves what is left in mostly dead ones (`compact`), writes a checkpoint when the log has
//! grown enough, and briefs of older segments (`briefs`). It sleeps until someone says that there may be something to do; nothing depends on it but disk space and the time the next opening takes.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gatepost_log::Class;
use parking_lot::MutexGuard;

use crate::codec::{KIND_CHUNK, KIND_REMAIN, encode_chunk, encode_remain};
use crate::index::Index;
use crate::spool::Core;

/// Log written since the last checkpoint that makes a new one worthwhile, at least.
const CHECKPOINT_EVERY: u64 = 64 << 20;
/// Octets of checkpoint per message, roughly.
const CHECKPOINT_COST: u64 = 72;
/// Messages in a checkpoint that are not worth a new one when they are gone.
const CHECKPOINT_SPARE: u64 = 64 << 10;
/// Messages of which the memory may stay with the process.
const MEMORY_SPARE: u64 = 128 << 10;
/// Segments a remain record must free; one is enough when the partition takes too much disk.
const REMAIN_FREES: usize = 3;
/// Octets a remain record must free for each of its own.
const REMAIN_WORTH: u64 = 16;
/// Octets of a remain record per message, roughly.
const REMAIN_COST: u64 = 16;
/// Octets between the two copies of a remain record: a sector of most disks.
const APART: usize = 4 << 10;
/// Messages looked at with the index locked once, when all are: less than a millisecond.
const LOOK: usize = 32 << 10;
/// Steps of compaction without a rest, while it is behind.
const STEPS: usize = 8;
/// How soon to look again at a segment that was still being written, or to go on with compaction.
const AGAIN: Duration = Duration::from_millis(20);
/// How soon to look at the disk use again when nothing happens: messages may have finished without a segment getting full.
const IDLE: Duration = Duration::from_secs(10);

/// A remain record that was appended.
struct Written {
    segment: u32,
    /// The segments it speaks of.
    older: BTreeSet<u32>,
    /// The log's losses before it.
    losses: u64,
}

impl Core {
    /// Runs until the partition closes.
    pub fn keep(&self) {
        let mut again = true;
        loop {
            {
                let mut chores = self.shared.chores_wanted.lock();
                if !chores.sweep && !chores.stop {
                    self.shared.chores.wait_for(&mut chores, if again { AGAIN } else { IDLE });
                }
                if chores.stop {
                    return;
                }
                chores.sweep = false;
            }
            again = self.tidy();
        }
    }

    /// One round of chores. True when something was busy.
    pub fn tidy(&self) -> bool {
        if self.shared.index.lock().loading {
            // What is needed is not known yet. The end of the recovery asks again.
            return false;
        }
        let mut busy = self.settle_debts();
        busy |= self.sweep();
        for _ in 0..STEPS {
            let more = self.compact();
            if more {
                busy = true;
                self.sweep();
            }
            let behind = self.pressed();
            self.behind.store(behind, Ordering::Relaxed);
            if !more || !behind {
                break;
            }
        }
        if self.checkpoint_due() {
            // A failure costs nothing but time at the next opening, and the log reports what is wrong with the disk.
            let _ = self.checkpoint();
        }
        busy |= self.tend_briefs();
        self.shed_memory();
        busy
    }

    /// Writes what is owed. True when something is left.
    fn settle_debts(&self) -> bool {
        let mut index = self.shared.index.lock();
        let owing = self.pay(&mut index).is_err();
        let unresolved = !index.debts.unresolved.is_empty();
        drop(index);
        let unknown = unresolved && !self.resolve_debts();
        (owing || unknown) && self.log.fatal().is_none()
    }

    /// Frees what can be freed. True when something was busy.
    fn sweep(&self) -> bool {
        let busy = self.free_unneeded();
        let Some(written) = self.write_remain() else { return busy };
        // What it makes needless goes only when it is on the disk. If it got lost, everything stays as it was.
        if self.log.sync_since(written.losses).is_err() {
            return busy;
        }
        self.shared.index.lock().segments.supersede(&written.older, written.segment);
        self.free_unneeded()
    }

    /// When enough segments are kept only because they vouch: writes down which messages are left in the segments they vouch for.
    fn write_remain(&self) -> Option<Written> {
        let segments = self.log.segments();
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let blocked = {
            let index = self.shared.index.lock();
            let blocked = index.segments.blocked(sealed);
            let enough = if self.crowded(&index, sealed) { 1 } else { REMAIN_FREES };
            if blocked.count < enough || blocked.octets < REMAIN_WORTH * REMAIN_COST * blocked.messages {
                return None;
            }
            blocked
        };
        let slots = self.accepted_in(&blocked.by);
        let mut index = self.shared.index.lock();
        let losses = self.log.losses();
        let remain = encode_remain(&index.remain(&blocked.by, &slots));
        // What it stands for is gone afterwards: it is written twice, so far apart that damage to one copy leaves the other.
        let first = self.append_remain(&mut index, &remain, &blocked.by)?;
        self.log.append(KIND_CHUNK, &[&encode_chunk(&[0; 16], 0), &[0; APART]], Class::Journal, None).ok()?;
        self.append_remain(&mut index, &remain, &blocked.by)?;
        Some(Written { segment: first, older: blocked.by, losses })
    }

    /// Slots of the messages accepted in these sealed segments. The index is locked for a part of them at a time.
    pub fn accepted_in(&self, segments: &BTreeSet<u32>) -> Vec<u32> {
        let (mut slots, mut from) = (Vec::new(), 0);
        loop {
            let index = self.shared.index.lock();
            let part = index.accepted_in(segments, from, LOOK);
            MutexGuard::unlock_fair(index);
            let Some(part) = part else { return slots };
            slots.extend(part);
            from += LOOK;
        }
    }

    /// Appends one copy, and has its segment vouch from now on, so that a checkpoint taken before the older vouchers are let go knows of it.
    fn append_remain(&self, index: &mut Index, remain: &[u8], older: &BTreeSet<u32>) -> Option<u32> {
        let loc = self.log.append(KIND_REMAIN, &[remain], Class::Journal, None).ok()?;
        for segment in older {
            index.segments.vouch(loc.segment, *segment);
        }
        self.note_segment(index, loc.segment);
        Some(loc.segment)
    }

    /// Frees segments nobody needs, and those that thereby become needless. True when one was busy.
    ///
    /// They go only when the records that finished their messages are on the disk: else a crash could bring a message back without its later changes.
    fn free_unneeded(&self) -> bool {
        let sealed = |segments: &[(u32, u64)]| segments[..segments.len().saturating_sub(1)].iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let dead: BTreeSet<u32> = {
            let mut index = self.shared.index.lock();
            index.segments.dirty = false;
            let segments = self.log.segments();
            let (sealed, unread) = (sealed(&segments), self.floor.first_kept(&segments, self.log.free_bytes()));
            if !sealed.iter().any(|n| *n < unread && index.segments.is_free(*n)) {
                return false;
            }
            sealed.into_iter().filter(|n| index.segments.is_dead(*n)).collect()
        };
        if let Err(error) = self.log.sync() {
            return error.is_disk_full();
        }
        let mut index = self.shared.index.lock();
        if index.debts.losses != self.log.losses() || !index.debts.unresolved.is_empty() {
            return true;
        }
        let mut busy = false;
        let segments = self.log.segments();
        let unread = self.floor.first_kept(&segments, self.log.free_bytes());
        for number in sealed(&segments) {
            if number < unread && index.segments.is_free(number) {
                if dead.contains(&number) && self.log.free(number) {
                    index.segments.gone(number);
                } else {
                    // Still being written, or needless only since the sync: again soon.
                    busy = true;
                }
            }
        }
        busy
    }

    fn checkpoint_due(&self) -> bool {
        let last = *self.checkpointed.lock();
        let grown: u64 = self.log.segments().iter().filter(|(n, _)| *n > last.segment).map(|(_, bytes)| bytes).sum();
        let messages = self.shared.index.lock().len() as u64;
        // One of a queue that was deep takes room until there is another.
        let outgrown = self.checkpoint_holds.load(Ordering::Relaxed) > CHECKPOINT_SPARE + 4 * messages;
        outgrown || grown > CHECKPOINT_EVERY.max(4 * messages * CHECKPOINT_COST)
    }

    /// Gives memory back to the system when the queue has become much shorter.
    fn shed_memory(&self) {
        let messages = self.shared.index.lock().len() as u64;
        let peak = self.peak.load(Ordering::Relaxed).max(messages);
        let shrunk = peak > MEMORY_SPARE + 2 * messages;
        self.peak.store(if shrunk { messages } else { peak }, Ordering::Relaxed);
        if shrunk {
            trim();
        }
    }

    /// Records go to a new segment: the one before may be free, and a checkpoint may be due.
    pub fn note_segment(&self, index: &mut Index, segment: u32) {
        if index.newest_segment != segment {
            index.newest_segment = segment;
            self.want_sweep();
        }
    }
}

/// Returns free pages to the system: the allocator keeps what lies between pieces in use, which after a million small ones is most of it.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; it is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
