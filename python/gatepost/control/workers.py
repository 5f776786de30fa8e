"""The supervisor's links to its workers: a channel each, over DIR/run/worker-I.sock, and the fan-out over all of them.

Used by the merging servicers and the server servicer. A worker that restarts is waited for RESTART_WAIT seconds, then left out and
named in the warnings; each call has a deadline, so nothing here hangs. Channels reconnect by themselves.
Build it inside the running event loop (grpc.aio binds to it), after the process was started: channels do not survive a fork.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import grpc
import grpc.aio

from gatepost.api.events.v1 import events_pb2_grpc
from gatepost.api.history.v1 import history_pb2_grpc
from gatepost.api.mailbox.v1 import mailbox_pb2_grpc
from gatepost.api.quarantine.v1 import quarantine_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.api.worker.v1 import worker_pb2 as worker_api
from gatepost.api.worker.v1 import worker_pb2_grpc
from gatepost.control.endpoint import CHANNEL_OPTIONS, unix_target
from gatepost.control.errors import ControlError, from_rpc, unavailable

RESTART_WAIT = 2.0
CALL_SECONDS = 20.0
PROBE_SECONDS = 1.0
_RETRY_PAUSE = 0.1

T = TypeVar("T")


class WorkerLink:
    """One worker: its number and stubs. One that drains a surplus partition takes no new mail."""

    def __init__(self, index: int, path: Path, *, drains: bool = False) -> None:
        self.index = index
        self.drains = drains
        self.retired = False
        """Its partition is empty and gone: nobody misses its answer."""
        self._target = unix_target(path)
        self._channel = grpc.aio.insecure_channel(self._target.text, options=CHANNEL_OPTIONS)
        self.queue = queue_pb2_grpc.QueueServiceStub(self._channel)
        self.quarantine = quarantine_pb2_grpc.QuarantineServiceStub(self._channel)
        self.history = history_pb2_grpc.HistoryServiceStub(self._channel)
        self.mailbox = mailbox_pb2_grpc.MailboxServiceStub(self._channel)
        self.events = events_pb2_grpc.EventsServiceStub(self._channel)
        self.worker = worker_pb2_grpc.WorkerServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close(None)
        self._target.close()


@dataclass(slots=True)
class Answers(Generic[T]):
    """What the workers said, by number, and a warning for each that could not be asked."""

    by_worker: dict[int, T] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def partial(self) -> bool:
        """True when a worker is missing."""
        return bool(self.warnings)


class WorkerLinks:
    """All workers. `sockets` maps number → socket path; those of `drains` empty a surplus partition and are gone some time."""

    def __init__(self, sockets: Mapping[int, Path], drains: Container[int] = ()) -> None:
        self._links = {index: WorkerLink(index, path, drains=index in drains) for index, path in sorted(sockets.items())}
        self._turn = 0

    async def retire(self, index: int) -> None:
        """Forget a worker whose partition is empty. Calls under way count as answered by nobody, without a warning."""
        link = self._links.pop(index, None)
        if link is not None:
            link.retired = True
            await link.close()

    def all(self) -> Sequence[WorkerLink]:
        """Every link, by number."""
        return list(self._links.values())

    def __getitem__(self, index: int) -> WorkerLink:
        return self._links[index]

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(link.close() for link in self._links.values()))

    async def ask_all(self, call: Callable[[WorkerLink], Awaitable[T]], wait: float = RESTART_WAIT) -> Answers[T]:
        """Call every worker at once. Raises ControlError for a failure other than being away, and when all are away."""
        return await self.ask(self.all(), call, wait)

    async def ask(self, links: Sequence[WorkerLink], call: Callable[[WorkerLink], Awaitable[T]], wait: float = RESTART_WAIT) -> Answers[T]:
        """Like `ask_all`, for some of them."""
        results = await asyncio.gather(*(self._ask_one(link, call, wait) for link in links), return_exceptions=True)
        answers: Answers[T] = Answers()
        for link, result in zip(links, results, strict=True):
            if isinstance(result, BaseException) and link.retired:
                continue
            if isinstance(result, ControlError) and _away(result.status):
                answers.warnings.append(f"worker {link.index} cannot be asked: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.by_worker[link.index] = result
        if links and not answers.by_worker:
            raise unavailable("; ".join(answers.warnings))
        return answers

    async def _ask_one(self, link: WorkerLink, call: Callable[[WorkerLink], Awaitable[T]], wait: float) -> T:
        """One call, again while the worker is away, for `wait` seconds at most. Raises ControlError."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + wait
        while True:
            try:
                return await call(link)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or loop.time() >= give_up or link.retired:
                    raise from_rpc(error) from error
            await asyncio.sleep(_RETRY_PAUSE)

    async def pick_healthy(self) -> WorkerLink:
        """A worker that can take mail, in turn. Raises ControlError when there is none."""
        give_up = asyncio.get_running_loop().time() + RESTART_WAIT
        while True:
            for _ in self._links:
                link = self._next()
                if await _is_healthy(link):
                    return link
            if asyncio.get_running_loop().time() >= give_up:
                raise unavailable("no worker can take the message now; try again")
            await asyncio.sleep(_RETRY_PAUSE)

    def _next(self) -> WorkerLink:
        links = [link for link in self._links.values() if not link.drains]
        self._turn = (self._turn + 1) % len(links)
        return links[self._turn]


def _away(status: grpc.StatusCode) -> bool:
    return status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def _is_healthy(link: WorkerLink) -> bool:
    try:
        return (await link.worker.GetWorkerStatus(worker_api.GetWorkerStatusRequest(), timeout=PROBE_SECONDS)).healthy
    except grpc.aio.AioRpcError:
        return False
