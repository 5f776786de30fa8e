"""One lane of a destination whose transport chains jobs over a connection. Made by scheduler, used by the transport through `Lane`.

Invariant: every job that was taken is settled by `done`, or, when the chain ends otherwise, given back (stop) or put off (a bug).
"""

import asyncio
from typing import Protocol

import structlog

from gatepost.queue.destination import DestinationState
from gatepost.queue.transport import ChainTransport, Job, JobResult

log = structlog.get_logger()


class ChainHost(Protocol):
    """The part of the scheduler that a lane calls."""

    def now(self) -> int:
        """Unix microseconds."""
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

    async def run(self, transport: ChainTransport, job: Job) -> None:
        """Let the transport work from `job` on until it has no more. Never raises but CancelledError."""
        self._open[job.message_id] = (job, self._host.now())
        try:
            await transport.chain(self._state.name, job, self)
        except asyncio.CancelledError:
            self._host.give_back(self._left())
            raise
        except Exception:
            log.exception("transport failed", destination=self._state.name)
        if self._open:
            self._host.put_off(self._left())

    def next(self) -> Job | None:
        """One more job of the destination."""
        job = self._host.take_next(self._state)
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
