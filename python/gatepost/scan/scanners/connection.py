"""The byte side of a scanner's client: one connection over TCP or a Unix socket that is read and written by one task at a time.

Used by clamd, icap and rspamd, with TLS where the address says so: then the peer's certificate is verified, always. Invariants: what
waits to be read is bounded (the peer is paused beyond HIGH); what waits to be written is bounded by `drain`. What arrived before the peer
hung up can still be read, also when writing failed meanwhile: servers say why they refuse content while it is being sent. Deadlines are
the caller's (`asyncio.timeout_at`). Fails with ScannerFault.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from gatepost.config.scan import ScannerSettings
from gatepost.scan.scanners.plugin import ScannerFault

HIGH = 262_144
IDLE_SECONDS = 20.0
"""Life of an unused connection; clamd and c-icap hang up after 30 s or more."""


T = TypeVar("T")


class Stale(ScannerFault):
    """The peer hung up on a kept connection before it answered anything: the question may be asked again elsewhere."""


class Connection(asyncio.Protocol):
    """Made by `Connections`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._paused_reading = self._paused_writing = False
        self._ended = self._received = False
        self.reused = False
        """True when something was asked over it before."""

    # ---- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._buffer += data
        self._received = True
        if len(self._buffer) > HIGH and self._transport is not None and not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()
        _wake(self._reader)
        _wake(self._writer)  # who is sending may want to stop

    def eof_received(self) -> None:
        """Part of asyncio.Protocol; the transport closes itself."""
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        self._end()

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused_writing = True

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused_writing = False
        _wake(self._writer)

    # ---- for the client

    @property
    def heard(self) -> bool:
        """Whether something waits to be read, or nothing can come any more."""
        return bool(self._buffer) or self._ended

    @property
    def fit(self) -> bool:
        """Whether another question can be asked over it: it stands, and nothing was said unasked."""
        return not self._ended and not self._buffer and self._transport is not None and not self._transport.is_closing()

    def reuse(self) -> None:
        """Another exchange begins on it."""
        self.reused, self._received = True, False

    def write(self, *pieces: bytes) -> None:
        """Queue octets; on a lost connection they go nowhere, which the next read tells."""
        if self._transport is not None and not self._ended:
            self._transport.writelines(pieces)

    async def drain(self, *, heed: bool = True) -> None:
        """Wait until the peer has taken enough or is gone; with `heed` also no longer than until it answers."""
        while self._paused_writing and not (self.heard if heed else self._ended):
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None

    async def until(self, end: bytes, limit: int) -> bytes:
        """Octets up to `end`, which is taken off. Raises ScannerFault when there is none in `limit` octets."""
        searched = 0
        while (at := self._buffer.find(end, searched)) < 0:
            if len(self._buffer) > limit:
                raise ScannerFault(f"an answer without an end: {bytes(self._buffer[:60])!r}")
            searched = max(len(self._buffer) - len(end) + 1, 0)
            await self._more()
        if at > limit:
            raise ScannerFault(f"an answer of more than {limit} octets: {bytes(self._buffer[:60])!r}")
        found = bytes(self._buffer[:at])
        self._taken(at + len(end))
        return found

    async def some(self, most: int) -> bytes:
        """At least one octet and at most `most`; b'' when the peer is done."""
        if not self._buffer and not self._ended:
            await self._more()
        found = bytes(self._buffer[:most])
        self._taken(len(found))
        return found

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # ---- inside

    async def _more(self) -> None:
        if self._ended:
            if self.reused and not self._received:
                raise Stale("hung up while the connection was idle")
            raise ScannerFault("hung up in the middle of an answer" if self._buffer else "hung up without an answer")
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _taken(self, count: int) -> None:
        del self._buffer[:count]
        if self._paused_reading and len(self._buffer) <= HIGH // 2 and self._transport is not None:
            self._paused_reading = False
            self._transport.resume_reading()

    def _end(self) -> None:
        self._ended = True
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


Dial = Callable[[], Awaitable[Connection]]


def tls_of(settings: ScannerSettings) -> ssl.SSLContext:
    """What verifies the scanner's certificate. *Blocks* to read files. Raises ValueError, 'ca_file: problem'."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except OSError as fault:  # ssl.SSLError is one
        raise ValueError(f"ca_file: {fault.strerror or fault} (got {settings.ca_file!r})") from fault
    if settings.ca_file:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an appliance's own certificate is an authority for itself
    return context


def dial(address: str, tls: ssl.SSLContext | None = None, server_name: str = "") -> Dial:
    """How to connect to 'unix:/path', 'tcp:host:port' or 'host:port', the last with TLS if there is a context.

    The address was checked with the settings.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")

        async def local() -> Connection:
            return (await asyncio.get_running_loop().create_unix_connection(Connection, path))[1]

        return local
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    bare = host.strip("[]")
    name = (server_name or bare) if tls else None

    async def remote() -> Connection:
        return (await asyncio.get_running_loop().create_connection(Connection, bare, int(port), ssl=tls, server_hostname=name))[1]

    return remote


class Connections:
    """Idle connections to one server, the newest handed out first; no more are kept than were in use at once."""

    def __init__(self, connect: Dial) -> None:
        self._connect = connect
        self._idle: deque[tuple[float, Connection]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """Idle ones."""
        return len(self._idle)

    @asynccontextmanager
    async def lease(self, *, fresh: bool = False) -> AsyncIterator[Connection]:
        """A connection for one exchange. It is kept afterwards unless the exchange raised or left something unread.

        Raises ScannerFault when none can be made.
        """
        connection = (None if fresh else self._take()) or await self._open()
        try:
            yield connection
        except BaseException:
            connection.abort()
            raise
        self._keep(connection)

    async def close(self) -> None:
        """Cut all idle ones; those in use when they come back."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._idle:
            self._idle.pop()[1].abort()

    # ---- inside

    async def _open(self) -> Connection:
        try:
            return await self._connect()
        except OSError as fault:
            raise ScannerFault(f"no connection: {fault.strerror or fault}") from fault

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()[1]
            if connection.fit:
                connection.reuse()
                return connection
            connection.abort()
        return None

    def _keep(self, connection: Connection) -> None:
        if self._closed or not connection.fit:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.append((loop.time() + IDLE_SECONDS, connection))
        if self._timer is None:
            self._timer = loop.call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0][0] <= loop.time():
            self._idle.popleft()[1].abort()
        if self._idle:
            self._timer = loop.call_at(self._idle[0][0], self._expire)


async def exchange(connections: Connections, talk: Callable[[Connection], Awaitable[T]]) -> T:
    """`talk` over a connection; once more over a new one when a kept one turns out to be dead. Raises what `talk` raises."""
    try:
        async with connections.lease() as connection:
            return await talk(connection)
    except Stale:
        async with connections.lease(fresh=True) as connection:
            return await talk(connection)
