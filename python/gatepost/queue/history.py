"""HistoryService: what became of messages, finished ones too, as this worker keeps it. Called by control/history.

Reads the database that a native thread writes behind the spool (rust_core/history), and those of partitions that are retired: worker
J mod N reads what partition J left. Invariants: nothing here makes mail wait; every call has a deadline and runs in a thread of a small
pool of its own; a history that cannot be written or read makes answers partial and is logged. Raises HistoryOffError when it is switched
off, InvalidError.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from gatepost.native import History, HistoryFilter, Spool, Trace, TracePage
from gatepost.queue.retry import MICROSECONDS

CATCH_UP_MS = 1000
SEARCH_MS = 1500
CLOSE_MS = 5000
WATCH_SECONDS = 5.0
THREADS = 2
BEHIND = "the newest events are not written yet"

log = structlog.get_logger()

T = TypeVar("T")
Gap = tuple[int, int]


class HistoryOffError(Exception):
    """Setting history.days is 0."""


@dataclass(frozen=True, slots=True)
class Search:
    """One page of a search. at and later: see native History.search."""

    wanted: HistoryFilter
    limit: int
    after: bytes | None = None
    ascending: bool = False
    at: int | None = None
    later: int | None = None
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A page; `next_id` is the id to go on after, None at the end. gaps: spans (Unix µs) of which records are missing."""

    traces: Sequence[Trace]
    next_id: bytes | None
    warnings: Sequence[str] = ()
    gaps: Sequence[Gap] = ()

    def missing_of(self, trace: Trace) -> Sequence[Gap]:
        """The gaps in which a message may have been in the queue: what is told of it may lack something."""
        received, ended = trace[2], trace[5][2]
        return [gap for gap in self.gaps if received <= gap[1] and (not ended or ended >= gap[0])]


@dataclass(frozen=True, slots=True)
class Place:
    """Which history a worker writes and reads: `root` holds pI of each partition, `spool` the partitions that exist."""

    root: Path
    spool: Path
    index: int
    workers: int

    def own(self) -> Path:
        """What this worker writes."""
        return self.root / f"p{self.index}"

    def retired(self) -> list[Path]:
        """What partitions that are gone left to this worker."""
        if self.index >= self.workers:
            return []
        names = [path.name for path in self.root.glob("p[0-9]*") if path.name[1:].isdigit()]
        mine = [name for name in names if int(name[1:]) >= self.workers and int(name[1:]) % self.workers == self.index]
        return [self.root / name for name in mine if not (self.spool / name).exists()]


@dataclass
class HistoryService:
    """One per worker. `days` 0 is off."""

    place: Place
    days: float
    max_bytes: int
    _own: History | None = None
    _left: dict[Path, History] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="trace"))
    _watcher: asyncio.Task[None] | None = None

    @property
    def enabled(self) -> bool:
        """False when nothing is kept."""
        return self.days > 0

    async def start(self, spool: Spool) -> None:
        """Follow a spool that was opened with tailed=True."""
        if self.enabled:
            self._own = await self._run(lambda: self._open(self.place.own(), spool))
            self._watcher = asyncio.create_task(self._watch(), name="history")

    async def close(self) -> bool:
        """Catch up within CLOSE_MS and end; call it before the spool is closed. False when something is left for the next start."""
        if self._watcher is not None:
            self._watcher.cancel()
        own, self._own = self._own, None
        whole = own is None or await self._run(lambda: own.close(CLOSE_MS))
        self._pool.shutdown(wait=False)
        return whole

    async def caught_up(self, milliseconds: int = CATCH_UP_MS) -> bool:
        """Wait until everything that had happened before is written, so long at most."""
        own = self._own
        return own is None or await self._run(lambda: own.catch_up(milliseconds))

    def stats(self) -> dict[str, int]:
        """See native History.stats; empty when off."""
        return {} if self._own is None else self._own.stats()

    async def search(self, search: Search) -> Found:
        """One page over this worker's histories. Raises HistoryOffError, InvalidError."""

        def one(history: History) -> TracePage:
            return history.search(
                search.wanted,
                at=search.at,
                later=search.later,
                passed=search.passed,
                after=search.after,
                limit=search.limit,
                ascending=search.ascending,
                milliseconds=SEARCH_MS,
            )

        return await self._ask(one, search.limit, search.ascending)

    async def find(self, low: bytes, high: bytes, limit: int = 2) -> Found:
        """Messages whose id lies in a range. Raises HistoryOffError."""
        return await self._ask(lambda history: history.find(low, high, limit), limit, True)

    # ---- inside

    async def _ask(self, one: Callable[[History], TracePage], limit: int, ascending: bool) -> Found:
        if self._own is None:
            raise HistoryOffError
        warnings = [] if await self.caught_up() else [BEHIND]

        def all_parts() -> list[TracePage]:
            return [one(history) for history in self._parts()]

        pages = await self._run(all_parts)
        self._tell()
        gaps = sorted({gap for page in pages for gap in page[3]})
        warnings += [text for page in pages for text in page[2]] + [incomplete(gap) for gap in gaps]
        traces, next_id = merge([(page[0], page[1]) for page in pages], lambda trace: trace[0], limit, ascending=ascending)
        return Found(traces, next_id, warnings, gaps)

    def _parts(self) -> list[History]:
        """*blocking* Own and retired histories."""
        left = self.place.retired()
        self._left = {path: self._left.get(path) or self._open(path, None) for path in left}
        return [*([self._own] if self._own else []), *self._left.values()]

    def _expire(self) -> None:
        """*blocking* Let retired histories age; the own one does it by itself."""
        self._parts()
        for history in self._left.values():
            history.expire()

    def _open(self, path: Path, spool: Spool | None) -> History:
        share = self.max_bytes // max(1, self.place.workers)
        return History(str(path), spool, age_seconds=int(self.days * 86_400), max_bytes=share)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _watch(self) -> None:
        """Log what the native thread has to say, and let retired histories age."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._tell()
            await self._run(self._expire)

    def _tell(self) -> None:
        for history in [self._own, *self._left.values()]:
            for notice in history.take_notices() if history else ():
                log.warning("history", detail=notice)


def incomplete(gap: Gap) -> str:
    """A gap in words, in UTC."""
    start, end = (datetime.fromtimestamp(one / MICROSECONDS, UTC).strftime("%Y-%m-%d %H:%M:%SZ") for one in gap)
    return f"history incomplete between {start} and {end}" if gap[0] else f"history incomplete before {end}"


Key = TypeVar("Key", bytes, str)


def merge(
    pages: Sequence[tuple[Sequence[T], Key | None]], key: Callable[[T], Key], limit: int, *, ascending: bool
) -> tuple[list[T], Key | None]:
    """Pages in key order as one: (items, key to go on after). Nothing beyond the point up to which *every* part has looked is given."""
    ends = [end for _, end in pages if end is not None]
    nearest = (min(ends) if ascending else max(ends)) if ends else None
    items = {key(item): item for part, _ in pages for item in part}
    ordered = sorted(items, reverse=not ascending)
    if nearest is not None:
        ordered = [one for one in ordered if (one <= nearest if ascending else one >= nearest)]
    if len(ordered) > limit:
        ordered = ordered[:limit]
        nearest = ordered[-1]
    return [items[one] for one in ordered], nearest
