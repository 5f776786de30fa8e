//! One error enum, split by what the caller has to do about it. The binding maps it to one exception tree.

use gatepost_log::LogError;

/// Everything that can go wrong in a volume. Cloneable, since one failed batch fails many deliveries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space, or less than the configured minimum: try again later.
    #[error("disk full: {0}")]
    DiskFull(String),
    /// A write or sync failed; the stream is closed for good until the volume is reopened.
    #[error("{0}")]
    SyncFailed(String),
    /// Another process holds the stream, or the volume while its index is rebuilt.
    #[error("{0}")]
    Locked(String),
    /// A record failed its checksum: that message only.
    #[error("{0}")]
    Damaged(String),
    /// Written by a newer program.
    #[error("{0}")]
    Version(String),
    /// No such mailbox, folder or message.
    #[error("{0}")]
    NotFound(String),
    /// A folder of that name exists.
    #[error("folder exists: {0}")]
    Exists(String),
    /// The argument or the operation is not valid here.
    #[error("{0}")]
    Invalid(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The index or a file could not be read or written; nothing was changed.
    #[error("{0}")]
    Io(String),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, StoreError>;

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        let text = error.to_string();
        match error {
            LogError::DiskFull(_) => Self::DiskFull(text),
            LogError::Fatal(_) => Self::SyncFailed(text),
            LogError::Locked { .. } => Self::Locked(text),
            LogError::Damaged { .. } => Self::Damaged(text),
            LogError::Version { .. } => Self::Version(text),
            LogError::NotFound(_) => Self::NotFound(text),
            LogError::TooLarge(_) => Self::Invalid(text),
            LogError::Closed => Self::Closed,
            LogError::Io(_) => Self::Io(text),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = format!("index: {error}");
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull(text),
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => Self::Locked(text),
            Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => Self::Damaged(text),
            _ => Self::Io(text),
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}
