"""Watches a worker's partition and volumes for failed syncs, and decides when they are opened again. Built by app.wiring, one per worker.
It also logs when the disk is nearly full and when there is room again; what that means for mail the spool decides.

A place that failed is closed for good as far as the native side goes: the partition takes no mail (421 4.3.0), a volume no delivery. The
watch writes that down (`spool.sync_failure`), tells the supervisor, and after a pause has the disk prove itself. When it does, the worker
ends, and the next one opens the place from what is really on the disk. After MAX_REOPENINGS failures within an hour nothing is tried any
more: a disk that fails so often needs a person. Invariant: as long as the disk fails, the worker stays, so that senders get an answer and
mail can be read.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from gatepost.app.parent_line import ParentLine
from gatepost.config import Settings
from gatepost.spool import sync_failure

LOOK_SECONDS = 0.2
LONGEST_PAUSE = 600.0

log = structlog.get_logger()


class DiskWatch:
    """`failed` gives directory → error of each place that is closed after an I/O error; `stop` ends the worker."""

    def __init__(
        self,
        failed: Callable[[], Mapping[Path, str]],
        settings: Callable[[], Settings],
        parent: ParentLine,
        stop: asyncio.Event,
        on_failure: Callable[[str], Awaitable[None]],
        *,
        low_space: Callable[[], bool],
    ) -> None:
        self._low_space = low_space
        self._low = False
        self._failed = failed
        self._settings = settings
        self._parent = parent
        self._stop = stop
        self._on_failure = on_failure

    async def run(self) -> None:
        """Until cancelled, or until the worker is to end."""
        known: dict[Path, sync_failure.SyncFailures] = {}
        pause = begin = 0.0
        while not self._stop.is_set():
            await asyncio.sleep(LOOK_SECONDS)
            self._look_at_space()
            fresh = {place: error for place, error in self._failed().items() if place not in known}
            for place, error in fresh.items():
                known[place] = await asyncio.to_thread(sync_failure.note, place, error)
                log.critical(
                    "a sync failed; this place is closed", place=str(place), error=error, action="check the disk (dmesg, smartctl)"
                )
            if fresh:
                pause, begin = self._settings().spool.reopen_seconds, time.monotonic()
                await self._tell(known, pause)
            if known and pause and time.monotonic() - begin >= pause and not self._given_up(known):
                if await self._proven(list(known)):
                    self._stop.set()
                    return
                pause, begin = min(pause * 2, LONGEST_PAUSE), time.monotonic()

    def _look_at_space(self) -> None:
        low = self._low_space()
        if low and not self._low:
            log.warning("disk nearly full: no new mail is taken (452 4.3.1); deliveries go on")
        elif self._low and not low:
            log.warning("there is room on the disk again: mail is taken")
        self._low = low

    async def _tell(self, known: Mapping[Path, sync_failure.SyncFailures], pause: float) -> None:
        """To the supervisor, and with that to `gatepost status` and the health service."""
        errors = "; ".join(one.error for one in known.values())
        if self._given_up(known):
            then = "it failed too often to be opened again by itself: repair the disk, then restart gatepost"
        elif pause:
            then = f"it is opened again when the disk takes writes, first looked at after {pause:g} s"
        else:
            then = "check the disk, then restart gatepost (spool.reopen_seconds is 0)"
        text = f"a sync failed: {errors}; {then}"
        self._parent.say("failed", text)
        await self._on_failure(text)

    @staticmethod
    def _given_up(known: Mapping[Path, sync_failure.SyncFailures]) -> bool:
        now = time.time()
        return any(one.recent(now) > sync_failure.MAX_REOPENINGS for one in known.values())

    async def _proven(self, places: list[Path]) -> bool:
        """True when every place takes a file and a sync."""
        for place in places:
            try:
                await asyncio.to_thread(sync_failure.probe, place)
            except OSError as error:
                log.error("the disk still fails", place=str(place), error=str(error))
                return False
        log.warning("the disk takes writes again; the worker restarts and reads what is really there", places=[str(one) for one in places])
        return True
