"""Heads, header fields and bodies in HTTP's grammar (RFC 9112), which ICAP shares (RFC 3507 4.3). Used by icap and rspamd.

Everything has a bound; what does not parse is ScannerFault. Pure but for reading from a Connection.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gatepost.scan.scanners.connection import Connection
from gatepost.scan.scanners.plugin import ScannerFault

MAX_HEAD = 65_536
MAX_CHUNK_LINE = 4_096
_STATUS = re.compile(r"(?:HTTP|ICAP)/\d\.\d (\d{3})(?: ([^\r\n]*))?\Z")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}\Z")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and fields; names in lower case, repeated ones joined by ', ' (RFC 9110 5.3)."""

    code: int
    reason: str
    fields: dict[str, str]

    @property
    def closes(self) -> bool:
        """Whether the peer is going to hang up."""
        return "close" in self.fields.get("connection", "").lower()


def field(name: str, value: str) -> bytes:
    """One header field. Control characters, line ends first of all, become spaces: values come from the envelope of foreign mail."""
    return f"{name}: {_UNSAFE.sub(' ', value)}\r\n".encode("utf-8", "replace")


def parse_head(octets: bytes) -> Head:
    """Lines without the empty one behind them; folded lines belong to the line before."""
    lines = octets.decode("utf-8", "replace").split("\r\n")
    found = _STATUS.match(lines[0].rstrip())
    if not found:
        raise ScannerFault(f"not a status line: {lines[0]!r:.100}")
    fields: dict[str, str] = {}
    last = ""
    for line in lines[1:]:
        if line[:1] in (" ", "\t") and last:
            fields[last] += "\r\n" + line
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise ScannerFault(f"not a header field: {line!r:.100}")
        last = name.lower()
        fields[last] = f"{fields[last]}, {value.strip()}" if last in fields else value.strip()
    return Head(int(found[1]), (found[2] or "").strip(), fields)


async def read_head(connection: Connection) -> Head:
    """The next head."""
    return parse_head(await connection.until(b"\r\n\r\n", MAX_HEAD))


async def counted(connection: Connection, length: int) -> AsyncIterator[bytes]:
    """A body of so many octets."""
    while length:
        piece = await connection.some(length)
        if not piece:
            raise ScannerFault("hung up in the middle of a body")
        length -= len(piece)
        yield piece


async def chunked(connection: Connection) -> AsyncIterator[bytes]:
    """A body in chunks (RFC 9112 7.1), trailers read and dropped."""
    while True:
        size, _, _extension = (await connection.until(b"\r\n", MAX_CHUNK_LINE)).partition(b";")
        if not _SIZE.match(size.strip()):
            raise ScannerFault(f"not a chunk's size: {size[:40]!r}")
        left = int(size, 16)
        if not left:
            break
        async for piece in counted(connection, left):
            yield piece
        if await connection.until(b"\r\n", 0):
            raise ScannerFault("a chunk is longer than its size")
    for _ in range(100):
        if not await connection.until(b"\r\n", MAX_CHUNK_LINE):
            return
    raise ScannerFault("more than 100 trailers")


async def until_closed(connection: Connection) -> AsyncIterator[bytes]:
    """A body that ends with the connection."""
    while piece := await connection.some(65_536):
        yield piece


async def gather(pieces: AsyncIterator[bytes], limit: int) -> bytes:
    """All of a body. Raises ScannerFault beyond `limit` octets."""
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > limit:
            raise ScannerFault(f"an answer of more than {limit} octets")
    return bytes(body)


def length_of(head: Head) -> int | None:
    """Content-Length; None when there is none. Raises ScannerFault for one that is no number."""
    text = head.fields.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ScannerFault(f"Content-Length is {text!r:.40}")
    return int(text)
