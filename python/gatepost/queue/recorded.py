"""What live mail asked of the rules, kept for rehearsals: who asked for whom, how often, when last. One file a day and partition.

A worker has one Recorder. The SMTP and LMTP sessions and the Submitter note each recipient before anything of the rules is asked about
it; what is taken natively is collected from the servers at each flush. Notes gather in memory, bounded, and are appended to
DIR/decisions/pN-DAY by a thread, at most MAX_OCTETS a day; files older than KEEP_DAYS go. A line is a JSON list: sender, recipient,
trusted, times, Unix seconds, and an object of what else is known; lines of older versions lack that. A torn last line is passed over by
`read`. A disk that fails loses records, never mail.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import structlog

MAX_PENDING = 20_000
MAX_OCTETS = 16 << 20
KEEP_DAYS = 7
FLUSH_SECONDS = 5.0
MAX_TEXT = 320

log = structlog.get_logger()


class Asking(NamedTuple):
    """One recipient that the rules were asked about, and all that trust entries, sender rules and stage policies may look at before DATA.

    trusted: as the session was then, the trust list included. listener: '' for what was submitted over the API. fingerprint, subject: of
    the client's certificate.
    """

    sender: str
    recipient: str
    trusted: bool
    client: str = ""
    user: str = ""
    tls: bool = False
    helo: str = ""
    listener: str = ""
    fingerprint: str = ""
    subject: str = ""


Counted = tuple[Asking, int]
_MORE = Asking._fields[3:]


class Recorder:
    """Notes of one partition. `note` is for the event loop's thread alone, and so are `sources`."""

    def __init__(self, data: Path, partition: int) -> None:
        self._directory = data / "decisions"
        self._partition = partition
        self._pending: dict[Asking, int] = {}
        self.sources: list[Callable[[], Iterable[Counted]]] = []
        """Asked at each flush for what was decided elsewhere since."""

    def note(self, asking: Asking, times: int = 1) -> None:
        """Count one decision; beyond MAX_PENDING of a few seconds, new ones are left out."""
        known = self._pending.get(asking)
        if known is not None or (len(self._pending) < MAX_PENDING and _is_bounded(asking)):
            self._pending[asking] = (known or 0) + times

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

    def _taken(self) -> dict[Asking, int]:
        for source in self.sources:
            for asking, times in source():
                self.note(asking, times)
        taken, self._pending = self._pending, {}
        return taken

    def _write(self, taken: dict[Asking, int], now: float) -> None:
        """*blocking* Append to the file of the day."""
        if not taken:
            return
        lines = "".join(_line(asking, times, int(now)) for asking, times in taken.items())
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


def _is_bounded(asking: Asking) -> bool:
    return len(asking.sender) + len(asking.recipient) <= 2 * MAX_TEXT and len(asking.helo) + len(asking.subject) <= 2 * MAX_TEXT


def _line(asking: Asking, times: int, now: int) -> str:
    more = {name: value for name, value in zip(_MORE, asking[3:], strict=True) if value}
    return f"{json.dumps([*asking[:3], times, now, *([more] if more else [])], ensure_ascii=False, separators=(',', ':'))}\n"


def _forget_old(directory: Path, now: float) -> None:
    for path in directory.glob("p*-*"):
        day = path.name.rpartition("-")[2]
        if day.isdigit() and int(day) < now // 86400 - KEEP_DAYS:
            path.unlink(missing_ok=True)


def read(data: Path, now: float) -> Iterator[tuple[Asking, int, int]]:
    """Every record of the last KEEP_DAYS, the newest days first: what was asked, times, Unix seconds. What is no record is passed over."""
    since = now - KEEP_DAYS * 86400
    for path in sorted((data / "decisions").glob("p*-*"), key=_day, reverse=True):
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError:
            continue
        for line in lines:
            found = _read_line(line) if line else None
            if found is not None and found[2] >= since:
                yield found


def _day(path: Path) -> int:
    day = path.name.rpartition("-")[2]
    return int(day) if day.isdigit() else 0


def _read_line(line: bytes) -> tuple[Asking, int, int] | None:
    try:
        sender, recipient, trusted, times, at, *rest = json.loads(line)
    except (ValueError, TypeError):
        return None
    more: dict[str, Any] = rest[0] if rest and isinstance(rest[0], dict) else {}
    fits = isinstance(sender, str) and isinstance(recipient, str) and isinstance(times, int) and isinstance(at, int)
    if not fits or any(name not in _KINDS or not isinstance(value, _KINDS[name]) for name, value in more.items()):
        return None
    return Asking(sender, recipient, bool(trusted), **more), times, at


_KINDS = {name: bool if name == "tls" else str for name in _MORE}
