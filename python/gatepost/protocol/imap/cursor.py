"""Lexer over one complete IMAP command: atoms, strings, literals, numbers, dates (RFC 3501 section 9).

Called by the parse modules. The command is one bytes object in which a literal stands as '{n}' CRLF and its octets, so
every token is a regular-expression match at a position; nothing is copied but the token itself. Any octets in: the
outcome is a token or `ParseError`, whose text is fit for a BAD response. `Incomplete` says that the data end where
the octets of a literal should begin.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone

_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_TAG = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]+')
_LIST_CHARS = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
_QUOTED = re.compile(rb'"([^"\\\r\n\x00]*(?:\\["\\][^"\\\r\n\x00]*)*)"')
_ESCAPED = re.compile(rb'\\(["\\])')
_LITERAL = re.compile(rb"\{([0-9]{1,10})\+?\}\r\n")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_FLAG = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_DATE = re.compile(rb'("?)([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})\1')
_DATE_TIME = re.compile(rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"')
_MONTHS = {name: n for n, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}

MAX_TAG = 128
MAX_FLAGS = 100
MAX_FLAG = 100
MAX_NUMBER = 0xFFFFFFFF


class ParseError(Exception):
    """The command is malformed; str(self) is the text of the BAD response."""


class Incomplete(ParseError):
    """The data end right behind a literal's '{n}' CRLF."""


class Cursor:
    """A position in one command. Methods named after a production consume it or raise ParseError."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def at_end(self) -> bool:
        """True when the whole command is consumed."""
        return self.pos >= len(self.data)

    def end(self) -> None:
        """Require the end of the command."""
        if not self.at_end():
            raise ParseError("Unexpected text after the command's arguments")

    def looking_at(self, token: bytes) -> bool:
        """Whether `token` (upper case) comes next, in any case."""
        return self.data[self.pos : self.pos + len(token)].upper() == token

    def accept(self, token: bytes) -> bool:
        """Consume `token` (upper case) if it comes next."""
        found = self.looking_at(token)
        if found:
            self.pos += len(token)
        return found

    def expect(self, token: bytes) -> None:
        """Consume `token` or raise."""
        if not self.accept(token):
            raise ParseError(f"Expected {token.decode('ascii')!r}")

    def space(self) -> None:
        """One SP between arguments."""
        if not self.accept(b" "):
            raise ParseError("Missing argument" if self.at_end() else "Expected a space")

    def _match(self, pattern: "re.Pattern[bytes]", what: str) -> "re.Match[bytes]":
        match = pattern.match(self.data, self.pos)
        if match is None:
            raise ParseError(f"Expected {what}")
        self.pos = match.end()
        return match

    def tag(self) -> str:
        """The command's tag."""
        tag = self._match(_TAG, "a tag").group().decode("ascii")
        if len(tag) > MAX_TAG:
            raise ParseError("Tag too long")
        return tag

    def atom(self) -> str:
        """An atom, as ASCII text."""
        return self._match(_ATOM, "an atom").group().decode("ascii")

    def keyword(self) -> str:
        """An atom in upper case."""
        return self.atom().upper()

    def astring(self) -> bytes:
        """Atom (']' allowed), quoted string or literal."""
        return self._text(_ASTRING)

    def list_mailbox(self) -> bytes:
        """Astring in which the wildcards % and * are allowed unquoted."""
        return self._text(_LIST_CHARS)

    def _text(self, bare: "re.Pattern[bytes]") -> bytes:
        if self.data[self.pos : self.pos + 1] in (b'"', b"{"):
            return self.string()
        return self._match(bare, "a string").group()

    def string(self) -> bytes:
        """Quoted string or literal."""
        if self.looking_at(b"{"):
            return self._literal()
        return _ESCAPED.sub(rb"\1", self._match(_QUOTED, "a string").group(1))

    def _literal(self) -> bytes:
        size = int(self._match(_LITERAL, "a literal").group(1))
        if self.pos == len(self.data) and size:
            raise Incomplete("Literal missing")
        value = self.data[self.pos : self.pos + size]
        if len(value) < size:
            raise ParseError("Literal too short")
        if b"\x00" in value:
            raise ParseError("NUL is not allowed in a literal")
        self.pos += size
        return value

    def number(self, lowest: int = 0) -> int:
        """Number (32 bit), or nz-number with lowest=1."""
        value = int(self._match(_NUMBER, "a number").group())
        if not lowest <= value <= MAX_NUMBER:
            raise ParseError("Number out of range")
        return value

    def flag(self) -> str:
        """One flag or keyword."""
        text = self._match(_FLAG, "a flag").group().decode("ascii")
        if len(text) > MAX_FLAG:
            raise ParseError("Flag too long")
        return text

    def flag_list(self) -> tuple[str, ...]:
        """'(' flags ')'."""
        self.expect(b"(")
        flags: list[str] = []
        while not self.accept(b")"):
            if flags:
                self.space()
            flags.append(self.flag())
            if len(flags) > MAX_FLAGS:
                raise ParseError("Too many flags")
        return tuple(flags)

    def date(self) -> str:
        """Search date, as 'YYYY-MM-DD'."""
        match = self._match(_DATE, "a date")
        try:
            return date(int(match.group(4)), _month(match.group(3)), int(match.group(2))).isoformat()
        except ValueError:
            raise ParseError("No such date") from None

    def date_time(self) -> int:
        """APPEND's internal date, as Unix microseconds."""
        day, month, year, hour, minute, second, sign, zone_h, zone_m = self._match(_DATE_TIME, "a date-time").groups()
        try:
            offset = timedelta(hours=int(zone_h), minutes=int(zone_m))
            zone = timezone(-offset if sign == b"-" else offset)
            # A leap second has no place in datetime; the second before it is as near as we can keep.
            moment = datetime(int(year), _month(month), int(day), int(hour), int(minute), min(int(second), 59), tzinfo=zone)
            return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))
        except (ValueError, OverflowError):
            raise ParseError("No such date") from None


def _month(name: bytes) -> int:
    return _MONTHS.get(name.decode("ascii").lower(), 0)
