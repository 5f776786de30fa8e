"""The load and the ways to see that it has arrived: Postfix's smtp-source and smtp-sink, the same for all sides."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from support.processes import accepts, end, find, free_port, wait_until

SENDER = "sender@example.org"
SETTLE_SECONDS = 300.0
LINE = b"x" * 70 + b"\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """What smtp-source sends: `messages` of `octets` each over `sessions` at once; a connection per message, or `kept` ones."""

    messages: int = 5000
    octets: int = 10_000
    sessions: int = 20
    kept: bool = False

    def send(self, port: int, recipient: str) -> float:
        """Send it all. Returns the seconds until the last message was acknowledged; raises when one was not."""
        command = [find("smtp-source") or "smtp-source", "-s", str(self.sessions), "-m", str(self.messages), "-l", str(self.octets)]
        command += ["-d"] if self.kept else []
        command += ["-f", SENDER, "-t", recipient, f"127.0.0.1:{port}"]
        began = time.perf_counter()
        subprocess.run(command, check=True, timeout=SETTLE_SECONDS, stdin=subprocess.DEVNULL)
        return time.perf_counter() - began

    def send_until(self, port: int, recipient: str, arrived: Callable[[], int], wanted: int) -> float:
        """Send it all and wait until `arrived()` has reached `wanted`. Returns the seconds from the first octet to then."""
        began = time.perf_counter()
        self.send(port, recipient)
        wait_until(lambda: arrived() >= wanted, SETTLE_SECONDS, f"{wanted} messages arrive (now {arrived()})", 0.02)
        return time.perf_counter() - began


class Sink:
    """smtp-sink as the next hop: takes everything, throws it away, counts."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._output = directory / f"sink-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [find("smtp-sink") or "smtp-sink", "-c", "-u", "nobody", f"127.0.0.1:{self.port}", "1000"]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output)
        wait_until(lambda: accepts("127.0.0.1", self.port), 10, "smtp-sink listens")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            end(self._process)

    def count(self) -> int:
        """Messages taken so far, by its own counter."""
        with self._output.open("rb") as output:
            output.seek(max(0, self._output.stat().st_size - 200))
            counts = re.findall(rb"mesg=(\d+)\r", output.read())
        return int(counts[-1]) if counts else 0


def one_by_one(port: int, recipient: str, messages: int, octets: int, pause: float) -> list[float]:
    """Send messages one after the other, a connection each, with a pause before each. Returns the seconds each took from connect to the
    acknowledgement of its data. AssertionError when one is refused.
    """
    body = b"Subject: one\r\n\r\n" + LINE * (octets // len(LINE)) + b".\r\n"
    commands = (b"EHLO client.example\r\n", f"MAIL FROM:<{SENDER}>\r\n".encode(), f"RCPT TO:<{recipient}>\r\n".encode(), b"DATA\r\n", body)
    taken = []
    for _ in range(messages):
        time.sleep(pause)
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port), 30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = connection.makefile("rb")
            _reply(reader.readline)
            for command in commands:
                connection.sendall(command)
                _reply(reader.readline)
            taken.append(time.perf_counter() - began)
            connection.sendall(b"QUIT\r\n")
            reader.readline()
    return taken


def _reply(readline: Callable[[], bytes]) -> None:
    while (line := readline())[3:4] == b"-":
        pass
    if line[:1] not in (b"2", b"3"):
        raise AssertionError(f"refused: {line!r}")


def disk_rate(directory: Path, octets: int = 512 << 20, piece: int = 8 << 20) -> float:
    """Octets per second written in sequence to a new file in `directory`, with an fdatasync after each `piece`."""
    data = os.urandom(piece)
    path = directory / "disk-rate"
    try:
        with path.open("wb", buffering=0) as file:
            began = time.perf_counter()
            for _ in range(octets // piece):
                file.write(data)
                os.fdatasync(file.fileno())
            return octets / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)
