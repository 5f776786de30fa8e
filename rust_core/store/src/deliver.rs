//! Delivery of queue messages into mailboxes: append all of a batch, one sync, one index transaction.
//!
//! Exactly once: the delivery key is stored with the message. A crash before the sync leaves nothing; between sync and index commit, replay brings
//! message and key into the index; after it, the queue's second attempt finds the key and succeeds without doing anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use gatepost_log::Loc;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::apply::Apply;
use crate::error::{Result, StoreError};
use crate::flights::Flight;
use crate::id::{Id, new_id, now_us};
use crate::info;
use crate::names;
use crate::records::{Flags, MessageHead, delivery_key};
use crate::sink::Sink;
use crate::volume::Volume;

/// Octets read from the spool at a time.
const READ: usize = 64 << 10;
/// Octets in flight at which a batch waits for the disk.
const BATCH_PENDING: u64 = 2 << 20;

/// One message for one mailbox.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Queue message.
    pub message_id: Id,
    /// Which of its recipients.
    pub recipient: i32,
    /// Target mailbox; made when it does not exist.
    pub mailbox: Id,
    /// Target folder by name; INBOX when there is none of that name.
    pub folder: String,
    /// Header lines put in front: Return-Path, Delivered-To.
    pub prefix: Vec<u8>,
    /// What this recipient's copy has in place of octets of the message; most have none.
    pub edits: Vec<Edit>,
}

/// Octets of the message, and what takes their place.
pub type Edit = (Range<u64>, Vec<u8>);

/// Where messages come from: the spool.
pub trait Source: Send + Sync {
    /// Call `each` with the octets of a message, edited, in pieces of at most `limit`.
    fn read(&self, message_id: &Id, edits: &[Edit], limit: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

/// What is to happen with a delivery.
#[derive(Clone, Copy)]
enum Plan {
    /// It was stored before.
    Known,
    /// It goes here.
    Folder(Id),
    /// The mailbox has to be made first.
    NoMailbox,
}

/// Folder of that name, else INBOX.
fn target(db: &Connection, delivery: &Delivery) -> Result<Plan> {
    let name = names::normalise(&delivery.folder).unwrap_or_else(|_| "INBOX".to_owned());
    let named = info::folder_by_name(db, &delivery.mailbox, &name)?;
    let found = if named.is_some() { named } else { info::folder_by_name(db, &delivery.mailbox, "INBOX")? };
    Ok(found.map_or(Plan::NoMailbox, |folder| Plan::Folder(folder.id)))
}

type Appended = Option<(MessageHead, Loc)>;

impl Volume {
    /// Deliver a batch; one result per delivery. Durable and visible on return.
    pub fn deliver(&self, source: &dyn Source, deliveries: &[Delivery]) -> Vec<Result<()>> {
        if let Err(error) = self.check_open() {
            return vec![Err(error); deliveries.len()];
        }
        let plans = match self.plan(deliveries) {
            Ok(plans) => plans,
            Err(error) => return vec![Err(error); deliveries.len()],
        };
        let flight = self.flights.begin(&self.log);
        let appended: Vec<Result<Appended>> = deliveries.iter().zip(plans).map(|(d, plan)| self.append_delivery(source, d, plan)).collect();
        let mut places: Vec<Loc> = appended.iter().filter_map(|a| a.as_ref().ok()?.as_ref()).map(|(_, at)| *at).collect();
        let outcome = if places.is_empty() { Ok(()) } else { self.commit_batch(&appended, &flight, &mut places) };
        match outcome {
            Ok(()) => self.flights.end(&flight),
            // The queue delivers again; these records must not come between.
            Err(_) => self.refuse(flight, places),
        }
        appended
            .into_iter()
            .map(|one| match one {
                Ok(Some(_)) => outcome.clone(),
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            })
            .collect()
    }

    fn append_delivery(&self, source: &dyn Source, delivery: &Delivery, plan: Plan) -> Result<Appended> {
        let folder = match plan {
            Plan::Known => return Ok(None),
            Plan::Folder(folder) => folder,
            Plan::NoMailbox => self.make_target(delivery)?,
        };
        let key = delivery_key(&delivery.message_id, delivery.recipient);
        let mut head = MessageHead {
            key,
            msg: new_id(),
            mailbox: delivery.mailbox,
            folder,
            date: now_us(),
            octets: 0,
            flags: Flags::default(),
            chunks: Vec::new(),
        };
        self.log.wait_for_room(BATCH_PENDING);
        let mut sink = Sink::new(self);
        sink.push(self, &delivery.prefix)?;
        source.read(&delivery.message_id, &delivery.edits, READ, &mut |octets| sink.push(self, octets))?;
        let at = sink.finish(self, &mut head)?;
        Ok(Some((head, at)))
    }

    /// What the index says of each delivery, in one view.
    fn plan(&self, deliveries: &[Delivery]) -> Result<Vec<Plan>> {
        self.read(|db| {
            let mut folders: HashMap<(&Id, &str), Plan> = HashMap::new();
            let mut plans = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                let key = delivery_key(&delivery.message_id, delivery.recipient);
                let mut known = db.prepare_cached("SELECT 1 FROM delivery WHERE key = ?1")?;
                if known.query_row([&key[..]], |_| Ok(())).optional()?.is_some() {
                    plans.push(Plan::Known);
                    continue;
                }
                plans.push(match folders.entry((&delivery.mailbox, &delivery.folder)) {
                    Entry::Occupied(found) => *found.get(),
                    Entry::Vacant(place) => *place.insert(target(db, delivery)?),
                });
            }
            Ok(plans)
        })
    }

    fn make_target(&self, delivery: &Delivery) -> Result<Id> {
        self.ensure_mailbox(&delivery.mailbox)?;
        match self.read(|db| target(db, delivery))? {
            Plan::Folder(folder) => Ok(folder),
            _ => Err(StoreError::NotFound("the mailbox was deleted".into())),
        }
    }

    fn commit_batch(&self, appended: &[Result<Appended>], flight: &Flight, places: &mut Vec<Loc>) -> Result<()> {
        self.make_durable(flight.losses)?;
        let mut db = self.writer.lock();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut apply = Apply::new(&transaction)?;
        let mut ops = Vec::new();
        for (head, at) in appended.iter().filter_map(|a| a.as_ref().ok()?.as_ref()) {
            if apply.folder_key(&head.folder)?.is_some() {
                apply.deliver(head, &self.stream, *at)?;
            } else {
                ops.extend(apply.redirect(head, &self.stream, *at)?);
            }
        }
        if !ops.is_empty() {
            self.log_ops(apply.modseq, &ops, flight, places)?;
        }
        self.settle(&mut apply, flight, !ops.is_empty())?;
        apply.finish()?;
        Ok(transaction.commit()?)
    }
}
