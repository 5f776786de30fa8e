//! The exception tree of `gatepost._core`, and the one match per crate error that leads to it.

use gatepost_log::LogError;
use gatepost_queue::QueueError;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(gatepost._core, CoreError, PyException, "Base of every error raised by the extension.");
create_exception!(gatepost._core, DiskFullError, CoreError, "No space, or less than the configured minimum: try again later.");
create_exception!(gatepost._core, SyncFailedError, CoreError, "A sync or write failed: fatally closed, a restart is needed.");
create_exception!(gatepost._core, LockedError, CoreError, "Another process holds the directory.");
create_exception!(gatepost._core, DamagedError, CoreError, "A record failed its checksum; the text names file and offset.");
create_exception!(gatepost._core, FormatVersionError, CoreError, "Files were written by a newer format version.");
create_exception!(gatepost._core, NotFoundError, CoreError, "No such message, mailbox, folder or destination.");
create_exception!(gatepost._core, ExistsError, CoreError, "That name exists already.");
create_exception!(gatepost._core, InvalidError, CoreError, "The argument or operation is not valid here.");
create_exception!(gatepost._core, ClosedError, CoreError, "The spool or store was closed.");

/// Adds the exceptions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("CoreError", py.get_type::<CoreError>())?;
    m.add("DiskFullError", py.get_type::<DiskFullError>())?;
    m.add("SyncFailedError", py.get_type::<SyncFailedError>())?;
    m.add("LockedError", py.get_type::<LockedError>())?;
    m.add("DamagedError", py.get_type::<DamagedError>())?;
    m.add("FormatVersionError", py.get_type::<FormatVersionError>())?;
    m.add("NotFoundError", py.get_type::<NotFoundError>())?;
    m.add("ExistsError", py.get_type::<ExistsError>())?;
    m.add("InvalidError", py.get_type::<InvalidError>())?;
    m.add("ClosedError", py.get_type::<ClosedError>())
}

/// The exception for an error of the log.
pub fn from_log(error: &LogError) -> PyErr {
    let text = error.to_string();
    match error {
        LogError::DiskFull(_) => DiskFullError::new_err(text),
        LogError::Fatal(_) => SyncFailedError::new_err(text),
        LogError::Locked { .. } => LockedError::new_err(text),
        LogError::Damaged { .. } => DamagedError::new_err(text),
        LogError::Version { .. } => FormatVersionError::new_err(text),
        LogError::NotFound(_) => NotFoundError::new_err(text),
        LogError::TooLarge(_) => InvalidError::new_err(text),
        LogError::Closed => ClosedError::new_err(text),
        LogError::Io(_) => CoreError::new_err(text),
    }
}

/// The exception for an error of the queue.
pub fn from_queue(error: &QueueError) -> PyErr {
    match error {
        QueueError::Log(error) => from_log(error),
        QueueError::NotFound(_) => NotFoundError::new_err(error.to_string()),
        QueueError::Invalid(_) => InvalidError::new_err(error.to_string()),
        QueueError::Damaged(_) => DamagedError::new_err(error.to_string()),
        QueueError::Version(_) => FormatVersionError::new_err(error.to_string()),
    }
}
