"""One lane of a destination whose transport takes, delivers and journals by itself (local mail). Made by scheduler, used by nobody else.

Rounds are at least PACE_SECONDS apart unless they are full: the first message goes at once, and those behind it share a round, a sync and a
transaction. Invariants: a round that takes long gets a second lane beside it, so that a large message does not hold up small ones; while
somebody watches events, or when the transport cannot begin, jobs go one by one through the scheduler instead.
"""

import asyncio
from typing import Protocol

from gatepost.queue.destination import DestinationState
from gatepost.queue.transport import RoundResult, RoundTransport

PACE_SECONDS = 0.025
PATIENCE_SECONDS = 0.2
LANES = 2


class RoundHost(Protocol):
    """The part of the scheduler that a lane calls."""

    def now(self) -> int:
        """Unix microseconds."""
        ...

    def may_take(self, state: DestinationState) -> bool:
        """False when nothing may be started for this destination."""
        ...

    def one_by_one(self, state: DestinationState) -> bool:
        """True while every change has to be seen, or every message looked at."""
        ...

    async def attempt_next(self, state: DestinationState, transport: RoundTransport, count: int) -> int:
        """Take, deliver and settle up to `count` jobs; how many there were."""
        ...

    async def settle_round(self, state: DestinationState, transport: RoundTransport, result: RoundResult, started: int) -> None:
        """Count what was delivered, and finish what the round left."""
        ...

    def wake(self, state: DestinationState) -> None:
        """Start another lane, if the destination has room."""
        ...


class RoundLane:
    """Rounds of one destination, until it has nothing more."""

    def __init__(self, host: RoundHost, state: DestinationState, count: int) -> None:
        self._host = host
        self._state = state
        self._count = count

    async def run(self, transport: RoundTransport) -> None:
        """Rounds while there is something to take."""
        loop = asyncio.get_running_loop()
        while self._host.may_take(self._state):
            began = loop.time()
            helper = loop.call_later(PATIENCE_SECONDS, self._help)
            try:
                taken = await self._round(transport)
            finally:
                helper.cancel()
            if taken >= self._count:
                self._state.ready = True
                continue
            rest = began + PACE_SECONDS - loop.time()
            if taken and rest > 0:
                await asyncio.sleep(rest)
            if not self._state.ready:
                return

    async def _round(self, transport: RoundTransport) -> int:
        """What becomes ready from here on is announced anew, so that a round that took less than it might took all there was."""
        state, started = self._state, self._host.now()
        state.ready = False
        result = None if self._host.one_by_one(state) else await transport.round(state.name, self._count)
        if result is None:
            return await self._host.attempt_next(state, transport, self._count)
        await self._host.settle_round(state, transport, result, started)
        return result.taken

    def _help(self) -> None:
        """This round takes long: let another go on beside it."""
        self._state.limit = LANES
        self._host.wake(self._state)
