//! A disk that can be trusted with nothing that was not synced: the storage seam (`gatepost_log::Storage`) kept in memory, with faults on demand.
//!
//! Callers: the histories of this crate and the tests of log and queue. Clones share the disk. Everything that happens follows from the seed
//! and the order of the calls, so the same calls give the same disk. Modelled:
//! - A file's writes and length are durable once it is synced; a power cut keeps, loses, tears or reorders what was not.
//! - Names are durable once their directory is synced: a power cut can lose creations, undo renames and bring removed files back.
//! - Every call is counted, and can fail ([`Fault`]) or be the last before the power goes ([`Disk::cut_power_at`]).
//! - After a sync that failed the changes are lost or kept, and the next sync succeeds all the same, as with Linux.
//! - A capacity, locks that die with the process, bits that flip, pages that cannot be read, a clock.
//!
//! The calls themselves are in `mount`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_log::Storage;
use parking_lot::Mutex;

use crate::inode::Inode;
use crate::names::Names;
use crate::rng::Rng;

mod fault;
mod mount;

pub use fault::{Call, Fault, Traced};
use mount::Mount;

/// The disk. Clones are the same disk; [`Disk::fork`] makes another.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

#[derive(Clone)]
struct Inner {
    rng: Rng,
    inodes: BTreeMap<u64, Inode>,
    names: Names,
    next_inode: u64,
    capacity: Option<u64>,
    locks: BTreeSet<PathBuf>,
    /// Counts restarts: handles and locks of former lives do nothing.
    life: u64,
    calls: u64,
    cut_at: Option<u64>,
    dead: bool,
    faults: Vec<Fault>,
    hits: u64,
    /// The most free octets told since somebody asked for that.
    most_told: u64,
    trace: Option<Vec<Traced>>,
    start: Instant,
    elapsed: Duration,
}

/// What is to happen in a call.
enum Verdict {
    Fine,
    /// Fails; of a write so many octets get through.
    Fails(io::Error, Option<usize>),
    /// The power goes in this call: it may be carried out or not.
    Last,
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Disk {
    /// An empty disk without a limit.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: Rng::new(seed),
            inodes: BTreeMap::new(),
            names: Names::default(),
            next_inode: 1,
            capacity: None,
            locks: BTreeSet::new(),
            life: 0,
            calls: 0,
            cut_at: None,
            dead: false,
            faults: Vec::new(),
            hits: 0,
            most_told: 0,
            trace: None,
            start: Instant::now(),
            elapsed: Duration::ZERO,
        })))
    }

    /// For one process: fails for good once that was killed or the power was cut.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(Mount::new(self, self.0.lock().life))
    }

    /// Another disk with the same contents, as after [`Disk::kill`].
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut inner = self.0.lock().clone();
        inner.restart();
        Self(Arc::new(Mutex::new(inner)))
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The power goes in the `n`-th call from now (1 is the next). All calls fail from then on until [`Disk::power_cut`].
    pub fn cut_power_at(&self, n: Option<u64>) {
        let mut inner = self.0.lock();
        inner.cut_at = n.map(|n| inner.calls + n);
    }

    /// The power is gone.
    pub fn dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Power off and on again: what was not synced is decided, locks and handles are gone, faults are cleared.
    pub fn power_cut(&self) {
        let mut guard = self.0.lock();
        let inner = &mut *guard;
        for inode in inner.inodes.values_mut() {
            inode.power_cut(&mut inner.rng);
        }
        inner.names.power_cut(&mut inner.rng);
        inner.restart();
    }

    /// The process died (SIGKILL) and the machine did not: everything written is still there, and still not synced.
    pub fn kill(&self) {
        let mut inner = self.0.lock();
        if inner.dead {
            drop(inner);
            return self.power_cut();
        }
        inner.restart();
    }

    /// Fails calls from now on.
    pub fn fail(&self, fault: Fault) {
        self.0.lock().faults.push(fault);
    }

    /// No call fails any more.
    pub fn mend(&self) {
        self.0.lock().faults.clear();
    }

    /// How many calls failed because of a [`Fault`].
    pub fn hits(&self) -> u64 {
        self.0.lock().hits
    }

    /// So many octets fit; None for no limit.
    pub fn set_capacity(&self, octets: Option<u64>) {
        self.0.lock().capacity = octets;
    }

    /// Octets in use.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Octets not in use.
    pub fn free(&self) -> u64 {
        let inner = self.0.lock();
        inner.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(inner.used()))
    }

    /// The most free octets that were told to the engine since the last call of this; 0 when it did not ask.
    pub fn most_told(&self) -> u64 {
        std::mem::take(&mut self.0.lock().most_told)
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.0.lock().elapsed += time;
    }

    /// Changes bits of an octet of a file, on the platter and in the cache.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) {
        let mut inner = self.0.lock();
        if let Some(number) = inner.names.find(path)
            && let Some(inode) = inner.inodes.get_mut(&number)
        {
            inode.flip(usize::try_from(offset).unwrap_or(usize::MAX), mask);
        }
    }

    /// The page of a file that holds this octet cannot be read until it is written.
    pub fn spoil(&self, path: &Path, offset: u64) {
        let mut inner = self.0.lock();
        if let Some(number) = inner.names.find(path)
            && let Some(inode) = inner.inodes.get_mut(&number)
        {
            inode.spoil(usize::try_from(offset).unwrap_or(usize::MAX));
        }
    }

    /// Does a read of so many octets of a file fail for a spoilt page?
    pub fn spoilt(&self, path: &Path, offset: u64, length: u64) -> bool {
        let (offset, length) = (usize::try_from(offset).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
        let inner = self.0.lock();
        inner.names.find(path).and_then(|number| inner.inodes.get(&number)).is_some_and(|inode| inode.spoilt(offset, length))
    }

    /// What was spoilt can be read again.
    pub fn unspoil(&self) {
        self.0.lock().inodes.values_mut().for_each(Inode::unspoil);
    }

    /// Contents of a file as programs see it.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.0.lock();
        let number = inner.names.find(path)?;
        Some(inner.inodes.get(&number)?.octets().to_vec())
    }

    /// Names of the files of a directory, ascending.
    pub fn files(&self, dir: &Path) -> Vec<String> {
        self.0.lock().names.list(dir).unwrap_or_default()
    }

    /// Removes a file at once and for good.
    pub fn delete(&self, path: &Path) {
        let mut inner = self.0.lock();
        let _ = inner.names.remove(path);
        inner.names.sync(path.parent().unwrap_or(path));
    }

    /// Remembers calls from now on.
    pub fn trace(&self) {
        self.0.lock().trace = Some(Vec::new());
    }

    /// The calls remembered; forgets them.
    pub fn traced(&self) -> Vec<Traced> {
        self.0.lock().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl Inner {
    fn restart(&mut self) {
        self.locks.clear();
        self.faults.clear();
        self.life += 1;
        self.dead = false;
        self.cut_at = None;
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.drop_nameless();
    }

    fn drop_nameless(&mut self) {
        let named = self.names.inodes();
        self.inodes.retain(|number, inode| inode.handles > 0 || named.contains(number));
    }

    fn used(&self) -> u64 {
        let named = self.names.live_inodes();
        self.inodes.iter().filter(|(n, inode)| inode.handles > 0 || named.contains(n)).map(|(_, inode)| inode.len() as u64).sum()
    }

    fn room(&self, more: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => Err(error(libc::ENOSPC)),
            _ => Ok(()),
        }
    }

    fn judge(&mut self, life: u64, call: Call, name: &str, data: &[u8]) -> Verdict {
        if self.dead || life != self.life {
            return Verdict::Fails(error(libc::EIO), Some(0));
        }
        self.calls += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(Traced { call, name: name.to_owned() });
        }
        if self.cut_at == Some(self.calls) {
            self.dead = true;
            return Verdict::Last;
        }
        for fault in &mut self.faults {
            if fault.times > 0 && fault.matches(call, name, data) {
                if fault.after > 0 {
                    fault.after -= 1;
                    continue;
                }
                fault.times -= 1;
                self.hits += 1;
                return Verdict::Fails(error(fault.errno), fault.partial);
            }
        }
        Verdict::Fine
    }

    /// For calls that are carried out whole or not at all. Err ends the call; Ok(false): it is carried out, and nobody hears of it.
    fn gate(&mut self, life: u64, call: Call, path: &Path) -> io::Result<bool> {
        match self.judge(life, call, &name_of(path), &[]) {
            Verdict::Fine => Ok(true),
            Verdict::Fails(error, _) => Err(error),
            Verdict::Last if self.rng.chance(50) => Ok(false),
            Verdict::Last => Err(error(libc::EIO)),
        }
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(|| error(libc::EIO))
    }
}
