//! A volume with its delivery threads: batches go in by ticket, completions come out behind an eventfd.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::deliver::{Delivery, Source};
use crate::error::{Result, StoreError};
use crate::event::Event;
use crate::volume::{Volume, VolumeOptions};

/// Threads that carry out deliveries: a large message must not hold up small ones.
const THREADS: usize = 3;
/// How often space is looked after.
const UPKEEP: Duration = Duration::from_secs(30);

/// A finished ticket: its number and a result per delivery.
pub type Completion = (u64, Vec<Result<()>>);

type Work = Box<dyn FnOnce(&Volume) + Send>;

struct Out {
    finished: Mutex<Vec<Completion>>,
    event: Event,
}

/// One volume, opened by one process.
pub struct Store {
    volume: Arc<Volume>,
    out: Arc<Out>,
    jobs: Mutex<Option<Sender<Work>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ending: Arc<(Mutex<bool>, Condvar)>,
}

impl Store {
    /// Open or create the volume in `dir`.
    pub fn open(dir: &Path, options: &VolumeOptions) -> Result<Self> {
        let volume = Arc::new(Volume::open(dir, options)?);
        let out = Arc::new(Out { finished: Mutex::new(Vec::new()), event: Event::new()? });
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::with_capacity(THREADS + 1);
        for number in 0..THREADS {
            let (volume, out, receiver) = (Arc::clone(&volume), Arc::clone(&out), Arc::clone(&receiver));
            let thread = std::thread::Builder::new().name(format!("deliver-{number}"));
            threads.push(thread.spawn(move || work(&volume, &out, &receiver))?);
        }
        let ending = Arc::new((Mutex::new(false), Condvar::new()));
        let (kept, end) = (Arc::clone(&volume), Arc::clone(&ending));
        threads.push(std::thread::Builder::new().name("store-keep".into()).spawn(move || keep(&kept, &end))?);
        Ok(Self { volume, out, jobs: Mutex::new(Some(sender)), threads: Mutex::new(threads), ending })
    }

    /// The volume, for everything that is not delivery.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Descriptor that is readable when completions wait.
    pub fn event_fd(&self) -> i32 {
        self.out.event.fd()
    }

    /// Deliver in the background.
    pub fn deliver(&self, ticket: u64, source: Arc<dyn Source>, deliveries: Vec<Delivery>) -> Result<()> {
        let out = Arc::clone(&self.out);
        self.spawn(Box::new(move |volume| {
            // A fault of ours must cost these deliveries an attempt, not the thread: the queue waits for every ticket.
            let results = catch_unwind(AssertUnwindSafe(|| volume.deliver(&*source, &deliveries)))
                .unwrap_or_else(|_| vec![Err(StoreError::Io("delivery panicked; standard error says where".into())); deliveries.len()]);
            drop(source);
            out.finished.lock().push((ticket, results));
        }))
    }

    /// Run `work` in a delivery thread; the descriptor is readable when it is done. It must not panic. On closing it is finished first.
    pub fn spawn(&self, work: Box<dyn FnOnce(&Volume) + Send>) -> Result<()> {
        let jobs = self.jobs.lock();
        let sender = jobs.as_ref().ok_or(StoreError::Closed)?;
        sender.send(work).map_err(|_| StoreError::Closed)
    }

    /// Drain what is finished.
    pub fn completions(&self) -> Vec<Completion> {
        self.out.event.clear();
        std::mem::take(&mut *self.out.finished.lock())
    }

    /// Finish what was handed in, then close the volume. Idempotent.
    pub fn close(&self) -> Result<()> {
        self.jobs.lock().take();
        *self.ending.0.lock() = true;
        self.ending.1.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
        self.volume.close()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

fn work(volume: &Volume, out: &Out, jobs: &Mutex<Receiver<Work>>) {
    loop {
        let job = jobs.lock().recv();
        let Ok(job) = job else { return };
        job(volume);
        out.event.set();
    }
}

/// Frees space now and then. A failure is no reason to stop: the next round tries again, and whoever writes meets the same trouble.
fn keep(volume: &Volume, ending: &(Mutex<bool>, Condvar)) {
    let mut over = ending.0.lock();
    while !*over {
        if ending.1.wait_for(&mut over, UPKEEP).timed_out() {
            parking_lot::MutexGuard::unlocked(&mut over, || drop(volume.maintain(false)));
        }
    }
}
