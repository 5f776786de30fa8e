//! Compaction: messages in mostly dead segments of the own stream are copied to its end, so that the segments can be freed.
//!
//! Called by `gc` now and then. The octets are appended anew as a content record, which replay passes over; then an operation in the log says for each row
//! that had them where they are now ([`Op::Place`]), and moves the row in the same transaction. So log and index agree at every instant, and
//! a rebuild from the snapshot finds the new places. Keys of deliveries, UIDs and modseqs stay as they are. The emptied segments go by the rules
//! of `gc`, not before its next round: whoever looked a place up just before has time to open it.
//!
//! Failure: what cannot be read stays and keeps its segment; a full disk ends the round with nothing changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering;

use gatepost_log::{Class, Loc, LogError};
use rusqlite::params;

use crate::error::{Result, StoreError};
use crate::id::Id;
use crate::records::{KIND_CHUNK, KIND_CONTENT, KIND_MESSAGE, MessageHead, Op};
use crate::volume::Volume;

/// Octets copied before a sync and a transaction.
const STEP: u64 = 4 << 20;
/// Octets copied in one round.
const ROUND: u64 = 64 << 20;
/// Octets that may wait for the disk while something is copied: mail comes first.
const POLITE: u64 = 1 << 20;
/// Octets that a message takes besides its own, about.
const OVERHEAD: u64 = 160;

/// A message's octets in the own stream, and the rows that have them.
struct Content {
    at: Loc,
    octets: u64,
    rows: Vec<Id>,
}

/// Live octets by segment, of messages in a single segment; of those in several, their segments.
#[derive(Default)]
struct Census {
    live: u64,
    by_segment: HashMap<u32, u64>,
}

impl Volume {
    /// Copies what is left in mostly dead segments when the own log takes more than half as much again as its messages, and a segment. Returns how many
    /// messages were copied.
    pub(crate) fn compact(&self) -> Result<usize> {
        let mut segments = self.log.segments();
        segments.pop();
        let sealed: u64 = segments.iter().map(|(_, octets)| octets).sum();
        if sealed <= u64::from(self.log.segment_bytes()) {
            return Ok(0);
        }
        let census = self.census()?;
        let crowded = sealed > census.live + census.live / 2 + u64::from(self.log.segment_bytes());
        self.crowded.store(crowded, Ordering::Relaxed);
        if !crowded {
            return Ok(0);
        }
        let limit = self.flights.first_segment().unwrap_or(u32::MAX);
        let (mut victims, mut planned) = (BTreeSet::new(), 0);
        for (number, octets) in segments.into_iter().filter(|(n, _)| *n < limit) {
            let live = census.by_segment.get(&number).copied().unwrap_or(0);
            if live > 0 && live * 2 < octets && planned < ROUND {
                victims.insert(number);
                planned += live;
            }
        }
        self.copy_out(&victims)
    }

    /// What of the own stream's messages is live, copies counted once.
    fn census(&self) -> Result<Census> {
        self.read(|db| {
            let mut census = Census::default();
            let mut known = HashSet::new();
            let mut query =
                db.prepare_cached("SELECT at, first_segment, octets FROM message WHERE stream = (SELECT id FROM stream WHERE name = ?1)")?;
            let mut rows = query.query([&self.stream])?;
            while let Some(row) = rows.next()? {
                let (at, first, octets): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if !known.insert(at) {
                    continue;
                }
                let last = Loc::unpack(at.cast_unsigned()).segment;
                let octets = octets.cast_unsigned() + OVERHEAD;
                census.live += octets;
                let share = octets / u64::from(last.saturating_sub(first) + 1);
                for segment in first..=last {
                    *census.by_segment.entry(segment).or_default() += share;
                }
            }
            Ok(census)
        })
    }

    /// Copies every message with octets in these segments.
    fn copy_out(&self, victims: &BTreeSet<u32>) -> Result<usize> {
        let (Some(low), Some(high)) = (victims.first(), victims.last()) else { return Ok(0) };
        let contents = self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT at, first_segment, octets, msg FROM message
                 WHERE stream = (SELECT id FROM stream WHERE name = ?1) AND first_segment <= ?2 AND at >= ?3",
            )?;
            let lowest = Loc { segment: *low, offset: 0 }.pack().cast_signed();
            let mut found: BTreeMap<i64, Content> = BTreeMap::new();
            let mut rows = query.query(params![self.stream, high, lowest])?;
            while let Some(row) = rows.next()? {
                let (at, first, octets): (i64, u32, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let loc = Loc::unpack(at.cast_unsigned());
                if victims.range(first..=loc.segment).next().is_some() {
                    let new = || Content { at: loc, octets: octets.cast_unsigned(), rows: Vec::new() };
                    found.entry(at).or_insert_with(new).rows.push(row.get(3)?);
                }
            }
            Ok(found.into_values().collect::<Vec<_>>())
        })?;
        let (mut copied, mut rest) = (0, contents.as_slice());
        while !rest.is_empty() {
            let mut octets = 0;
            let fits = |content: &&Content| {
                octets += content.octets;
                octets <= STEP
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (step, later) = rest.split_at(count);
            copied += self.copy_step(step)?;
            rest = later;
        }
        Ok(copied)
    }

    fn copy_step(&self, contents: &[Content]) -> Result<usize> {
        self.check_open()?;
        // Until the operation is in, the copies are in segments that look dead: the flight keeps these.
        let flight = self.flights.begin(&self.log);
        let done = self.copy_and_tell(contents, flight.losses);
        self.flights.end(&flight);
        done
    }

    fn copy_and_tell(&self, contents: &[Content], losses: u64) -> Result<usize> {
        let mut moved = Vec::with_capacity(contents.len());
        for content in contents {
            match self.copy_one(content.at) {
                Ok((first_segment, at)) => moved.push((content, first_segment, at)),
                // It stays where it is; reading it will say so.
                Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.make_durable(losses)?;
        self.change(|change| {
            for (content, first_segment, at) in &moved {
                for msg in &content.rows {
                    change.op(Op::Place { msg: *msg, stream: self.stream.clone(), first_segment: *first_segment, at: *at })?;
                }
            }
            Ok(moved.len())
        })
    }

    /// Appends the octets of the message at `at` once more. Returns their first segment and the new record's place.
    fn copy_one(&self, at: Loc) -> Result<(u32, Loc)> {
        let mut payload = Vec::new();
        let kind = self.log.read(at, &mut payload)?;
        let damaged = |at: Loc| StoreError::Damaged(format!("{}/{at}: not a message record", self.stream));
        let (mut head, start) =
            MessageHead::decode(&payload).filter(|_| matches!(kind, KIND_MESSAGE | KIND_CONTENT)).ok_or_else(|| damaged(at))?;
        let mut chunk = Vec::new();
        for (loc, length) in &mut head.chunks {
            if self.log.read(*loc, &mut chunk)? != KIND_CHUNK || chunk.len() != *length as usize {
                return Err(damaged(*loc));
            }
            *loc = self.append_copy(KIND_CHUNK, &[&chunk])?;
        }
        let new = self.append_copy(KIND_CONTENT, &[&head.encode(), &payload[start..]])?;
        Ok((head.first_segment(new), new))
    }

    fn append_copy(&self, kind: u8, parts: &[&[u8]]) -> std::result::Result<Loc, LogError> {
        self.log.wait_for_room(POLITE);
        self.log.append(kind, parts, Class::Move, None)
    }
}
