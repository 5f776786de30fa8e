//! The two threads of a log. The committer turns what is pending into one write and one sync at a time, then calls back: while a
//! sync runs the next batch gathers by itself, and when the log is idle an append is synced at once. The keeper preallocates the next
//! segment and removes freed ones, so that neither delays a sync.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use crate::ahead::write_zeros;
use crate::batch::{Batch, Run, SpareFile};
use crate::error::LogError;
use crate::format::{SEGMENT_HEADER, segment_name};
use crate::segment::Segment;
use crate::spares::{make_spare, name_segment};
use crate::state::{Shared, Spare, State, WRITE_EARLY};
use crate::trailing::Trailing;
use crate::{Done, Loc, Loss, Lost};

/// How long appends that nobody waits for may stay in memory.
const LAZY: Duration = Duration::from_millis(10);

pub(crate) struct Committer {
    pub shared: Arc<Shared>,
    pub done: Done,
    pub lost: Option<Lost>,
    pub current: Arc<Segment>,
    pub trailing: Trailing,
}

impl Committer {
    /// Runs until the log closes.
    pub fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            let mut finished = 0;
            let mut failure = None;
            for run in &batch.runs {
                match self.write_run(run) {
                    Ok(()) => finished += 1,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            self.settle(batch, finished, failure);
        }
        self.finish();
    }

    /// Ends the last segment with a mark and cuts it to its length, so that the next recovery knows all of it to be synced.
    pub fn finish(&mut self) {
        let mut state = self.shared.state.lock();
        self.shared.await_zeros(&mut state, u32::MAX);
        if state.fatal.is_some() || state.cut || state.segment != self.current.number() {
            return;
        }
        let mut run = Run::new(state.segment, state.identity, state.offset, Vec::new(), None);
        if run.start == SEGMENT_HEADER {
            run.bytes.clear();
        }
        state.offset = run.end();
        drop(state);
        let file = self.current.file();
        let ended =
            file.write_at(&run.bytes, u64::from(run.start)).and_then(|()| file.truncate(u64::from(run.end()))).and_then(|()| file.sync());
        if let Err(error) = ended {
            self.shared.state.lock().fatal = Some(LogError::syncing(&self.path(), &error));
        }
    }

    /// Waits for something to do; None when the log is closed and everything is written.
    fn next_batch(&self) -> Option<Arc<Batch>> {
        let mut state = self.shared.state.lock();
        let mut since: Option<Instant> = None;
        loop {
            if state.fatal.is_some() && !state.pending.is_empty() {
                break;
            }
            if state.pending.is_empty() {
                if state.closing {
                    return None;
                }
                since = None;
                self.shared.work.wait(&mut state);
                continue;
            }
            if state.hurry || state.closing || state.pending.wanted() || state.pending.octets() >= WRITE_EARLY {
                break;
            }
            let deadline = *since.get_or_insert_with(Instant::now) + LAZY;
            if self.shared.work.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        Some(Self::take_batch(&mut state))
    }

    /// Everything pending, marked as being written.
    pub fn take_batch(state: &mut State) -> Arc<Batch> {
        state.hurry = false;
        let mut batch = std::mem::take(&mut state.pending);
        batch.sequence = state.appended;
        state.ahead.note_batch(batch.octets());
        let batch = Arc::new(batch);
        state.writing = Some(Arc::clone(&batch));
        batch
    }

    pub fn write_run(&mut self, run: &Run) -> Result<(), LogError> {
        if let Some(error) = &self.shared.state.lock().fatal {
            return Err(error.clone());
        }
        if let Some(spare) = &run.opens {
            self.open_segment(run, spare)?;
        }
        let path = Path::new("segment");
        self.current.file().write_at(&run.bytes, u64::from(run.start)).map_err(|e| LogError::writing("write", path, &e))?;
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.current.file().sync().map_err(|e| LogError::syncing(&self.path(), &e))?;
        self.trailing.note(&self.current, run);
        Ok(())
    }

    fn path(&self) -> std::path::PathBuf {
        self.shared.dir.join(segment_name(self.current.number()))
    }

    /// Cuts the old segment to its length, then gives the preallocated file its header and its name. All of it is durable before the first record
    /// goes in: that a segment exists proves its predecessor whole.
    fn open_segment(&mut self, run: &Run, spare: &SpareFile) -> Result<(), LogError> {
        let old = self.path();
        let end = self.shared.segment_length(self.current.number());
        self.current.file().truncate(end).map_err(|e| LogError::writing("truncate", &old, &e))?;
        self.current.file().sync().map_err(|e| LogError::syncing(&old, &e))?;
        name_segment(&self.shared, spare, run.segment, run.identity)?;
        self.current = Arc::new(Segment::new(run.segment, run.identity, Arc::clone(&spare.file)));
        self.shared.table.insert(Arc::clone(&self.current));
        Ok(())
    }

    /// Records the outcome of a batch and tells everyone.
    pub fn settle(&mut self, batch: Arc<Batch>, finished: usize, failure: Option<LogError>) {
        let shared = Arc::clone(&self.shared);
        let (mut octets, good) = (batch.octets(), failure.is_none());
        if let Some(last) = batch.runs[..finished].last() {
            shared.durable.store(Loc { segment: last.segment, offset: last.end() }.pack(), Ordering::Release);
        }
        let settled = if let Some(error) = failure {
            let mut state = shared.state.lock();
            shared.await_zeros(&mut state, u32::MAX);
            let dropped = std::mem::take(&mut state.pending);
            octets += dropped.octets();
            let error = self.give_up(&mut state, &batch.runs[finished..], &dropped.runs, error);
            let (settled, losses) = (state.appended, state.losses);
            drop(state);
            // Before those who wait for a sync go on.
            self.tell_failure(&batch, finished, &dropped, losses, error);
            settled
        } else {
            batch.sequence
        };
        {
            let mut state = shared.state.lock();
            state.writing = None;
            state.settled = settled;
        }
        shared.pending_bytes.fetch_sub(octets as u64, Ordering::Relaxed);
        shared.settled.notify_all();
        if good {
            self.tell_success(batch.runs.iter(), &batch.tokens);
        }
        if let Ok(batch) = Arc::try_unwrap(batch) {
            let buffer = batch.into_buffer();
            let mut state = shared.state.lock();
            if state.buffer.capacity() < buffer.capacity() {
                state.buffer = buffer;
            }
        }
    }

    fn tell_success<'a>(&self, runs: impl Iterator<Item = &'a Run>, more: &[u64]) {
        let tokens: Vec<u64> = runs.flat_map(|run| &run.tokens).chain(more).copied().collect();
        if !tokens.is_empty() {
            (self.done)(&tokens, Ok(()));
        }
    }

    /// Of a batch of which only so many runs were `finished`, and what was appended since.
    fn tell_failure(&self, batch: &Batch, finished: usize, dropped: &Batch, losses: u64, error: LogError) {
        let (good, bad) = batch.runs.split_at(finished);
        self.tell_success(good.iter(), &[]);
        let runs = || bad.iter().chain(&dropped.runs);
        let tokens: Vec<u64> = runs().flat_map(|run| &run.tokens).chain(&batch.tokens).chain(&dropped.tokens).copied().collect();
        match &self.lost {
            Some(lost) if error.is_disk_full() => lost(&Loss { losses, records: runs().flat_map(Run::records).collect(), tokens, error }),
            _ if tokens.is_empty() => {}
            _ => (self.done)(&tokens, Err(&error)),
        }
    }

    /// After a failed write: on a full disk cuts back what was half written and moves on to a new segment, so that nothing of the batch is left;
    /// anything else, and any failure of the cutting itself, closes the log. Returns the error to report.
    fn give_up(&self, state: &mut State, failed: &[Run], lost: &[Run], error: LogError) -> LogError {
        let error = if error.is_disk_full() { self.cut_back(state, failed, lost).err().unwrap_or(error) } else { error };
        state.lost = Some((state.settled, state.appended, error.clone()));
        state.losses += 1;
        if !error.is_disk_full() {
            state.fatal.get_or_insert(error.clone());
        }
        error
    }

    fn cut_back(&self, state: &mut State, failed: &[Run], lost: &[Run]) -> Result<(), LogError> {
        let number = self.current.number();
        let fatal = |e: std::io::Error| LogError::Fatal(format!("cannot cut back {}: {e}", segment_name(number)));
        if let Some(run) = failed.first().filter(|run| run.segment == number) {
            self.current.file().truncate(u64::from(run.start)).map_err(fatal)?;
            self.current.file().sync().map_err(fatal)?;
            if let Some(active) = state.segments.iter_mut().find(|(n, _)| *n == number) {
                active.1 = u64::from(run.start);
            }
        }
        // Segments that never came to be: remove the file under either name.
        for run in failed.iter().chain(lost).filter(|run| run.segment != number) {
            if let Some(spare) = &run.opens {
                let _ = self.shared.storage.remove(&spare.path);
                let _ = self.shared.storage.remove(&self.shared.dir.join(segment_name(run.segment)));
                self.shared.sync_dir().map_err(fatal)?;
            }
        }
        state.segments.retain(|(n, _)| *n <= number);
        state.cut = true;
        state.buffer = Vec::new();
        Ok(())
    }
}

impl Shared {
    /// Octets of a segment that are in use, as far as it is known.
    fn segment_length(&self, number: u32) -> u64 {
        let state = self.state.lock();
        state.segments.iter().find(|(n, _)| *n == number).map_or(u64::from(self.segment_bytes), |(_, end)| *end)
    }

    /// Body of the keeper thread.
    pub fn keep(&self) {
        let mut state = self.state.lock();
        loop {
            if self.chore(&mut state) {
                continue;
            }
            if state.closing {
                return;
            }
            self.chores.wait(&mut state);
        }
    }

    /// Does one thing of what the keeper is there for; false when there is nothing to do. The state is unlocked meanwhile.
    pub fn chore(&self, state: &mut MutexGuard<'_, State>) -> bool {
        if matches!(state.spare, Spare::Wanted) && !state.closing {
            let discarded = std::mem::take(&mut state.discarded);
            let kept = state.kept.pop();
            let made = MutexGuard::unlocked(state, || {
                for spare in discarded {
                    let _ = self.storage.remove(&spare.path);
                }
                kept.map_or_else(|| make_spare(self), Ok)
            });
            self.forget_space();
            state.spare = match made {
                Ok(file) => Spare::Ready(file),
                Err(error) => Spare::Failed(error, self.storage.now()),
            };
        } else if let Some(number) = state.doomed.first().copied().filter(|_| !self.removal_refused(state)) {
            let keep = !state.closing && state.kept.len() < self.keep_spares && !self.low_space();
            let kept = MutexGuard::unlocked(state, || self.retire_segment(number, keep));
            match kept {
                Ok(spare) => {
                    state.kept.extend(spare);
                    state.doomed.retain(|n| *n != number);
                }
                Err(_) => state.refused = Some(self.storage.now()),
            }
        } else if state.closing && matches!(state.spare, Spare::Ready(_)) {
            if let Spare::Ready(file) = std::mem::replace(&mut state.spare, Spare::None) {
                let _ = self.storage.remove(&file.path);
            }
        } else if state.closing && !state.kept.is_empty() {
            for file in std::mem::take(&mut state.kept) {
                let _ = self.storage.remove(&file.path);
            }
        } else if !write_zeros(state) {
            return false;
        }
        self.settled.notify_all();
        true
    }
}
