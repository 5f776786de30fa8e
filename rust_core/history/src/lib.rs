//! The history of a partition's mail: attempts, replies, operator actions and outcome of every message, finished ones too, kept for a
//! bounded time in bounded space and found by id, Message-ID, sender, recipient, subject, host, time and outcome.
//!
//! Callers: the Python binding. [`Follower`] writes it behind the queue, [`search`] reads it. Invariants: a record of the log is in once or, when the
//! history was lost or lagged too far, not at all; the place up to which the log was read is part of the same transaction; nothing here makes mail
//! wait or stop. Failures are told as notices ([`Shelf::take_notices`]); damaged files are set aside.

// SQLite has signed integers only; times and places keep their bits in them.
#![allow(clippy::cast_possible_wrap, clippy::cast_sign_loss, clippy::needless_for_each)]

mod candidates;
mod error;
mod file;
mod filter;
mod follow;
mod gap;
mod glob;
mod header;
mod query;
mod record;
mod seal;
mod shelf;
mod span;
mod state;
mod terms;
mod writer;

pub use error::HistoryError;
pub use filter::Filter;
pub use follow::{Figures, Follower, Options};
pub use gap::Gap;
pub use query::{Found, Page, Paging, Scope, by_id, left_us, search};
pub use record::{ALL, Event, Message, Recipient};
pub use shelf::{Shelf, expire};
pub use state::{View, ended_us, views};
