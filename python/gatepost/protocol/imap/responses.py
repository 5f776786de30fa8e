"""Writing IMAP responses (RFC 3501 section 7): strings, flags, numbers. Only fixed texts are put together elsewhere.

Called by view.py and server/imap.
"""

import re
from collections.abc import Iterable, Sequence

from gatepost.protocol.imap.names import encode_utf7
from gatepost.protocol.imap.sequence import compact

SYSTEM_FLAGS = ("\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft")
_SYSTEM_BY_UPPER = {flag.upper(): flag for flag in SYSTEM_FLAGS}
_PLAIN = re.compile(rb'[^\x00\r\n"\\\x80-\xff]*\Z')
_LINE_END = re.compile(r"[\r\n\x00]+")


def string(value: str | bytes) -> bytes:
    """A quoted string, or a literal where the octets need one."""
    raw = value.encode("utf-8") if isinstance(value, str) else value
    if _PLAIN.match(raw):
        return b'"' + raw + b'"'
    if b"\r" in raw or b"\n" in raw or b"\x00" in raw or not raw.isascii():
        return b"{%d}\r\n" % len(raw) + raw
    return b'"' + raw.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def folder(name: str) -> bytes:
    """A folder name on the wire."""
    return string(encode_utf7(name))


def flag_list(flags: Iterable[str]) -> bytes:
    """'(' flags ')'."""
    return b"(" + " ".join(flags).encode("ascii", "replace") + b")"


def tagged(tag: str, status: str, text: str) -> bytes:
    """A tagged status response; text may begin with a [response code]."""
    return f"{tag} {status} {_LINE_END.sub(' ', text)}\r\n".encode("utf-8", "replace")


def untagged(text: str) -> bytes:
    """'* ' text."""
    return f"* {_LINE_END.sub(' ', text)}\r\n".encode("utf-8", "replace")


def normal_flags(flags: Iterable[str]) -> list[str]:
    r"""Flags a client may store: system flags in their usual case, keywords as they are, each once.

    \Recent cannot be altered and an unknown \Flag is not in PERMANENTFLAGS: both are passed over (RFC 3501 7.1).
    """
    kept: dict[str, str] = {}
    for flag in flags:
        name = _SYSTEM_BY_UPPER.get(flag.upper()) if flag.startswith("\\") else flag
        if name is not None:
            kept.setdefault(name.upper(), name)
    return list(kept.values())


def copyuid(uid_validity: int, pairs: Sequence[tuple[int, int]]) -> str:
    """The COPYUID response code (RFC 4315), with the brackets; '' for no pairs."""
    if not pairs:
        return ""
    ordered = sorted(pairs)
    return f"[COPYUID {uid_validity} {compact(p[0] for p in ordered)} {compact(p[1] for p in ordered)}]"


def esearch(tag: str, numbers: Sequence[int], returns: frozenset[str], *, uid: bool) -> bytes:
    """An ESEARCH response (RFC 4731 3.1); numbers ascending. MIN, MAX and ALL are left out when nothing matched."""
    parts = [f'* ESEARCH (TAG "{tag}")']
    if uid:
        parts.append("UID")
    if numbers and "MIN" in returns:
        parts.append(f"MIN {numbers[0]}")
    if numbers and "MAX" in returns:
        parts.append(f"MAX {numbers[-1]}")
    if "COUNT" in returns:
        parts.append(f"COUNT {len(numbers)}")
    if numbers and "ALL" in returns:
        parts.append(f"ALL {compact(numbers)}")
    return " ".join(parts).encode("ascii") + b"\r\n"


def search(numbers: Iterable[int]) -> bytes:
    """A SEARCH response."""
    return " ".join(["* SEARCH", *map(str, numbers)]).encode("ascii") + b"\r\n"
