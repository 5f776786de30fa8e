"""One SMTP connection below its commands: what a line of the client leads to, replies, one operation at a time, deadlines.

Plain mail gets along without this object: the native side answers it by itself (rust_core/py/src/plain.rs) and makes a session when
something comes up that is not plain.

aiosmtpd reads through a StreamReader in a task per connection and waits after each reply. Here the native `Line` reads the socket, cuts
lines and calls the command's method at once; only what has to wait (commit, AUTH, TLS, a full spool) makes the connection *held*: input is
kept, bounded, until that operation ends. Replies to one piece of input leave in one write (RFC 2920). Under TLS the octets come through
an asyncio transport, for which this object is the protocol, and go to the same Line. aiosmtpd's command model stays: methods named
smtp_VERB, found in a table that is made once per class. A method returns None when it is done, or an awaitable to be held for; SmtpError
is its way to refuse.

Invariants: kept input is at most 64 KiB plus one piece; a line is at most LINE_LIMIT; a line ends with CR LF and holds no other CR, LF
or NUL, or the connection ends; nothing read before a TLS handshake is used after it.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from aiosmtpd.smtp import SMTP

from gatepost.message.reply import Reply, SmtpError
from gatepost.native import LINE_LIMIT, Line
from gatepost.server.tls import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, client_certificate

if TYPE_CHECKING:
    from gatepost.server.smtp.server import SmtpServer

LINE_LIMITS = {"MAIL": 2048, "RCPT": 2048, "AUTH": LINE_LIMIT}
"""Octets with CR LF. RFC 4954 section 4 wants so much for AUTH; other commands are held to DEFAULT_LINE_LIMIT."""
DEFAULT_LINE_LIMIT = 512
LINGER_SECONDS = 3.0
STOP_LINGER_SECONDS = 1.0

UNKNOWN = Reply(500, "5.5.1", "command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "line too long")
BARE_NEWLINE = Reply(500, "5.5.2", "bare CR or LF is not allowed, lines end with CR LF (RFC 5321 2.3.8)")
NUL_OCTET = Reply(500, "5.5.2", "NUL is not allowed in commands")
NOT_HTTP = Reply(421, "4.7.0", "this is not a web server")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors")
CLOSING = Reply(421, "4.7.0", "closing the connection")
TIMED_OUT = Reply(421, "4.4.2", "timeout, closing the connection")
INTERNAL_ERROR = Reply(421, "4.3.0", "internal error, try again later")
BAD_LINES = {
    "too-long": LINE_TOO_LONG,
    "bare": BARE_NEWLINE,
    "nul": NUL_OCTET,
    "not-utf8": Reply(501, "5.5.2", "argument is not valid UTF-8"),
}
"""What the native side finds wrong with a line."""
HTTP_VERBS = frozenset({b"GET", b"POST", b"PUT", b"CONNECT", b"HEAD", b"OPTIONS"})

Command = Callable[[Any, str], Awaitable[None] | None]


class Connection(SMTP):
    """The session and TLS protocol object; session.py adds the smtp_* methods. `line` is its native half."""

    commands: ClassVar[dict[bytes, tuple[Command, int]]] = {}
    """The method of each verb, and how long its line may be."""

    client = ""
    client_port = 0
    tls = ""
    certificate: tuple[str, str] = ("", "")
    """SHA-256 (hex) and subject (RFC 4514) of the client's certificate, which was verified."""
    errors = 0
    _operation: asyncio.Future[Any] | None = None
    _line_wanted: asyncio.Future[str] | None = None
    _lost = False
    _handshake = False
    _abort_at = 0.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        verbs = [name[5:] for name in dir(cls) if name.startswith("smtp_")]
        cls.commands = {verb.encode(): (getattr(cls, f"smtp_{verb}"), LINE_LIMITS.get(verb, DEFAULT_LINE_LIMIT)) for verb in verbs}

    def __init__(self, server: "SmtpServer", line: Line | None = None) -> None:
        # Not super().__init__(): it would build reader, hooks and tables anew for every connection, a quarter of a short session's cost.
        self.server = server
        self.line = line or server.wire.line()
        self.started = self.line.started

    # ---- hooks of the subclass ---------------------------------------------------------------------------------------

    def start_state(self) -> None:
        """Nothing was said yet."""

    def greet(self) -> None:
        """Send the greeting."""

    def on_lost(self) -> None:
        """The connection is gone: drop what was half done."""

    def on_tls(self) -> None:
        """TLS began: forget what the client said before (RFC 3207 section 4.2)."""

    # ---- connection --------------------------------------------------------------------------------------------------

    def begin(self, client: str, port: int) -> None:
        """A plain connection: count the client in and greet it."""
        self.client, self.client_port = client, port
        refusal = self.server.admit(self)
        if refusal is None:
            self.greet()
        else:
            self.line.send(refusal.encode())
            self.line.close()

    def resume(self, client: str, port: int) -> None:
        """A plain connection that the native side has counted and greeted."""
        self.client, self.client_port = client, port
        self.start_state()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is there. Under implicit TLS the server has counted the client before the handshake."""
        secured = cast(asyncio.Transport, transport)
        self.line.attach(self, secured)
        cipher = secured.get_extra_info("cipher")
        self.tls = f"{cipher[1]} {cipher[0]}" if cipher else "TLS"
        self.certificate = client_certificate(secured.get_extra_info("ssl_object"))
        if self.server.listener.implicit_tls:
            self.greet()
            self.flush()

    def set_peer(self, peer: object) -> None:
        """Note who is there; a Unix socket's peer has no address."""
        if isinstance(peer, tuple):
            self.client, self.client_port = peer[0], peer[1]

    def data_received(self, data: bytes) -> None:
        """Octets that came under TLS."""
        self.line.feed(data)

    def eof_received(self) -> bool | None:
        """The client is done sending; the transport closes."""
        return None

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection. A commit under way goes on: its message was wholly received, and a client that sends it again makes the
        duplicate that RFC 5321 4.5.3.2.6 warns of rather than losing it.
        """
        if self._lost:
            return
        self._lost = True
        self.server.forget(self)
        self.line.lost()
        if self._operation is not None:
            self._operation.cancel()
        self.on_lost()

    def pause_writing(self) -> None:
        """The client does not read its replies: run no more commands until it does."""
        self.line.block(True)

    def resume_writing(self) -> None:
        """Replies left; go on."""
        self.line.block(False)

    # ---- what the native side calls ----------------------------------------------------------------------------------

    def bad_line(self, what: str) -> None:
        """A line that is none; `what` is a key of BAD_LINES."""
        reply = BAD_LINES[what]
        if reply is BARE_NEWLINE:
            # Smuggled commands look like this. Whatever follows is not to be trusted either.
            self.reply(reply)
            self.close_with(CLOSING)
        elif self._line_wanted is None:
            self.refuse(reply)
        else:
            wanted, self._line_wanted = self._line_wanted, None
            wanted.set_exception(SmtpError(reply.code, reply.enhanced, reply.text))

    def got_line(self, text: str) -> None:
        """The line an operation waits for."""
        wanted, self._line_wanted = self._line_wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(text)

    def unknown_command(self, line: bytes) -> None:
        """No method of that name."""
        if line.partition(b" ")[0].upper() in HTTP_VERBS and b"HTTP/" in line:
            self.close_with(NOT_HTTP)  # a browser tricked into talking to us: what follows are its headers and body
        else:
            self.refuse(NUL_OCTET if b"\0" in line else UNKNOWN)

    def command_failed(self, error: BaseException) -> None:
        """A command's method raised."""
        if isinstance(error, SmtpError):
            self.refuse(error.reply)
        else:
            self.server.log.error("smtp command failed", exc_info=error, client=self.client)
            self.close_with(INTERNAL_ERROR)

    def turn_over(self) -> None:
        """Many commands in a row: let others have their turn."""
        self.server.loop.call_soon(self.line.next_turn)

    # ---- output ------------------------------------------------------------------------------------------------------

    def reply(self, reply: Reply) -> None:
        """Queue a reply; it leaves at the end of the turn."""
        self.line.send(reply.encode())

    def send(self, line: bytes) -> None:
        """Queue an encoded reply."""
        self.line.send(line)

    async def push(self, status: str | bytes) -> None:
        """aiosmtpd's way to reply, for methods inherited from it."""
        self.line.send((status.encode() if isinstance(status, str) else status) + b"\r\n")
        self.flush()

    def flush(self) -> None:
        """Write what is queued; at the end of a turn that happens by itself."""
        self.line.flush()

    def refuse(self, reply: Reply) -> None:
        """Reply with an error. 421 closes; 5yz are counted, and too many end the session; 4yz are no fault of the client's."""
        if reply.code == 421:
            self.close_with(reply)
            return
        self.reply(reply)
        if not reply.permanent:
            return
        self.errors += 1
        if self.errors >= self.server.settings.smtp.max_bad_commands:
            self.server.log.info("smtp session ended", reason="too many errors", client=self.client)
            self.close_with(TOO_MANY_ERRORS)

    def close_with(self, reply: Reply) -> None:
        """Send a last reply and end the connection."""
        self.reply(reply)
        self.close_soon()

    def close_soon(self) -> None:
        """Send what is queued and end the connection. Over plain TCP our side closes first and input is read and dropped for a moment:
        to close over unread input would reset the connection and could destroy the last reply on its way.
        """
        if self._handshake:
            self.abort()
        elif not self.line.dropping:
            linger = STOP_LINGER_SECONDS if self.server.stopping else LINGER_SECONDS
            self._abort_at = self.server.loop.time() + linger
            self.line.end_output()

    def abort(self) -> None:
        """End the connection at once."""
        if self._handshake and self._operation is not None:
            self._operation.cancel()
        else:
            self.line.abort()

    # ---- operations --------------------------------------------------------------------------------------------------

    def hold(self, waiting: Awaitable[Any]) -> None:
        """Run no further input until `waiting` is done; then its error becomes a reply."""
        self.line.hold()
        self.flush()
        self._operation = asyncio.ensure_future(waiting)
        self._operation.add_done_callback(self._release)

    def _release(self, operation: asyncio.Future[Any]) -> None:
        self._operation = None
        error = None if operation.cancelled() else operation.exception()
        if self._lost:
            return
        self.line.release()
        if isinstance(error, SmtpError):
            self.refuse(error.reply)
        elif error is not None:
            self.server.log.error("smtp operation failed", exc_info=error, client=self.client)
            self.close_with(INTERNAL_ERROR)
        self.line.go_on()

    async def read_line(self) -> str:
        """Within a held operation: the client's next line without CR LF (octets as Latin-1). Raises SmtpError when it is too long."""
        self._line_wanted = self.server.loop.create_future()
        self.line.want_line()
        self.server.loop.call_soon(self.line.go_on)
        return await self._line_wanted

    def begin_tls(self) -> None:
        """Stop reading and run the handshake; whatever was read before is gone (RFC 3207 section 4.2), and whatever plaintext the socket
        still holds fails the handshake.
        """
        self._handshake = True
        fd = self.line.detach()
        if fd is None:
            raise ConnectionResetError("the connection is gone")
        self.hold(self._upgrade(socket.socket(fileno=fd)))

    async def _upgrade(self, plain: socket.socket) -> None:
        try:
            await self.server.loop.connect_accepted_socket(
                lambda: self,
                plain,
                ssl=self.server.context.tls.server_context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            plain.close()
            self._operation = None
            self.connection_lost(None)
            if not isinstance(error, OSError):
                raise
            self.server.log.debug("tls handshake failed", client=self.client, error=str(error))
            return
        self._handshake = False
        self.on_tls()

    # ---- deadlines and shutdown --------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about once a second: end what is overdue."""
        if self._lost or self.line.committing:
            return
        if self._abort_at:
            if now >= self._abort_at:
                self.line.abort()
            return
        limits, line = self.server.settings.smtp, self.line
        silence = limits.data_seconds if line.in_data else limits.idle_seconds
        waits_for_client = self._operation is None or self._line_wanted is not None
        if now - self.started > limits.session_seconds or (waits_for_client and now - line.active > silence):
            self.server.log.info("smtp session ended", reason="timeout", client=self.client)
            blocked = line.blocked
            self.close_with(TIMED_OUT)
            if blocked:
                line.abort()

    @property
    def in_message(self) -> bool:
        """True while octets of a message are being read or it is being committed."""
        return self.line.in_data or self.line.committing

    def shut_down(self) -> None:
        """The server stops, or its queue failed: leave now, unless a message is on its way."""
        if not self.in_message:
            self.close_with(self.server.farewell)
