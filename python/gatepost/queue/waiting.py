"""Mail that waits for a scanner (destination `scan-wait`): scanned again by itself, and not left waiting for ever. Wired by app/.

A pass goes over all of it, oldest first: when a scanner is back (`wake`), every LOOK_SECONDS if none is out (a single scan may have
failed), and every LOOK_SECONDS for what has waited longer than its policy's `outage_minutes`; that goes into quarantine, or on its way,
as `quarantine.after_wait` says. What is clean is delivered, what policy holds is held with its own destination, all else goes into
quarantine: a message in the queue cannot be refused or changed any more. Each recipient goes by the policy that holds for it, as at
reception; those in quarantine stay there.

Invariants: every verdict is noted before it is acted upon; what a crash cuts short is scanned again; a pass holds PART messages at a time,
and stops asking scanners after GIVE_UP messages in a row of which one was out. A fault ends the pass, is logged, and the next one goes on.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

import structlog

from gatepost.config import Settings
from gatepost.message.verdict import SCAN_WAIT
from gatepost.queue import withheld
from gatepost.queue.actions import Order
from gatepost.queue.quarantine import ACTOR, NoScannerError, Outlook, Quarantine
from gatepost.queue.retry import MICROSECONDS
from gatepost.queue.views import QueuedMessage, RecipientStatus
from gatepost.spool import AsyncSpool

PART = 64
"""Messages whose outcomes become one operation."""
GIVE_UP = 8
LOOK_SECONDS = 15.0
EVERY = 20
"""Looks while a scanner is out before everything is scanned again all the same: a scanner may be back unnoticed."""

log = structlog.get_logger()


class Fate(Enum):
    """What becomes of a recipient that waited; the value tells the operation's reason."""

    CLEAN = "scanned again, clean"
    HELD = "scanned again, held by policy"
    BAD = "scanned again, not clean"
    LATE = "waited too long for a scanner"


_FATES = {Outlook.CLEAN: Fate.CLEAN, Outlook.HELD: Fate.HELD, Outlook.BAD: Fate.BAD}


@dataclass(slots=True)
class Outcome:
    """Recipients (indices by message id) by what becomes of them."""

    parts: dict[Fate, dict[bytes, set[int]]] = field(default_factory=dict)

    def add(self, fate: Fate, message_id: bytes, index: int) -> None:
        """One more."""
        self.parts.setdefault(fate, {}).setdefault(message_id, set()).add(index)


class Waiting:
    """One per worker. `wait_seconds`: how long the policy of a recipient lets mail wait; `ready`: whether every scanner is in service."""

    def __init__(
        self,
        spool: AsyncSpool,
        quarantine: Quarantine,
        settings: Callable[[], Settings],
        wait_seconds: Callable[[QueuedMessage, RecipientStatus], float],
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
        """One pass; for how many messages somebody waits no more. Without `scan` only what has waited long enough is looked at."""
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
        """Sort the recipients of one message. True when a scanner was out."""
        waiting = [index for index, one in enumerate(message.recipients) if one.pending and one.destination == SCAN_WAIT]
        late = {index for index in waiting if self._is_late(message, index)}
        outlooks: Mapping[int, Outlook] = dict.fromkeys(waiting, Outlook.OUT)
        if scan:
            try:
                outlooks = await self._quarantine.scan_waiting(message, ACTOR)
            except NoScannerError:
                outlooks = {index: Outlook.CLEAN if index in late else Outlook.OUT for index in waiting}  # nothing scans here any more
        for index, outlook in outlooks.items():
            if outlook is not Outlook.OUT:
                outcome.add(_FATES[outlook], message.message_id, index)
            elif index in late:
                outcome.add(Fate.LATE, message.message_id, index)
        return scan and Outlook.OUT in outlooks.values()

    def _is_late(self, message: QueuedMessage, index: int) -> bool:
        age = time.time() - message.received_at / MICROSECONDS
        return age > self._wait_seconds(message, message.recipients[index])

    async def _carry_out(self, outcome: Outcome) -> int:
        """A change of one does not undo that of another: they are of different recipients."""
        return sum([await self._settled(fate, some) for fate, some in outcome.parts.items()])

    async def _settled(self, fate: Fate, some: Mapping[bytes, set[int]]) -> int:
        if fate is Fate.LATE:
            log.warning("a scanner has been out for too long", messages=len(some), released=self._lets_go)
        order = Order(ACTOR, selection=fate.value)
        if fate in (Fate.CLEAN, Fate.HELD) or (fate is Fate.LATE and self._lets_go):
            return (await self._quarantine.send_waiting(some, order, hold=fate is Fate.HELD)).changed
        return (await self._quarantine.confine(some, order)).changed

    @property
    def _lets_go(self) -> bool:
        """Whether mail goes on its way when the time in which a scanner had to come back is over."""
        return self._settings().quarantine.after_wait == "release"
