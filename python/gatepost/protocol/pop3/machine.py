"""The POP3 session as a machine (RFC 1939; CAPA RFC 2449; STLS RFC 2595; AUTH RFC 5034): octets in, events out.

Driven by server/pop3: `feed` octets, pull `next_event` until None, carry out what the event asks, tell the machine the
outcome through one of the `…ed` methods, pull on. Pulling means that a pipelined command waits for the one before it.

    state          commands                                              leaves by
    AUTHORIZATION  CAPA USER PASS AUTH STLS QUIT                          `logged_in` -> TRANSACTION; QUIT -> close
    TRANSACTION    CAPA STAT LIST UIDL RETR TOP DELE RSET NOOP QUIT        QUIT -> UPDATE: event Update, then close

Deletions exist only as marks until QUIT: a connection that drops in TRANSACTION deletes nothing (RFC 1939 section 6).
Failure: any line gets '-ERR'; more than `max_bad` of them in a row or an unending line closes the session.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from gatepost.protocol.pop3.maildrop import Maildrop

MAX_LINE = 512
"""RFC 2449 section 4 asks for 255; PASS with a long pass phrase may be longer than that."""
MAX_SASL_LINE = 12_288
"""RFC 5034 section 4."""
LISTING_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Password:
    """USER and PASS were given: answer with `logged_in` or `refused`."""

    user: str
    password: str


@dataclass(frozen=True, slots=True)
class SaslStart:
    """AUTH: answer with `challenged`, `logged_in` or `refused`."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class SaslResponse:
    """The client's answer to the last challenge: as for SaslStart."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StartTls:
    """STLS was accepted and '+OK' is to be sent: negotiate, then `tls_started`."""

    reply: bytes


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Send '+OK' and the message, dot-stuffed; only `lines` lines of the body unless that is -1."""

    uid: int
    octets: int
    lines: int


@dataclass(frozen=True, slots=True)
class Update:
    """QUIT: remove these uids, then `updated`."""

    uids: list[int]


@dataclass(frozen=True, slots=True)
class Close:
    """Nothing more will come: flush and close."""


Event = Send | Password | SaslStart | SaslResponse | StartTls | Retrieve | Update | Close


@dataclass(frozen=True, slots=True)
class Offer:
    """What the session offers before login; changes when TLS starts."""

    stls: bool
    user: bool
    mechanisms: tuple[str, ...]


class _Refusal(Exception):
    """The '-ERR' text of a command that is not carried out."""


def _ok(text: str = "") -> Send:
    return Send(f"+OK {text}".rstrip().encode() + b"\r\n")


def _err(text: str) -> Send:
    return Send(f"-ERR {text}".encode() + b"\r\n")


class Pop3Machine:
    """One per connection."""

    __slots__ = ("_bad", "_buffer", "_closed", "_drop", "_listing", "_max_bad", "_offer", "_sasl", "_scanned", "_skipping", "_user")

    def __init__(self, offer: Offer, *, max_bad: int = 10) -> None:
        self._offer = offer
        self._max_bad = max_bad
        self._bad = 0
        self._buffer = bytearray()
        self._scanned = 0
        self._skipping = False
        self._closed = False
        self._sasl = False
        self._user: str | None = None
        self._drop: Maildrop | None = None
        self._listing: Iterator[str] | None = None

    # ---- what the driver tells the machine

    def feed(self, data: bytes) -> None:
        """Take octets from the client."""
        self._buffer += data

    @property
    def buffered(self) -> int:
        """Octets fed and not yet consumed: stop reading the socket when this grows."""
        return len(self._buffer)

    @property
    def authenticated(self) -> bool:
        """True in TRANSACTION."""
        return self._drop is not None

    def tls_started(self, offer: Offer) -> None:
        """TLS is on. What was pipelined behind STLS is thrown away, and a USER given before is forgotten (RFC 2595 section 4)."""
        self._offer = offer
        self._buffer = bytearray()
        self._scanned = 0
        self._user = None

    def logged_in(self, uid_validity: int, messages: Iterable[tuple[int, int]]) -> Send:
        """The user is known and holds the lock; messages are (uid, octets), ascending."""
        self._sasl = False
        self._drop = Maildrop(uid_validity, messages)
        count, octets = self._drop.totals()
        return _ok(f"{count} messages ({octets} octets)")

    def refused(self, code: str, text: str) -> Send:
        """Login failed. code: 'AUTH', 'SYS/TEMP', 'SYS/PERM' (RFC 3206) or 'IN-USE' (RFC 2449 8.1.2)."""
        self._sasl = False
        self._user = None
        return _err(f"[{code}] {text}" if code else text)

    def challenged(self, challenge: bytes) -> Send:
        """The mechanism goes on; the next line is the client's response."""
        self._sasl = True
        return Send(b"+ " + base64.b64encode(challenge) + b"\r\n")

    def updated(self, removed: int, *, failed: bool) -> Send:
        """The UPDATE state is over (RFC 1939 section 6)."""
        return _err("[SYS/TEMP] Messages could not be removed") if failed else _ok(f"Goodbye, {removed} messages removed")

    # ---- what the driver pulls

    def next_event(self) -> Event | None:
        """The next event, or None until more octets are fed."""
        if self._listing is not None:
            return self._more_listing()
        if self._closed:
            return None
        line = self._line()
        if line is None:
            return None
        if self._sasl:
            return self._sasl_line(line)
        return self._command(line)

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._scanned)
        limit = MAX_SASL_LINE if self._sasl or self._buffer[:5].upper() == b"AUTH " else MAX_LINE
        if end < 0 or end >= limit:
            return self._unfinished(end, limit)
        line = bytes(self._buffer[: end + 1])
        self._cut(end + 1)
        if self._skipping:
            self._skipping = False
            return self._line()
        return line.rstrip(b"\r\n")

    def _unfinished(self, end: int, limit: int) -> bytes | None:
        """No line end yet, or too far away: pass over what cannot become a line."""
        if end < 0 and len(self._buffer) < limit:
            self._scanned = len(self._buffer)
            return None
        first = not self._skipping
        self._skipping = end < 0
        self._cut(end + 1 if end >= 0 else len(self._buffer))
        if first:
            return _TOO_LONG
        return None if self._skipping else self._line()

    def _cut(self, size: int) -> None:
        del self._buffer[:size]
        self._scanned = 0
        if not self._buffer:
            self._buffer = bytearray()

    def _sasl_line(self, line: bytes) -> Event:
        self._sasl = False
        if line == b"*":
            return _err("Authentication cancelled")
        try:
            return SaslResponse(base64.b64decode(line, validate=True))
        except (binascii.Error, ValueError):
            return self._refuse("Invalid base64")

    def _command(self, line: bytes) -> Event:
        if line is _TOO_LONG:
            return self._refuse("Line too long")
        verb, _, argument = line.partition(b" ")
        name = verb.decode("latin-1").upper()
        states = _COMMANDS.get(name)
        handler = None if states is None else states[self.authenticated]
        if handler is None:
            return self._refuse("Unknown command" if states is None else "Command not allowed now")
        try:
            event = handler(self, argument.decode("utf-8"))
        except UnicodeDecodeError:
            return self._refuse("Not valid UTF-8")
        except _Refusal as refusal:
            return self._refuse(str(refusal))
        self._bad = 0
        return event

    def _refuse(self, text: str) -> Event:
        self._bad += 1
        if self._bad < self._max_bad:
            return _err(text)
        self._end()
        return _err("Too many errors")

    def _end(self) -> None:
        """Close after the event at hand was carried out."""
        self._closed = True
        self._listing = iter(())

    def _more_listing(self) -> Event:
        assert self._listing is not None
        if self._closed:
            self._listing = None
            return Close()
        lines = list(islice(self._listing, LISTING_CHUNK))
        if len(lines) < LISTING_CHUNK:
            self._listing = None
            lines.append(".")
        return Send("".join(f"{line}\r\n" for line in lines).encode())

    # ---- AUTHORIZATION

    def _capa(self, argument: str) -> Event:
        _none(argument)
        offer = self._offer
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "IMPLEMENTATION Gatepost"]
        if not self.authenticated:
            lines += ["STLS"] if offer.stls else []
            lines += ["USER"] if offer.user else []
            lines += ["SASL " + " ".join(offer.mechanisms)] if offer.mechanisms else []
        self._listing = iter(lines)
        return _ok("Capability list follows")

    def _user_(self, argument: str) -> Event:
        if not self._offer.user:
            raise _Refusal("[AUTH] Plain-text login needs TLS")
        self._user = _some(argument)
        return _ok("Password, please")

    def _pass(self, argument: str) -> Event:
        if self._user is None:
            raise _Refusal("USER first")
        # A password may hold spaces: the whole rest of the line is it (RFC 1939 section 7).
        user, self._user = self._user, None
        return Password(user, _some(argument))

    def _auth(self, argument: str) -> Event:
        if not argument:
            self._listing = iter(self._offer.mechanisms)
            return _ok("Mechanisms follow")
        mechanism, _, initial = argument.partition(" ")
        if mechanism.upper() not in self._offer.mechanisms:
            raise _Refusal("[AUTH] Mechanism not available")
        if not initial:
            return SaslStart(mechanism.upper(), None)
        try:
            return SaslStart(mechanism.upper(), b"" if initial == "=" else base64.b64decode(initial, validate=True))
        except (binascii.Error, ValueError):
            raise _Refusal("Invalid base64") from None

    def _stls(self, argument: str) -> Event:
        _none(argument)
        if not self._offer.stls:
            raise _Refusal("TLS is not available")
        return StartTls(b"+OK Begin TLS negotiation\r\n")

    def _quit_early(self, argument: str) -> Event:
        _none(argument)
        self._end()
        return _ok("Goodbye")

    # ---- TRANSACTION

    @property
    def _maildrop(self) -> Maildrop:
        assert self._drop is not None
        return self._drop

    def _stat(self, argument: str) -> Event:
        _none(argument)
        count, octets = self._maildrop.totals()
        return _ok(f"{count} {octets}")

    def _scan(self, argument: str, show: Callable[[int], object]) -> Event:
        """LIST and UIDL: one line, or a listing."""
        drop = self._maildrop
        if argument:
            number = self._number(argument)
            return _ok(f"{number} {show(number)}")
        count, octets = drop.totals()
        self._listing = (f"{number} {show(number)}" for number in drop.numbers())
        return _ok(f"{count} messages ({octets} octets)")

    def _list(self, argument: str) -> Event:
        return self._scan(argument, self._maildrop.octets)

    def _uidl(self, argument: str) -> Event:
        return self._scan(argument, self._maildrop.unique_id)

    def _number(self, text: str) -> int:
        number = _decimal(text)
        if not self._maildrop.holds(number):
            raise _Refusal("No such message")
        return number

    def _retr(self, argument: str) -> Event:
        number = self._number(argument)
        return Retrieve(self._maildrop.uid(number), self._maildrop.octets(number), -1)

    def _top(self, argument: str) -> Event:
        first, _, lines = argument.partition(" ")
        number = self._number(first)
        return Retrieve(self._maildrop.uid(number), self._maildrop.octets(number), _decimal(lines))

    def _dele(self, argument: str) -> Event:
        number = self._number(argument)
        self._maildrop.mark(number)
        return _ok(f"Message {number} marked for deletion")

    def _rset(self, argument: str) -> Event:
        _none(argument)
        self._maildrop.reset()
        return _ok("Nothing is marked for deletion")

    def _noop(self, argument: str) -> Event:
        _none(argument)
        return _ok()

    def _quit(self, argument: str) -> Event:
        _none(argument)
        self._end()
        return Update(self._maildrop.marked_uids())


def _none(argument: str) -> None:
    if argument:
        raise _Refusal("No argument allowed")


def _some(argument: str) -> str:
    if not argument or "\x00" in argument:
        raise _Refusal("Missing argument")
    return argument


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise _Refusal("A number is needed")
    return int(text)


_TOO_LONG = b"too long"
_Handler = Callable[[Pop3Machine, str], Event]
_M = Pop3Machine

_COMMANDS: dict[str, tuple[_Handler | None, _Handler | None]] = {
    # verb: (in AUTHORIZATION, in TRANSACTION)
    "CAPA": (_M._capa, _M._capa),
    "USER": (_M._user_, None),
    "PASS": (_M._pass, None),
    "AUTH": (_M._auth, None),
    "STLS": (_M._stls, None),
    "QUIT": (_M._quit_early, _M._quit),
    "STAT": (None, _M._stat),
    "LIST": (None, _M._list),
    "UIDL": (None, _M._uidl),
    "RETR": (None, _M._retr),
    "TOP": (None, _M._top),
    "DELE": (None, _M._dele),
    "RSET": (None, _M._rset),
    "NOOP": (None, _M._noop),
}
