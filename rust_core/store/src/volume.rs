//! One volume directory opened by one process: its own log stream, the shared index, readers of the other streams.
//!
//! Layout: `log/<stream>/` (own stream locked), `index.db` (`SQLite`, shared by all processes), `snapshot.db` (see `gc`), `locks/`, `format`.
//! Invariants: nothing is in the index before it is durable in a log; an operation is logged under the index's write lock, so the order of
//! effects is the order of modseqs; the mark "applied up to" of a stream never passes a record that is not in the index (`flights`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gatepost_log::{Class, Loc, Log, LogReader, Options, OsStorage, Storage};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};

use crate::apply::Apply;
use crate::error::{Result, StoreError};
use crate::flights::{Flight, Flights};
use crate::gc;
use crate::index_cache::IndexCache;
use crate::lock::wait_lock;
use crate::records::{self, Op};
use crate::refused::Refused;
use crate::replay::{self, Held, Recovery};
use crate::room;
use crate::schema;

/// Format of the volume directory.
const FORMAT: &str = "gatepost volume 2\n";
/// The one before it, without content records and their operation: everything in it is read as it is.
const FORMER: &str = "gatepost volume 1\n";
/// How long opening waits for another process that is opening the volume.
const OPEN_WAIT: Duration = Duration::from_secs(120);
/// Idle reading connections kept.
const READERS: usize = 4;

/// How a volume is opened.
#[derive(Clone)]
pub struct VolumeOptions {
    /// Name of this process's own log.
    pub stream: String,
    /// Size of a log segment.
    pub segment_bytes: u32,
    /// Free space below which messages are refused.
    pub min_free_bytes: u64,
    /// Free space at which they are taken again; 0 for the default of [`Options`].
    pub resume_free_bytes: u64,
    /// Where the logs are. The index is always on the operating system's files.
    pub storage: Arc<dyn Storage>,
    /// False: the log has no threads; see [`Options`].
    pub threads: bool,
}

impl VolumeOptions {
    /// 64 MiB segments on the operating system's files, no minimum of free space.
    pub fn new(stream: &str) -> Self {
        let storage = Arc::new(OsStorage);
        Self { stream: stream.to_owned(), segment_bytes: 64 << 20, min_free_bytes: 0, resume_free_bytes: 0, storage, threads: true }
    }

    fn log(&self) -> Options {
        Options {
            segment_bytes: self.segment_bytes,
            min_free_bytes: self.min_free_bytes,
            resume_free_bytes: self.resume_free_bytes,
            keep_spares: 0,
            storage: Arc::clone(&self.storage),
            threads: self.threads,
            ..Options::new(*b"MBOX")
        }
    }
}

/// An open volume.
pub struct Volume {
    pub(crate) dir: PathBuf,
    pub(crate) stream: String,
    pub(crate) log: Log,
    pub(crate) log_options: Options,
    pub(crate) flights: Flights,
    pub(crate) refused: Refused,
    pub(crate) writer: Mutex<Connection>,
    pub(crate) cache: IndexCache,
    pool: Mutex<Vec<Connection>>,
    readers: Mutex<HashMap<String, Arc<LogReader>>>,
    stream_names: Mutex<HashMap<i64, String>>,
    closed: AtomicBool,
    /// The own log takes more disk than it should (`compact`).
    pub(crate) crowded: AtomicBool,
    /// What opening found.
    pub recovery: Recovery,
}

impl Volume {
    /// Open or create the volume in `dir`; brings the index up to date.
    pub fn open(dir: &Path, options: &VolumeOptions) -> Result<Self> {
        let started = Instant::now();
        if options.stream.is_empty() || options.stream.contains(['/', '\0']) || options.stream.starts_with('.') {
            return Err(StoreError::Invalid(format!("stream name {:?}", options.stream)));
        }
        options.storage.make_dir(&dir.join("log"))?;
        std::fs::create_dir_all(dir.join("locks"))?;
        let _opening = wait_lock(&dir.join("locks/open"), OPEN_WAIT)?;
        check_format(dir)?;
        let log_options = options.log();
        let (mut held, busy) = replay::hold_streams(&dir.join("log"), &options.stream, &log_options)?;
        let mut recovery = Recovery::default();
        room::use_reserve(dir);
        let db = open_index(dir, &mut held, &busy, &mut recovery).map_err(|error| room::explain(dir, error))?;
        let own = held.swap_remove(0);
        held.iter().try_for_each(|idle| gc::sweep_idle(&db, idle))?;
        drop(held);
        let log = own.prepared.start(Box::new(|_, _| {}))?;
        room::keep_reserve(dir);
        recovery.seconds = started.elapsed().as_secs_f64();
        Ok(Self {
            dir: dir.to_owned(),
            stream: options.stream.clone(),
            log,
            log_options,
            flights: Flights::default(),
            refused: Refused::default(),
            writer: Mutex::new(db),
            cache: IndexCache::default(),
            pool: Mutex::new(Vec::new()),
            readers: Mutex::new(HashMap::new()),
            stream_names: Mutex::new(HashMap::new()),
            closed: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            recovery,
        })
    }

    /// Refuse work after `close`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Read from the index with a pooled connection, as one consistent view.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.check_open()?;
        let pooled = self.pool.lock().pop();
        let db = match pooled {
            Some(db) => db,
            None => schema::reader(&self.dir.join("index.db"))?,
        };
        let view = db.unchecked_transaction()?;
        let result = work(&view);
        drop(view);
        let mut pool = self.pool.lock();
        if pool.len() < READERS {
            pool.push(db);
        }
        result
    }

    /// One transaction of operations: `plan` says what is to happen by calling [`Change::op`] and may read what it sees. Durable when this
    /// returns. Nothing happens when `plan` fails or does nothing.
    pub(crate) fn change<T>(&self, plan: impl FnOnce(&mut Change<'_>) -> Result<T>) -> Result<T> {
        self.check_open()?;
        let mut db = self.writer.lock();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut change = Change { apply: Apply::new(&transaction)?, ops: Vec::new() };
        let value = plan(&mut change)?;
        let Change { mut apply, ops } = change;
        if ops.is_empty() {
            return Ok(value);
        }
        let (flight, mut places) = (self.flights.begin(&self.log), Vec::new());
        let done = self
            .log_ops(apply.modseq, &ops, &flight, &mut places)
            .and_then(|()| self.settle(&mut apply, &flight, true))
            .and_then(|()| apply.finish())
            .and_then(|()| Ok(transaction.commit()?));
        match done {
            Ok(()) => self.flights.end(&flight),
            Err(_) => self.refuse(flight, places),
        }
        done.map(|()| value)
    }

    /// Makes the operations of the running transaction durable. The record's place is added to `places`, also when that fails.
    pub(crate) fn log_ops(&self, modseq: i64, ops: &[Op], flight: &Flight, places: &mut Vec<Loc>) -> Result<()> {
        places.push(self.log.append(records::KIND_OPS, &[&records::encode_ops(modseq, ops)], Class::Journal, None)?);
        self.make_durable(flight.losses)
    }

    /// Note in the running transaction how far the own stream is applied when it commits.
    pub(crate) fn settle(&self, apply: &mut Apply<'_>, flight: &Flight, ops: bool) -> Result<()> {
        let id = apply.stream(&self.stream)?;
        apply.applied(id, self.flights.applied_without(flight, &self.log), ops)
    }

    /// Reader of a stream's records, of this process or another.
    pub(crate) fn reader(&self, stream: &str) -> Arc<LogReader> {
        let mut readers = self.readers.lock();
        let reader = readers
            .entry(stream.to_owned())
            .or_insert_with(|| Arc::new(LogReader::new(&self.dir.join("log").join(stream), Arc::clone(&self.log_options.storage))));
        Arc::clone(reader)
    }

    /// Let go of segments of any stream that were removed, by this process or another.
    pub(crate) fn forget_removed(&self) {
        let readers: Vec<_> = self.readers.lock().values().cloned().collect();
        for reader in readers {
            reader.forget_removed();
        }
    }

    /// Name of a stream by its number in the index.
    pub(crate) fn stream_name(&self, db: &Connection, id: i64) -> Result<String> {
        if let Some(name) = self.stream_names.lock().get(&id) {
            return Ok(name.clone());
        }
        let name: String = db.prepare_cached("SELECT name FROM stream WHERE id = ?1")?.query_row([id], |r| r.get(0))?;
        self.stream_names.lock().insert(id, name.clone());
        Ok(name)
    }

    /// Sync, unlock the stream, close the index. Idempotent; work that runs fails with `Closed`.
    pub fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.pay_refused();
        let closed = self.log.close();
        self.pool.lock().clear();
        let _ = self.writer.lock().execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(PASSIVE);");
        Ok(closed?)
    }
}

/// A running transaction of operations.
pub(crate) struct Change<'a> {
    pub apply: Apply<'a>,
    ops: Vec<Op>,
}

impl<'a> Change<'a> {
    /// Do and record one effect.
    pub fn op(&mut self, op: Op) -> Result<()> {
        self.apply.op(&op)?;
        self.ops.push(op);
        Ok(())
    }

    /// The index as this transaction sees it.
    pub fn db(&self) -> &'a Connection {
        self.apply.db()
    }
}

fn check_format(dir: &Path) -> Result<()> {
    let path = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) if text == FORMAT => Ok(()),
        Ok(text) if text == FORMER => write_format(dir),
        Ok(text) => {
            let (found, known) = (text.trim(), FORMAT.trim());
            Err(StoreError::Version(format!("{}: format {found:?}, this program knows up to {known:?}", path.display())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_format(dir),
        Err(error) => Err(error.into()),
    }
}

/// Written under another name first: a crash must not leave half a format.
fn write_format(dir: &Path) -> Result<()> {
    let new = dir.join("format.new");
    std::fs::write(&new, FORMAT)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(&new, dir.join("format"))?;
    Ok(std::fs::File::open(dir)?.sync_all()?)
}

/// Open the index, make it if it is missing or unreadable, and apply the tails of the held streams.
fn open_index(dir: &Path, held: &mut [Held], busy: &[String], recovery: &mut Recovery) -> Result<Connection> {
    let path = dir.join("index.db");
    let usable = path.exists() && usable(&path)? && !is_older(&path, &dir.join("snapshot.db"))?;
    if !usable {
        if let Some(stream) = busy.first() {
            return Err(StoreError::Locked(format!("the index is missing and cannot be rebuilt while stream {stream} is in use")));
        }
        let logged = held.iter().any(|h| !h.prepared.segments().is_empty());
        if logged || path.exists() {
            replay::begin_rebuild(dir, recovery)?;
        }
    }
    let mut db = schema::writer(&path)?;
    schema::prepare(&db)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = schema::meta_text(&db, "boot_id")?;
    let rebooted = known.is_some_and(|k| k != boot.trim());
    replay::replay(&mut db, held, rebooted || recovery.rebuilt, recovery)?;
    if recovery.rebuilt {
        replay::end_rebuild(&db)?;
    }
    schema::set_meta_text(&db, "boot_id", boot.trim())?;
    Ok(db)
}

/// False when the file is no usable `SQLite` database: it is derived, so it is made anew.
fn usable(path: &Path) -> Result<bool> {
    let checked = schema::writer(path).and_then(|db| Ok(db.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))?));
    match checked {
        Ok(_) => Ok(true),
        Err(StoreError::Damaged(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// True when the index lacks what the snapshot has: operations in between may be in segments that are gone.
fn is_older(index: &Path, snapshot: &Path) -> Result<bool> {
    if !snapshot.exists() {
        return Ok(false);
    }
    let modseq = |path: &Path| schema::reader(path).and_then(|db| schema::meta(&db, "modseq"));
    // A snapshot that cannot be read is none; an index that cannot be read for now must not be thrown away for it.
    let known = modseq(snapshot).unwrap_or(None);
    Ok(modseq(index)? < known)
}
