"""POP3 and IMAP servers in a thread of the test's process: real sockets, a real store, a real directory; clients may block.

`AccessHost(directory)` is one worker as POP3 and IMAP clients see it. Two of them on one directory with different `stream`s are two
workers on one volume. alice and bob of example.test have PASSWORD and empty mailboxes.
"""

import asyncio
import imaplib
import json
import os
import poplib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any, TypeVar

import uvloop

from gatepost.config import Settings
from gatepost.directory import Authenticator, Directory
from gatepost.mailbox import Volumes
from gatepost.routing.model import DomainRule, RuleKind
from gatepost.server.context import ServerContext
from gatepost.server.imap import ImapServer
from gatepost.server.pop3 import Pop3Server
from gatepost.server.tls import TlsContexts
from gatepost.spool import AsyncSpool

ALICE, BOB = "alice@example.test", "bob@example.test"
PASSWORD = "correct horse battery staple"
CHANGE_SECONDS = 1.0
"""How soon a session must hear of another's change."""

PLAIN = {"mail": {"require_tls_for_plaintext_auth": False}}
"""Settings that take passwords without TLS, for clients that show every line."""

T = TypeVar("T")


@cache
def _template() -> Path:
    """A data directory with the users; made once, since hashing passwords takes its time."""
    base = Path(mkdtemp(prefix="gatepost-access-"))
    directory = Directory(base / "directory.db", migrate=True)
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author="test")
    for address in (ALICE, BOB):
        directory.add_user(address, PASSWORD, author="test")
    directory.close()
    return base


def unverified() -> ssl.SSLContext:
    """A TLS client that takes the self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class AccessHost:
    """Servers imap, imaps, pop3 and pop3s on free ports; `ports` has them by name. Sections given change the settings."""

    def __init__(self, data: Path, *, stream: str = "w0", **sections: dict[str, Any]) -> None:
        if not (data / "directory.db").exists():
            shutil.copytree(_template(), data, dirs_exist_ok=True)
        self.data = data
        self.settings = Settings(data=data, hostname="mx.example.test", **sections)
        self.stream = stream
        self.ports: dict[str, int] = {}
        self.servers: dict[str, ImapServer | Pop3Server] = {}
        self.loop: asyncio.AbstractEventLoop
        self.context: ServerContext
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name=f"access-{stream}")

    def __enter__(self) -> "AccessHost":
        self._thread.start()
        assert self._ready.wait(30)
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        directory = Directory(self.data / "directory.db")
        rule_set = directory.snapshot()
        auth = Authenticator(directory, lambda: self.settings)
        volumes = await Volumes.open(directory.list_volumes(), stream=self.stream, mailboxes=lambda: rule_set.mailboxes)
        spool = await AsyncSpool.open(self.data / "spool" / self.stream)
        self.context = ServerContext(
            settings=lambda: self.settings,
            rule_set=lambda: rule_set,
            auth=auth,
            spool=spool,
            volumes=volumes,
            tls=TlsContexts(lambda: self.settings),
            hostname=self.settings.hostname,
        )
        for name, make in (("imap", ImapServer), ("pop3", Pop3Server)):
            await self._listen(name, make(self.context))
            await self._listen(f"{name}s", make(self.context, implicit_tls=True))
        self._ready.set()
        await self._stop.wait()
        for server in self.servers.values():
            await server.stop(2)
        await volumes.close()
        await spool.close()
        auth.close()
        directory.close()

    async def _listen(self, name: str, server: ImapServer | Pop3Server) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        await server.start([sock])
        self.servers[name] = server
        self.ports[name] = sock.getsockname()[1]

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine function on the host's loop."""

        async def wrapped() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(60)

    # ---- clients

    def imap(self, user: str = ALICE, folder: str = "", *, readonly: bool = False) -> imaplib.IMAP4:
        """A logged-in IMAP client over TLS."""
        client = imaplib.IMAP4_SSL("127.0.0.1", self.ports["imaps"], ssl_context=unverified(), timeout=30)
        client.login(user, PASSWORD)
        if folder:
            assert client.select(folder, readonly)[0] == "OK"
        return client

    def pop3(self, user: str = ALICE) -> poplib.POP3:
        """A logged-in POP3 client over TLS."""
        return pop3(self.ports, user)

    def raw(self, name: str, *, user: str = "", folder: str = "") -> "RawImap":
        """A line-wise IMAP client without TLS (needs a host that allows plain-text logins to log in)."""
        return raw_imap(self.ports[name], user, folder)


def pop3(ports: dict[str, int], user: str = ALICE) -> poplib.POP3:
    """A logged-in POP3 client over TLS."""
    client = poplib.POP3_SSL("127.0.0.1", ports["pop3s"], context=unverified(), timeout=30)
    client.user(user)
    client.pass_(PASSWORD)
    return client


def raw_imap(port: int, user: str = "", folder: str = "") -> "RawImap":
    """A line-wise client, logged in and with a folder selected as asked for."""
    client = RawImap(port)
    if user:
        client.ok(f'LOGIN {user} "{PASSWORD}"')
    if folder:
        client.ok(f"SELECT {folder}")
    return client


class HostProcess:
    """An AccessHost in a process of its own, as a worker has it: `ports` by name."""

    def __init__(self, data: Path, stream: str) -> None:
        self._command = [sys.executable, "-m", "support.access", str(data), stream]
        self.ports: dict[str, int] = {}

    def __enter__(self) -> "HostProcess":
        paths = [path for path in sys.path if path]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        )
        assert self._process.stdout is not None
        self.ports = json.loads(next(line for line in self._process.stdout if line.startswith(b"{")))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def raw(self, name: str, *, user: str = "", folder: str = "") -> "RawImap":
        """As AccessHost.raw."""
        return raw_imap(self.ports[name], user, folder)


class RawImap:
    """A client that shows every line: what imaplib hides."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.file = self.socket.makefile("rb")
        self.greeting = self.line()
        self._tag = 0

    def send(self, data: bytes) -> None:
        """Octets as they are."""
        self.socket.sendall(data)

    def raw_line(self, seconds: float = 10) -> bytes:
        """Next line with its CRLF; b'' at the end."""
        self.socket.settimeout(seconds)
        return self.file.readline()

    def line(self, seconds: float = 10) -> str:
        """Next line without CRLF; '' at the end, too."""
        return self.raw_line(seconds).decode("utf-8", "replace").removesuffix("\r\n")

    def command(self, text: str) -> list[str]:
        """Send a command; all lines of its answer, the tagged one last and without its tag."""
        self._tag += 1
        tag = f"t{self._tag}"
        self.send(f"{tag} {text}\r\n".encode())
        lines: list[str] = []
        while True:
            raw = self.raw_line()
            assert raw, f"connection closed after {lines}"
            line = raw.decode("utf-8", "replace").removesuffix("\r\n")
            if line.startswith(f"{tag} "):
                return [*lines, line.removeprefix(f"{tag} ")]
            lines.append(line)

    def ok(self, text: str) -> list[str]:
        """`command` that must end in OK; the untagged lines."""
        lines = self.command(text)
        assert lines[-1].startswith("OK"), lines
        return lines[:-1]

    def until(self, wanted: str, seconds: float = CHANGE_SECONDS) -> list[str]:
        """Lines up to one that contains `wanted`; AssertionError when it does not come in time."""
        deadline = time.monotonic() + seconds
        lines: list[str] = []
        while (left := deadline - time.monotonic()) > 0:
            try:
                lines.append(self.line(left))
            except TimeoutError:
                break
            if wanted in lines[-1]:
                return lines
        raise AssertionError(f"no {wanted!r} within {seconds} s: {lines}")

    def append(self, message: bytes, folder: str = "INBOX", flags: str = "") -> int:
        """APPEND; returns the uid."""
        self._tag += 1
        self.send(f"t{self._tag} APPEND {folder} {flags}{' ' if flags else ''}{{{len(message)}+}}\r\n".encode() + message + b"\r\n")
        line = self.until(f"t{self._tag} ", 30)[-1]
        assert "APPENDUID" in line, line
        return int(line.split("APPENDUID ")[1].split("]")[0].split()[1])

    def close(self) -> None:
        """Drop the connection."""
        self.file.close()
        self.socket.close()

    def __enter__(self) -> "RawImap":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def main() -> None:
    """The process of HostProcess: serve until stdin ends."""
    with AccessHost(Path(sys.argv[1]), stream=sys.argv[2], **PLAIN) as host:
        sys.stdout.write(json.dumps(host.ports) + "\n")
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads what it logs, and a full pipe would stop it
        sys.stdin.read()


if __name__ == "__main__":
    main()
