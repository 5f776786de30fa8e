//! The spool of one partition: message bytes and the delivery queue, kept in a log (`gatepost-log`) with an index in memory.
//!
//! Callers: the Python binding, and mailbox delivery, which reads messages straight from here. [`Spool::receive`] takes octets in, [`Spool::commit`] is the one commit point,
//! [`Spool::take`] hands out due recipients, [`Spool::change`] journals what became of them.
//!
//! Invariants: a ticket comes back without an error only after the sync that covers it; the index is what replaying the log gives; a recipient in
//! flight is never handed out twice; a finished message never comes back, whatever segments are gone and whether or not there is
//! a checkpoint. Failures: see [`QueueError`]; a failed sync closes the partition for good.

mod briefs;
mod bulk;
mod causes;
mod checkpoint;
mod codec;
mod compact;
mod debts;
mod dots;
mod down;
mod edit;
mod error;
mod filter;
mod id;
mod incoming;
mod index;
mod intake;
mod keeper;
mod load;
mod message;
mod moved;
mod order;
mod partition;
mod query;
mod reader;
mod scan;
mod segments;
mod sets;
mod signal;
mod spool;
mod tail;
mod trail;
mod transition;
mod undo;
mod ways;

pub use bulk::Measure;
pub use causes::{Cause, Group};
pub use codec::{Envelope, RecipientSpec};
pub use down::BackOff;
pub use edit::{Content, Edit, fields_named};
pub use error::QueueError;
pub use filter::Filter;
pub use gatepost_log::{Loc, LogError, Options};
pub use id::{MessageId, format_id, new_message_id, now_us};
pub use incoming::{Incoming, Watch};
pub use intake::Defect;
pub use query::{HistoryEntry, Job, JobRecipient, RecipientState, Summary};
pub use reader::Reader;
pub use scan::Page;
pub use spool::{Change, Opening, Spool, Stats, Work};
pub use tail::{Entry, LAG, LAG_MOST, Read, SPARED, Tail};
pub use transition::{State, kind};
pub use undo::Undone;
pub use ways::Way;

pub use query::reroute_json;

/// Address, destination and route out of the detail of a reroute.
pub fn reroute_detail(detail: &[u8]) -> Option<(String, String, Vec<u8>)> {
    codec::decode_reroute(detail)
}
