"""Postfix's smtp-sink: a next hop that takes whatever comes, and counts it."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.processes import accepts, find, free_port, need, wait_until


@dataclass(frozen=True)
class Sink:
    """It listens on 127.0.0.1:`port`; `told` is what it writes."""

    port: int
    told: Path

    def count(self) -> int:
        """Messages taken."""
        counts = re.findall(rb"mesg=(\d+)", self.told.read_bytes()[-200:])
        return int(counts[-1]) if counts else 0


@contextmanager
def smtp_sink(port: int = 0) -> Iterator[Sink]:
    """It ends with the block. Skips, visibly, where it is not installed."""
    need("smtp-sink")
    port = port or free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with tempfile.NamedTemporaryFile() as told:
        process = subprocess.Popen(
            [find("smtp-sink") or "", "-c", *user, f"127.0.0.1:{port}", "1000"], stdout=told, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: accepts("127.0.0.1", port), 5, "smtp-sink listens")
            yield Sink(port, Path(told.name))
        finally:
            process.terminate()
            process.wait(5)
