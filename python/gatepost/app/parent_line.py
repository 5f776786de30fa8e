"""What a supervisor and a worker it executed tell each other, over a socket pair: one line of JSON each.

Down goes one line, the orders (`Orders`), with the worker's listening sockets behind it: the word to begin. Up go short lines, written at
once by app.worker, read by app.pool. Kinds: `opening` (recovery goes on; the detail differs whenever it got further), `taking` (mail is
taken), `ready`, `failed` (its partition or a volume is closed after an I/O error, the detail says what), `fault` (why it is about to
end), `empty` (a surplus partition is drained; the worker is about to end). A line that cannot be written is lost: nobody is left to read
it. The end of the line is the life line: a worker whose supervisor is gone sees it and leaves.
"""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["opening", "taking", "ready", "failed", "fault", "empty"]
MAX_DETAIL = 1000
READ_OCTETS = 65_536
FDS_AT_ONCE = 128
"""Descriptors in one message; Linux takes 253."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker is told: its settings, as the supervisor reads them, its number, and how many sockets of each listener it gets."""

    data: str
    config: str
    """'' for none."""
    overrides: dict[str, object]
    index: int
    drain: bool
    sockets: dict[str, int]

    def path(self) -> Path | None:
        """The file of settings."""
        return Path(self.config) if self.config else None


def send_orders(line: socket.socket, orders: Orders, sockets: dict[str, list[socket.socket]]) -> None:
    """`sockets` as counted in the orders; the worker gets descriptors of its own. Raises OSError when it is gone."""
    line.sendall(json.dumps(asdict(orders)).encode() + b"\n")
    fds = [one.fileno() for group in sockets.values() for one in group]
    for at in range(0, len(fds), FDS_AT_ONCE):
        socket.send_fds(line, [b"s"], fds[at : at + FDS_AT_ONCE])


def read_orders(line: socket.socket) -> tuple[Orders, dict[str, list[socket.socket]]] | None:
    """*blocking* Wait for the orders. None when the supervisor is gone instead."""
    try:
        text = b""
        while not text.endswith(b"\n"):
            octet = line.recv(1)  # not an octet too many: the descriptors come with those behind the line
            if not octet:
                return None
            text += octet
        orders = Orders(**json.loads(text))
        fds: list[int] = []
        while len(fds) < sum(orders.sockets.values()):
            octet, more, _, _ = socket.recv_fds(line, 1, FDS_AT_ONCE)
            if not octet:
                return None
            fds += more
    except ConnectionError:
        return None
    return orders, _named(orders, fds)


def _named(orders: Orders, fds: list[int]) -> dict[str, list[socket.socket]]:
    numbers = iter(fds)
    named = {name: [socket.socket(fileno=next(numbers)) for _ in range(count)] for name, count in orders.sockets.items()}
    for group in named.values():
        for one in group:
            one.setblocking(False)
            one.set_inheritable(False)  # recv_fds has no ear for MSG_CMSG_CLOEXEC
    return named


class ParentLine:
    """The worker's end, for what it says."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def say(self, kind: Kind, detail: str = "") -> None:
        """Write one line."""
        with contextlib.suppress(OSError):
            os.write(self.fd, json.dumps({"kind": kind, "detail": detail[:MAX_DETAIL]}).encode() + b"\n")


class LineReader:
    """The supervisor's end. Lines that are none of ours are passed over: a worker that runs wild must not stop the supervisor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self) -> Iterator[tuple[str, str]] | None:
        """(kind, detail) of the lines that are there; None when the worker has closed its end. Call it when the line is readable."""
        try:
            data = os.read(self._fd, READ_OCTETS)
        except BlockingIOError:
            return iter(())
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-READ_OCTETS:]
        return (told for line in lines if (told := _parse(line)) is not None)


def _parse(line: bytes) -> tuple[str, str] | None:
    try:
        told = json.loads(line)
        return str(told["kind"]), str(told["detail"])
    except (ValueError, TypeError, KeyError):
        return None
