"""What live mail asked of the rules, kept for rehearsals: sender, recipient, trusted, how often, when last. One file a day and partition.

A worker has one Recorder; plan.py notes each decision that it does not remember, so that mail in runs costs nothing (the counts are "at
least"). Notes gather in memory and are appended to DIR/decisions/pN-DAY by a thread, at most MAX_OCTETS a day; files older than
KEEP_DAYS go. A line is a JSON list; a torn last line is passed over by `read`. A disk that fails loses records, never mail.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

MAX_PENDING = 20_000
MAX_OCTETS = 8 << 20
KEEP_DAYS = 7
FLUSH_SECONDS = 5.0
MAX_TEXT = 320

Key = tuple[str, str, bool]

log = structlog.get_logger()


class Recorder:
    """Notes of one partition. `note` is for the event loop's thread alone."""

    def __init__(self, data: Path, partition: int) -> None:
        self._directory = data / "decisions"
        self._partition = partition
        self._pending: dict[Key, int] = {}

    def note(self, sender: str, recipient: str, trusted: bool) -> None:
        """Count one decision; beyond MAX_PENDING of a few seconds, new ones are left out."""
        key = (sender, recipient, trusted)
        known = self._pending.get(key)
        if known is not None or (len(self._pending) < MAX_PENDING and len(sender) + len(recipient) <= 2 * MAX_TEXT):
            self._pending[key] = (known or 0) + 1

    async def run(self) -> None:
        """Write every FLUSH_SECONDS until cancelled, and what is left then."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self._flush()
        finally:
            self._write(self._taken(), time.time())  # the loop is about to end: nobody is kept waiting

    async def _flush(self) -> None:
        taken = self._taken()
        if taken:
            await asyncio.to_thread(self._write, taken, time.time())

    def _taken(self) -> dict[Key, int]:
        taken, self._pending = self._pending, {}
        return taken

    def _write(self, taken: dict[Key, int], now: float) -> None:
        """*blocking* Append to the file of the day."""
        if not taken:
            return
        lines = "".join(f"{json.dumps([*key, times, int(now)], ensure_ascii=False)}\n" for key, times in taken.items())
        path = self._directory / f"p{self._partition}-{int(now // 86400)}"
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            if not path.exists():
                _forget_old(self._directory, now)
            with open(path, "ab") as file:
                # A line of its own after a torn one: the file may end anywhere after a crash.
                data = lines.encode("utf-8", "replace")
                if file.tell() + len(data) <= MAX_OCTETS:
                    file.write(b"\n" + data if file.tell() else data)
        except OSError as error:
            log.warning("decisions could not be recorded for rehearsals", error=str(error))


def _forget_old(directory: Path, now: float) -> None:
    for path in directory.glob("p*-*"):
        day = path.name.rpartition("-")[2]
        if day.isdigit() and int(day) < now // 86400 - KEEP_DAYS:
            path.unlink(missing_ok=True)


def read(data: Path, now: float) -> Iterator[tuple[Key, int, int]]:
    """Every record of the last KEEP_DAYS: key, times, Unix seconds. What is no record is passed over."""
    for path in sorted((data / "decisions").glob("p*-*")):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError:
            continue
        for line in lines:
            try:
                sender, recipient, trusted, times, at = json.loads(line)
            except (ValueError, TypeError):
                continue
            fits = isinstance(sender, str) and isinstance(recipient, str) and isinstance(times, int) and isinstance(at, int)
            if fits and at >= now - KEEP_DAYS * 86400:
                yield (sender, recipient, bool(trusted)), times, at
