//! Compaction: live messages of mostly dead segments are carried to the newest one, after which the old segments are free.
//!
//! Run by the keeper, a step at a time; a step moves about [`STEP`] octets and takes the index's lock per message. A message is read without the
//! lock; under it, if nothing happened meanwhile, its moved record is appended. It stays where it was until that record is durable: only
//! then the index takes the new place and lets go of the old segments. A message that is finished in between is vouched for in both
//! places ([`Index::moving`]). The moved record vouches for the segment of the record it replaces, as the record of an end does: whatever segments a crash
//! leaves, the newest word about a message is there as long as an older one is.
//!
//! Failure: what cannot be read stays where it is and its segment is passed over; a full disk ends the step, nothing has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gatepost_log::{Class, Loc, LogError, ScanLimits};

use crate::codec::{
    CHUNK_HEAD, Envelope, KIND_ACCEPTED, KIND_CHUNK, KIND_JOURNAL, KIND_MOVED, Layout, encode_accepted, encode_chunk, encode_journal,
};
use crate::codec::{decode_accepted, is_chunk};
use crate::error::QueueError;
use crate::id::MessageId;
use crate::index::{Index, REROUTED};
use crate::intake::BUFFER;
use crate::moved::{JOURNAL_PIECE, Moved, put_journal};
use crate::query::Place;
use crate::spool::Core;

/// Octets moved before the next sync, roughly.
const STEP: u64 = 1 << 20;
/// Octets that may wait for the disk while a message is moved: mail comes first.
const POLITE: u64 = 2 << 20;
/// Messages looked for in one pass over a segment.
const PASS: usize = 65_536;
/// Octets of journal within a moved record; more goes into pieces of its own.
const JOURNAL_INLINE: usize = 16 << 10;
/// Octets that a message takes besides its own, at least: envelope and record headers.
const OVERHEAD: u64 = 128;
/// Pause after a step for which there was no room.
const PAUSE: Duration = Duration::from_secs(2);

/// Where compaction stands. Only the keeper uses it.
#[derive(Debug, Default)]
pub(crate) struct Compaction {
    victim: Option<Victim>,
    /// How many live messages segments had when they were looked at.
    measured: BTreeMap<u32, u32>,
    /// The disk was full then.
    failed: Option<Instant>,
}

/// The segment at hand.
#[derive(Debug)]
struct Victim {
    segment: u32,
    /// Its messages that are still to be moved, the oldest last.
    ids: Vec<MessageId>,
    /// It has others: too many for one pass, or they were changing.
    again: bool,
}

/// What is in a segment.
#[derive(Default)]
struct Measured {
    /// Octets in records of live messages that need the segment, and in all records.
    live: u64,
    total: u64,
    ids: Vec<MessageId>,
    /// There are more ids.
    cut: bool,
}

/// A message as it was read.
struct Cargo {
    envelope: Envelope,
    layout: Layout,
    inline: Vec<u8>,
    moved: Moved,
}

enum Outcome {
    Landed(Landed, u64),
    /// It left the queue.
    Gone,
    /// Something happened to it while it was read.
    Changing,
}

/// A moved record that is appended and not durable yet.
struct Landed {
    id: MessageId,
    from: Loc,
    to: Loc,
    segments: Vec<u32>,
}

impl Core {
    /// Moves some messages if the partition takes more disk than it should. True when there is more to do at once.
    pub fn compact(&self) -> bool {
        // A checkpoint must not see a message between its two places.
        let Some(_checkpoint) = self.checkpointed.try_lock() else { return false };
        let mut compaction = self.compaction.lock();
        let now = self.log.storage().now();
        if compaction.failed.is_some_and(|then| now.duration_since(then) < PAUSE) {
            return false;
        }
        if compaction.victim.is_none() && !self.find_victim(&mut compaction) {
            return false;
        }
        let Some(mut victim) = compaction.victim.take() else { return true };
        let losses = self.log.losses();
        if !self.settled(losses) {
            compaction.victim = Some(victim);
            return false;
        }
        let (mut landed, mut octets, mut failed) = (Vec::new(), 0, false);
        while octets < STEP && !failed {
            let Some(id) = victim.ids.pop() else { break };
            match self.carry(&id, victim.segment, losses) {
                Ok(Outcome::Landed(one, size)) => {
                    octets += size;
                    landed.push(one);
                }
                Ok(Outcome::Gone) => {}
                Ok(Outcome::Changing) => victim.again = true,
                // What the disk cannot read stays where it is, and in nobody's way.
                Err(error) => failed = !unreadable(&error) && !matches!(error, QueueError::Log(LogError::Io(_))),
            }
        }
        failed |= !self.land(&landed, losses);
        compaction.failed = failed.then_some(now);
        if failed || (victim.ids.is_empty() && victim.again) {
            compaction.measured.remove(&victim.segment);
        } else if victim.ids.is_empty() {
            // What is left of it, if anything, cannot be read: it waits until more of that is finished.
            let left = self.shared.index.lock().segments.count(victim.segment);
            compaction.measured.insert(victim.segment, left);
        } else {
            compaction.victim = Some(victim);
        }
        !failed
    }

    /// All that is known is in the log: a moved record must not tell of a change that is still to be written.
    fn settled(&self, losses: u64) -> bool {
        let index = self.shared.index.lock();
        index.debts.is_empty() && index.debts.losses == losses
    }

    /// The sealed segments take more than the live messages, half as much again, and half a segment: with the newest segment, the spare ones and the
    /// reserve the partition stays within twice what is live and four segments.
    pub fn crowded(&self, index: &Index, sealed: &[(u32, u64)]) -> bool {
        let total: u64 = sealed.iter().map(|(_, octets)| octets).sum();
        let live = index.octets + index.shadow_octets + index.len() as u64 * OVERHEAD;
        total > live + live / 2 + u64::from(self.log.segment_bytes()) / 2
    }

    /// So much more than that, leaving out what the history has not read, that what is written should wait for it.
    pub fn pressed(&self) -> bool {
        let segments = self.log.segments();
        let read = self.floor.first_kept(&segments, self.log.free_bytes());
        let sealed = &segments[..segments.len().saturating_sub(1)];
        let total: u64 = sealed.iter().filter(|(n, _)| *n < read).map(|(_, octets)| octets).sum();
        let index = self.shared.index.lock();
        let live = index.octets + index.shadow_octets + index.len() as u64 * OVERHEAD;
        total > live + live / 2 + u64::from(self.log.segment_bytes())
    }

    /// Looks for the oldest segment that is less than half live; at most one is read. True when there is one, or more to look at.
    fn find_victim(&self, compaction: &mut Compaction) -> bool {
        let mut sealed = self.log.segments();
        sealed.pop();
        if !self.crowded(&self.shared.index.lock(), &sealed) {
            return false;
        }
        compaction.measured.retain(|n, _| sealed.binary_search_by_key(n, |(n, _)| *n).is_ok());
        let counts: Vec<u32> = {
            let index = self.shared.index.lock();
            sealed.iter().map(|(n, _)| index.segments.count(*n)).collect()
        };
        // What was looked at before is looked at again when a quarter of its messages have gone.
        let known = |number: u32, count: u32| compaction.measured.get(&number).is_some_and(|then| count >= then - then / 4);
        let found = sealed.iter().zip(counts).find(|((number, _), count)| *count > 0 && !known(*number, *count));
        let Some(((segment, _), count)) = found else { return false };
        compaction.measured.insert(*segment, count);
        if let Ok(measured) = self.measure(*segment)
            && measured.live * 2 < measured.total
            && !measured.ids.is_empty()
        {
            compaction.victim = Some(Victim { segment: *segment, ids: measured.ids, again: measured.cut });
        }
        true
    }

    /// Reads a sealed segment's record headers and asks the index about them.
    fn measure(&self, number: u32) -> Result<Measured, LogError> {
        let (mut measured, mut ids, mut batch) = (Measured::default(), BTreeSet::new(), Vec::new());
        let mut weigh = |batch: &mut Vec<(MessageId, u64)>, measured: &mut Measured| {
            let index = self.shared.index.lock();
            for (id, octets) in batch.drain(..) {
                if index.find(&id).is_some_and(|slot| index.holds(slot, number)) {
                    measured.live += octets;
                    measured.cut |= ids.len() >= PASS && !ids.contains(&id);
                    if !measured.cut {
                        ids.insert(id);
                    }
                }
            }
        };
        let limits = ScanLimits { records: usize::MAX, prefix: 16, without: 0 };
        self.log.scan_sealed(number, limits, &mut |_, kind, prefix, length| {
            measured.total += u64::from(length);
            if matches!(kind, KIND_ACCEPTED | KIND_CHUNK | KIND_JOURNAL | KIND_MOVED)
                && let Ok(id) = prefix.try_into()
            {
                batch.push((id, u64::from(length)));
            }
            if batch.len() >= 512 {
                weigh(&mut batch, &mut measured);
            }
            true
        })?;
        weigh(&mut batch, &mut measured);
        measured.ids = ids.into_iter().rev().collect();
        Ok(measured)
    }

    /// Appends the moved record of a message; what of it is in the victim goes with it.
    fn carry(&self, id: &MessageId, victim: u32, losses: u64) -> Result<Outcome, QueueError> {
        let Ok(place) = self.place(id) else { return Ok(Outcome::Gone) };
        let cargo = match self.load(&place, victim, losses) {
            Err(_) if self.place(id).is_ok_and(|now| now.head != place.head) => return Ok(Outcome::Changing),
            other => other?,
        };
        let Cargo { envelope, layout, inline, mut moved } = cargo;
        let head = encode_accepted(&envelope, &layout.chunks, inline.len())?;
        self.log.wait_for_room(POLITE);
        let mut index = self.shared.index.lock();
        let Some(slot) = index.find(id) else { return Ok(Outcome::Gone) };
        let message = index.message(slot);
        if (message.accepted, message.head) != (place.accepted, place.head) || !index.debts.is_empty() || index.debts.losses != losses {
            return Ok(Outcome::Changing);
        }
        moved.recipients = Moved::state(&index, message);
        let tail = moved.encode()?;
        let to = self.log.append_after(losses, KIND_MOVED, &[&head, &inline, &tail], Class::Move, None)?;
        index.moving.insert(*id, to.segment);
        self.note_segment(&mut index, to.segment);
        let octets = (head.len() + inline.len() + tail.len()) as u64;
        Ok(Outcome::Landed(Landed { id: *id, from: place.accepted, to, segments: moved.segments(&layout) }, octets))
    }

    /// Reads a message with its whole journal. Its chunks in the victim are appended anew.
    fn load(&self, place: &Place, victim: u32, losses: u64) -> Result<Cargo, QueueError> {
        let damaged = || QueueError::Damaged(format!("{}: not the record of a message", place.accepted));
        let mut payload = Vec::new();
        let read = match self.log.read(place.accepted, &mut payload)? {
            KIND_ACCEPTED => decode_accepted(&payload).map(|(envelope, layout)| (envelope, layout, Moved::default())),
            KIND_MOVED => Moved::decode(&payload),
            _ => None,
        };
        let (envelope, mut layout, mut moved) = read.filter(|(envelope, ..)| envelope.id == place.id).ok_or_else(damaged)?;
        let chain = match self.chain(place.head, place.accepted) {
            // Without its journal a message is still whole, unless that has a new route.
            Err(error) if unreadable(&error) && !place.recipients.iter().any(|(_, r, _)| r.has(REROUTED)) => Vec::new(),
            other => other?,
        };
        for journal in chain.iter().rev() {
            put_journal(&mut moved.journal, &[&encode_journal(journal)[..], &journal.detail].concat());
        }
        moved.from = place.accepted;
        let start = layout.inline_at as usize;
        let inline = payload.get(start..start + layout.inline_len as usize).ok_or_else(damaged)?.to_vec();
        for (n, (loc, _)) in layout.chunks.iter_mut().enumerate().filter(|(_, (loc, _))| loc.segment == victim) {
            *loc = self.copy_piece(&place.id, n as u32, *loc, losses)?;
        }
        for (n, (loc, _)) in moved.pieces.iter_mut().enumerate().filter(|(_, (loc, _))| loc.segment == victim) {
            *loc = self.copy_piece(&place.id, JOURNAL_PIECE | n as u32, *loc, losses)?;
        }
        self.spill_journal(&place.id, &mut moved, losses)?;
        Ok(Cargo { envelope, layout, inline, moved })
    }

    fn copy_piece(&self, id: &MessageId, number: u32, from: Loc, losses: u64) -> Result<Loc, QueueError> {
        let mut payload = Vec::new();
        let kind = self.log.read(from, &mut payload)?;
        if kind != KIND_CHUNK || !is_chunk(&payload, id, number) {
            return Err(QueueError::Damaged(format!("{from}: not the chunk that was written there")));
        }
        self.append_piece(id, number, &payload[CHUNK_HEAD..], losses)
    }

    fn append_piece(&self, id: &MessageId, number: u32, data: &[u8], losses: u64) -> Result<Loc, QueueError> {
        self.log.wait_for_room(POLITE);
        let mut index = self.shared.index.lock();
        let loc = self.log.append_after(losses, KIND_CHUNK, &[&encode_chunk(id, number), data], Class::Move, None)?;
        self.note_segment(&mut index, loc.segment);
        Ok(loc)
    }

    /// A long journal leaves the moved record, so that the next move need not write it again.
    fn spill_journal(&self, id: &MessageId, moved: &mut Moved, losses: u64) -> Result<(), QueueError> {
        while moved.journal.len() > JOURNAL_INLINE {
            let length = moved.journal.len().min(BUFFER).min(self.log.max_payload() / 2);
            let rest = moved.journal.split_off(length);
            let number = JOURNAL_PIECE | moved.pieces.len() as u32;
            let loc = self.append_piece(id, number, &moved.journal, losses)?;
            moved.pieces.push((loc, length as u32));
            moved.journal = rest;
        }
        Ok(())
    }

    /// Waits until the moved records are on the disk; then the messages are where these are. False when some were lost.
    fn land(&self, landed: &[Landed], losses: u64) -> bool {
        let durable = landed.is_empty() || self.log.sync_since(losses).is_ok();
        // Something was lost to a full disk: what can be read back was written before that.
        let there = |one: &Landed| durable || (self.log.fatal().is_none() && self.log.read(one.to, &mut Vec::new()).is_ok());
        let landed: Vec<&Landed> = landed.iter().filter(|one| there(one)).collect();
        let mut index = self.shared.index.lock();
        for one in landed {
            index.segments.vouch(one.to.segment, one.from.segment);
            if let Some(slot) = index.find(&one.id).filter(|slot| index.message(*slot).accepted == one.from) {
                index.relocate(slot, one.to, &one.segments);
            }
        }
        index.moving.clear();
        if index.segments.dirty {
            self.want_sweep();
        }
        durable
    }
}

/// Trying again will not help.
pub(crate) fn unreadable(error: &QueueError) -> bool {
    matches!(error, QueueError::Damaged(_) | QueueError::Invalid(_))
        || matches!(error, QueueError::Log(LogError::Damaged { .. } | LogError::NotFound(_) | LogError::TooLarge(_)))
}
