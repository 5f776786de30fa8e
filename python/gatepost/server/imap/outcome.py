"""How a command ends other than OK, and the IMAP answer to each fault of the mail store (response codes of RFC 5530)."""

from gatepost.native import CoreError, DamagedError, DiskFullError, ExistsError, InvalidError, NotFoundError


class Refused(Exception):
    """NO, with the text (a response code may stand in front)."""


class Rejected(Exception):
    """BAD, with the text."""


NO_SPACE = "[OVERQUOTA] Not enough disk space, try again later"
"""RFC 5530 has no code for a full disk; clients know this one as a reason to keep the message."""

_TEXTS: tuple[tuple[type[CoreError], str], ...] = (
    (NotFoundError, "[NONEXISTENT] No such folder"),
    (ExistsError, "[ALREADYEXISTS] A folder of that name exists"),
    (InvalidError, "[CANNOT] "),
    (DiskFullError, NO_SPACE),
    (DamagedError, "[SERVERBUG] A message is damaged on disk"),
)


USER_FAULTS = (NotFoundError, ExistsError, InvalidError)
"""Faults that are the client's: answered, not logged."""


def refusal(error: CoreError, *, try_create: bool = False) -> str:
    """The text of NO for a fault. try_create: the folder that is missing is the target of COPY, MOVE or APPEND (RFC 3501 7.1)."""
    if try_create and isinstance(error, NotFoundError):
        return "[TRYCREATE] No such folder"
    for kind, text in _TEXTS:
        if isinstance(error, kind):
            return f"{text}{error}" if kind is InvalidError else text
    return "[UNAVAILABLE] The mail store is not available"
