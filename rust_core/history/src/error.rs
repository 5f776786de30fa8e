//! One error enum, split by what the caller must do.

use gatepost_queue::QueueError;

/// What can go wrong with the history. None of it concerns mail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A file does not hold what it should: it is set aside, a new one is begun.
    #[error("history file damaged: {0}")]
    Damaged(String),
    /// No space, no permission, an I/O error: tried again later, the file stays.
    #[error("history cannot be written or read: {0}")]
    Storage(String),
    /// A file of a newer program.
    #[error("history file {file}: format version {found}, this program knows up to {known}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: i64,
        /// The newest this program reads.
        known: i64,
    },
    /// The partition below failed or is closed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl From<rusqlite::Error> for HistoryError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let text = error.to_string();
        match &error {
            rusqlite::Error::SqliteFailure(e, _) if matches!(e.code, DatabaseCorrupt | NotADatabase) => Self::Damaged(text),
            // Tables or columns that are not there: not our file any more.
            rusqlite::Error::SqliteFailure(e, _) if e.code == rusqlite::ErrorCode::Unknown => Self::Damaged(text),
            rusqlite::Error::SqliteFailure(..) => Self::Storage(text),
            _ => Self::Damaged(text),
        }
    }
}

impl From<std::io::Error> for HistoryError {
    fn from(error: std::io::Error) -> Self {
        Self::Storage(error.to_string())
    }
}
