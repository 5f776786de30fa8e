//! MIME structure of a message as offsets into its raw bytes: one pass, no copies of bodies, no panic, linear time.
//!
//! Called by the store (FETCH, SEARCH) and the queue (header facts). [`Indexer`] takes the message in chunks of any size and
//! keeps only header blocks (capped), so a 50 MB message is indexed in bounded memory; [`Index`] answers everything else:
//! ENVELOPE and BODYSTRUCTURE ([`imap`]), `BODY[section]` as byte ranges ([`section`]), and which decoder a part needs ([`decode`]).
//!
//! Invariants: offsets are those of the input; `header` and `body` ranges of a part are adjacent; children lie inside their
//! parent; nothing is re-serialised. What exceeds a cap of [`Limits`] stays opaque bytes and sets `Index::truncated`.

pub mod address;
pub mod date;
pub mod decode;
pub mod field;
pub mod imap;
mod index;
mod indexer;
pub mod search;
pub mod section;

pub use index::{Field, Index, Kind, Part};
pub use indexer::{Indexer, Limits, index};
