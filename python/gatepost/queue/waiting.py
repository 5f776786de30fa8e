"""Mail that waits for a scanner (destination `scan-wait`): scanned again by itself, and not left waiting for ever. Wired by app/.

A pass goes over all of it, oldest first: when a scanner is back (`wake`), every LOOK_SECONDS if none is out (a single scan may have
failed), and every LOOK_SECONDS for what has waited longer than its policy's `outage_minutes`; that goes into quarantine, or on its way,
as `quarantine.after_wait` says. What is clean is delivered, what policy holds is held with its own destination, all else goes into
quarantine: a message in the queue cannot be refused or changed any more.

Invariants: every verdict is noted before it is acted upon; what a crash cuts short is scanned again; a pass holds PART messages at a time,
and stops asking scanners after GIVE_UP messages in a row of which one was out. A fault ends the pass, is logged, and the next one goes on.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from gatepost.config import Settings
from gatepost.message.verdict import SCAN_WAIT
from gatepost.queue import withheld
from gatepost.queue.actions import Order
from gatepost.queue.quarantine import ACTOR, NoScannerError, Outlook, Quarantine
from gatepost.queue.retry import MICROSECONDS
from gatepost.queue.views import QueuedMessage
from gatepost.spool import AsyncSpool

PART = 64
"""Messages whose outcomes become one operation."""
GIVE_UP = 8
LOOK_SECONDS = 15.0
EVERY = 20
"""Looks while a scanner is out before everything is scanned again all the same: a scanner may be back unnoticed."""

log = structlog.get_logger()


@dataclass(slots=True)
class Outcome:
    """Packed ids by what becomes of them."""

    clean: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)
    late: list[bytes] = field(default_factory=list)


class Waiting:
    """One per worker. `wait_seconds` says how long a policy, by its name, lets mail wait, `ready` whether every scanner is in service."""

    def __init__(
        self,
        spool: AsyncSpool,
        quarantine: Quarantine,
        settings: Callable[[], Settings],
        wait_seconds: Callable[[str], float],
        ready: Callable[[], bool] = lambda: False,
    ) -> None:
        self._spool = spool
        self._quarantine = quarantine
        self._settings = settings
        self._wait_seconds = wait_seconds
        self._ready = ready
        self._back = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after waiting mail."""
        self._task = asyncio.create_task(self._run(), name="scan-wait")

    async def stop(self) -> None:
        """End that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self, scanner: str = "") -> None:
        """A scanner is back: scan what waits."""
        self._back.set()

    async def settle(self, *, scan: bool) -> int:
        """One pass; how many messages wait no more. Without `scan` only those that have waited long enough are looked at."""
        settled = out = 0
        after: bytes | None = None
        while True:
            messages, after = await asyncio.to_thread(self._part, after)
            outcome = Outcome()
            for message in messages:
                scan = scan and out < GIVE_UP
                found = await self._look(message, outcome, scan=scan)
                out = out + 1 if found else 0
            settled += await self._carry_out(outcome)
            if after is None:
                return settled

    # ---- inside

    async def _run(self) -> None:
        await self._spool.whole()
        looks = 0
        while self._spool.fatal is None:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._back.wait()
            except TimeoutError:
                pass
            looks = 0 if self._back.is_set() else looks + 1
            scan = looks % EVERY == 0 or self._ready()
            self._back.clear()
            try:
                if any(row[0] == SCAN_WAIT for row in self._spool.destinations()):
                    await self.settle(scan=scan)
            except Exception as error:
                log.error("mail that waits for a scanner could not be looked after; tried again", error=repr(error))

    def _part(self, after: bytes | None) -> tuple[list[QueuedMessage], bytes | None]:
        """*blocking* The next messages that wait, and where to go on."""
        found = withheld.page_of(self._spool, SCAN_WAIT, after, PART)
        return [message for message in found[0] if any(one.pending and one.destination == SCAN_WAIT for one in message.recipients)], found[
            1
        ]

    async def _look(self, message: QueuedMessage, outcome: Outcome, *, scan: bool) -> bool:
        """Sort one message. True when a scanner was out."""
        late = self._is_late(message)
        if scan:
            try:
                outlook = await self._quarantine.scan(message, ACTOR)
            except NoScannerError:
                outlook = Outlook.CLEAN if late else Outlook.OUT  # nothing scans here any more
            if outlook is not Outlook.OUT:
                sorted_by = {Outlook.CLEAN: outcome.clean, Outlook.HELD: outcome.held, Outlook.BAD: outcome.bad}
                sorted_by[outlook].append(message.message_id)
                return False
        if late:
            outcome.late.append(message.message_id)
        return scan

    def _is_late(self, message: QueuedMessage) -> bool:
        verdict = message.meta.verdict
        limit = self._wait_seconds(verdict.policy if verdict is not None else "")
        return time.time() - message.received_at / MICROSECONDS > limit

    async def _carry_out(self, outcome: Outcome) -> int:
        settled = 0
        if outcome.clean:
            order = Order(ACTOR, selection="scanned again, clean")
            settled += (await self._quarantine.release(b"".join(outcome.clean), order)).changed
        if outcome.held:
            order = Order(ACTOR, selection="scanned again, held by policy")
            settled += (await self._quarantine.release(b"".join(outcome.held), order, hold=True)).changed
        if outcome.bad:
            order = Order(ACTOR, selection="scanned again, not clean")
            settled += (await self._quarantine.confine(b"".join(outcome.bad), order)).changed
        if outcome.late:
            settled += await self._give_up(b"".join(outcome.late))
        return settled

    async def _give_up(self, ids: bytes) -> int:
        """The time in which a scanner had to come back is over."""
        release = self._settings().quarantine.after_wait == "release"
        log.warning("a scanner has been out for too long", messages=len(ids) // withheld.ID, released=release)
        order = Order(ACTOR, selection="waited too long for a scanner")
        done = await (self._quarantine.release(ids, order) if release else self._quarantine.confine(ids, order))
        return done.changed
