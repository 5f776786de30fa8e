"""Folder names: modified UTF-7 on the wire (RFC 3501 5.1.3), INBOX folding, validity, and LIST wildcards.

Inside Gatepost a folder name is str with '/' between levels and 'INBOX' in capitals. Decoding is strict: only the
canonical encoding of a name is accepted, so that no two wire names mean one folder.
"""

import base64
import binascii
import re
from collections.abc import Iterable

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

    Matching runs a set of positions over the name, so time is bounded by len(pattern) x len(name) whatever the wildcards.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = fold_inbox(re.sub(r"[*%]*\*[*%]*", "*", re.sub("%+", "%", text)))

    def matches(self, name: str) -> bool:
        """Whether the whole of `name` matches; INBOX in any case of the pattern."""
        text = self._text.upper() if name == "INBOX" else self._text
        states = self._closure(text, {0})
        for char in name:
            states = self._closure(text, self._step(text, states, char))
            if not states:
                return False
        return len(text) in states

    @staticmethod
    def _step(text: str, states: Iterable[int], char: str) -> set[int]:
        following: set[int] = set()
        for at in states:
            if at == len(text):
                continue
            if text[at] == "*" or (text[at] == "%" and char != SEPARATOR):
                following.add(at)
            elif text[at] == char:
                following.add(at + 1)
        return following

    @staticmethod
    def _closure(text: str, states: set[int]) -> set[int]:
        for at in sorted(states):
            while at < len(text) and text[at] in "*%":
                at += 1
                states.add(at)
        return states
