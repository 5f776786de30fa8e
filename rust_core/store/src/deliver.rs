//! Delivery of queue messages into mailboxes: append all of a batch, one sync, one index transaction.
//!
//! Exactly once: the delivery key is stored with the message. A crash before the sync leaves nothing; between sync and index commit, replay brings
//! message and key into the index; after it, the queue's second attempt finds the key and succeeds without doing anything.

use gatepost_log::Loc;
use rusqlite::{OptionalExtension, TransactionBehavior};

use crate::apply::Apply;
use crate::error::Result;
use crate::flights::Flight;
use crate::id::{Id, new_id, now_us};
use crate::info;
use crate::names;
use crate::records::{Flags, Key, MessageHead, delivery_key};
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
}

/// Where messages come from: the spool.
pub trait Source: Send + Sync {
    /// Call `each` with the octets of a message in pieces of at most `limit`.
    fn read(&self, message_id: &Id, limit: usize, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

type Appended = Option<(MessageHead, Loc)>;

impl Volume {
    /// Deliver a batch; one result per delivery. Durable and visible on return.
    pub fn deliver(&self, source: &dyn Source, deliveries: &[Delivery]) -> Vec<Result<()>> {
        if let Err(error) = self.check_open() {
            return vec![Err(error); deliveries.len()];
        }
        let flight = self.flights.begin(&self.log);
        let appended: Vec<Result<Appended>> = deliveries.iter().map(|d| self.append_delivery(source, d)).collect();
        let outcome = if appended.iter().any(|a| matches!(a, Ok(Some(_)))) { self.commit_batch(&appended, &flight) } else { Ok(()) };
        if outcome.is_ok() {
            self.flights.end(&flight);
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

    fn append_delivery(&self, source: &dyn Source, delivery: &Delivery) -> Result<Appended> {
        let key = delivery_key(&delivery.message_id, delivery.recipient);
        if self.is_delivered(&key)? {
            return Ok(None);
        }
        let folder = self.target(&delivery.mailbox, &delivery.folder)?;
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
        source.read(&delivery.message_id, READ, &mut |octets| sink.push(self, octets))?;
        let at = sink.finish(self, &mut head)?;
        Ok(Some((head, at)))
    }

    fn is_delivered(&self, key: &Key) -> Result<bool> {
        self.read(|db| {
            let mut query = db.prepare_cached("SELECT 1 FROM delivery WHERE key = ?1")?;
            Ok(query.query_row([&key[..]], |_| Ok(())).optional()?.is_some())
        })
    }

    /// Folder of that name, else INBOX; the mailbox is made when it is missing.
    fn target(&self, mailbox: &Id, name: &str) -> Result<Id> {
        let name = names::normalise(name).unwrap_or_else(|_| "INBOX".to_owned());
        for _ in 0..2 {
            let found = self.read(|db| {
                let named = info::folder_by_name(db, mailbox, &name)?;
                Ok(if named.is_some() { named } else { info::folder_by_name(db, mailbox, "INBOX")? })
            })?;
            if let Some(folder) = found {
                return Ok(folder.id);
            }
            self.ensure_mailbox(mailbox)?;
        }
        Err(crate::StoreError::NotFound("the mailbox was deleted".into()))
    }

    fn commit_batch(&self, appended: &[Result<Appended>], flight: &Flight) -> Result<()> {
        self.log.sync()?;
        let mut db = self.writer.lock();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut apply = Apply::new(&transaction)?;
        for (head, at) in appended.iter().filter_map(|a| a.as_ref().ok()?.as_ref()) {
            apply.deliver(head, &self.stream, *at)?;
        }
        self.settle(&mut apply, flight, false)?;
        apply.finish()?;
        Ok(transaction.commit()?)
    }
}
