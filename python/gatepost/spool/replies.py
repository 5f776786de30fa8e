"""The SMTP answer to each failure of the spool (RFC 5321 4.2, RFC 3463). Pure; all are temporary: the sender tries again."""

from gatepost.message.reply import Reply
from gatepost.native import ClosedError, CoreError, DamagedError, DiskFullError, FormatVersionError, LockedError, SyncFailedError

_REPLIES: tuple[tuple[type[CoreError], Reply], ...] = (
    (DiskFullError, Reply(452, "4.3.1", "Insufficient storage, try again later")),
    (SyncFailedError, Reply(421, "4.3.0", "Storage failure, service not available")),
    (DamagedError, Reply(451, "4.3.0", "Message could not be read back, try again later")),
    (LockedError, Reply(421, "4.3.2", "Queue is in use by another process")),
    (FormatVersionError, Reply(421, "4.3.2", "Queue was written by a newer version")),
    (ClosedError, Reply(421, "4.3.2", "Service is shutting down")),
)
_OTHER = Reply(451, "4.3.0", "Local error in processing")


def reply_for(error: CoreError) -> Reply:
    """What to answer when the spool failed with `error`. 421 also ends the session (RFC 5321 3.8)."""
    for kind, reply in _REPLIES:
        if isinstance(error, kind):
            return reply
    return _OTHER
