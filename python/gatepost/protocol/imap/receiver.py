"""Octets from an IMAP client to events; incremental, bounded, and linear in the octets whatever their chunking.

Called by server/imap's connection: `feed` takes what the socket gave, `next_event` is pulled until it returns None. Pull,
not push, so that a command is parsed only after the one before it was carried out (STARTTLS may throw the rest away,
AUTHENTICATE and IDLE turn the next line into something that is no command).

Modes (the whole machine):
    COMMAND  lines and literals are collected until a command is whole       -> Command | Malformed | Continue
    LITERAL  octets of a literal that belongs to the collected command       -> COMMAND
    LINE     the next line is handed over as it is                           -> Line, COMMAND
    DECIDE   an APPEND's literal is announced, the caller must accept/refuse -> APPEND | SWALLOW | COMMAND
    APPEND   octets of the message                                           -> AppendData …, TAIL
    TAIL     the CRLF behind the message                                     -> AppendEnd | Malformed, COMMAND
    SWALLOW  octets of a literal nobody wants                                -> DISCARD
    DISCARD  the rest of a refused command                                   -> COMMAND
Failure: `Malformed` for what earns BAD; `Overflow` when a bound is broken in a way that cannot be resynchronised.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from gatepost.protocol.imap.commands import Append, Command
from gatepost.protocol.imap.cursor import Incomplete, ParseError
from gatepost.protocol.imap.parse import parse_append_head, parse_command

MAX_LITERAL = 65_536
MAX_COMMAND = 1_048_576
MAX_COMMAND_BEFORE_LOGIN = 16_384
MAX_SWALLOWED = 1 << 28
CHUNK = 65_536

_LITERAL_AT_END = re.compile(rb"\{([0-9]{1,20})(\+?)\}\r?\Z")
_TAG = re.compile(rb'([^\x00-\x20\x7f-\xff(){%*"\\+]{1,128}) ')
_APPEND = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]{1,128} APPEND ', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Continue:
    """A synchronising literal was announced and is welcome: send a continuation request."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Answer BAD with `text`; tag None means untagged."""

    tag: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line asked for with `expect_line`, without its line end."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AppendData:
    """Octets of the message of an accepted APPEND."""

    data: bytes


@dataclass(frozen=True, slots=True)
class AppendEnd:
    """The accepted APPEND command is whole."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """Too long to go on: say BYE and close."""

    text: str


Event = Command | Continue | Malformed | Line | AppendData | AppendEnd | Overflow


class _Mode(Enum):
    COMMAND = auto()
    LITERAL = auto()
    LINE = auto()
    DECIDE = auto()
    APPEND = auto()
    TAIL = auto()
    SWALLOW = auto()
    DISCARD = auto()


class Receiver:
    """One per connection. `limit` bounds a command; the server raises it after login."""

    __slots__ = ("_append", "_buffer", "_command", "_left", "_mode", "_scanned", "limit")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0
        self._command = b""
        self._left = 0
        self._mode = _Mode.COMMAND
        self._append: Append | None = None
        self.limit = MAX_COMMAND_BEFORE_LOGIN

    def feed(self, data: bytes) -> None:
        """Take octets from the client."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Octets fed and not yet consumed: stop reading the socket when this grows."""
        return len(self._buffer)

    @property
    def between_commands(self) -> bool:
        """True when nothing of a next command has arrived."""
        return self._mode is _Mode.COMMAND and not self._command and not self._buffer

    def discard_buffered(self) -> None:
        """Forget what was fed: plaintext pipelined behind STARTTLS must not be acted on (RFC 3501 6.2.1, CVE-2011-0411)."""
        self._buffer = bytearray()
        self._scanned = 0
        self._command = b""
        self._mode = _Mode.COMMAND

    def expect_line(self) -> None:
        """The next line is no command (SASL response, DONE); it comes as `Line`."""
        self._mode = _Mode.LINE

    def accept_append(self) -> None:
        """Let the announced message in. If `Append.waits`, the caller sends the continuation."""
        assert self._append is not None  # the caller has just been given it
        self._left = self._append.size
        self._mode = _Mode.APPEND

    def refuse_append(self) -> None:
        """Do not let it in. A client that does not wait sends it all the same; it is passed over."""
        assert self._append is not None  # the caller has just been given it
        if self._append.waits:
            self._mode = _Mode.COMMAND
        else:
            self._left = self._append.size
            self._mode = _Mode.SWALLOW

    def next_event(self) -> Event | None:
        """The next event, or None until more octets are fed."""
        while True:
            before = self._mode
            event = self._step()
            if event is not None or self._mode is before:
                return event

    def _step(self) -> Event | None:
        mode = self._mode
        if mode is _Mode.COMMAND:
            return self._command_line()
        if mode is _Mode.LITERAL:
            return self._literal()
        if mode is _Mode.APPEND:
            return self._append_data()
        if mode is _Mode.SWALLOW:
            return self._swallow()
        if mode is _Mode.DECIDE:
            return None
        return self._other_line(mode)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._scanned = 0
        if not self._buffer:
            self._buffer = bytearray()
        return taken

    def _line(self) -> bytes | None:
        """A whole line without CRLF (or bare LF), or None."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        line = self._take(end + 1)
        return line[:-2] if line.endswith(b"\r\n") else line[:-1]

    def _command_line(self) -> Event | None:
        line = self._line()
        if line is None:
            return self._too_long(len(self._buffer))
        if len(self._command) + len(line) > self.limit:
            return self._too_long(len(line))
        literal = _LITERAL_AT_END.search(line)
        if literal is None:
            return self._whole(self._command + line)
        return self._announced(line + b"\r\n", int(literal.group(1)), waits=not literal.group(2))

    def _too_long(self, more: int) -> Event | None:
        if len(self._command) + more <= self.limit:
            return None
        return Overflow("Command line too long")

    def _whole(self, data: bytes) -> Event:
        self._command = b""
        try:
            return parse_command(data)
        except ParseError as error:
            return Malformed(_tag_of(data), str(error))

    def _announced(self, line: bytes, size: int, *, waits: bool) -> Event | None:
        command = self._command + line
        if _APPEND.match(command):
            event = self._append_head(command, size, waits=waits)
            if event is not None:
                return event
        if size > MAX_LITERAL or len(command) + size > self.limit:
            return self._refuse_literal(command, size, "Literal too long", waits=waits)
        self._command = command
        self._left = size
        self._mode = _Mode.LITERAL
        return Continue() if waits else None

    def _append_head(self, command: bytes, size: int, *, waits: bool) -> Event | None:
        try:
            head = parse_append_head(command)
        except Incomplete:
            return None
        except ParseError as error:
            return self._refuse_literal(command, size, str(error), waits=waits)
        if head is not None:
            self._command = b""
            self._append = head
            self._mode = _Mode.DECIDE
        return head

    def _refuse_literal(self, command: bytes, size: int, text: str, *, waits: bool) -> Event:
        self._command = b""
        if not waits:
            if size > MAX_SWALLOWED:
                return Overflow(text)
            self._left = size
            self._mode = _Mode.SWALLOW
        return Malformed(_tag_of(command), text)

    def _literal(self) -> Event | None:
        if len(self._buffer) < self._left:
            return None
        self._command += self._take(self._left)
        self._mode = _Mode.COMMAND
        return None

    def _append_data(self) -> Event | None:
        if not self._left:
            self._mode = _Mode.TAIL
            return None
        if not self._buffer:
            return None
        data = self._take(min(self._left, len(self._buffer), CHUNK))
        self._left -= len(data)
        return AppendData(data)

    def _swallow(self) -> Event | None:
        self._left -= len(self._take(min(self._left, len(self._buffer))))
        if not self._left:
            self._mode = _Mode.DISCARD
        return None

    def _other_line(self, mode: _Mode) -> Event | None:
        line = self._line()
        if line is None:
            return self._too_long(len(self._buffer))
        self._mode = _Mode.COMMAND
        if mode is _Mode.LINE:
            return Line(line)
        return self._tail(line) if mode is _Mode.TAIL else self._discarded(line)

    def _tail(self, line: bytes) -> Event | None:
        head, self._append = self._append, None
        if not line:
            return AppendEnd()
        self._discarded(line)
        return Malformed(head.tag if head else None, "Unexpected text after the message")

    def _discarded(self, line: bytes) -> Event | None:
        """Rest of a refused command: a further literal that the client does not wait with belongs to it, too."""
        literal = _LITERAL_AT_END.search(line)
        if literal is not None and literal.group(2):
            if int(literal.group(1)) > MAX_SWALLOWED:
                return Overflow("Literal too long")
            self._left = int(literal.group(1))
            self._mode = _Mode.SWALLOW
        return None


def _tag_of(data: bytes) -> str | None:
    match = _TAG.match(data)
    return match.group(1).decode("ascii") if match else None
