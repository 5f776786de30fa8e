//! IMAP APPEND: one message fed in pieces, stored with flags and a given date.

use std::sync::Arc;

use gatepost_log::Loc;
use rusqlite::TransactionBehavior;

use crate::apply::Apply;
use crate::error::{Result, StoreError};
use crate::flights::Flight;
use crate::id::{Id, new_id};
use crate::info;
use crate::records::{Flags, MessageHead, delivery_key};
use crate::sink::Sink;
use crate::volume::Volume;

/// One append under way. Dropping it before `commit` aborts it.
pub struct Appender {
    volume: Arc<Volume>,
    head: MessageHead,
    sink: Option<Sink>,
    /// None once it has ended.
    flight: Option<Flight>,
}

impl Appender {
    /// Begin an append to `folder`.
    pub fn new(volume: &Arc<Volume>, folder: &Id, flags: Flags, date: i64) -> Result<Self> {
        let info = volume.folder_by_id(folder)?;
        let msg = new_id();
        let head = MessageHead {
            key: delivery_key(&msg, -1),
            msg,
            mailbox: info.mailbox,
            folder: *folder,
            date,
            octets: 0,
            flags,
            chunks: Vec::new(),
        };
        let flight = Some(volume.flights.begin(&volume.log));
        Ok(Self { sink: Some(Sink::new(volume)), volume: Arc::clone(volume), head, flight })
    }

    /// The next octets. After an error only dropping is left.
    pub fn feed(&mut self, data: &[u8]) -> Result<()> {
        self.volume.check_open()?;
        self.sink.as_mut().ok_or(StoreError::Closed)?.push(&self.volume, data)
    }

    /// Store it: (UIDVALIDITY, UID). Durable on return.
    pub fn commit(&mut self) -> Result<(i64, i64)> {
        let sink = self.sink.take().ok_or(StoreError::Closed)?;
        if sink.octets() == 0 {
            return Err(StoreError::Invalid("empty message".into()));
        }
        // Checked before anything is logged: what is in the log will be stored, if not here then by replay after a crash.
        self.volume.folder_by_id(&self.head.folder)?;
        let at = sink.finish(&self.volume, &mut self.head)?;
        let flight = self.flight.take().ok_or(StoreError::Closed)?;
        let placed = self.enter(at, &flight);
        match placed {
            Ok(_) => self.volume.flights.end(&flight),
            Err(_) => self.volume.refuse(flight, vec![at]),
        }
        placed
    }

    /// Makes the record at `at` durable and brings it into the index.
    fn enter(&self, at: Loc, flight: &Flight) -> Result<(i64, i64)> {
        self.volume.make_durable(flight.losses)?;
        let mut db = self.volume.writer.lock();
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let validity = info::folder_by_id(&transaction, &self.head.folder)?.uid_validity;
        let mut apply = Apply::new(&transaction)?;
        let placed = apply.deliver(&self.head, &self.volume.stream, at)?;
        self.volume.settle(&mut apply, flight, false)?;
        apply.finish()?;
        transaction.commit()?;
        Ok((validity, placed.map_or(0, |(_, uid)| uid)))
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        if let Some(flight) = &self.flight {
            self.volume.flights.end(flight);
        }
    }
}
