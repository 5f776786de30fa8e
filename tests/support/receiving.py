"""A receiving server in the test's own process: real sockets, a real spool, a real directory with a few users.

Domain example.test is hosted: alice, bob and carol (disabled) with PASSWORD, list@ forwards to alice and bob. gateway.test goes to a
gateway, from anyone. small@ takes 1000 octets, secret@ wants TLS, team@ is a list of alice and bob for its members. Nothing is delivered:
there is no scheduler, so what was accepted stays in the queue to be looked at.
"""

import asyncio
import atexit
import base64
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from gatepost.config import Settings, load_settings
from gatepost.delivery.resolver import Resolver
from gatepost.directory import Authenticator, Directory
from gatepost.message.envelope import Meta
from gatepost.policy.mail_auth import Authentication
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, HandlerOptions, RuleKind, RuleSet
from gatepost.scan.gate import Gate
from gatepost.server.context import Listener, ServerContext
from gatepost.server.lmtp import LmtpServer
from gatepost.server.smtp import SmtpServer
from gatepost.server.tls import TlsContexts
from gatepost.spool import AsyncSpool

HOST = "mx.example.test"
PASSWORD = "correct horse"
ALICE, BOB, CAROL = "alice@example.test", "bob@example.test", "carol@example.test"
AUTHOR = "test"


@cache
def directory_template() -> Path:
    """A data directory with rules and users; made once, since hashing passwords takes its time."""
    base = Path(mkdtemp(prefix="gatepost-test-"))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    directory = Directory(base / "directory.db", migrate=True)
    handlers = (
        AddressHandler("list", HandlerKind.FORWARD, (ALICE, BOB)),
        AddressHandler("small", HandlerKind.MAILBOX, (ALICE,), options=HandlerOptions(size_limit=1000)),
        AddressHandler("secret", HandlerKind.MAILBOX, (ALICE,), options=HandlerOptions(require_tls=True)),
        AddressHandler("team", HandlerKind.LIST, (ALICE, BOB)),
    )
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author=AUTHOR)
    directory.put_rule(DomainRule("gateway.test", RuleKind.GATEWAY, host="127.0.0.1", port=9), create=True, author=AUTHOR)
    directory.put_rule(DomainRule("bücher.test", RuleKind.HOSTED), create=True, author=AUTHOR)
    for address in (ALICE, BOB, CAROL, "büro@bücher.test"):
        directory.add_user(address, PASSWORD, author=AUTHOR)
    for handler in handlers:
        directory.put_handler("example.test", handler, create=True, author=AUTHOR)
    directory.set_enabled(CAROL, False, author=AUTHOR)
    directory.close()
    return base


@dataclass(frozen=True, slots=True)
class Queued:
    """One message in the queue."""

    reverse_path: str
    recipients: tuple[str, ...]
    meta: Meta
    octets: bytes
    orcpts: tuple[str, ...]
    notify: tuple[int, ...]

    @property
    def body(self) -> bytes:
        """Without our trace field."""
        lines = self.octets.split(b"\r\n")
        end = next(n for n, line in enumerate(lines) if n and not line.startswith(b"\t"))
        return b"\r\n".join(lines[end:])


@dataclass(slots=True)
class Receiver:
    """A running server."""

    server: SmtpServer
    spool: AsyncSpool
    port: int
    current: list[Settings]
    rules: list[RuleSet]

    def queued(self) -> list[Queued]:
        """All messages, oldest first."""
        return [self._read(message_id) for message_id in self.spool.list_ids(None, 100_000)]

    def _read(self, message_id: bytes) -> Queued:
        _, _, _, reverse_path, meta, _, recipients = self.spool.get(message_id)
        reader, octets = self.spool.open_message(message_id), b""
        while piece := reader.read(65536):
            octets += piece
        return Queued(
            reverse_path,
            tuple(r[0] for r in recipients),
            Meta.decode(meta),
            octets,
            tuple(r[1] for r in recipients),
            tuple(r[3] for r in recipients),
        )

    def count(self) -> int:
        """Messages in the queue."""
        return len(self.spool.list_ids(None, 100_000))

    def change(self, **sections: Any) -> None:
        """Reload with other settings."""
        self.current[0] = self.current[0].model_validate({**self.current[0].model_dump(), **merged(self.current[0], sections)})

    def put_rules(self, **fields: Any) -> None:
        """Put other rules in force, as a worker does: fields of RuleSet that change."""
        self.rules[0] = replace(self.rules[0], version=self.rules[0].version + 1, **fields)
        self.server.rules_changed()

    async def connect(self, *, tls: bool = False) -> "Client":
        """A client that has not read the greeting."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=unverified() if tls else None)
        return Client(reader, writer)

    async def hello(self, name: str = "client.test", *, verb: str = "EHLO", tls: bool = False) -> "Client":
        """A client that has said EHLO."""
        client = await self.connect(tls=tls)
        await client.reply()
        await client.command(f"{verb} {name}")
        return client


def merged(settings: Settings, sections: dict[str, Any]) -> dict[str, Any]:
    """Sections given in part, filled up with what is in force."""
    return {k: {**getattr(settings, k).model_dump(), **v} if isinstance(v, dict) else v for k, v in sections.items()}


def unverified() -> ssl.SSLContext:
    """A client context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def b64(octets: bytes | str) -> str:
    """Base64 text."""
    return base64.b64encode(octets.encode() if isinstance(octets, str) else octets).decode()


def plain(user: str, password: str) -> str:
    """An initial response of SASL PLAIN."""
    return b64(f"\0{user}\0{password}")


class Client:
    """A plain SMTP client for tests; sees octets, not convenience."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, octets: bytes) -> None:
        """Send as is."""
        self.writer.write(octets)

    async def reply(self, seconds: float = 10.0) -> str:
        """The next reply, its lines joined by newlines; '' at the end of the connection."""
        lines: list[str] = []
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), seconds)).decode("utf-8", "replace").rstrip("\r\n")
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def command(self, line: str) -> str:
        """Send a line, return the reply."""
        self.writer.write(line.encode() + b"\r\n")
        return await self.reply()

    async def rest(self, seconds: float = 10.0) -> bytes:
        """Everything up to the end of the connection; a reset counts as an end."""
        try:
            return await asyncio.wait_for(self.reader.read(-1), seconds)
        except ConnectionError:
            return b""

    async def start_tls(self) -> None:
        """The client's side of the handshake."""
        await self.writer.start_tls(unverified())

    async def send_mail(self, sender: str, recipient: str, octets: bytes) -> str:
        """MAIL, RCPT, DATA and the octets (which bring their own end of data). The reply to the end of data, or the first refusal."""
        for line in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>", "DATA"):
            answer = await self.command(line)
            if answer[0] not in "23":
                return answer
        self.send(octets)
        return await self.reply()

    async def close(self) -> None:
        """Drop the connection."""
        self.writer.close()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), 2)
        except (OSError, TimeoutError):
            pass


@asynccontextmanager
async def receiver(
    base: Path, listener: str = "smtp", gate: Callable[[RuleSet], Gate] | None = None, **sections: Any
) -> AsyncIterator[Receiver]:
    """A running server with its data in `base`; sections are settings: smtp={'max_recipients': 2}. Without gate no inspection."""
    data = base / "data"
    shutil.copytree(directory_template(), data)
    settings = [load_settings(None, data, {})]
    settings[0] = settings[0].model_validate({**settings[0].model_dump(), **merged(settings[0], {"hostname": HOST, **sections})})
    directory = Directory(data / "directory.db")
    rules = [directory.snapshot()]
    spool = await open_spool(data / "spool" / "p0", settings[0])
    resolver = Resolver(lambda: settings[0])
    context = ServerContext(
        settings=lambda: settings[0],
        rule_set=lambda: rules[0],
        auth=Authenticator(directory, lambda: settings[0]),
        spool=spool,
        volumes=None,  # type: ignore[arg-type]  # receiving does not touch mailboxes
        tls=TlsContexts(lambda: settings[0]),
        hostname=HOST,
        authentication=Authentication(resolver, lambda: settings[0].authentication.timeout_seconds),
        gate=gate(rules[0]) if gate else None,
    )
    server = (LmtpServer if listener == "lmtp" else SmtpServer)(context, Listener(listener))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    await server.start([sock])
    try:
        yield Receiver(server, spool, sock.getsockname()[1], settings, rules)
    finally:
        await server.stop(0.2)
        await resolver.close()
        await spool.close()
        directory.close()


async def open_spool(place: Path, settings: Settings) -> AsyncSpool:
    """A partition of its own."""
    return await AsyncSpool.open(place, segment_bytes=settings.spool.segment_bytes, min_free_bytes=settings.spool.min_free_bytes)
