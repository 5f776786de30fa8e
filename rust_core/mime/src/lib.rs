//! MIME structure of a message as offsets into its raw bytes: one pass, no copies of bodies, no panic, linear time.
//!
//! Called by the store (FETCH, SEARCH) and the queue (header facts). [`Indexer`] takes the message in chunks of any size and
//! keeps only header blocks (capped), so a 50 MB message is indexed in bounded memory; [`Index`] answers everything else:
//! ENVELOPE and BODYSTRUCTURE ([`imap`]), `BODY[section]` as byte ranges ([`section`]), and which decoder a part needs ([`decode`]).
//!
//! Invariants: offsets are those of the input; `header` and `body` ranges of a part are adjacent; children lie inside their
//! parent; nothing is re-serialised. What exceeds a cap of [`Limits`] stays opaque bytes and sets `Index::truncated`.

pub mod address;
mod alternate;
pub mod analysis;
mod binhex;
mod content;
pub mod date;
pub mod decode;
pub mod defect;
pub mod dialect;
pub mod extended;
pub mod field;
mod fields;
pub mod imap;
mod index;
mod indexer;
pub mod leaf;
mod lines;
pub mod names;
mod open;
mod regular;
pub mod search;
pub mod section;
pub mod tnef;
pub mod transfer;
pub mod uuencode;
pub mod views;

pub use analysis::{Analysis, Reading, Shown, analyse};
pub use defect::{Defect, DefectKind};
pub use dialect::Dialect;
pub use index::{Field, FieldId, Index, Kind, Part};
pub use indexer::{Indexer, Limits, index, index_as};
pub use leaf::{Decoding, Leaf};
pub use regular::Prepared;
