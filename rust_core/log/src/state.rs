//! The log's mutable state behind one mutex, and the reservation of space in it. No I/O happens under this mutex.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::ahead::Ahead;
use crate::batch::{Batch, Run, SpareFile};
use crate::error::LogError;
use crate::format::{Identity, MARK_SIZE, RECORD_HEADER, SEGMENT_HEADER, record_size};
use crate::segment::SegmentTable;
use crate::storage::{Storage, StorageFile};
use crate::{Class, Loc, Options};

/// How long a failed attempt to preallocate is believed before the next one.
const SPARE_RETRY: Duration = Duration::from_millis(500);
/// Free space above the minimum that ends a shortage, at least.
const RESUME_MARGIN: u64 = 64 << 20;
/// How long free space is believed.
const SPACE_TTL_MS: u64 = 250;
/// Octets that wait before the committer writes although nobody asked for a sync.
pub(crate) const WRITE_EARLY: usize = 256 * 1024;

/// The preallocated file that becomes the next segment.
pub(crate) enum Spare {
    /// Not asked for yet.
    None,
    /// Asked for; the keeper is to make it or is making it.
    Wanted,
    Ready(SpareFile),
    Failed(LogError, Instant),
}

pub(crate) struct State {
    /// Segment that takes the next record.
    pub segment: u32,
    pub identity: Identity,
    /// Where the next record goes.
    pub offset: u32,
    /// Octets preallocated for the active segment. Less than a whole segment only when the disk was nearly full: then it takes no mail.
    pub limit: u32,
    pub ahead: Ahead,
    /// The active segment was cut back after a full disk: the next append has to take a new one.
    pub cut: bool,
    pub pending: Batch,
    pub writing: Option<Arc<Batch>>,
    pub spare: Spare,
    /// Freed segments that wait to be used again.
    pub kept: Vec<SpareFile>,
    /// Small spares given up for the attempt to make a whole one; the keeper removes them.
    pub discarded: Vec<SpareFile>,
    pub buffer: Vec<u8>,
    /// Appends so far, and how many of them are settled (durable, or given up with an error).
    pub appended: u64,
    pub settled: u64,
    /// The last batch that was given up, as a range of append counts.
    pub lost: Option<(u64, u64, LogError)>,
    /// How many batches were given up.
    pub losses: u64,
    /// Someone waits in `sync`.
    pub hurry: bool,
    pub fatal: Option<LogError>,
    pub closing: bool,
    /// Segments the keeper is to remove, oldest first.
    pub doomed: Vec<u32>,
    /// When a removal failed last.
    pub refused: Option<Instant>,
    /// Segments that exist, ascending, with their length in octets; the last is the active one.
    pub segments: Vec<(u32, u64)>,
}

/// Free space at which messages are taken again.
fn resume_at(options: &Options) -> u64 {
    let default = options.min_free_bytes.saturating_add((options.min_free_bytes / 10).max(RESUME_MARGIN));
    match options.resume_free_bytes {
        _ if options.min_free_bytes == 0 => 0,
        0 => default,
        given => given.max(options.min_free_bytes),
    }
}

impl State {
    /// Octets of the files that will become segments.
    pub fn spare_bytes(&self) -> u64 {
        let ready = if let Spare::Ready(file) = &self.spare { u64::from(file.size) } else { 0 };
        ready + self.kept.iter().map(|file| u64::from(file.size)).sum::<u64>()
    }
}

/// Shared by the log's handle, its committer and its keeper.
pub(crate) struct Shared {
    pub dir: PathBuf,
    pub storage: Arc<dyn Storage>,
    pub app: [u8; 4],
    pub segment_bytes: u32,
    pub min_free_bytes: u64,
    pub resume_free_bytes: u64,
    /// How many freed segments may wait to be used again.
    pub keep_spares: usize,
    /// False: whoever would wait does the work itself (`step`).
    pub threads: bool,
    pub table: SegmentTable,
    /// The directory, held open.
    handle: Option<Box<dyn StorageFile>>,
    /// Octets of the reserve file; 0 when it is used up.
    pub reserved: AtomicU64,
    pub state: Mutex<State>,
    /// Wakes the committer.
    pub work: Condvar,
    /// Wakes the keeper.
    pub chores: Condvar,
    /// Wakes those who wait for a spare, for a sync, for room or for a removal.
    pub settled: Condvar,
    /// Octets appended and not yet settled.
    pub pending_bytes: AtomicU64,
    /// An append wakes nobody: more follow at once, and `uncork` after them.
    pub corked: AtomicBool,
    pub syncs: AtomicU64,
    pub spares: AtomicU64,
    /// End of what is durable, packed.
    pub durable: AtomicU64,
    /// Segments with pages that cannot be read: they are not given back, but put away.
    pub unread: Mutex<BTreeSet<u32>>,
    /// The newest segment of the run before, if it held nothing and was removed; 0: none.
    pub empty: AtomicU32,
    started: Instant,
    space_checked: AtomicU64,
    space_low: AtomicBool,
    free_bytes: AtomicU64,
}

impl Shared {
    pub fn new(dir: &Path, options: &Options, state: State) -> Self {
        let storage = Arc::clone(&options.storage);
        let durable = Loc { segment: state.segment, offset: state.offset }.pack();
        Self {
            dir: dir.to_owned(),
            table: SegmentTable::new(dir, Arc::clone(&storage)),
            handle: storage.open_dir(dir).ok().flatten(),
            reserved: AtomicU64::new(0),
            started: storage.now(),
            storage,
            app: options.app,
            segment_bytes: options.segment_bytes,
            min_free_bytes: options.min_free_bytes,
            resume_free_bytes: resume_at(options),
            keep_spares: options.keep_spares,
            threads: options.threads,
            state: Mutex::new(state),
            work: Condvar::new(),
            chores: Condvar::new(),
            settled: Condvar::new(),
            pending_bytes: AtomicU64::new(0),
            corked: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            spares: AtomicU64::new(0),
            durable: AtomicU64::new(durable),
            unread: Mutex::default(),
            empty: AtomicU32::new(0),
            space_checked: AtomicU64::new(u64::MAX),
            space_low: AtomicBool::new(false),
            free_bytes: AtomicU64::new(0),
        }
    }

    /// Makes creations, renames and removals of segments durable.
    pub fn sync_dir(&self) -> std::io::Result<()> {
        self.handle.as_ref().map_or_else(|| self.storage.sync_dir(&self.dir), |handle| handle.sync())
    }

    /// Free octets of the file system, at most a quarter of a second old.
    pub fn free_bytes(&self) -> u64 {
        let now = self.storage.now().duration_since(self.started).as_millis() as u64;
        let checked = self.space_checked.load(Ordering::Relaxed);
        if checked == u64::MAX || now.saturating_sub(checked) > SPACE_TTL_MS {
            self.space_checked.store(now, Ordering::Relaxed);
            if let Ok(free) = self.storage.free_bytes(&self.dir) {
                self.free_bytes.store(free, Ordering::Relaxed);
                // Hysteresis, so that reception does not come and go with every message that is delivered.
                let limit = if self.space_low.load(Ordering::Relaxed) { self.resume_free_bytes } else { self.min_free_bytes };
                self.space_low.store(free < limit, Ordering::Relaxed);
            }
        }
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// The next look at the free space is a fresh one: a segment was allocated, which may be more than was left above the limit.
    pub fn forget_space(&self) {
        self.space_checked.store(u64::MAX, Ordering::Relaxed);
    }

    /// True when new messages must be refused.
    pub fn low_space(&self) -> bool {
        self.free_bytes();
        self.space_low.load(Ordering::Relaxed)
    }

    /// Largest payload that fits.
    pub fn max_payload(&self) -> u32 {
        self.segment_bytes - self.reserve() - SEGMENT_HEADER - 2 * MARK_SIZE - RECORD_HEADER
    }

    /// Octets at the end of the active segment that only journal records may use while no next segment can be had.
    fn reserve(&self) -> u32 {
        self.segment_bytes / 16
    }

    /// Error that stops every append.
    pub fn check(state: &State) -> Result<(), LogError> {
        match &state.fatal {
            Some(error) => Err(error.clone()),
            None if state.closing => Err(LogError::Closed),
            None => Ok(()),
        }
    }

    /// Error when a batch was given up since `losses` was read.
    pub fn check_losses(state: &State, losses: Option<u64>) -> Result<(), LogError> {
        match &state.lost {
            Some((.., error)) if losses.is_some_and(|known| known != state.losses) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Reserves space and copies the record into the pending batch. With `losses`, only if none came since that count was read.
    pub fn append(&self, kind: u8, parts: &[&[u8]], class: Class, token: Option<u64>, losses: Option<u64>) -> Result<Loc, LogError> {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        if length > self.max_payload() as usize {
            return Err(LogError::TooLarge(length));
        }
        if class == Class::Message && self.low_space() {
            return Err(LogError::DiskFull(format!("less than {} octets free", self.min_free_bytes)));
        }
        let mut state = self.state.lock();
        Self::check(&state)?;
        let need = record_size(length as u32);
        self.make_room(&mut state, need, class)?;
        Self::check_losses(&state, losses)?;
        let before = state.pending.octets();
        let run = Self::run(&mut state, None);
        let offset = run.push(kind, length as u32, parts);
        if let Some(token) = token {
            run.tokens.push(token);
        }
        let loc = Loc { segment: run.segment, offset };
        state.offset = offset + need;
        state.appended += 1;
        state.pending.sequence = state.appended;
        let octets = state.pending.octets();
        self.pending_bytes.fetch_add((octets - before) as u64, Ordering::Relaxed);
        if state.offset > state.limit / 2 && matches!(state.spare, Spare::None) {
            state.spare = Spare::Wanted;
            self.chores.notify_one();
        } else if state.zeros_wanted() {
            self.chores.notify_one();
        }
        let corked = self.corked.load(Ordering::Relaxed);
        if octets > WRITE_EARLY || (!corked && (token.is_some() || before == 0)) {
            self.work.notify_one();
        }
        Ok(loc)
    }

    /// The run that takes the next record, begun with a mark if there is none.
    fn run(state: &mut State, opens: Option<SpareFile>) -> &mut Run {
        let fits = opens.is_none() && state.pending.runs.last().is_some_and(|r| r.segment == state.segment && r.end() == state.offset);
        if !fits {
            let buffer = std::mem::take(&mut state.buffer);
            let run = Run::new(state.segment, state.identity, state.offset, buffer, opens);
            state.offset = run.end();
            state.pending.runs.push(run);
        }
        let last = state.pending.runs.len() - 1;
        &mut state.pending.runs[last]
    }

    /// Octets of the active segment that records of this class may fill.
    fn usable(&self, state: &State, class: Class) -> u32 {
        let whole = |size: u32| size == self.segment_bytes;
        match class {
            Class::Journal => state.limit,
            _ if !whole(state.limit) => 0,
            _ if matches!(&state.spare, Spare::Ready(file) if whole(file.size)) => state.limit,
            _ => state.limit - self.reserve(),
        }
    }

    /// Sees to it that `need` octets fit behind `state.offset`, moving on to the next segment if they do not. Mail goes into whole segments only; the
    /// journal also takes a small one, which is all that a nearly full disk gives.
    fn make_room(&self, state: &mut MutexGuard<'_, State>, need: u32, class: Class) -> Result<(), LogError> {
        let need = need + MARK_SIZE;
        let full = || LogError::DiskFull("no room for another segment".to_owned());
        loop {
            let end = state.offset.saturating_add(need);
            if !state.cut && end <= self.usable(state, class) {
                if !state.zeros_before(end) {
                    return Ok(());
                }
                self.await_zeros(state, end);
                Self::check(state)?;
                continue;
            }
            if state.zeros_before(u32::MAX) {
                self.await_zeros(state, u32::MAX);
                Self::check(state)?;
                continue;
            }
            let recent = |at: Instant| self.storage.now().duration_since(at) < SPARE_RETRY;
            match std::mem::replace(&mut state.spare, Spare::None) {
                Spare::Ready(file) if file.size == self.segment_bytes => self.roll(state, file),
                Spare::Ready(file) if class == Class::Journal && SEGMENT_HEADER + need <= file.size => self.roll(state, file),
                Spare::Ready(file) if recent(file.made) => {
                    state.spare = Spare::Ready(file);
                    return Err(full());
                }
                Spare::Failed(error, at) if recent(at) => {
                    state.spare = Spare::Failed(error.clone(), at);
                    return Err(error);
                }
                other => {
                    if let Spare::Ready(small) = other {
                        state.discarded.push(small);
                    }
                    state.spare = Spare::Wanted;
                    self.chores.notify_one();
                    self.await_keeper(state);
                    Self::check(state)?;
                }
            }
        }
    }

    /// A removal failed a moment ago: the segments to be removed stay until the keeper is woken later, or until the next opening.
    pub fn removal_refused(&self, state: &State) -> bool {
        state.refused.is_some_and(|at| self.storage.now().duration_since(at) < SPARE_RETRY)
    }

    /// Until the keeper has done something.
    pub fn await_keeper(&self, state: &mut MutexGuard<'_, State>) {
        if self.threads {
            self.settled.wait(state);
        } else {
            self.chore(state);
        }
    }

    /// Makes a preallocated file the active segment. The committer gives it its name when it gets there.
    fn roll(&self, state: &mut State, file: SpareFile) {
        let end = u64::from(state.offset);
        if let Some(active) = state.segments.last_mut().filter(|_| !state.cut) {
            active.1 = end;
        }
        state.cut = false;
        state.segment += 1;
        state.identity = Identity::new(file.former);
        state.offset = SEGMENT_HEADER;
        state.limit = file.size;
        state.ahead = state.ahead.next(&file);
        let number = state.segment;
        state.segments.push((number, u64::from(file.size)));
        let octets = Self::run(state, Some(file)).bytes.len();
        self.pending_bytes.fetch_add(octets as u64, Ordering::Relaxed);
        // The run's mark makes the batch look begun, so what is appended to it next would wake nobody.
        self.work.notify_one();
    }
}
