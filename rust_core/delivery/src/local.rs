//! A round of local delivery: take what is due for a volume, store it in one batch, journal it. One call of Python for all of it.
//!
//! Exactly once, as `gatepost-store` has it: the key of a delivery is stored with the message, so a round that is cut short between the store and
//! the journal is repeated without effect. Every job taken is journaled here or comes back in [`Round::left`].

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use gatepost_queue::{Change, Job, QueueError, Spool, kind, now_us};
use gatepost_store::{Delivery, Edit, Id, Result, Source, StoreError, Volume};
use parking_lot::Mutex;

use crate::detail;

/// RFC 3461 NOTIFY bits as the queue keeps them.
const NEVER: u8 = 1;
const SUCCESS: u8 = 2;
/// Routes remembered; all are forgotten when there are more.
const MAX_TARGETS: usize = 16_384;

/// Where the routes of local recipients lead. A route is opaque here: whoever can read it teaches what it means, which never changes.
#[derive(Default)]
pub struct Targets(Mutex<HashMap<Box<[u8]>, Target>>);

/// Mailbox and folder.
type Target = (Id, Arc<str>);

impl Targets {
    /// An encoded route leads to this mailbox and folder.
    pub fn learn(&self, route: &[u8], mailbox: Id, folder: &str) {
        let mut known = self.0.lock();
        if known.len() >= MAX_TARGETS {
            known.clear();
        }
        known.insert(route.into(), (mailbox, folder.into()));
    }

    fn find(&self, route: &[u8]) -> Option<Target> {
        self.0.lock().get(route).cloned()
    }
}

/// A job that is the caller's to finish: not tried at all, or with a result per recipient.
pub struct Left {
    /// As it was taken.
    pub job: Job,
    /// None: nothing was tried.
    pub results: Option<Vec<Result<()>>>,
}

/// What a round did.
#[derive(Default)]
pub struct Round {
    /// Jobs taken.
    pub taken: usize,
    /// Recipients delivered and journaled.
    pub delivered: usize,
    /// The rest.
    pub left: Vec<Left>,
}

/// The spool as the place messages are delivered from.
pub struct FromSpool(pub Arc<Spool>);

impl Source for FromSpool {
    fn read(&self, message_id: &Id, edits: &[Edit], limit: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut reader = self.0.read(message_id).map_err(|e| from_spool(&e))?;
        if !edits.is_empty() {
            let edits = edits.iter().map(|(range, with)| gatepost_queue::Edit { range: range.clone(), with: with.clone() }).collect();
            reader = reader.edited(edits).map_err(|e| from_spool(&e))?;
        }
        let mut buffer = vec![0u8; limit.min(usize::try_from(reader.size()).unwrap_or(limit)).max(1)];
        loop {
            let n = reader.read(&mut buffer).map_err(|e| from_spool(&e))?;
            if n == 0 {
                return Ok(());
            }
            each(&buffer[..n])?;
        }
    }
}

/// An error of the spool as one of the store, for that delivery.
fn from_spool(error: &QueueError) -> StoreError {
    let text = error.to_string();
    match error {
        QueueError::Log(error) => StoreError::from(error.clone()),
        QueueError::NotFound(_) => StoreError::NotFound(text),
        QueueError::Damaged(_) => StoreError::Damaged(text),
        _ => StoreError::Io(text),
    }
}

impl Round {
    /// Takes up to `max_jobs` due jobs of `destination` and delivers them into `volume`. Waits for the disk.
    pub fn run(spool: &Arc<Spool>, volume: &Volume, targets: &Targets, destination: &str, max_jobs: usize) -> Self {
        let started = now_us();
        let jobs = spool.take(destination, max_jobs, 0);
        let mut round = Self { taken: jobs.len(), ..Self::default() };
        let mut mine = Vec::with_capacity(jobs.len());
        let mut deliveries = Vec::with_capacity(jobs.len());
        for job in jobs {
            if plan(&job, targets, &mut deliveries) {
                mine.push(job);
            } else {
                round.left.push(Left { job, results: None });
            }
        }
        if !mine.is_empty() {
            let mut results = deliver(spool, volume, &deliveries).into_iter();
            let done: Vec<_> = mine.into_iter().map(|job| (results.by_ref().take(job.recipients.len()).collect(), job)).collect();
            round.settle(spool, done, started);
        }
        round
    }

    /// Journals the jobs of which everything is stored; leaves the others to the caller.
    fn settle(&mut self, spool: &Spool, done: Vec<(Vec<Result<()>>, Job)>, started: u64) {
        let detail = detail::delivered(now_us(), started) + "}";
        let mut changes = Vec::with_capacity(done.len());
        for (results, job) in done {
            if results.iter().all(Result::is_ok) {
                let change = |index| Change {
                    id: job.id,
                    recipient: Some(index),
                    kind: kind::DELIVERED,
                    next_us: 0,
                    detail: detail.clone().into_bytes(),
                };
                changes.extend(job.recipients.iter().map(|r| change(r.index)));
            } else {
                self.left.push(Left { job, results: Some(results) });
            }
        }
        self.delivered = changes.len();
        spool.change(0, &changes);
    }
}

/// Adds the deliveries of a job; adds nothing and says no when it is not for us: a route that is not known, or a success that is to be reported.
fn plan(job: &Job, targets: &Targets, deliveries: &mut Vec<Delivery>) -> bool {
    let before = deliveries.len();
    for recipient in &job.recipients {
        let reported = !job.reverse_path.is_empty() && recipient.notify & NEVER == 0 && recipient.notify & SUCCESS != 0;
        let target = if reported { None } else { targets.find(&recipient.route) };
        let Some((mailbox, folder)) = target else {
            deliveries.truncate(before);
            return false;
        };
        // RFC 5321 4.4: the final delivery adds Return-Path; Delivered-To stops loops through forwards.
        let prefix = format!("Return-Path: <{}>\r\nDelivered-To: {}\r\n", job.reverse_path, recipient.address);
        deliveries.push(Delivery {
            message_id: job.id,
            recipient: i32::from(recipient.index),
            mailbox,
            folder: folder.as_ref().to_owned(),
            prefix: prefix.into_bytes(),
            edits: Vec::new(),
        });
    }
    true
}

/// A panic is a fault of ours and must cost these deliveries an attempt, not lose sight of the jobs.
fn deliver(spool: &Arc<Spool>, volume: &Volume, deliveries: &[Delivery]) -> Vec<Result<()>> {
    let source = FromSpool(Arc::clone(spool));
    catch_unwind(AssertUnwindSafe(|| volume.deliver(&source, deliveries)))
        .unwrap_or_else(|_| vec![Err(StoreError::Io("delivery panicked; standard error says where".into())); deliveries.len()])
}
