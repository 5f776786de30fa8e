"""What an idle session costs: connections that have greeted (SMTP) or logged in (IMAP) and then do nothing; memory of all processes.

Used by run.py. Only Gatepost is measured. Memory is proportional (PSS) over the process tree, before and with the sessions, after
everything was used once. The sessions are opened in blocks, so that neither listen queue nor greeting times out.
"""

import resource
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from sides import GatepostSide
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.programs import unverified
from usage import resident_kib

BLOCK = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of session: how many, the listener, whether under TLS, and the bar in KB each (None: none was set)."""

    name: str
    sessions: int
    listener: str
    tls: bool
    bar: float | None


KINDS = (
    Kind("idle-imap", 10_000, "imap", False, 20.0),
    Kind("idle-imaps", 2_000, "imaps", True, None),
    Kind("idle-smtp", 2_000, "smtp", False, 20.0),
)


def measure(side: GatepostSide, kind: Kind, divisor: int = 1) -> float:
    """KB (1,000 octets) of memory for each idle session."""
    sessions = kind.sessions // divisor
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limits = {"max_connections": 20_000, "max_connections_per_client": 20_000}
    server = side.server(smtp=limits, mail={**limits, "require_tls_for_plaintext_auth": False, "login_seconds": 300})
    with server, ExitStack() as stack:
        opened: list[socket.socket] = []
        _open(server, kind, 2 * BLOCK, stack, opened)
        for connection in opened:
            connection.close()
        opened.clear()
        time.sleep(3)
        before = resident_kib([server.pid])
        _open(server, kind, sessions, stack, opened)
        time.sleep(2)
        return (resident_kib([server.pid]) - before) * 1.024 / sessions


def _open(server: Gatepost, kind: Kind, count: int, stack: ExitStack, opened: list[socket.socket]) -> None:
    port = server.port(kind.listener)
    context = unverified() if kind.tls else None
    for _ in range(count // BLOCK):
        block = [stack.enter_context(_connect(port, context)) for _ in range(BLOCK)]
        for say in _dialog(kind):
            for connection in block:
                say(connection)
        opened += block


def _connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 60)
    return connection if context is None else context.wrap_socket(connection, server_hostname="127.0.0.1")


def _dialog(kind: Kind) -> list[Callable[[socket.socket], None]]:
    if kind.listener == "smtp":
        return [_await(b"220"), _send(b"EHLO client.example\r\n"), _await(b"250 ")]
    login = f'a LOGIN {ALICE} "{PASSWORD}"\r\n'.encode()
    return [_await(b"* OK"), _send(login), _await(b"a OK"), _send(b"b SELECT INBOX\r\n"), _await(b"b OK")]


def _send(octets: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(octets)


def _await(wanted: bytes) -> Callable[[socket.socket], None]:
    def receive(connection: socket.socket) -> None:
        got = b""
        while not any(line.startswith(wanted) for line in got.split(b"\r\n")[:-1]):
            piece = connection.recv(4096)
            if not piece:
                raise AssertionError(f"the server closed an idle session after {got!r}")
            got += piece

    return receive
