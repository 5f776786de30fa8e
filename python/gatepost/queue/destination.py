"""State of one destination: how many deliveries run, how many may, and whether it backs off as a whole. Used by scheduler only; no I/O.

    state      | may run             | left when
    up         | up to `limit`       | a connection-level fault while nothing succeeded since that attempt began → backing off
    backing off| nothing             | `down_until` has passed → probing
    probing    | one                 | success → up; fault → backing off, longer
Times are Unix microseconds of the scheduler's clock.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

from gatepost.queue.retry import MICROSECONDS, RetryPolicy
from gatepost.queue.transport import Deferred
from gatepost.routing.model import DeliveryOptions

MINUTE = 60 * MICROSECONDS


@dataclass(slots=True, eq=False)
class DestinationState:
    """`ready`: the spool may have due jobs; `queued`: waiting for its turn; `lanes`: deliveries running; `limit`: how many may run.

    `soft` (0: none): how many lanes are worth having now; it doubles while due jobs have to wait, and starts anew when all are through.
    `options`: what a rule says of its mail, known from its first message on; all its routes have the same. `sent`: when the last messages
    began, as many as the rule lets begin in a minute.
    """

    name: str
    maximum: int
    limit: int
    local: bool
    ready: bool = False
    queued: bool = False
    sweeping: bool = False
    lanes: int = 0
    failures: int = 0
    down_until: int = 0
    last_success: int = 0
    fault: Deferred | None = None
    soft: int = 0
    growing: asyncio.TimerHandle | None = None
    resting: list[asyncio.Future[None]] = field(default_factory=list)
    options: DeliveryOptions | None = None
    sent: deque[int] = field(default_factory=deque)
    pacing: asyncio.TimerHandle | None = None

    @property
    def last_error(self) -> str:
        """What was wrong last; '' while nothing was."""
        return self.fault.reason if self.fault is not None else ""

    def backing_off(self, now: int) -> bool:
        """True while nothing is tried."""
        return now < self.down_until

    def room(self, now: int) -> bool:
        """True when one more delivery may start."""
        if self.backing_off(now):
            return False
        return self.lanes < (1 if self.failures else min(self.limit, self.soft or self.limit))

    def pause_until(self, now: int) -> int:
        """When the next message may begin by the rule's rate, 0 for now."""
        rate = self.options.rate_per_minute if self.options is not None else 0
        while self.sent and (not rate or now - self.sent[0] >= MINUTE):
            self.sent.popleft()
        return self.sent[len(self.sent) - rate] + MINUTE if rate and len(self.sent) >= rate else 0

    def began(self, count: int, now: int) -> None:
        """So many messages begin, for the rate."""
        if self.options is not None and self.options.rate_per_minute:
            self.sent.extend([now] * count)

    def poke(self) -> bool:
        """Wake a lane that rests; False when there is none."""
        while self.resting:
            poke = self.resting.pop()
            if not poke.done():
                poke.set_result(None)
                return True
        return False

    def succeeded(self, now: int) -> bool:
        """A delivery got through: the destination is up, and may take one more at once than before. True when it was down until now."""
        was_down = self.failures > 0
        self.last_success = now
        self.failures = 0
        self.down_until = 0
        if self.limit < self.maximum:
            self.limit += 1
        return was_down

    def failed(self, started: int, now: int, fault: Deferred, policy: RetryPolicy, rng: random.Random) -> bool:
        """A fault of the destination as a whole. True when that starts (or prolongs) a back-off."""
        self.fault = fault
        if self.last_success and self.last_success >= started:
            # Others get through: we are probably too many. Fewer at once will do.
            self.limit = max(1, self.limit // 2)
            return False
        if self.backing_off(now):
            return False  # deliveries that ran side by side and failed together count once
        self.failures += 1
        if not self.soft:
            self.limit = 1  # afterwards each success adds one; with `soft` the lanes grow anyway
        self.down_until = now + int(policy.of(self.options).destination_wait(self.failures, rng) * MICROSECONDS)
        return True

    def forget(self) -> None:
        """An operator says: try now."""
        self.failures = 0
        self.down_until = 0
        self.limit = self.maximum

    def forgettable(self, now: int) -> bool:
        """True when nothing runs or waits here. Past faults count no more: a host that is dead must not stay for ever."""
        waits = self.ready or self.queued or self.sweeping or self.lanes or self.pacing is not None or self.pause_until(now)
        return not (waits or self.backing_off(now))
