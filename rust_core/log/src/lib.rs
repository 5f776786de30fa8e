//! Append-only segmented log with group commit: the one engine under spool partitions and mailbox volumes.
//!
//! Callers: `gatepost-queue` and `gatepost-store`. [`Log::prepare`] takes the directory's lock, [`Prepared::replay`] hands over every record,
//! [`Prepared::start`] opens for appending. [`Log::append`] reserves a place at once and never waits for the disk; the committer thread makes all
//! that waits durable with one `fdatasync` and then calls back once for the batch.
//!
//! Invariants: records become durable in the order of their appends, so what a crash leaves is a prefix of the log; nothing is
//! reported durable before its sync returned; a failed sync or write (but for a full disk) closes the log for good and is never retried;
//! octets that do not check are reported with file and offset, never skipped in silence.

mod ahead;
mod batch;
mod committer;
mod error;
mod format;
mod log;
mod older;
mod pages;
mod prepare;
mod reader;
mod recover;
mod segment;
mod spares;
mod state;
mod step;
mod storage;
mod tail;
mod trailing;

pub use error::LogError;
pub use format::{FORMAT_VERSION, KIND_MARK, Loc, RECORD_HEADER, SEGMENT_HEADER, parse_segment_name, segment_name};
pub use log::{Log, LogStats, Options};
pub use prepare::Prepared;
pub use reader::LogReader;
pub use recover::{Damage, Recovery, Replay};
pub use segment::{Segment, Window};
pub use storage::{LockGuard, OsStorage, Storage, StorageFile};
pub use tail::{ScanLimits, Scanned};

/// Who may use the last free space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// New mail: refused when free space is below the minimum or only the reserve is left.
    Message,
    /// Transitions of mail that is here: may use the reserve, so that the queue can finish its work and free space.
    Journal,
    /// What frees segments by moving what is left of them: not refused below the minimum, but may not use the reserve.
    Move,
}

/// A record that was appended and given up for want of space: where it would have been, its kind and its payload.
pub type LostRecord<'a> = (Loc, u8, &'a [u8]);

/// What was given up for want of space.
pub struct Loss<'a> {
    /// Count of losses, this one included ([`Log::losses`]). What is appended before this was heard of can tell by [`Log::append_after`].
    pub losses: u64,
    /// In the order of their appends.
    pub records: Vec<LostRecord<'a>>,
    /// That waited for them, or for what came before.
    pub tokens: Vec<u64>,
    /// The error to report.
    pub error: LogError,
}

/// Called by the committer thread, instead of [`Done`], when batches were given up for want of space.
pub type Lost = Box<dyn Fn(&Loss<'_>) + Send + Sync>;

/// Called by the committer thread once per batch with the tokens of all appends that are durable now, or that failed.
pub type Done = Box<dyn Fn(&[u64], Result<(), &LogError>) + Send + Sync>;
