"""One SMTP connection below its commands: lines in, replies out, one operation at a time.

aiosmtpd reads through a StreamReader in a task per connection and waits after each reply. Here the protocol itself is the state
machine: `data_received` cuts lines and runs the command's method at once; only what has to wait (commit, AUTH, TLS, a full spool)
makes the connection *held*: input is kept, bounded, until that operation ends. Replies to one chunk of input leave in one write
(RFC 2920). aiosmtpd's command model stays: methods named smtp_VERB, found in a table that is made once per class. A method
returns None when it is done, or an awaitable to be held for; SmtpError is its way to refuse.

Invariants: kept input is at most INPUT_HIGH octets plus one chunk; a line is at most LINE_LIMIT; a line ends with CR LF and holds no
other CR, LF or NUL, or the connection ends; nothing read before a TLS handshake is used after it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from aiosmtpd.smtp import SMTP

from gatepost.message.reply import Reply, SmtpError
from gatepost.protocol.smtp.grammar import decode_argument
from gatepost.server.tls import start_server_tls

if TYPE_CHECKING:
    from gatepost.server.smtp.server import SmtpServer

LINE_LIMIT = 12_288
"""Octets with CR LF. RFC 4954 section 4 wants this much for AUTH; other commands are held to LINE_LIMITS."""
LINE_LIMITS = {b"MAIL": 2048, b"RCPT": 2048, b"AUTH": LINE_LIMIT}
DEFAULT_LINE_LIMIT = 512
INPUT_HIGH = 65_536
COMMANDS_PER_TURN = 200
LINGER_SECONDS = 3.0
STOP_LINGER_SECONDS = 1.0

UNKNOWN = Reply(500, "5.5.1", "command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "line too long")
BARE_NEWLINE = Reply(500, "5.5.2", "bare CR or LF is not allowed, lines end with CR LF (RFC 5321 2.3.8)")
NUL_OCTET = Reply(500, "5.5.2", "NUL is not allowed in commands")
NOT_HTTP = Reply(421, "4.7.0", "this is not a web server")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors")
CLOSING = Reply(421, "4.7.0", "closing the connection")
SHUTTING_DOWN = Reply(421, "4.3.2", "server is shutting down, try again later")
TIMED_OUT = Reply(421, "4.4.2", "timeout, closing the connection")
INTERNAL_ERROR = Reply(421, "4.3.0", "internal error, try again later")
HTTP_VERBS = frozenset({b"GET", b"POST", b"PUT", b"CONNECT", b"HEAD", b"OPTIONS"})

Command = Callable[[Any, str], Awaitable[None] | None]
Sink = Callable[[bytes, int], int]
"""Takes octets from a position on, returns the position behind what it used."""


class Connection(SMTP):
    """The protocol object; session.py adds the smtp_* methods."""

    commands: ClassVar[dict[bytes, Command]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.commands = {name[5:].encode(): getattr(cls, name) for name in dir(cls) if name.startswith("smtp_")}

    def __init__(self, server: "SmtpServer") -> None:
        # Not super().__init__(): it would build reader, hooks and tables anew for every connection, a quarter of a short session's cost.
        self.server = server
        self.loop = server.loop
        self.transport: asyncio.Transport | None = None
        self.client = ""
        self.client_port = 0
        self.tls = ""
        self.started = self.active = server.now
        self.errors = 0
        self.committing = False
        self.sink: Sink | None = None
        self._input = b""
        self._output: list[bytes] = []
        self._operation: asyncio.Future[Any] | None = None
        self._line_wanted: asyncio.Future[str] | None = None
        self._skipping = self._blocked = self._turn_over = self._paused = self._eof = False
        self._dropping = self._lost = self._handshake = False
        self.discard_rest = False
        """Set by STARTTLS: octets pipelined behind it were not protected (RFC 3207 section 6)."""
        self._abort_at = 0.0

    # ---- hooks of the subclass ---------------------------------------------------------------------------------------

    def greet(self) -> None:
        """Send the greeting."""

    def on_lost(self) -> None:
        """The connection is gone: drop what was half done."""

    def on_tls(self) -> None:
        """TLS began: forget what the client said before (RFC 3207 section 4.2)."""

    # ---- transport callbacks -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client in and greet it. Under implicit TLS the handshake is done, and the server counted it before that."""
        self.transport = cast(asyncio.Transport, transport)
        if self.server.listener.implicit_tls:
            self._note_cipher()
        else:
            self.set_peer(transport.get_extra_info("peername"))
            refusal = self.server.admit(self)
            if refusal is not None:
                self._dropping = True
                self.transport.write(refusal.encode())
                self.transport.close()
                return
        self.greet()
        self.flush()

    def set_peer(self, peer: object) -> None:
        """Note who is there; a Unix socket's peer has no address."""
        if isinstance(peer, tuple):
            self.client, self.client_port = peer[0], peer[1]

    def _note_cipher(self) -> None:
        assert self.transport is not None
        cipher = self.transport.get_extra_info("cipher")
        self.tls = f"{cipher[1]} {cipher[0]}" if cipher else "TLS"

    def data_received(self, data: bytes) -> None:
        """Run what came, or keep it while an operation holds the connection."""
        if self._dropping:
            return
        if self._input:
            data = self._input + data
            self._input = b""
        if self._held():
            self._keep(data)
        else:
            self._process(data)

    def eof_received(self) -> bool | None:
        """The client is done sending. Over plain TCP it may still read, so what it sent is worked off before the connection closes."""
        self._eof = True
        return not self.tls and not self._dropping and self._held()

    def connection_lost(self, error: Exception | None) -> None:
        """Forget the connection. A commit under way goes on: its message was wholly received, and a client that sends it again makes the
        duplicate that RFC 5321 4.5.3.2.6 warns of rather than losing it.
        """
        if self._lost:
            return
        self._lost = self._dropping = True
        self.server.forget(self)
        self._input, self.sink = b"", None
        if self._operation is not None and not self.committing:
            self._operation.cancel()
        self.on_lost()
        self.transport = None

    def pause_writing(self) -> None:
        """The client does not read its replies: run no more commands until it does."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Replies left; go on."""
        self._blocked = False
        self._go_on()

    # ---- input -------------------------------------------------------------------------------------------------------

    def _held(self) -> bool:
        return (self._operation is not None and self._line_wanted is None) or self._blocked or self._turn_over

    def _keep(self, data: bytes) -> None:
        self._input = data
        if len(data) > INPUT_HIGH and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def _process(self, data: bytes) -> None:
        """Feed the sink or run commands until the input is used up or something has to be waited for."""
        position, end, budget = 0, len(data), COMMANDS_PER_TURN
        while position < end and not self._dropping and not self._held():
            if self.sink is not None:
                position = self.sink(data, position)
                continue
            line_end = data.find(b"\n", position)
            if line_end < 0:
                position = self._check_partial(data, position)
                break
            line = data[position : line_end + 1]
            position = line_end + 1
            self._on_line(line)
            budget -= 1
            if not budget:
                self._turn_over = True
                self.loop.call_soon(self._next_turn)
        if self.discard_rest:
            self.discard_rest = False
        elif position < end and not self._dropping:
            self._keep(data[position:] if position else data)
        if self._output:
            self.flush()

    def _check_partial(self, data: bytes, position: int) -> int:
        """Octets of an unfinished line: kept up to the limit, dropped beyond it until the line ends."""
        if self._skipping or len(data) - position > LINE_LIMIT:
            self._skipping = True
            return len(data)
        return position

    def _next_turn(self) -> None:
        self._turn_over = False
        self._go_on()

    def _go_on(self) -> None:
        """Run kept input unless something still holds the connection."""
        if self._held() or self._dropping:
            return
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        data, self._input = self._input, b""
        if data:
            self._process(data)
        self.flush()
        if self._eof and not self._held() and self.transport is not None:
            self.transport.close()

    def _on_line(self, line: bytes) -> None:
        """One line with its LF."""
        self.active = self.server.now
        text = line[:-2]
        if self._skipping or len(line) > LINE_LIMIT:
            self._skipping = False
            self._refuse_line(LINE_TOO_LONG)
            return
        if line[-2:] != b"\r\n" or b"\r" in text:
            text = line.rstrip(b"\r\n")
            if not self.server.settings.smtp.allow_bare_newlines or b"\r" in text:
                # Smuggled commands look like this. Whatever follows is not to be trusted either.
                self.reply(BARE_NEWLINE)
                self.close_with(CLOSING)
                return
        if self._line_wanted is not None:
            wanted, self._line_wanted = self._line_wanted, None
            if not wanted.done():
                wanted.set_result(text.decode("latin-1"))
        else:
            self._run(text)

    def _refuse_line(self, reply: Reply) -> None:
        if self._line_wanted is None:
            self.refuse(reply)
            return
        wanted, self._line_wanted = self._line_wanted, None
        wanted.set_exception(SmtpError(reply.code, reply.enhanced, reply.text))

    def _run(self, line: bytes) -> None:
        """Look the command up and call its method."""
        verb, _, argument = line.partition(b" ")
        command = self.commands.get(verb)
        if command is None:
            verb = verb.upper()
            command = self.commands.get(verb)
            if command is None:
                self._on_unknown(line, verb)
                return
        if len(line) + 2 > DEFAULT_LINE_LIMIT and len(line) + 2 > LINE_LIMITS.get(verb, DEFAULT_LINE_LIMIT):
            self.refuse(LINE_TOO_LONG)
            return
        if b"\0" in argument:
            self.refuse(NUL_OCTET)
            return
        try:
            waiting = command(self, decode_argument(argument))
        except SmtpError as error:
            self.refuse(error.reply)
        except Exception:
            self.server.log.exception("smtp command failed", verb=verb.decode(), client=self.client)
            self.close_with(INTERNAL_ERROR)
        else:
            if waiting is not None:
                self.hold(waiting)

    def _on_unknown(self, line: bytes, verb: bytes) -> None:
        if verb in HTTP_VERBS and b"HTTP/" in line:
            self.close_with(NOT_HTTP)  # a browser tricked into talking to us: what follows are its headers and body
        else:
            self.refuse(NUL_OCTET if b"\0" in line else UNKNOWN)

    # ---- output ------------------------------------------------------------------------------------------------------

    def reply(self, reply: Reply) -> None:
        """Queue a reply; it leaves at the end of the turn."""
        self._output.append(reply.encode())

    def send(self, line: bytes) -> None:
        """Queue an encoded reply."""
        self._output.append(line)

    async def push(self, status: str | bytes) -> None:
        """aiosmtpd's way to reply, for methods inherited from it."""
        self._output.append((status.encode() if isinstance(status, str) else status) + b"\r\n")
        self.flush()

    def flush(self) -> None:
        """Write what is queued."""
        output = self._output
        if output:
            if self.transport is not None and not self._abort_at:
                self.transport.write(output[0] if len(output) == 1 else b"".join(output))
            output.clear()

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
        transport = self.transport
        if transport is None or self._abort_at or transport.is_closing():
            self._dropping = True
            return
        if self._handshake:
            transport.abort()
            return
        self.flush()
        self._dropping, self._input = True, b""
        linger = STOP_LINGER_SECONDS if self.server.stopping else LINGER_SECONDS
        self._abort_at = self.loop.time() + linger  # from here on `flush` writes no more
        if self._paused:
            self._paused = False
            transport.resume_reading()
        if self.tls or self._eof:
            transport.close()
        else:
            transport.write_eof()

    # ---- operations --------------------------------------------------------------------------------------------------

    def hold(self, waiting: Awaitable[Any], done: Callable[[asyncio.Future[Any]], None] | None = None) -> None:
        """Run no further input until `waiting` is done. `done` (or else `release`, which replies to errors) is called then."""
        self.flush()
        self._operation = asyncio.ensure_future(waiting)
        self._operation.add_done_callback(done or self.release)

    def release(self, operation: asyncio.Future[Any]) -> None:
        """End of a held operation: its error becomes a reply, then the input goes on."""
        self._operation = None
        self.active = self.server.now
        error = None if operation.cancelled() else operation.exception()
        if self._lost:
            return
        if isinstance(error, SmtpError):
            self.refuse(error.reply)
        elif error is not None:
            self.server.log.error("smtp operation failed", exc_info=error, client=self.client)
            self.close_with(INTERNAL_ERROR)
        self.flush()
        self._go_on()

    async def read_line(self) -> str:
        """Within a held operation: the client's next line without CR LF (octets as Latin-1). Raises SmtpError when it is too long."""
        self._line_wanted = self.loop.create_future()
        self.flush()
        self.loop.call_soon(self._go_on)
        return await self._line_wanted

    def begin_tls(self) -> None:
        """Stop reading and run the handshake; whatever was read before is gone (RFC 3207 section 4.2)."""
        assert self.transport is not None
        self._input = b""
        self.flush()
        self._handshake = True
        self.transport.pause_reading()
        self.hold(self._upgrade(self.transport))

    async def _upgrade(self, plain: asyncio.Transport) -> None:
        try:
            self.transport = await start_server_tls(plain, self, self.server.context.tls.server_context())
        except OSError as error:
            self.server.log.debug("tls handshake failed", client=self.client, error=str(error))
            self._operation = None
            self.connection_lost(None)
            return
        self._handshake = False
        self._note_cipher()
        self.on_tls()

    # ---- deadlines and shutdown --------------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called about once a second: end what is overdue."""
        if self.transport is None or self.committing:
            return
        if self._abort_at:
            if now >= self._abort_at:
                self.transport.abort()
            return
        limits = self.server.settings.smtp
        silence = limits.data_seconds if self.sink is not None else limits.idle_seconds
        waits_for_client = self._operation is None or self._line_wanted is not None
        if now - self.started > limits.session_seconds or (waits_for_client and now - self.active > silence):
            self.server.log.info("smtp session ended", reason="timeout", client=self.client)
            self.close_with(TIMED_OUT)
            if self._blocked:
                self.transport.abort()

    @property
    def in_message(self) -> bool:
        """True while octets of a message are being read or it is being committed."""
        return self.sink is not None or self.committing

    def shut_down(self) -> None:
        """The server stops: leave now, unless a message is on its way."""
        if not self.in_message:
            self.close_with(SHUTTING_DOWN)
