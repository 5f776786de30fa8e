//! Changes that were refused although the log has them: their index transaction failed, or a part of their batch found no room. The log is told too, or a
//! later replay would carry out what the caller knows to have failed, over whatever happened since.
//!
//! Called by whatever appends: `Volume::change`, deliveries, appends. Invariants: the flight of a refused record stays open until the void record is durable,
//! so the mark never passes the one without the other; nothing later of this stream is acknowledged before. Failure: what the log cannot take
//! now stays owed and goes in front of the next sync; a log that is closed for good is replayed by its next opening.

use gatepost_log::{Class, Loc};
use parking_lot::Mutex;

use crate::error::Result;
use crate::flights::Flight;
use crate::records::{KIND_VOID, encode_places};
use crate::volume::Volume;

/// What the log is still to be told of.
#[derive(Default)]
pub struct Refused(Mutex<Vec<(Flight, Vec<Loc>)>>);

impl Volume {
    /// Returns when everything appended so far is durable, and what was refused before it is void. `losses` as in [`gatepost_log::Log::sync_since`].
    pub(crate) fn make_durable(&self, losses: u64) -> Result<()> {
        let (mut owed, mut flights) = (Vec::new(), Vec::new());
        for (flight, places) in self.refused.0.lock().iter() {
            owed.extend(places);
            flights.push(flight.key());
        }
        if owed.is_empty() {
            return Ok(self.log.sync_since(losses)?);
        }
        self.log.append(KIND_VOID, &[&encode_places(&owed)], Class::Journal, None)?;
        self.log.sync_since(losses)?;
        let mut refused = self.refused.0.lock();
        refused.retain(|(flight, _)| {
            let paid = flights.contains(&flight.key());
            if paid {
                self.flights.end(flight);
            }
            !paid
        });
        Ok(())
    }

    /// Ends the flight of a change that came to nothing, whose records are at these places.
    pub(crate) fn refuse(&self, flight: Flight, places: Vec<Loc>) {
        if places.is_empty() {
            return self.flights.end(&flight);
        }
        self.refused.0.lock().push((flight, places));
        self.pay_refused();
    }

    /// Tells the log of what was refused; later, if it cannot be told now.
    pub(crate) fn pay_refused(&self) {
        if self.owes() {
            let _ = self.make_durable(self.log.losses());
        }
    }

    /// The log is still to be told of a change that was refused: a crash now may bring it about all the same.
    pub fn owes(&self) -> bool {
        !self.refused.0.lock().is_empty()
    }
}
