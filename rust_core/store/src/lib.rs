//! The mail store: one volume holds the mailboxes of many users on append-only logs, with a `SQLite` index derived from them.
//!
//! Called by the binding only. Several processes open one volume at once, each appending to its own log stream; the index is shared.
//! [`Store`] delivers in background threads, [`Volume`] does everything else and may block. The logs are the truth: the index can be
//! deleted and is rebuilt. docs/formats.md has the layout; `apply` is the only place that changes the index, `replay` the only other caller of it.

mod append;
mod apply;
mod compact;
mod content;
mod deliver;
mod error;
mod event;
mod fetch;
mod fetch_item;
mod flights;
mod folders;
mod gc;
mod id;
mod index_cache;
mod info;
mod lock;
mod messages;
mod names;
mod records;
mod refused;
mod replay;
mod room;
mod schema;
mod search;
mod sink;
mod store;
mod stored;
mod validity;
mod volume;

pub use append::Appender;
pub use deliver::{Delivery, Edit, Source};
pub use error::{Result, StoreError};
pub use fetch::{FetchOptions, FetchStream};
pub use gatepost_mime::search::Needle;
pub use id::{Id, new_id};
pub use info::{FolderInfo, MessageInfo};
pub use lock::FileLock;
pub use messages::{Changes, Mode, parse_flags};
pub use records::Flags;
pub use replay::Recovery;
pub use search::{Query, When, parse_day};
pub use store::{Completion, Store};
pub use stored::StoredMessage;
pub use volume::{Volume, VolumeOptions};
