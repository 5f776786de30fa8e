"""Header sections taken apart without changing an octet: where each field stands, and what one says. Pure; linear, whatever the octets
are.

Called by whoever edits messages (scan/edits, delivery) or asks what a header says (delivery/responses). Offsets count from the first
octet given.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

MAX_VALUE = 10_000
"""Octets of a field that are decoded."""


@dataclass(frozen=True, slots=True)
class FieldPlace:
    """A field with its continuation lines: `name` in lower case, octets from `start` to `end`, the value from `value` on."""

    name: str
    start: int
    value: int
    end: int


def field_places(header: bytes) -> list[FieldPlace]:
    """All fields in order; lines that are none are left out. Reading ends at the empty line.

    What some reader takes for a field is one, so that nothing that is to go stays: behind a bare CR, and in a continuation with which the
    header begins. Only a line feed ends a line that may be the empty one.
    """
    found: list[FieldPlace] = []
    at = 0
    for line in header.splitlines(keepends=True):
        start, at = at, at + len(line)
        empty = not line.strip(b"\r\n")
        if empty and (start == 0 or header[start - 1 : start] == b"\n") and line.endswith(b"\n"):
            break
        if (empty or line[:1] in (b" ", b"\t")) and found:
            last = found[-1]
            found[-1] = FieldPlace(last.name, last.start, last.value, at)
            continue
        name, colon, _ = line.partition(b":")
        if colon:
            found.append(FieldPlace(name.strip().decode("latin-1").lower(), start, start + len(name) + 1, at))
    return found


class HeaderView:
    """A header section to be asked. Values are unfolded; `text` decodes encoded words (RFC 2047) where that can be done."""

    def __init__(self, header: bytes) -> None:
        self.octets = header
        self.places = field_places(header)

    def __contains__(self, name: str) -> bool:
        """Whether a field of this name (in lower case) is there."""
        return any(one.name == name for one in self.places)

    def named(self, names: Iterable[str]) -> list[FieldPlace]:
        """The fields of any of these names."""
        wanted = frozenset(names)
        return [one for one in self.places if one.name in wanted]

    def raw(self, name: str) -> list[bytes]:
        """The values of a field, unfolded and stripped."""
        return [b"".join(self.octets[one.value : one.end].splitlines()).strip() for one in self.places if one.name == name]

    def texts(self, name: str) -> list[str]:
        """All values as text, encoded words decoded where that can be done."""
        return [text_of(value) for value in self.raw(name.lower())]

    def first(self, name: str) -> str:
        """The first value as text, '' when there is none."""
        return next((value.decode("utf-8", "replace") for value in self.raw(name)), "")

    def text(self, name: str) -> str:
        """The first value with its encoded words decoded."""
        return _decoded(self.first(name)[:MAX_VALUE])


def text_of(value: bytes) -> str:
    """A value as text, encoded words decoded where that can be done."""
    return _decoded(value.decode("utf-8", "replace")[:MAX_VALUE])


def _decoded(value: str) -> str:
    if "=?" not in value:
        return value
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, ValueError, LookupError):
        return value
