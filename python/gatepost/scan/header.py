"""Header fields of a message as conditions see them: decoded, unfolded, bounded. Called by reception and the dry runs to make MailFacts.

Takes any octets; what cannot be decoded is shown as it stands. Nothing is done before a rule asks.
"""

from collections.abc import Callable, Sequence
from email.errors import HeaderParseError
from email.header import decode_header, make_header

HEADER_MAX = 262_144
"""Octets of a header that are looked at."""
VALUE_MAX = 10_000


def header_of(data: bytes) -> Callable[[str], Sequence[str]]:
    """A reader of the fields of `data`'s header, for `MailFacts.header`; keeps at most HEADER_MAX octets of it."""
    head = bytes(data[:HEADER_MAX])
    fields: dict[str, list[str]] = {}
    read = False

    def values(name: str) -> Sequence[str]:
        nonlocal read
        if not read:
            fields.update(_fields(head))
            read = True
        return fields.get(name.lower(), ())

    return values


def _fields(head: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    raw: list[list[bytes]] = []
    for line in head.split(b"\n"):
        line = line.removesuffix(b"\r")
        if not line:
            break
        if line[:1] in (b" ", b"\t") and raw:
            raw[-1].append(line.strip())
        else:
            raw.append([line])
    for lines in raw:
        name, colon, value = b" ".join(lines).partition(b":")
        if colon:
            found.setdefault(name.strip().decode("latin-1").lower(), []).append(_decoded(value.strip()))
    return found


def _decoded(value: bytes) -> str:
    text = value[:VALUE_MAX].decode("utf-8", "replace")
    if "=?" not in text:
        return text
    try:
        return str(make_header(decode_header(text)))
    except (HeaderParseError, ValueError, LookupError):
        return text
