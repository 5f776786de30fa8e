//! One error enum, split by what the caller must do.

use gatepost_log::LogError;

/// What can go wrong in a partition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The log's own error: disk full, fatal, locked, closed …
    #[error(transparent)]
    Log(#[from] LogError),
    /// No such live message.
    #[error("no message {0} in the queue")]
    NotFound(String),
    /// The call makes no sense; says why.
    #[error("{0}")]
    Invalid(String),
    /// A record of one message does not say what it should.
    #[error("{0}")]
    Damaged(String),
    /// A record or checkpoint of a newer format.
    #[error("{0}")]
    Version(String),
}
