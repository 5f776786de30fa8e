//! Giving space back. A segment without live messages may hold operations that a rebuild needs, so before segments go a snapshot of the index
//! is made durable: a rebuild begins there and needs only what comes after it (`replay`).

use std::path::Path;
use std::sync::atomic::Ordering;

use gatepost_log::{Loc, Log, LogError, segment_name};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use crate::error::{Result, StoreError};
use crate::id::now_us;
use crate::lock::try_lock;
use crate::replay::{self, Held};
use crate::volume::Volume;

/// How long delivery keys are remembered, from when the message was accepted or, where that was more than a day later, delivered.
const KEY_DAYS: i64 = 30;
/// Which of them go: of messages older than the first parameter, unless delivered at the second, Unix microseconds, or later.
const STALE: &str = "key < ?1 AND NOT EXISTS (SELECT 1 FROM delivery_late AS late WHERE late.key = delivery.key AND late.at >= ?2)";
/// Deleted folders remembered for `poll`.
const GONE_FOLDERS: i64 = 1_000;

impl Volume {
    /// Drop what has expired, free segments that hold nothing live, then move what is left in mostly dead ones. A snapshot is written when at least a quarter of the own log could be
    /// freed by it, or when `force`; so its cost stays in proportion to the space it gives back.
    pub fn maintain(&self, force: bool) -> Result<()> {
        self.check_open()?;
        self.pay_refused();
        self.forget_removed();
        self.expire()?;
        let freed = self.free_dead(force).and_then(|()| self.sweep_others());
        // What it empties is freed by the next round.
        freed.and(self.compact().map(drop))
    }

    fn free_dead(&self, force: bool) -> Result<()> {
        let (dead, disk) = self.dead_segments()?;
        let dead_bytes: u64 = dead.iter().map(|(_, bytes)| bytes).sum();
        if dead.is_empty() && !force {
            return Ok(());
        }
        let crowded = self.crowded.load(Ordering::Relaxed) && dead_bytes >= u64::from(self.log.segment_bytes());
        if force || dead_bytes * 4 >= disk || crowded {
            self.snapshot()?;
        }
        if dead.is_empty() || !self.index_is_durable()? {
            return Ok(());
        }
        let covered = self.covered()?;
        for (number, _) in dead.into_iter().filter(|(n, _)| *n < covered) {
            if self.log.free(number) {
                self.forget_segment(number)?;
            }
        }
        Ok(())
    }

    /// Frees dead segments of streams whose processes are gone. Not while a process opens the volume, which wants the locks itself.
    fn sweep_others(&self) -> Result<()> {
        let Some(_opening) = try_lock(&self.dir.join("locks/open"))? else { return Ok(()) };
        let root = self.dir.join("log");
        for name in replay::streams(&root, &self.log_options)?.into_iter().filter(|name| *name != self.stream) {
            match Log::prepare(&root.join(&name), self.log_options.clone()) {
                Ok(prepared) if prepared.segments().len() > 1 && self.index_is_durable()? => {
                    sweep_idle(&self.writer.lock(), &Held { name, prepared })?;
                }
                Ok(_) | Err(LogError::Locked { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Figures: mailboxes, messages, octets, and of the own stream segments, disk octets, free octets.
    pub fn stats(&self) -> Result<Vec<(&'static str, i64)>> {
        let log = self.log.stats();
        let (mailboxes, messages, octets) = self.read(|db| {
            let sums = "SELECT count(DISTINCT mailbox), coalesce(sum(messages), 0), coalesce(sum(octets), 0) FROM folder";
            Ok(db.prepare_cached(sums)?.query_row([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?)
        })?;
        Ok(vec![
            ("mailboxes", mailboxes),
            ("messages", messages),
            ("octets", octets),
            ("segments", log.segments.cast_signed()),
            ("disk_bytes", log.disk_bytes.cast_signed()),
            ("free_bytes", log.free_bytes.cast_signed()),
        ])
    }

    fn expire(&self) -> Result<()> {
        let horizon = (now_us() - KEY_DAYS * 86_400_000_000).max(0);
        let oldest = &(horizon / 1_000).to_be_bytes()[2..];
        let stale = self.read(|db| {
            let query = format!("SELECT 1 FROM delivery WHERE {STALE} LIMIT 1");
            let known: Option<i64> = db.query_row(&query, params![oldest, horizon], |r| r.get(0)).optional()?;
            let gone: i64 = db.query_row("SELECT count(*) FROM gone_folder", [], |r| r.get(0))?;
            Ok(known.is_some() || gone > GONE_FOLDERS)
        })?;
        if stale {
            let db = self.writer.lock();
            // Keys begin with the message's UUIDv7, so they sort by time.
            db.execute(&format!("DELETE FROM delivery WHERE {STALE}"), params![oldest, horizon])?;
            db.execute("DELETE FROM delivery_late WHERE at < ?1", [horizon])?;
            db.execute(
                "DELETE FROM gone_folder WHERE modseq <= (SELECT modseq FROM gone_folder ORDER BY modseq DESC LIMIT 1 OFFSET ?1)",
                [GONE_FOLDERS],
            )?;
        }
        Ok(())
    }

    /// Own segments that hold nothing live and nothing under way, with their octets; and the octets of the whole own log.
    fn dead_segments(&self) -> Result<(Vec<(u32, u64)>, u64)> {
        // Before the index is read: what is under way now may be live by then, what begins later goes into later segments.
        let limit = self.flights.first_segment().unwrap_or(u32::MAX);
        let segments = self.log.segments();
        let disk = segments.iter().map(|(_, bytes)| bytes).sum();
        let active = segments.last().map_or(0, |(n, _)| *n);
        let dead = self.read(|db| {
            let applied = self.mark(db, "applied")?;
            let mut query =
                db.prepare_cached("SELECT live FROM segment WHERE stream = (SELECT id FROM stream WHERE name = ?1) AND segment = ?2")?;
            let mut dead = Vec::new();
            for &(number, bytes) in segments.iter().filter(|(n, _)| *n < limit.min(active).min(applied)) {
                let live: Option<i64> = query.query_row(params![self.stream, number], |r| r.get(0)).optional()?;
                if live.unwrap_or(0) <= 0 {
                    dead.push((number, bytes));
                }
            }
            Ok(dead)
        })?;
        Ok((dead, disk))
    }

    /// Segment of the own stream up to which a mark reaches.
    fn mark(&self, db: &Connection, column: &str) -> Result<u32> {
        let query = format!("SELECT {column} FROM stream WHERE name = ?1");
        let found: Option<i64> = db.prepare_cached(&query)?.query_row([&self.stream], |r| r.get(0)).optional()?;
        Ok(Loc::unpack(found.unwrap_or(0).cast_unsigned()).segment)
    }

    /// Bring the index onto the disk: one that a power failure throws back must not miss operations of segments that are gone.
    fn index_is_durable(&self) -> Result<bool> {
        let db = self.writer.lock();
        let (busy, frames, done): (i64, i64, i64) =
            db.query_row("PRAGMA wal_checkpoint(FULL)", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
        Ok(busy == 0 && frames == done)
    }

    fn covered(&self) -> Result<u32> {
        self.read(|db| self.mark(db, "snapshot"))
    }

    fn forget_segment(&self, number: u32) -> Result<()> {
        let db = self.writer.lock();
        db.prepare_cached("DELETE FROM segment WHERE stream = (SELECT id FROM stream WHERE name = ?1) AND segment = ?2")?
            .execute(params![self.stream, number])?;
        Ok(())
    }

    /// Write `snapshot.db`: a copy of the index as of one moment, durable before it takes the old one's place.
    fn snapshot(&self) -> Result<()> {
        let Some(_lock) = try_lock(&self.dir.join("locks/snapshot"))? else { return Ok(()) };
        let (new, place) = (self.dir.join("snapshot.db.new"), self.dir.join("snapshot.db"));
        if let Err(error) = std::fs::remove_file(&new)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error.into());
        }
        let name = new.to_str().ok_or_else(|| StoreError::Invalid("the volume's path is not UTF-8".into()))?;
        let source = Connection::open_with_flags(self.dir.join("index.db"), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        source.execute("VACUUM INTO ?1", [name])?;
        let marks = marks(&new)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &place)?;
        std::fs::File::open(&self.dir)?.sync_all()?;
        let db = self.writer.lock();
        for (id, applied) in marks {
            db.execute("UPDATE stream SET snapshot = max(snapshot, ?2) WHERE id = ?1", [id, applied])?;
        }
        Ok(())
    }
}

/// Remove dead segments of a stream whose process is gone, while its lock is held. The last one stays: segment numbers are never used twice.
pub(crate) fn sweep_idle(db: &Connection, stream: &Held) -> Result<()> {
    let row = db.query_row("SELECT id, snapshot FROM stream WHERE name = ?1", [&stream.name], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
    let Some((id, snapshot)): Option<(i64, i64)> = row else { return Ok(()) };
    let covered = Loc::unpack(snapshot.cast_unsigned()).segment;
    let numbers = stream.prepared.segments();
    let last = numbers.last().copied().unwrap_or(0);
    for &number in numbers.iter().filter(|n| **n < covered.min(last)) {
        let live: Option<i64> = db
            .query_row("SELECT live FROM segment WHERE stream = ?1 AND segment = ?2", [id, i64::from(number)], |r| r.get(0))
            .optional()?;
        if live.unwrap_or(0) <= 0 {
            let storage = stream.prepared.storage();
            storage.remove(&stream.prepared.dir().join(segment_name(number)))?;
            storage.sync_dir(stream.prepared.dir())?;
            db.execute("DELETE FROM segment WHERE stream = ?1 AND segment = ?2", [id, i64::from(number)])?;
        }
    }
    Ok(())
}

/// How far each stream is applied in an index file.
fn marks(path: &Path) -> Result<Vec<(i64, i64)>> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut query = db.prepare("SELECT id, applied FROM stream")?;
    let marks = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(marks)
}
