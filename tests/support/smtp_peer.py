"""A scripted SMTP or LMTP server on loopback: speaks the protocol, records what it heard, and answers as the test says.

`answers` maps a verb ('RCPT', 'greeting', 'end' for the end of data …) to a list of replies, one per occurrence, the last one repeating;
a reply is text with CRLF, or a callable taking the command line, or CLOSE to hang up, or SILENCE to say nothing.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CLOSE = "\0close"
SILENCE = "\0silence"

Answer = str | Callable[[str], str]


@dataclass
class Heard:
    """One transaction as the peer saw it."""

    mail: str
    rcpts: list[str] = field(default_factory=list)
    data: bytes = b""


class SmtpPeer:
    """async with SmtpPeer(...) as peer: connect to 127.0.0.1:peer.port."""

    def __init__(
        self,
        answers: Mapping[str, Sequence[Answer]] | None = None,
        *,
        capabilities: Sequence[str] = ("PIPELINING", "SIZE 100000000", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN", "SMTPUTF8"),
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        lmtp: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.answers = dict(answers or {})
        self.capabilities = list(capabilities)
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.lmtp = lmtp
        self.host = host
        self.port = port
        self.commands: list[str] = []
        self.transactions: list[Heard] = []
        self.connections = 0
        self.clients: set[str] = set()
        self.tls_connections = 0
        self.octets_of_data = 0
        self._count: dict[str, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        context = self.tls if self.implicit_tls else None
        self._server = await asyncio.start_server(self._serve, self.host, self.port, ssl=context, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0.01)

    def drop_connections(self) -> None:
        """Cut every open connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def verbs(self) -> list[str]:
        """First words of all commands heard."""
        return [command.split(" ")[0].split(":")[0].upper() for command in self.commands]

    # ---- inside

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tls_connections += 1 if self.implicit_tls else 0
        self._writers.add(writer)
        self.clients.add(writer.get_extra_info("peername")[0])
        try:
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.LimitOverrunError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not await self._say(writer, self._answer("greeting", "", "220 peer.test ESMTP\r\n")):
            return
        heard = Heard("")
        encrypted = self.implicit_tls
        while line := await reader.readline():
            command = line.decode("utf-8", "replace").rstrip("\r\n")
            self.commands.append(command)
            verb = command.split(" ")[0].split(":")[0].upper()
            answer = self._answer(verb, command, self._default(verb, encrypted, len(heard.rcpts)))
            if not await self._say(writer, answer) or verb == "QUIT":
                return
            if verb == "STARTTLS" and answer.startswith("2"):
                await self._start_tls(writer)
                encrypted = True
            elif verb == "DATA" and answer.startswith("354"):
                if not await self._end_of_data(reader, writer, heard):
                    return
                heard = Heard("")
            else:
                heard = self._envelope(heard, verb, command, answer[:1] == "2")

    def _envelope(self, heard: Heard, verb: str, command: str, good: bool) -> Heard:
        if verb == "MAIL" and good:
            return Heard(command)
        if verb == "RCPT" and good and heard.mail:
            heard.rcpts.append(command)
        return Heard("") if verb in ("RSET", "EHLO", "LHLO") else heard

    async def _end_of_data(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard) -> bool:
        heard.data = await self._data(reader)
        for _ in range(len(heard.rcpts) if self.lmtp else 1):
            if not await self._say(writer, self._answer("end", "", "250 2.0.0 Ok: queued\r\n")):
                return False
        if heard.rcpts:
            self.transactions.append(heard)
        return True

    async def _start_tls(self, writer: asyncio.StreamWriter) -> None:
        plain = writer.transport
        try:
            await writer.start_tls(self.tls)  # type: ignore[arg-type]
        finally:
            if writer.transport is None:  # a failed handshake leaves it so, and the destructor stumbles over that
                writer._transport = plain
        self.tls_connections += 1

    async def _data(self, reader: asyncio.StreamReader) -> bytes:
        lines = []
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            self.octets_of_data += len(line)
            if self.octets_of_data < 5_000_000:
                lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def _answer(self, verb: str, command: str, default: str) -> str:
        scripted = self.answers.get(verb)
        if not scripted:
            return default
        count = self._count.get(verb, 0)
        self._count[verb] = count + 1
        answer = scripted[min(count, len(scripted) - 1)]
        return answer(command) if callable(answer) else answer or default

    def _default(self, verb: str, encrypted: bool, accepted: int) -> str:
        if verb in ("EHLO", "LHLO"):
            keywords = [*self.capabilities, *(["STARTTLS"] if self.tls and not encrypted else [])]
            lines = ["peer.test", *keywords]
            return "".join(f"250{'-' if n < len(lines) - 1 else ' '}{line}\r\n" for n, line in enumerate(lines))
        if verb == "DATA":
            return "354 go ahead\r\n" if accepted else "554 5.5.1 no valid recipients\r\n"
        known = {"STARTTLS": "220 2.0.0 ready\r\n", "QUIT": "221 2.0.0 bye\r\n", "MAIL": "250 2.1.0 Ok\r\n", "RCPT": "250 2.1.5 Ok\r\n"}
        return known.get(verb, "250 2.0.0 Ok\r\n")

    async def _say(self, writer: asyncio.StreamWriter, answer: str) -> bool:
        if answer == CLOSE:
            return False
        if answer == SILENCE:
            return True
        hang_up = answer.endswith(CLOSE)
        writer.write(answer.removesuffix(CLOSE).encode())
        await writer.drain()
        return not hang_up
