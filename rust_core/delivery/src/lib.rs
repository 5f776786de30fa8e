//! What carries messages out of the queue without a call per message. Used by the binding; knows the spool and the mail store, no Python.
//!
//! Only what goes as it nearly always goes is finished here. Everything else (a report that is due, a fault, a route not seen before) is handed
//! back to the caller, who decides about retries, reports and back-off.

mod detail;
mod local;
mod relay;
mod reply;

pub use local::{FromSpool, Left, Round, Targets};
pub use relay::{Fate, LeftJob, Peer, Relay, State};
pub use reply::Reply;
