//! The log as its users see it once it is open: append, sync, read, free. Opening is in `prepare`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Mutex, MutexGuard};

use crate::Class;
use crate::batch::Batch;
use crate::error::LogError;
use crate::format::{Loc, RECORD_HEADER, RecordHeader};
use crate::segment::Segment;
use crate::state::{Shared, State};
use crate::step::Workers;
use crate::storage::{LockGuard, OsStorage, Storage};

/// How a log is opened.
#[derive(Clone)]
pub struct Options {
    /// Preallocated size of a segment (64 KiB to 1 GiB).
    pub segment_bytes: u32,
    /// Free space below which [`Class::Message`] appends are refused.
    pub min_free_bytes: u64,
    /// Free space at which they are taken again after that; 0 for the minimum and a tenth of it, at least 64 MiB, more.
    pub resume_free_bytes: u64,
    /// How many freed segments are kept to be used again. 0 where other processes read the segments: only this one's readers are known.
    pub keep_spares: usize,
    /// Four letters that say whose records these are; opening another's directory fails.
    pub app: [u8; 4],
    /// Where the files are.
    pub storage: Arc<dyn Storage>,
    /// False: no threads are started. [`Log::step`] does their work piece by piece, and calls that would wait for it do it themselves: for simulations,
    /// in which a seed has to give the same order of calls every time.
    pub threads: bool,
}

impl Options {
    /// 64 MiB segments on the operating system's files, no minimum of free space.
    pub fn new(app: [u8; 4]) -> Self {
        let storage = Arc::new(OsStorage);
        Self { segment_bytes: 64 << 20, min_free_bytes: 0, resume_free_bytes: 0, keep_spares: 1, app, storage, threads: true }
    }
}

/// Figures of a running log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogStats {
    /// Segments that exist.
    pub segments: u64,
    /// Octets of disk that they and the spare files take.
    pub disk_bytes: u64,
    /// Free octets of the file system.
    pub free_bytes: u64,
    /// Records appended since the log was opened.
    pub appended: u64,
    /// Syncs since the log was opened.
    pub syncs: u64,
}

/// An open log. Dropping it closes it.
pub struct Log {
    pub(crate) shared: Arc<Shared>,
    pub(crate) workers: Mutex<Workers>,
    pub(crate) lock: Mutex<Option<Box<dyn LockGuard>>>,
}

impl Log {
    /// Appends one record whose payload is `parts` joined. The place is final at once; the record is durable when `token` comes back through
    /// [`Done`], or when a later [`Log::sync`] returns. Never waits for the disk, but for the preallocation of a segment when
    /// appends outrun it. Kinds 0 and [`crate::KIND_MARK`] are the log's own.
    pub fn append(&self, kind: u8, parts: &[&[u8]], class: Class, token: Option<u64>) -> Result<Loc, LogError> {
        debug_assert!(kind != 0 && kind != crate::KIND_MARK);
        self.shared.append(kind, parts, class, token, None)
    }

    /// Like [`Log::append`] for a record that means nothing without earlier ones that nobody waited for: fails if any write was given up (full disk)
    /// since `losses` was read, which must have been before the first of them.
    pub fn append_after(&self, losses: u64, kind: u8, parts: &[&[u8]], class: Class, token: Option<u64>) -> Result<Loc, LogError> {
        debug_assert!(kind != 0 && kind != crate::KIND_MARK);
        self.shared.append(kind, parts, class, token, Some(losses))
    }

    /// How many batches were given up since the log was opened. Whoever appends several records that belong together reads it first.
    pub fn losses(&self) -> u64 {
        self.shared.state.lock().losses
    }

    /// Returns when everything appended so far is durable. Of records that were given up before the call only the last batch is noticed: see
    /// [`Log::sync_since`].
    pub fn sync(&self) -> Result<(), LogError> {
        let (target, state) = self.sync_state(self.losses())?;
        match &state.lost {
            Some((from, to, error)) if *from < target && target <= *to => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Returns when everything appended so far is durable; fails if any batch was given up since `losses` was read.
    pub fn sync_since(&self, losses: u64) -> Result<(), LogError> {
        self.sync_state(losses).map(drop)
    }

    fn sync_state(&self, losses: u64) -> Result<(u64, MutexGuard<'_, State>), LogError> {
        let mut state = self.shared.state.lock();
        if let Some(error) = &state.fatal {
            return Err(error.clone());
        }
        let target = state.appended;
        while state.settled < target {
            state.hurry = true;
            self.shared.work.notify_one();
            self.await_committer(&mut state);
            if let Some(error) = &state.fatal {
                return Err(error.clone());
            }
        }
        Shared::check_losses(&state, Some(losses))?;
        Ok((target, state))
    }

    /// `token` comes back when everything appended so far is durable.
    pub fn sync_token(&self, token: u64) -> Result<(), LogError> {
        self.sync_token_since(self.losses(), token)
    }

    /// Like [`Log::sync_token`]; fails at once if any batch was given up since `losses` was read. One that is being written now takes the token with it.
    pub fn sync_token_since(&self, losses: u64, token: u64) -> Result<(), LogError> {
        let mut state = self.shared.state.lock();
        Shared::check(&state)?;
        Shared::check_losses(&state, Some(losses))?;
        state.pending.tokens.push(token);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Until [`Log::uncork`] appends wake the committer only when much waits. For a caller that is about to append several records, so that one
    /// sync takes them all. Nothing may be waited for meanwhile.
    pub fn cork(&self) {
        self.shared.corked.store(true, Ordering::Relaxed);
    }

    /// Ends [`Log::cork`], and has what was appended written.
    pub fn uncork(&self) {
        self.shared.corked.store(false, Ordering::Relaxed);
        if !self.shared.state.lock().pending.is_empty() {
            self.shared.work.notify_one();
        }
    }

    /// Octets appended and not yet durable.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.pending_bytes.load(Ordering::Relaxed)
    }

    /// Waits until at most `limit` octets are pending (or the log failed). Call it without locks that [`Done`] takes.
    pub fn wait_for_room(&self, limit: u64) {
        if self.pending_bytes() <= limit {
            return;
        }
        let mut state = self.shared.state.lock();
        while self.pending_bytes() > limit && Shared::check(&state).is_ok() {
            self.shared.work.notify_one();
            self.await_committer(&mut state);
        }
    }

    /// Until the committer has done something; at most 100 ms.
    fn await_committer(&self, state: &mut MutexGuard<'_, State>) {
        if self.shared.threads {
            self.shared.settled.wait_for(state, std::time::Duration::from_millis(100));
        } else {
            MutexGuard::unlocked(state, || self.workers.lock().commit());
        }
    }

    /// Without threads ([`Options::threads`]): a piece of the committer's work, or of the keeper's if `chore`. False when there is nothing to do.
    pub fn step(&self, chore: bool) -> bool {
        if chore { self.shared.chore(&mut self.shared.state.lock()) } else { self.workers.lock().commit() }
    }

    /// Free space is below the configured minimum. Cheap: the answer is at most a quarter of a second old.
    pub fn low_space(&self) -> bool {
        self.shared.low_space()
    }

    /// Free octets of the file system, at most a quarter of a second old.
    pub fn free_bytes(&self) -> u64 {
        self.shared.free_bytes()
    }

    /// The error that closed the log for good, if one did.
    pub fn fatal(&self) -> Option<LogError> {
        self.shared.state.lock().fatal.clone()
    }

    /// Preallocated size of a segment.
    pub fn segment_bytes(&self) -> u32 {
        self.shared.segment_bytes
    }

    /// Largest payload of one record.
    pub fn max_payload(&self) -> usize {
        self.shared.max_payload() as usize
    }

    /// Where the next record would go, at the earliest. Never in a segment that found no room: the next opening uses its number again.
    pub fn tail(&self) -> Loc {
        let state = self.shared.state.lock();
        match state.segments.last() {
            Some((segment, end)) if state.cut => Loc { segment: *segment, offset: u32::try_from(*end).unwrap_or(u32::MAX) },
            _ => Loc { segment: state.segment, offset: state.offset },
        }
    }

    /// Reads and verifies the record at `loc` into `out` (replaced), also when it is not written yet. Returns its kind.
    pub fn read(&self, loc: Loc, out: &mut Vec<u8>) -> Result<u8, LogError> {
        if let Some((kind, _)) = self.unwritten(loc, 0, usize::MAX, out) {
            return Ok(kind);
        }
        self.shared.table.get(loc.segment)?.read(loc.offset, out)
    }

    /// A hint that the records at these places will be read soon, so that the disk is asked for all of them at once.
    pub fn begin_reading(&self, places: impl Iterator<Item = Loc>, octets: u64) {
        for loc in places {
            if let Ok(segment) = self.shared.table.get(loc.segment) {
                segment.file().begin_reading(u64::from(loc.offset), octets);
            }
        }
    }

    /// First `limit` octets of the payload at `loc` into `out` (replaced): (kind, full length). The payload's checksum is not looked at.
    pub fn read_prefix(&self, loc: Loc, limit: usize, out: &mut Vec<u8>) -> Result<(u8, u32), LogError> {
        match self.unwritten(loc, 0, limit, out) {
            Some(found) => Ok(found),
            None => self.shared.table.get(loc.segment)?.read_prefix(loc.offset, limit, out),
        }
    }

    /// Octets `from..` of the payload at `loc` into `buf`; fewer only at its end. The payload's checksum is not looked at.
    pub fn read_range(&self, loc: Loc, from: u32, buf: &mut [u8]) -> Result<usize, LogError> {
        let mut out = Vec::new();
        if self.unwritten(loc, from as usize, buf.len(), &mut out).is_some() {
            buf[..out.len()].copy_from_slice(&out);
            return Ok(out.len());
        }
        self.shared.table.get(loc.segment)?.read_range(loc.offset, from, buf)
    }

    /// The open segment; reading through it goes on working after the segment was freed. Records not yet written are not seen through it.
    pub fn segment(&self, number: u32) -> Result<Arc<Segment>, LogError> {
        self.shared.table.get(number)
    }

    /// Copies a part of a record that is still in memory. What is being written is copied without the lock, which appends wait for.
    fn unwritten(&self, loc: Loc, from: usize, limit: usize, out: &mut Vec<u8>) -> Option<(u8, u32)> {
        let writing = {
            let state = self.shared.state.lock();
            if state.pending.find(loc.segment, loc.offset).is_some() {
                return copy_record(&state.pending, loc, from, limit, out);
            }
            state.writing.clone()?
        };
        copy_record(&writing, loc, from, limit, out)
    }

    /// Gives a segment's space back, in the background; removals become durable in the order of the calls. The active segment stays.
    /// Returns false when there is no such segment to free.
    pub fn free(&self, number: u32) -> bool {
        let mut state = self.shared.state.lock();
        if state.segments.last().is_none_or(|(last, _)| number >= *last) || !state.segments.iter().any(|(n, _)| *n == number) {
            return false;
        }
        // A segment whose last write, or whose cutting to length when its successor opens, is still to come must not go yet.
        let busy = |b: &Batch| b.runs.iter().any(|r| r.segment <= number || r.opens.is_some());
        if busy(&state.pending) || state.writing.as_deref().is_some_and(busy) {
            return false;
        }
        state.segments.retain(|(n, _)| *n != number);
        state.doomed.push(number);
        self.shared.chores.notify_one();
        true
    }

    /// Waits until every freed segment is removed, or a removal fails.
    pub fn wait_for_removals(&self) {
        let mut state = self.shared.state.lock();
        while !state.doomed.is_empty() && !self.shared.removal_refused(&state) {
            self.shared.await_keeper(&mut state);
        }
    }

    /// Numbers and lengths of the segments, ascending; the last is the active one.
    pub fn segments(&self) -> Vec<(u32, u64)> {
        self.shared.state.lock().segments.clone()
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// The storage it is on.
    pub fn storage(&self) -> &dyn Storage {
        &*self.shared.storage
    }

    /// Figures.
    pub fn stats(&self) -> LogStats {
        let free_bytes = self.free_bytes();
        let state = self.shared.state.lock();
        LogStats {
            segments: state.segments.len() as u64,
            disk_bytes: state.segments.iter().map(|(_, bytes)| bytes).sum::<u64>()
                + state.spare_bytes()
                + self.shared.reserved.load(Ordering::Relaxed),
            free_bytes,
            appended: state.appended,
            syncs: self.shared.syncs.load(Ordering::Relaxed),
        }
    }

    /// Writes what is pending, ends the threads, unlocks the directory. Idempotent; returns the error that closed the log, if one did.
    pub fn close(&self) -> Result<(), LogError> {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        self.shared.chores.notify_all();
        self.shared.settled.notify_all();
        self.workers.lock().end(&self.shared);
        self.lock.lock().take();
        self.fatal().map_or(Ok(()), Err)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Octets `from..from + limit`, or as many as there are, of a record's payload in a batch; (kind, full length).
fn copy_record(batch: &Batch, loc: Loc, from: usize, limit: usize, out: &mut Vec<u8>) -> Option<(u8, u32)> {
    let (bytes, salt) = batch.find(loc.segment, loc.offset)?;
    let header = RecordHeader::decode(bytes, salt, loc.offset)?;
    let payload = bytes.get(RECORD_HEADER as usize..RECORD_HEADER as usize + header.length as usize)?;
    let start = from.min(payload.len());
    out.clear();
    out.extend_from_slice(&payload[start..payload.len().min(start.saturating_add(limit))]);
    Some((header.kind, header.length))
}
