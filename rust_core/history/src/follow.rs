//! The follower: a thread of low priority that reads a partition's records behind its writers and writes the history.
//!
//! It sleeps between batches, so that most messages come and go within one and cost one row. It never makes anybody wait: the log
//! is read after the fact, segments it has not read are kept within a bound only, and a history that cannot be written is
//! reported and tried again. A query asks it to catch up first, with a deadline.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gatepost_queue::{Entry, Loc, Tail, now_us};
use parking_lot::{Condvar, Mutex};

use crate::error::HistoryError;
use crate::header;
use crate::record::{ALL, Event, Message};
use crate::shelf::Shelf;
use crate::writer::{Batch, Keep, Writer};

/// Pause between batches.
const PAUSE: Duration = Duration::from_millis(1500);
/// Pause after a failure.
const PAUSE_FAILED: Duration = Duration::from_secs(5);
/// How often old files are looked for.
const AGE_EVERY: Duration = Duration::from_secs(60);
/// Records and octets of a batch.
const RECORDS: usize = 8192;
const WEIGHT: usize = 8 << 20;
/// Octets of write-ahead log, and of the partition's log, after which the file is brought onto the disk.
const WAL: u64 = 16 << 20;
const SYNC_EVERY: u64 = 48 << 20;
/// Quiet time after which it is brought onto the disk anyhow.
const QUIET: Duration = Duration::from_secs(10);
/// The thread's nice value.
const NICE: i32 = 10;
/// While there is more to read it rests so many times as long as it worked: what happens to very many messages at once is written down a little later
/// rather than in the way of mail.
const REST: u32 = 4;
/// Segments of log behind its writers at which it does not.
const BEHIND: u32 = 2;

/// How a history is kept.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Seconds that finished mail is kept.
    pub age_seconds: u64,
    /// Octets of this partition's files at most.
    pub max_octets: u64,
}

/// Figures of a follower.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Rows written since it was started.
    pub messages: u64,
    /// Records read.
    pub records: u64,
    /// Processor time of the thread, microseconds.
    pub cpu_us: u64,
    /// Octets of all files.
    pub octets: u64,
    /// Files.
    pub files: u64,
}

#[derive(Default)]
struct Wishes {
    stop: bool,
    /// Somebody waits: do not sleep.
    hurry: bool,
}

struct Shared {
    shelf: Arc<Shelf>,
    tail: Tail,
    wishes: Mutex<Wishes>,
    wake: Condvar,
    /// Up to where the log is in the database, packed.
    done: AtomicU64,
    progress: Mutex<()>,
    progressed: Condvar,
    messages: AtomicU64,
    records: AtomicU64,
    cpu_us: AtomicU64,
    failing: AtomicBool,
}

/// A running follower.
pub struct Follower {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Follower {
    /// Begins to follow `tail` into the files in `dir`. Fails only when no thread can be started.
    pub fn start(dir: &Path, tail: Tail, options: Options) -> Result<Self, HistoryError> {
        let shared = Arc::new(Shared {
            shelf: Arc::new(Shelf::unread(dir)),
            tail,
            wishes: Mutex::default(),
            wake: Condvar::new(),
            done: AtomicU64::new(0),
            progress: Mutex::new(()),
            progressed: Condvar::new(),
            messages: AtomicU64::new(0),
            records: AtomicU64::new(0),
            cpu_us: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        });
        let body = Arc::clone(&shared);
        let keep = Keep { age_us: options.age_seconds.saturating_mul(1_000_000), octets: options.max_octets };
        let thread = std::thread::Builder::new().name("history".into()).spawn(move || Loop::new(&body, keep).run());
        let thread = thread.map_err(|e| HistoryError::Storage(format!("start thread: {e}")))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The files, for queries.
    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shared.shelf
    }

    /// Waits until all that had happened before the call is in, at most `deadline` long. True when it is.
    pub fn catch_up(&self, deadline: Duration) -> bool {
        let shared = &self.shared;
        let (goal, until) = (shared.tail.end(), Instant::now() + deadline);
        let mut guard = shared.progress.lock();
        loop {
            if self.reached(goal) {
                return true;
            }
            shared.wishes.lock().hurry = true;
            shared.wake.notify_all();
            let now = Instant::now();
            if now >= until || self.thread.lock().is_none() {
                return false;
            }
            shared.progressed.wait_for(&mut guard, (until - now).min(Duration::from_millis(20)));
        }
    }

    /// The mark that will begin the next batch may lie between what is durable and where the next record goes.
    fn reached(&self, goal: Loc) -> bool {
        let done = Loc::unpack(self.shared.done.load(Ordering::Acquire));
        done >= goal || done >= self.shared.tail.durable() && self.shared.tail.durable() >= goal
    }

    /// Figures.
    pub fn figures(&self) -> Figures {
        let s = &self.shared;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let files = s.shelf.files().len() as u64;
        Figures { messages: get(&s.messages), records: get(&s.records), cpu_us: get(&s.cpu_us), octets: s.shelf.octets(), files }
    }

    /// Catches up within `deadline`, writes everything onto the disk and ends the thread. Idempotent.
    pub fn close(&self, deadline: Duration) -> bool {
        let whole = self.catch_up(deadline);
        self.shared.wishes.lock().stop = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        whole
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.close(Duration::ZERO);
    }
}

/// The thread's own state.
struct Loop<'a> {
    shared: &'a Shared,
    keep: Keep,
    writer: Option<Writer>,
    /// Where to read on.
    next: Loc,
    /// Up to where all is on the disk: segments before it may go.
    synced: Loc,
    unsynced_since: Option<Instant>,
    aged: Option<Instant>,
    /// Space is short, so no segment is kept for us.
    yielded: bool,
    /// Up to here the history was begun anew: what is missing before was never in it.
    begun: Loc,
}

impl<'a> Loop<'a> {
    fn new(shared: &'a Shared, keep: Keep) -> Self {
        Self {
            shared,
            keep,
            writer: None,
            next: Loc::NONE,
            synced: Loc::NONE,
            unsynced_since: None,
            aged: None,
            yielded: false,
            begun: Loc::NONE,
        }
    }

    fn run(mut self) {
        lower_priority();
        self.shared.shelf.look();
        loop {
            let before = thread_cpu_us();
            let worked = self.turn();
            if let Err(error) = &worked {
                self.failed(error);
            } else {
                self.shared.failing.store(false, Ordering::Relaxed);
            }
            let cpu = thread_cpu_us();
            self.shared.cpu_us.store(cpu, Ordering::Relaxed);
            self.shared.progressed.notify_all();
            let pause = match worked {
                Ok(true) if self.is_behind() => Duration::ZERO,
                Ok(true) => REST * Duration::from_micros(cpu.saturating_sub(before)).min(PAUSE / REST),
                Ok(false) => PAUSE,
                Err(_) => PAUSE_FAILED,
            };
            if self.sleep(pause) {
                break;
            }
        }
        let _ = self.sync(true);
    }

    fn is_behind(&self) -> bool {
        self.shared.tail.durable().segment.saturating_sub(self.next.segment) >= BEHIND
    }

    /// True when the thread is to end.
    fn sleep(&self, pause: Duration) -> bool {
        let mut wishes = self.shared.wishes.lock();
        if !wishes.stop && !wishes.hurry && !pause.is_zero() {
            self.shared.wake.wait_for(&mut wishes, pause);
        }
        wishes.hurry = false;
        wishes.stop
    }

    /// One batch and what else is due. True when there is more to read.
    fn turn(&mut self) -> Result<bool, HistoryError> {
        if self.shared.tail.low_space() {
            return Err(self.yield_space());
        }
        if self.writer.as_ref().is_some_and(Writer::is_gone) {
            self.shared.shelf.notice("history files were removed or replaced; the history starts anew".into());
            self.shared.shelf.missing(0, now_us());
            self.writer = None;
        }
        if self.writer.is_none() {
            self.open()?;
        }
        let more = self.batch()?;
        self.tend()?;
        Ok(more)
    }

    /// Opens the newest file and finds the place in the log to go on from.
    fn open(&mut self) -> Result<(), HistoryError> {
        let tail = &self.shared.tail;
        self.shared.shelf.reload()?;
        let (writer, place, salt) = Writer::open(Arc::clone(&self.shared.shelf), self.keep, now_us())?;
        // A segment that is gone was finished with; one with another salt, or a place not reached yet, belongs to another log.
        let other = place > tail.durable() || tail.salt(place.segment).is_some_and(|known| known != salt);
        if other && !place.is_none() {
            self.shared.shelf.notice("the history belongs to an earlier queue; it goes on with the queue that is here".into());
        }
        self.next = if other { Loc::NONE } else { place };
        self.synced = self.next;
        self.begun = if self.next.is_none() { tail.durable() } else { Loc::NONE };
        self.writer = Some(writer);
        self.report(self.next);
        if std::mem::take(&mut self.yielded) {
            self.release();
        }
        Ok(())
    }

    /// Writes nothing while space is short. Segments that wait for nobody but us may go: kept, they would be what keeps the disk full, and so
    /// new mail out.
    fn yield_space(&mut self) -> HistoryError {
        self.yielded = true;
        self.shared.tail.release(None);
        HistoryError::Storage("too little free space; mail goes first".into())
    }

    fn report(&self, place: Loc) {
        let _guard = self.shared.progress.lock();
        self.shared.done.store(place.pack(), Ordering::Release);
    }

    /// Reads records and writes them. True when there may be more.
    fn batch(&mut self) -> Result<bool, HistoryError> {
        if self.next >= self.shared.tail.durable() {
            return Ok(false);
        }
        let mut batch = Batch::default();
        let Some(writer) = &mut self.writer else { return Ok(false) };
        let tail = &self.shared.tail;
        let read = tail.read(self.next, RECORDS, &mut |entry| {
            take(&mut batch, entry, tail, writer);
            batch.weight < WEIGHT
        })?;
        if read.skipped && self.next >= self.begun {
            self.shared.shelf.notice("history: records were gone before they were read; what they said is missing".into());
            let until = if read.jumped { batch.first_us } else { batch.seen_us };
            // Nothing read yet behind the missing ones: they end now.
            self.shared.shelf.missing(writer.seen_us, if until == 0 { now_us() } else { until });
        }
        let salt = tail.salt(read.next.segment).unwrap_or(0);
        let before = writer.messages;
        writer.write(&batch, read.next, salt, now_us())?;
        self.next = read.next;
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.shared.messages.fetch_add(writer.messages - before, Ordering::Relaxed);
        self.shared.records.fetch_add(batch.records, Ordering::Relaxed);
        self.report(read.next);
        Ok(self.next < self.shared.tail.durable() && !batch.is_empty())
    }

    /// Seals, syncs, ages.
    fn tend(&mut self) -> Result<(), HistoryError> {
        let now = now_us();
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if writer.is_full(now) {
            writer.roll(now)?;
            self.synced = self.next;
            self.release();
        }
        let quiet = self.unsynced_since.is_some_and(|since| since.elapsed() > QUIET);
        if quiet || self.unsynced() > SYNC_EVERY || self.writer.as_ref().is_some_and(|w| w.wal_octets() > WAL) {
            self.sync(false)?;
        }
        if self.aged.is_none_or(|at| at.elapsed() > AGE_EVERY) || self.too_much() {
            self.aged = Some(Instant::now());
            if let Some(writer) = &mut self.writer {
                writer.age(now)?;
            }
        }
        Ok(())
    }

    fn too_much(&self) -> bool {
        self.shared.shelf.octets() > self.keep.octets && self.shared.shelf.files().len() > 1
    }

    /// Octets of log read since the last sync, roughly.
    fn unsynced(&self) -> u64 {
        let segments = u64::from(self.next.segment - self.synced.segment.min(self.next.segment));
        segments * SYNC_EVERY + u64::from(self.next.offset.saturating_sub(self.synced.offset))
    }

    fn sync(&mut self, truncate: bool) -> Result<(), HistoryError> {
        let Some(writer) = &self.writer else { return Ok(()) };
        if writer.checkpoint(truncate)? {
            self.synced = self.next;
            self.unsynced_since = None;
            self.release();
        }
        Ok(())
    }

    /// Segments that are read, and whose reading is on the disk, are not kept for us any longer.
    fn release(&self) {
        self.shared.tail.release(Some(self.synced.segment));
    }

    /// Says once what is wrong. A damaged file is set aside, so that the next turn begins another.
    fn failed(&mut self, error: &HistoryError) {
        if let (HistoryError::Damaged(why), Some(writer)) = (error, self.writer.take()) {
            let number = writer.number();
            drop(writer);
            if let Some(info) = self.shared.shelf.files().iter().find(|f| f.number == number) {
                self.shared.shelf.set_aside(info, why);
            }
            return;
        }
        if !self.shared.failing.swap(true, Ordering::Relaxed) {
            self.shared.shelf.notice(format!("history is not written for now, mail goes on: {error}"));
        }
    }
}

/// A record into the batch.
fn take(batch: &mut Batch, entry: Entry<'_>, tail: &Tail, writer: &Writer) {
    match entry {
        // Compaction repeats what was read before, except after history was lost: then the message has no other record any more.
        Entry::Moved { place, envelope, head } => {
            if !batch.has(&envelope.id) && matches!(writer.knows(&envelope.id), Ok(false)) {
                let (subject, header_id) = header::scan(head);
                let mut message = Message::new(envelope, subject, header_id);
                // A journal that cannot be read costs what it said; the message is told all the same.
                let _ = tail.carried(place, &mut |entry| {
                    message.events.extend(event(&entry));
                    true
                });
                batch.moved(message);
            }
        }
        Entry::Accepted { envelope, head } => {
            let (subject, header_id) = header::scan(head);
            batch.accepted(Message::new(envelope, subject, header_id));
        }
        Entry::Journal { id, .. } => {
            if let Some(event) = event(&entry) {
                batch.event(id, event);
            }
        }
    }
}

fn event(entry: &Entry<'_>) -> Option<Event> {
    let Entry::Journal { time_us, next_us, recipient, kind, finished, detail, .. } = entry else { return None };
    let recipient = recipient.unwrap_or(ALL);
    Some(Event { time_us: *time_us, next_us: *next_us, recipient, kind: *kind, finished: *finished, detail: detail.to_vec() })
}

fn lower_priority() {
    // SAFETY: plain system calls on this thread, without pointers; a failure only leaves the priority as it is.
    unsafe {
        let thread = libc::gettid();
        libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, NICE);
    }
}

fn thread_cpu_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}
