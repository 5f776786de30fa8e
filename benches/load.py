"""The load and the ways to see that it has arrived: Postfix's smtp-source and smtp-sink, the same for both sides."""

import re
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


@dataclass(frozen=True, slots=True)
class Load:
    """What smtp-source sends: `messages` of `octets` each over `sessions` at once, a connection per message."""

    messages: int = 5000
    octets: int = 10_000
    sessions: int = 20

    def send(self, port: int, recipient: str) -> float:
        """Send it all. Returns the seconds until the last message was acknowledged; raises when one was not."""
        command = [find("smtp-source") or "smtp-source", "-s", str(self.sessions), "-m", str(self.messages), "-l", str(self.octets)]
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
