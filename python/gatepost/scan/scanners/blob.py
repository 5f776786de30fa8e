"""What scanners are shown: a message and its parts, each with size, digest and a stream that can be had again and again.

Made by `scan/gate.py` from the spool, by tests and benches from octets (`MemoryBlob`); read by the pool and the scanners.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CHUNK = 65_536


class PartBlob(Protocol):
    """A decoded part of a message, or the message itself. Nothing about it changes."""

    @property
    def sha256(self) -> str:
        """Of the octets `chunks` gives, in hex, lower case."""

    @property
    def name(self) -> str:
        """File name as its header gives it; '' when it has none. Not to be trusted."""

    @property
    def media_type(self) -> str:
        """'type/subtype' in lower case as its header claims, `message/rfc822` for the message itself."""

    @property
    def size(self) -> int:
        """In octets."""

    def chunks(self) -> AsyncIterator[bytes]:
        """All octets from the first on, none of the pieces empty; may be called again. Raises OSError when they cannot be read."""


class Blob(PartBlob, Protocol):
    """A raw message and its parts."""

    @property
    def parts(self) -> Sequence[PartBlob]:
        """Leaf parts in their order, decoded; empty when there is none but the message's own text."""


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """A PartBlob of octets in memory."""

    data: bytes = field(repr=False)
    name: str = ""
    media_type: str = "application/octet-stream"
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())

    @property
    def size(self) -> int:
        """In octets."""
        return len(self.data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Pieces of CHUNK octets."""
        for start in range(0, len(self.data), CHUNK):
            yield self.data[start : start + CHUNK]


@dataclass(frozen=True, slots=True)
class MemoryBlob(MemoryPart):
    """A Blob of octets in memory."""

    media_type: str = "message/rfc822"
    parts: Sequence[PartBlob] = ()
