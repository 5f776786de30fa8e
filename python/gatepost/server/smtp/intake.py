"""The octets of one message on their way into the spool.

Made by the session at DATA or at the first BDAT. Two modes, never mixed (RFC 3030 section 2): dotted (DATA) and raw (BDAT). On submission
the header section is kept back, at most HEADER_LIMIT octets, until it is known whether Date and Message-ID are missing, because
the spool takes lines in front of a message only at its start. Native errors (CoreError) pass through.
"""

from collections.abc import Callable

from gatepost.native import Incoming

HEADER_LIMIT = 65_536

Begin = Callable[[bytes | None], Incoming]
"""Start the message in the spool; the argument is the header section where it is known, None where nothing is to be added."""


class Intake:
    """Feeds an Incoming that may not exist yet."""

    __slots__ = ("_begin", "_head", "incoming", "taken")

    def __init__(self, incoming: Incoming | None, begin: Begin) -> None:
        """Without `incoming` the header is kept back and `begin` called when it is known."""
        self.incoming = incoming
        self.taken = 0
        """Octets read from the client, dots and all."""
        self._begin = begin
        self._head = b""

    @property
    def done(self) -> bool:
        """The end of data was seen."""
        return self.incoming is not None and self.incoming.done

    def feed(self, data: bytes) -> int:
        """Dotted octets while the header is kept back; returns how many were used."""
        head = self._head + data
        if not _header_complete(head, dotted=True):
            self._head = head
            return len(data)
        self._head = b""
        used = self._start(head).feed(head)
        self.taken += used
        return len(data) - (len(head) - used)

    def feed_raw(self, data: memoryview) -> None:
        """Octets of a BDAT chunk."""
        self.taken += len(data)
        if self.incoming is not None:
            self.incoming.feed_raw(data)
            return
        self._head += data
        if _header_complete(self._head, dotted=False):
            self._start(self._head).feed_raw(self._head)
            self._head = b""

    def finish(self) -> Incoming:
        """Raw mode: the last chunk is in."""
        incoming = self.incoming
        if incoming is None:
            incoming = self._start(self._head)
            incoming.feed_raw(self._head)
            self._head = b""
        incoming.finish()
        return incoming

    def abort(self) -> None:
        """Forget the message."""
        if self.incoming is not None:
            self.incoming.abort()

    def _start(self, head: bytes) -> Incoming:
        incoming = self.incoming = self._begin(_header_section(head))
        return incoming


def _header_complete(head: bytes, *, dotted: bool) -> bool:
    return (
        len(head) > HEADER_LIMIT
        or b"\r\n\r\n" in head
        or head.startswith(b"\r\n")
        or (dotted and (head.startswith(b".\r\n") or b"\r\n.\r\n" in head))
    )


def _header_section(head: bytes) -> bytes | None:
    """The header of what was kept back, '' if there is none; None when it is too long to tell what it lacks."""
    if head.startswith((b"\r\n", b".\r\n")):
        return b""
    end = head.find(b"\r\n\r\n")
    if end < 0:
        end = head.find(b"\r\n.\r\n")
    if end < 0:
        return None if len(head) > HEADER_LIMIT else head
    return head[: end + 2]
