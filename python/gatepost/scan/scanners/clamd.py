"""ClamAV's daemon over a Unix socket or TCP, by the INSTREAM command (clamd(8)). Made by the registry for kind `clamd`.

A connection per scan, as clamd closes it behind INSTREAM; command and first chunk leave in one write. A session (IDSESSION) would save
0.3 ms of 0.8 ms for 10 KB on an idle machine and nothing for 1 MB (benches/scanners.py), and ends with the first stream that is too large.
The signature version is what VERSION says; the pool's probe asks it.

'OK' is clean, 'NAME FOUND' infected, a size limit refused content; all else, an answer cut short included, is ScannerFault.
"""

import re
import struct
from collections.abc import AsyncIterator

from pydantic import BaseModel, ConfigDict, Field

from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.connection import Connection, Connections, dial
from gatepost.scan.scanners.plugin import ContentRefused, Outcome, ScanAnswer, ScannerFault, options

MAX_ANSWER = 4_096
_FOUND = re.compile(r"(?:stream|instream\([^)]*\)): (.{1,1000}) FOUND\Z")
_CLEAN = re.compile(r"(?:stream|instream\([^)]*\)): OK\Z")
_TOO_LARGE = "INSTREAM size limit exceeded"


class Options(BaseModel):
    """`[scan.scanners.options]` of kind clamd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suspicious: tuple[str, ...] = Field(("PUA.", "Heuristics."), max_length=100)
    """Signatures whose names begin so are `suspicious`, not `infected`."""


class Clamd:
    """Scanner of one clamd."""

    by_content = True
    by_parts = False

    def __init__(self, settings: ScannerSettings) -> None:
        self._connections = Connections(dial(settings.address))
        self._suspicious = options(settings, Options).suspicious
        self._version = ""

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Part of Scanner."""
        async with self._connections.lease(fresh=True) as connection:
            await _send(connection, content.chunks())
            answer = await _answer(connection)
            connection.abort()
        return self._understood(answer)

    async def probe(self, deadline: float) -> str:
        """VERSION: 'ClamAV 1.4.3/27790/Mon …', without the number and date when there is no official database."""
        async with self._connections.lease(fresh=True) as connection:
            connection.write(b"zVERSION\0")
            self._version = await _answer(connection)
            connection.abort()
        if not self._version.startswith("ClamAV "):
            raise ScannerFault(f"not clamd: {self._version!r:.100}")
        return self._version

    async def close(self) -> None:
        """Part of Scanner."""
        await self._connections.close()

    def _understood(self, answer: str) -> ScanAnswer:
        if _CLEAN.match(answer):
            return ScanAnswer("", Outcome.CLEAN, signatures=self._version)
        found = _FOUND.match(answer)
        if found is not None:
            outcome = Outcome.SUSPICIOUS if found[1].startswith(self._suspicious) else Outcome.INFECTED
            return ScanAnswer("", outcome, found[1], signatures=self._version)
        if answer.startswith(_TOO_LARGE):
            raise ContentRefused("larger than clamd's StreamMaxLength")
        raise ScannerFault(f"clamd says {answer!r:.200}")


def make(settings: ScannerSettings) -> Clamd:
    """The registry's factory. Raises ValueError for an unknown option."""
    return Clamd(settings)


async def _send(connection: Connection, chunks: AsyncIterator[bytes]) -> None:
    """Chunks with their lengths before them, an empty one last. Ends early when clamd answers before it has all."""
    lead = b"zINSTREAM\0"
    async for chunk in chunks:
        connection.write(lead + struct.pack("!I", len(chunk)), chunk)
        lead = b""
        await connection.drain()
        if connection.heard:
            return
    connection.write(lead + b"\0\0\0\0")


async def _answer(connection: Connection) -> str:
    return (await connection.until(b"\0", MAX_ANSWER)).decode("utf-8", "replace").strip()
