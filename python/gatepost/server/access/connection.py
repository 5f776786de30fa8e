"""A client connection of POP3 or IMAP: octets to the protocol machine, one task at a time to carry out what it says.

Base of Pop3Connection and ImapConnection. Invariants:
- At most one pump task runs; between commands there is none, so an idle session costs its objects and a timer.
- Reading pauses while more than HIGH_WATER octets wait for the pump; writing waits (`drain`) while the peer does not read.
- A lost connection does not cancel the pump: a command that has begun (an expunge, a commit) ends properly, then `release` runs once.
Every wait has a deadline: login, idleness, an unread answer, the TLS handshake, the last flush.
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Protocol, cast

from gatepost.server.tls import start_server_tls

if TYPE_CHECKING:
    from gatepost.server.access.listener import AccessServer

HIGH_WATER = 131_072
WRITE_HIGH = 262_144
WRITE_LOW = 65_536
UNREAD_SECONDS = 300.0
EVENTS_PER_TURN = 32
FLUSH_SECONDS = 10.0


class Machine(Protocol):
    """What a connection needs of its protocol machine."""

    @property
    def buffered(self) -> int:
        """Octets fed and not consumed."""
        ...

    def feed(self, data: bytes) -> None:
        """Take octets."""
        ...


class Connection(asyncio.Protocol):
    """One client. Subclasses give the machine, the greeting, the pump and the farewell."""

    __slots__ = (
        "__weakref__",
        "_drained",
        "_eof",
        "_pump",
        "_reading_paused",
        "_since",
        "_timer",
        "_transport",
        "_turn",
        "client",
        "closed",
        "loop",
        "server",
        "stopping",
        "tls",
    )

    def __init__(self, server: "AccessServer") -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.tls = server.implicit_tls
        self.client = ""
        self.closed = False
        self.stopping = False
        self._transport: asyncio.Transport | None = None
        self._pump: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._since = self.loop.time()
        self._eof = False
        self._turn = 0
        self._reading_paused = False

    # ---- what a subclass says

    @property
    def machine(self) -> Machine:
        """The protocol machine that octets go to."""
        raise AssertionError("subclass")

    def greet(self) -> None:
        """Write the greeting."""
        raise AssertionError("subclass")

    async def work(self) -> None:
        """Carry out events until the machine has none. Ends with no await behind the last look."""
        raise AssertionError("subclass")

    def farewell(self, reason: str) -> None:
        """Write why the server closes; the connection is closed by the caller."""
        raise AssertionError("subclass")

    def patience(self) -> tuple[float, bool]:
        """(seconds, whether activity extends them): the deadline that holds in the present state."""
        raise AssertionError("subclass")

    def release(self) -> None:
        """Give back what the session holds. Called once, after the last command."""

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, unless there are too many of them. Under implicit TLS the handshake is done, and the server counted it before that."""
        transport = cast("asyncio.Transport", transport)  # uvloop's classes do not inherit from asyncio's
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        if not self.server.implicit_tls:
            self.set_peer(transport.get_extra_info("peername"))
            refusal = self.server.admit(self)
            if refusal:
                self.farewell(refusal)
                self.close()
                return
        self._timer = self.loop.call_later(self.patience()[0], self._look_at_clock)
        self.greet()

    def set_peer(self, peer: object) -> None:
        """Note who is there; a Unix socket's peer has no address."""
        self.client = str(peer[0]) if isinstance(peer, tuple) and peer else ""

    def data_received(self, data: bytes) -> None:
        """Hand octets to the machine and see that somebody works on them."""
        if self.closed or self.stopping:
            return
        self.machine.feed(data)
        if self.machine.buffered > HIGH_WATER and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self.wake()

    def eof_received(self) -> bool:
        """Finish what was sent before the end (a plain client may half-close), then close."""
        self._eof = True
        self.wake()
        return not self.tls

    def pause_writing(self) -> None:
        """Begin to wait: the peer does not read fast enough."""
        self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        """Let `drain` go on."""
        self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end; `release` runs now, or when the running command is done."""
        self.closed = True
        self._settle(ConnectionResetError())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.server.forget(self)
        if self._pump is None:
            self.release()

    def _settle(self, error: Exception | None) -> None:
        waiter, self._drained = self._drained, None
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
            waiter.exception()  # a waiter that nobody awaits must not be reported as forgotten

    # ---- for subclasses

    @property
    def busy(self) -> bool:
        """True while a command is carried out."""
        return self._pump is not None

    def wake(self) -> None:
        """Start the pump unless it runs: octets have come, or something happened that the client should hear of."""
        if self._pump is None and not self.closed:
            self._pump = self.loop.create_task(self._run(self.work()))

    async def _run(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except OSError:  # lost, unread for too long (TimeoutError), or a failed handshake (ssl.SSLError)
            self.abort()
        except Exception:
            self.server.log.exception("session failed", client=self.client, protocol=self.server.protocol)
            self.farewell("Internal error")
            self.close()
        finally:
            self._pump = None
            self._after_work()

    def _after_work(self) -> None:
        if self.closed:
            self.release()
            return
        if self.stopping:
            self.farewell("Server is shutting down")
            self.close()
        elif self._eof:
            self.close()
        elif self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def resume_input(self) -> None:
        """Within a command that takes a stream (APPEND): let more octets come."""
        if self._reading_paused and self.machine.buffered < HIGH_WATER and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def touch(self) -> None:
        """Activity: the idle clock starts anew."""
        self._since = self.loop.time()

    def write(self, data: bytes) -> None:
        """Send octets; nothing happens on a closed connection."""
        if not self.closed and self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the peer does not read. Raises ConnectionResetError or TimeoutError."""
        if self.closed:
            raise ConnectionResetError
        if self._drained is not None:
            async with asyncio.timeout(UNREAD_SECONDS):
                await asyncio.shield(self._drained)

    async def taken(self) -> None:
        """An event was carried out: note the activity, wait for the peer to read, and now and then let other sessions have the loop."""
        self.touch()
        self._turn = (self._turn + 1) % EVENTS_PER_TURN
        if not self._turn:
            await asyncio.sleep(0)
        await self.drain()

    def restart_clock(self) -> None:
        """The state has changed: another deadline holds from now on."""
        self.touch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self.loop.call_later(self.patience()[0], self._look_at_clock)

    def close(self) -> None:
        """Flush what was written, for a bounded time, and close."""
        if self._transport is not None and not self.closed:
            self.stopping = True
            self._transport.close()
            self.loop.call_later(FLUSH_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close without a flush."""
        if self._transport is not None:
            self._transport.abort()

    async def start_tls(self, reply: bytes) -> None:
        """Send `reply` and negotiate. No octet is read between the two; what came before is for the machine to throw away."""
        assert self._transport is not None
        self.write(reply)
        self._transport = await start_server_tls(self._transport, self, self.server.context.tls.server_context())
        self._transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        self.tls = True

    def stop(self) -> None:
        """Server shutdown: end after the command at hand."""
        self.stopping = True
        if self._pump is None and not self.closed:
            self.farewell("Server is shutting down")
            self.close()

    def _look_at_clock(self) -> None:
        seconds, extended = self.patience()
        began = self._since if extended else self.server.started_at(self)
        left = began + seconds - self.loop.time()
        if left <= 0 and not (extended and self.busy):
            self.farewell("Idle for too long" if extended else "Login took too long")
            self.close()
            return
        self._timer = self.loop.call_later(max(left, 1.0), self._look_at_clock)
