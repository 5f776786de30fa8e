"""One lane of a destination whose transport chains jobs over a connection. Made by scheduler, used by the transport through `Lane`.

A lane that runs dry comes back PACE_SECONDS after it began, so that what arrived meanwhile goes in one row, and then rests REST_SECONDS
for more before it ends. Invariant: every job that was taken is settled by `done`, or, when the chain ends otherwise, given back (stop) or
put off (a bug).
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from gatepost.native import Job as RawJob
from gatepost.native import Spool
from gatepost.queue.destination import DestinationState
from gatepost.queue.transport import ChainTransport, Job, JobResult

PACE_SECONDS = 0.01
REST_SECONDS = 0.1

log = structlog.get_logger()


class ChainHost(Protocol):
    """The part of the scheduler that a lane calls."""

    def now(self) -> int:
        """Unix microseconds."""
        ...

    def spool(self, state: DestinationState) -> Spool | None:
        """The spool for jobs taken directly, None while every change has to be seen."""
        ...

    def may_take(self, state: DestinationState) -> bool:
        """False when nothing may be started for this destination."""
        ...

    def may_chain(self, state: DestinationState) -> bool:
        """False when a chain has to end: others wait for its slot, or every message has to be looked at."""
        ...

    def readable(self, destination: str, raw: RawJob) -> Job | None:
        """Decode a job; None when it was put away because it cannot be read."""
        ...

    def took(self, state: DestinationState, delivered: int) -> None:
        """Count what was delivered without the scheduler."""
        ...

    def return_raw(self, jobs: Sequence[RawJob]) -> None:
        """Undo the taking of jobs that were not decoded."""
        ...

    def take_first(self, state: DestinationState) -> Job | None:
        """The next due job."""
        ...

    def take_next(self, state: DestinationState) -> Job | None:
        """One more job, if this lane should go on."""
        ...

    async def settle_one(self, state: DestinationState, job: Job, result: JobResult, started: int) -> None:
        """Journal one result."""
        ...

    def give_back(self, jobs: list[Job]) -> None:
        """Undo the taking."""
        ...

    def put_off(self, jobs: list[Job]) -> None:
        """Defer after a fault of our own."""
        ...


class ChainLane:
    """Implements transport.Lane."""

    def __init__(self, host: ChainHost, state: DestinationState) -> None:
        self._host = host
        self._state = state
        self._open: dict[bytes, tuple[Job, int]] = {}

    async def run(self, transport: ChainTransport) -> None:
        """Let the transport work until the destination has no more. Never raises but CancelledError."""
        loop = asyncio.get_running_loop()
        while self.may_go_on():
            began = loop.time()
            await self._chain(transport)
            if not self.may_go_on():
                return
            rest = began + PACE_SECONDS - loop.time()
            if rest > 0:
                await asyncio.sleep(rest)
            if not self._state.ready and not await self._rest(loop):
                return

    async def _chain(self, transport: ChainTransport) -> None:
        try:
            await transport.chain(self._state.name, self)
        except asyncio.CancelledError:
            self._host.give_back(self._left())
            raise
        except Exception:
            log.exception("transport failed", destination=self._state.name)
            self._state.ready = True
        if self._open:
            self._host.put_off(self._left())

    async def _rest(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Wait a moment for more. False when nothing came."""
        poke: asyncio.Future[None] = loop.create_future()
        self._state.resting.append(poke)
        try:
            async with asyncio.timeout(REST_SECONDS):
                await poke
        except TimeoutError:
            return False
        finally:
            if poke in self._state.resting:
                self._state.resting.remove(poke)
        return True

    # ---- for the transport

    def direct(self) -> Spool | None:
        """Part of Lane."""
        spool = self._host.spool(self._state)
        self._state.ready = self._state.ready and spool is None
        return spool

    def may_go_on(self) -> bool:
        """Part of Lane."""
        return self._host.may_take(self._state) and self._host.may_chain(self._state)

    def delivered(self, count: int) -> None:
        """Part of Lane."""
        self._host.took(self._state, count)

    def emptied(self, dry: bool) -> None:
        """Part of Lane."""
        if not dry:
            self._state.ready = True

    def return_raw(self, jobs: Sequence[RawJob]) -> None:
        """Part of Lane."""
        self._host.return_raw(jobs)

    def adopt(self, raw: RawJob, started: int) -> Job | None:
        """Part of Lane."""
        job = self._host.readable(self._state.name, raw)
        if job is not None:
            self._open[job.message_id] = (job, started)
        return job

    def take(self) -> Job | None:
        """Part of Lane."""
        return self._opened(self._host.take_first(self._state))

    def next(self) -> Job | None:
        """Part of Lane."""
        return self._opened(self._host.take_next(self._state))

    def _opened(self, job: Job | None) -> Job | None:
        if job is not None:
            self._open[job.message_id] = (job, self._host.now())
        return job

    async def done(self, job: Job, result: JobResult) -> None:
        """Journal the outcome; the job is ours until that has happened."""
        _, started = self._open[job.message_id]
        await self._host.settle_one(self._state, job, result, started)
        del self._open[job.message_id]

    def _left(self) -> list[Job]:
        left = [job for job, _ in self._open.values()]
        self._open.clear()
        return left
