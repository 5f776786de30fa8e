"""Replies of an SMTP or LMTP peer (RFC 5321 4.2), parsed as bytes arrive. Used by smtp_connection; pure, no I/O.

Invariants: a line has at most MAX_LINE octets, a reply at most MAX_REPLY; text is decoded as UTF-8 with replacement and has no
control characters. Anything that is not a reply raises ProtocolViolation: the connection is of no use after that.
"""

import re
from functools import lru_cache
from typing import NamedTuple

MAX_LINE = 2048
"""RFC 5321 4.5.3.1.5 allows 512; peers are known to send more."""
MAX_REPLY = 65536

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class ProtocolViolation(Exception):
    """The peer does not speak SMTP; the text says how."""


class PeerReply(NamedTuple):
    """One reply: code, enhanced status code of its first line ('' if none), lines without the codes."""

    code: int
    enhanced: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one, cut to 1,000 characters."""
        return " ".join(self.lines)[:1000]


class ReplyParser:
    """Feed octets, get whole replies."""

    def __init__(self) -> None:
        self._buffer = b""
        self._code = 0
        self._lines: list[bytes] = []
        self._octets = 0

    @property
    def pending(self) -> bool:
        """True while part of a reply has arrived."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> list[PeerReply]:
        """Replies completed by `data`. Raises ProtocolViolation."""
        lines = (self._buffer + data).split(b"\n") if self._buffer else data.split(b"\n")
        self._buffer = lines.pop()
        if len(self._buffer) > MAX_LINE:
            raise ProtocolViolation("a reply line is too long")
        replies = []
        for line in lines:
            reply = self._line(line) if self._lines or line[3:4] != b" " else _single_line(line)
            if reply is not None:
                replies.append(reply)
        return replies

    def _line(self, line: bytes) -> PeerReply | None:
        number, mark, text = _cut(line)
        if self._lines and number != self._code:
            raise ProtocolViolation(f"a reply mixes the codes {self._code} and {number}")
        self._code = number
        self._lines.append(text)
        self._octets += len(line)
        if self._octets > MAX_REPLY:
            raise ProtocolViolation("a reply is too long")
        if mark == b"-":
            return None
        lines, self._lines, self._octets = self._lines, [], 0
        return _whole(number, lines)


@lru_cache(maxsize=512)
def _single_line(line: bytes) -> PeerReply:
    """Peers say the same few things all day."""
    number, _, text = _cut(line)
    return _whole(number, [text])


def _cut(line: bytes) -> tuple[int, bytes, bytes]:
    """Code, the mark behind it, and the text of one line."""
    if line.endswith(b"\r"):
        line = line[:-1]
    code, mark = line[:3], line[3:4]
    if len(line) > MAX_LINE or not code.isdigit() or len(code) != 3 or mark not in (b" ", b"-", b""):
        raise ProtocolViolation(f"not an SMTP reply: {line[:80]!r}")
    return int(code), mark, line[4:]


def _whole(code: int, lines: list[bytes]) -> PeerReply:
    texts = [line.decode("utf-8", "replace") for line in lines]
    found = _ENHANCED.match(texts[0])
    enhanced = found[1] if found else ""
    if enhanced:
        texts = [text[len(enhanced) :].lstrip() if text.startswith(enhanced) else text for text in texts]
    return PeerReply(code, enhanced, tuple(text if text.isprintable() else _CONTROL.sub(" ", text) for text in texts))
