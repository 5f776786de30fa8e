"""The byte side of an SMTP or LMTP client: one asyncio Protocol that parses replies as they arrive and lets one task wait for them.

Used by smtp_client only. Invariants: at most one waiter; what is written is bounded by the transport's high-water mark because
every large writer calls `drain`; replies that wait to be read are bounded by MAX_WAITING. Fails with ConnectionLost,
PeerTimeout or ProtocolViolation (a connection that raised is closed and not used again).
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

from gatepost.delivery.peer_reply import PeerReply, ProtocolViolation, ReplyParser

HIGH_WATER = 131_072
MAX_WAITING = 2048
QUIT_SECONDS = 5.0


class ConnectionLost(Exception):
    """The peer, or the network, closed the connection; the text says what was known."""


class PeerTimeout(Exception):
    """The peer did not answer in time; the text says what we waited for."""


class SmtpConnection(asyncio.Protocol):
    """One connection. Made by loop.create_connection; the owner calls the async methods from a single task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = ReplyParser()
        self._replies: deque[PeerReply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._quitting: asyncio.TimerHandle | None = None
        self._divert: Callable[[bytes], None] | None = None
        self._diverted_loss: Callable[[Exception], None] | None = None
        self._gone = self._loop.create_future()
        self.lost: Exception | None = None

    # ---- callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._divert is not None:
            self._divert(data)
            return
        if self._quitting is not None:
            self._close()
            return
        try:
            self._replies.extend(self._parser.feed(data))
            if len(self._replies) > MAX_WAITING:
                raise ProtocolViolation("more replies than commands")
        except ProtocolViolation as error:
            self._end(error)
            self._close()
            return
        if self._waiter is not None and len(self._replies) >= self._wanted:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._transport = None
        if self._quitting is not None:
            self._quitting.cancel()
        if not self._gone.done():
            self._gone.set_result(None)
        self._end(ConnectionLost(f"connection lost: {exc}" if exc else "the peer closed the connection"))

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused = True

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # ---- for the client

    @property
    def idle_and_usable(self) -> bool:
        """True when nothing has been said unasked (a 421 before the peer hangs up) and the connection stands."""
        return self.lost is None and self._transport is not None and not self._replies and not self._parser.pending

    def write(self, data: bytes) -> None:
        """Queue octets. Silently dropped on a lost connection: the next wait for a reply reports it."""
        if self._transport is not None and self.lost is None:
            self._transport.write(data)

    def divert(self, data: Callable[[bytes], None] | None, lost: Callable[[Exception], None] | None) -> None:
        """From now on octets go to `data` as they come, and the connection's end to `lost` (at once when it is over). None: no more."""
        self._divert, self._diverted_loss = data, lost
        if lost is not None and self.lost is not None:
            lost(self.lost)

    async def drain(self, seconds: float) -> None:
        """Wait until the peer has taken enough. Returns early on a lost connection. Raises PeerTimeout."""
        if not self._paused or self.lost is not None:
            return
        self._writable = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._expire, self._writable, "the peer stopped taking data")
        try:
            await self._writable
        finally:
            timer.cancel()
            self._writable = None

    async def replies(self, count: int, seconds: float, what: str) -> list[PeerReply]:
        """The next `count` replies; fewer, but not none, when the connection is lost. Raises what `lost` holds, or PeerTimeout."""
        if len(self._replies) < count and self.lost is None:
            self._wanted = count
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._expire, self._waiter, f"no reply to {what} within {seconds:g} s")
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if not self._replies and count:
            raise self.lost or ConnectionLost("the connection is closed")
        return [self._replies.popleft() for _ in range(min(count, len(self._replies)))]

    @property
    def certificate(self) -> bytes:
        """The peer's certificate in DER, b'' on a plain connection."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""

    async def start_tls(self, context: ssl.SSLContext, server_name: str, seconds: float) -> str:
        """Handshake on the open connection; returns 'TLSv1.3 CIPHER'. Raises OSError (ssl.SSLError), ConnectionLost, ProtocolViolation."""
        if not self.idle_and_usable or self._transport is None:
            # Octets behind the reply to STARTTLS came in the clear: they must not be taken for the peer's words (RFC 3207 4).
            raise ProtocolViolation("the peer sent more than its reply before the TLS handshake")
        try:
            upgraded = await self._loop.start_tls(
                self._transport, self, context, server_hostname=server_name, ssl_handshake_timeout=seconds
            )
        except (TimeoutError, ConnectionAbortedError) as error:
            raise ConnectionLost(f"TLS handshake: {str(error) or 'timed out'}") from error
        if upgraded is None:
            raise self.lost or ConnectionLost("TLS handshake: connection lost")
        self.connection_made(upgraded)
        return self.tls_name()

    def tls_name(self) -> str:
        """'TLSv1.3 TLS_AES_256_GCM_SHA384', or '' on a plain connection."""
        tls = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        if tls is None:
            return ""
        cipher = tls.cipher()
        return f"{tls.version()} {cipher[0] if cipher else ''}".strip()

    def quit(self) -> None:
        """Say QUIT and close when the peer answers or after QUIT_SECONDS. Waits for nothing."""
        if self._quitting is not None:
            return
        if self._transport is None or self.lost is not None:
            self.abort()
            return
        self._end(ConnectionLost("the connection was closed"))
        self._transport.write(b"QUIT\r\n")
        self._quitting = self._loop.call_later(QUIT_SECONDS, self.abort)

    async def closed(self, seconds: float) -> None:
        """Wait for the end of a connection after `quit`; cut it after `seconds`."""
        await asyncio.wait([self._gone], timeout=seconds)
        self.abort()

    def abort(self) -> None:
        """Close at once, dropping what is not sent yet."""
        self._end(ConnectionLost("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self._gone.done():
            self._gone.set_result(None)

    # ---- inside

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: Exception) -> None:
        if self.lost is None:
            self.lost = error
            if self._diverted_loss is not None:
                self._diverted_loss(error)
        self._wake()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self, waiter: "asyncio.Future[None]", text: str) -> None:
        if not waiter.done():
            waiter.set_exception(PeerTimeout(text))
