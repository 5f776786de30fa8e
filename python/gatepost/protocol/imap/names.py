"""Folder names: modified UTF-7 on the wire (RFC 3501 5.1.3), INBOX folding, validity, and LIST wildcards.

Inside Gatepost a folder name is str with '/' between levels and 'INBOX' in capitals. Decoding is strict: only the
canonical encoding of a name is accepted, so that no two wire names mean one folder.
"""

import base64
import binascii
import re

from gatepost.protocol.imap.cursor import ParseError

SEPARATOR = "/"
MAX_NAME = 1000
MAX_DEPTH = 32

_SHIFTED = re.compile(rb"&([A-Za-z0-9+,]*)-")
_UNSAFE = re.compile("[^\x20-\x25\x27-\x7e]+|&")


def decode_utf7(wire: bytes) -> str:
    """Modified UTF-7 to text. Raises ParseError for anything that `encode_utf7` would not have produced."""
    parts: list[str] = []
    pos = 0
    try:
        for match in _SHIFTED.finditer(wire):
            parts.append(wire[pos : match.start()].decode("ascii"))
            parts.append(_decode_run(match.group(1)))
            pos = match.end()
        parts.append(wire[pos:].decode("ascii"))
    except (UnicodeError, binascii.Error, ValueError):
        raise ParseError("Folder name is not valid modified UTF-7") from None
    text = "".join(parts)
    if encode_utf7(text) != wire:
        raise ParseError("Folder name is not canonical modified UTF-7")
    return text


def _decode_run(run: bytes) -> str:
    if not run:
        return "&"
    padded = run.replace(b",", b"/") + b"=" * (-len(run) % 4)
    return base64.b64decode(padded, validate=True).decode("utf-16-be")


def encode_utf7(text: str) -> bytes:
    """Text to modified UTF-7. Lone surrogates cannot be encoded and raise ParseError."""
    try:
        return _UNSAFE.sub(_encode_run, text).encode("ascii")
    except UnicodeError:
        raise ParseError("Folder name is not valid Unicode") from None


def _encode_run(match: "re.Match[str]") -> str:
    if match.group() == "&":
        return "&-"
    packed = base64.b64encode(match.group().encode("utf-16-be")).rstrip(b"=").replace(b"/", b",")
    return f"&{packed.decode('ascii')}-"


def fold_inbox(name: str) -> str:
    """INBOX is case-insensitive (RFC 3501 5.1), also as the first level of its children."""
    head, slash, rest = name.partition(SEPARATOR)
    return f"INBOX{slash}{rest}" if head.upper() == "INBOX" else name


def folder_name(wire: bytes) -> str:
    """A folder argument as sent: decoded and INBOX folded. May name nothing that exists."""
    if len(wire) > MAX_NAME:
        raise ParseError("Folder name too long")
    return fold_inbox(decode_utf7(wire))


def name_problem(name: str) -> str:
    """Why a folder of this name cannot be created; '' when it can."""
    levels = name.split(SEPARATOR)
    if not all(levels):
        return "A level of the folder name is empty"
    if len(levels) > MAX_DEPTH:
        return f"Folders can be nested {MAX_DEPTH} deep at most"
    if any(c in "*%" or ord(c) < 0x20 or ord(c) == 0x7F for c in name):
        return "The folder name holds a character that is not allowed"
    return ""


def parents(name: str) -> list[str]:
    """All superior names of `name`, shortest first."""
    levels = name.split(SEPARATOR)
    return [SEPARATOR.join(levels[:n]) for n in range(1, len(levels))]


class Pattern:
    """A LIST pattern (RFC 3501 6.3.8): '*' matches anything, '%' anything within one level.

    Matching runs the set of positions that may be reached over the name, as the bits of one number: time is bounded by the length of
    the name times that of the pattern in machine words, whatever the wildcards.
    """

    __slots__ = ("_inbox", "_text")

    def __init__(self, text: str) -> None:
        # Afterwards no two wildcards stand side by side.
        folded = fold_inbox(re.sub(r"[*%]*\*[*%]*", "*", re.sub("%+", "%", text)))
        self._text = _Positions(folded)
        self._inbox = _Positions(folded.upper())

    def matches(self, name: str) -> bool:
        """Whether the whole of `name` matches; INBOX in any case of the pattern."""
        return (self._inbox if name == "INBOX" else self._text).matches(name)


class _Positions:
    """Bit n of each number is position n of the pattern: where which character stands, and the wildcards."""

    __slots__ = ("_characters", "_end", "_star", "_wild")

    def __init__(self, text: str) -> None:
        self._end = 1 << len(text)
        self._characters: dict[str, int] = {}
        for at, char in enumerate(text):
            self._characters[char] = self._characters.get(char, 0) | 1 << at
        self._star = self._characters.pop("*", 0)
        self._wild = self._star | self._characters.pop("%", 0)

    def matches(self, name: str) -> bool:
        wild, star, characters = self._wild, self._star, self._characters
        reached = 1 | (1 & wild) << 1
        for char in name:
            stay = star if char == SEPARATOR else wild
            reached = reached & stay | (reached & characters.get(char, 0)) << 1
            reached |= (reached & wild) << 1  # a wildcard may stand for nothing
            if not reached:
                return False
        return bool(reached & self._end)
