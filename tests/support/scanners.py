"""Content, facts and stand-ins for the tests of scanners: a scanner under the test's control, and a server that speaks by script."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from gatepost.config.scan import Scan, ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import MemoryBlob, MemoryPart, PartBlob
from gatepost.scan.scanners.plugin import ScanAnswer
from gatepost.scan.scanners.pool import ScannerPool

EICAR = base64.b64decode("WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9JEVJQ0FSLVNUQU5EQVJELUFOVElWSVJVUy1URVNULUZJTEUhJEgrSCo=")
"""The test file of eicar.org, kept encoded so that no scanner takes offence at this source."""
FACTS = MailFacts("sender@example.org", ("alice@example.test",))


def mail(body: bytes = b"Hello.\r\n", *, name: str = "", subject: str = "test") -> MemoryBlob:
    """A message with `body` as an attachment called `name`, or as its text."""
    head = f"From: sender@example.org\r\nTo: alice@example.test\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n".encode()
    if not name:
        return MemoryBlob(head + b"Content-Type: text/plain\r\n\r\n" + body)
    encoded = base64.encodebytes(body).replace(b"\n", b"\r\n")
    text = (
        b'--b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n--b\r\nContent-Type: application/octet-stream; name="%s"\r\n' % name.encode()
    )
    text += b"Content-Transfer-Encoding: base64\r\n\r\n" + encoded + b"--b--\r\n"
    parts = (MemoryPart(b"see there", "", "text/plain"), MemoryPart(body, name))
    return MemoryBlob(head + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + text, parts=parts)


def table(kind: str, address: str = "", **more: Any) -> ScannerSettings:
    """Settings of a scanner called as its kind; short waits."""
    return ScannerSettings(
        **{"name": kind, "kind": kind, "address": address, "timeout_seconds": 5, "retry_seconds": 0.1, "retry_max_seconds": 0.4, **more}
    )


class TameScanner:
    """Answers by `reply`; what is asked is in `seen`."""

    by_content = True
    by_parts = False

    def __init__(self, reply: Callable[[PartBlob], Awaitable[ScanAnswer]] | None = None) -> None:
        self.reply = reply or self._clean
        self.seen: list[PartBlob] = []
        self.probes = 0
        self.version = "1"
        self.fault: Exception | None = None
        self.closed = False

    async def _clean(self, _content: PartBlob) -> ScanAnswer:
        return ScanAnswer("", "clean", signatures=self.version)

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Part of Scanner."""
        self.seen.append(content)
        if self.fault is not None:
            raise self.fault
        return await self.reply(content)

    async def probe(self, deadline: float) -> str:
        """Part of Scanner."""
        self.probes += 1
        if self.fault is not None:
            raise self.fault
        return self.version

    async def close(self) -> None:
        """Part of Scanner."""
        self.closed = True


@asynccontextmanager
async def pool_of(
    *settings: ScannerSettings, scanners: list[Any] | None = None, deadline: float = 5, start: bool = True
) -> AsyncIterator[ScannerPool]:
    """A pool that is closed at the end."""
    pool = ScannerPool(Scan(deadline_seconds=deadline, scanners=settings), scanners)
    if start:
        await pool.start()
        await asyncio.sleep(0)
    try:
        yield pool
    finally:
        await pool.close()


async def until(probe: Callable[[], Any], seconds: float = 5) -> None:
    """Let the loop run until `probe` is true. AssertionError after `seconds`."""
    end = asyncio.get_running_loop().time() + seconds
    while not probe():
        assert asyncio.get_running_loop().time() < end, "not in time"
        await asyncio.sleep(0.01)


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A TCP server on 127.0.0.1, with `tls` a TLS one, whose every connection is handed to `script`; gives its port."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)
