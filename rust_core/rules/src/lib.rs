//! The compact index of a rule set: domain rules, address handlers and mailboxes of one version in one immutable file, which every process
//! maps, so that its pages are in memory once.
//!
//! Callers: the Python binding. [`build`] makes the file from the directory's tables, in a process of its own; [`Index`] answers from it.
//! Invariants: the file is written beside its final name, synced and renamed, so that under that name there is a whole file or none; it never
//! changes once there; what is answered is exactly what the tables held. Its layout is in [`layout`]. A file that is torn, damaged or of another
//! format is refused at opening ([`RulesError`]), never read: it is derived, and is built anew.

mod build;
mod domains;
mod error;
mod index;
mod layout;
mod map;
mod record;

pub use build::{Built, build};
pub use error::RulesError;
pub use index::{ANY, EXPRESSIONS, FITTING, Index};
pub use layout::{FORMAT, Header};
pub use record::{Handler, Mailbox, Rule};
