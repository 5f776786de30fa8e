"""The workers as processes: start, watch, restart, stop. Used by app.start and the supervisor only.

A worker is exec'ed, never forked (`child`), and holds one end of a line (`parent_line`): over it come its orders and its listening sockets,
when directory and certificates are ready (`begin`; `launch` executes workers earlier, so that they import meanwhile), and back goes how it
is. When the supervisor is gone, the line ends and the worker drains and leaves. A worker that dies is
started again at once, later with growing pauses; the listening sockets stay open meanwhile, so clients wait instead of being refused. After
GIVE_UP failed starts in a row the sockets are closed, so that the kernel sends clients to the other workers, until it is back.

Surplus partitions, left by an earlier start with more workers, get a drain worker each: no sockets, nobody waits for it at the start, and
when it says that it is empty, its place goes: `on_retired` removes the partition.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from gatepost.app.child import Child
from gatepost.app.listeners import ListenError, ListenerSet, close_all
from gatepost.app.parent_line import LineReader, Orders, send_orders

GIVE_UP = 5
QUICK_SECONDS = 10.0
READY_SECONDS = 60.0
"""How long a worker that starts may be silent. Recovery may take longer; it reports how far it is."""
RETRY_SECONDS = 30.0
LONGEST_PAUSE = 1.0

log = structlog.get_logger()


@dataclass(slots=True)
class WorkerProcess:
    """One worker's place: its number, and the process that fills it now."""

    index: int
    sockets: dict[str, list[socket.socket]]
    process: Child | None = None
    taking: asyncio.Event = field(default_factory=asyncio.Event)
    """Has come so far that it takes mail; what else it does follows."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    restarts: int = 0
    quick_deaths: int = 0
    failed_starts: int = 0
    started: float = 0.0
    heard: float = 0.0
    """When it last got further on its way to ready."""
    drains: bool = False
    """It empties a surplus partition."""
    empty: bool = False
    detail: str = ""
    """What it said last while it was not ready: how far recovery is, or why it ended."""
    failure: str = ""
    """Not empty while a partition or volume of it is closed after an I/O error."""

    @property
    def pid(self) -> int:
        """0 while there is no process."""
        return self.process.pid if self.process is not None and self.process.returncode is None else 0


@dataclass(frozen=True, slots=True)
class SettingsPlace:
    """Where the workers read their settings, as the supervisor did."""

    data: Path
    config: Path | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)


class WorkerPool:
    """Keeps `count` workers alive, and those of `surplus` partitions until they are empty. `early`: a worker that was executed already and
    takes the first place.
    """

    def __init__(
        self, count: int, listeners: ListenerSet, settings: SettingsPlace, *, surplus: Sequence[int] = (), early: Child | None = None
    ) -> None:
        self._listeners = listeners
        self._settings = settings
        self._early = early
        self._on_change: Callable[[], None] = lambda: None
        self._on_retired: Callable[[int], Awaitable[None]] | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._begun = False
        self._stopping = asyncio.Event()
        self.workers = [WorkerProcess(n, {}) for n in range(count)] + [WorkerProcess(n, {}, drains=True) for n in surplus]

    def report_to(self, on_change: Callable[[], None], on_retired: Callable[[int], Awaitable[None]]) -> None:
        """Who is told from now on: that a worker came, went or said something; and the number of a partition that is emptied and closed."""
        self._on_change, self._on_retired = on_change, on_retired

    async def launch(self) -> None:
        """Execute all; they prepare themselves and then wait for `begin`. Returns when each is a process, or could not become one."""
        for worker in self.workers:
            worker.sockets = {} if worker.drains else self._listeners.open()
            self._keepers.append(asyncio.create_task(self._keep(worker), name=f"worker {worker.index}"))
        await asyncio.sleep(0)  # each keeper has come to where it waits

    def begin(self) -> None:
        """Give the word: orders to all who wait, and at once to who is executed later. A second call does nothing."""
        if self._begun:
            return
        self._begun = True
        for worker in self.workers:
            worker.heard = time.monotonic()
            if worker.process is not None:
                self._give_orders(worker, worker.process)

    def _give_orders(self, worker: WorkerProcess, process: Child) -> None:
        place, counts = self._settings, {name: len(group) for name, group in worker.sockets.items()}
        config = str(place.config) if place.config else ""
        orders = Orders(str(place.data), config, dict(place.overrides), worker.index, worker.drains, counts)
        with contextlib.suppress(OSError):  # it has ended already: its keeper sees it
            process.line.setblocking(True)
            send_orders(process.line, orders, worker.sockets)
            process.line.setblocking(False)

    async def wait_taking(self, seconds: float) -> None:
        """Wait until all that listen take mail, or one has ended, at most so long."""
        waits = [worker.taking.wait() for worker in self.workers if not worker.drains]
        taking = asyncio.create_task(_all(waits))
        await asyncio.wait({taking, *self._keepers}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        taking.cancel()

    async def wait_ready(self) -> None:
        """Wait for those that listen. Raises RuntimeError with the worker's number when one does not become ready."""
        for worker, keeper in self._places():
            if not worker.drains:
                await self._await_ready(worker, keeper)

    def _places(self) -> list[tuple[WorkerProcess, asyncio.Task[None]]]:
        return list(zip(self.workers, self._keepers, strict=True))

    async def _await_ready(self, worker: WorkerProcess, keeper: asyncio.Task[None]) -> None:
        """Wait as long as the worker gets further; READY_SECONDS of silence are too many."""
        waiter = asyncio.create_task(worker.ready.wait())
        try:
            while not waiter.done() and not keeper.done() and (left := worker.heard + READY_SECONDS - time.monotonic()) > 0:
                await asyncio.wait({waiter, keeper}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiter.cancel()
        if not worker.ready.is_set():
            fault = f": {worker.detail}" if worker.detail else "; its message is above"
            raise RuntimeError(f"worker {worker.index} did not start{fault}")

    async def _keep(self, worker: WorkerProcess) -> None:
        first = not worker.drains
        while not self._stopping.is_set():
            try:
                was_ready, status = await self._run_once(worker)
            except OSError as error:  # no memory, processes or descriptors left for now
                was_ready, status = False, f"not started: {error}"
            if self._stopping.is_set():
                return
            if worker.empty:
                await self._retire(worker)
                return
            if worker.failure:
                log.warning("worker restarts after a failed sync", worker=worker.index, status=status, failure=worker.failure)
            else:
                log.error("worker died", worker=worker.index, status=status, restarts=worker.restarts)
            if first and not was_ready:
                return
            first = False
            await self._pause(worker, failed_start=not was_ready and status != signal.SIGKILL.name)
            worker.restarts += 1

    async def _retire(self, worker: WorkerProcess) -> None:
        """The partition of a drain worker is empty and closed."""
        self.workers.remove(worker)
        if self._on_retired is not None:
            await self._on_retired(worker.index)
        self._on_change()

    async def _run_once(self, worker: WorkerProcess) -> tuple[bool, str]:
        """Exec the worker and wait for its end. Returns whether it was ready, and how it ended. Raises OSError when it cannot start."""
        worker.started = worker.heard = time.monotonic()
        early, self._early = self._early, None
        process = worker.process = early or Child()
        if self._begun:
            self._give_orders(worker, process)
        loop = asyncio.get_running_loop()
        reader, fd = LineReader(process.line.fileno()), process.line.fileno()
        process.line.setblocking(False)
        loop.add_reader(fd, self._on_told, worker, reader, fd)
        try:
            status = _status(await process.wait())
            if loop.remove_reader(fd):
                self._on_told(worker, reader, fd)  # what it said last
            return worker.ready.is_set(), status
        finally:
            loop.remove_reader(fd)
            process.line.close()
            worker.process = None
            worker.taking.clear()
            worker.ready.clear()
            self._on_change()

    def _on_told(self, worker: WorkerProcess, reader: LineReader, fd: int) -> None:
        """The worker says how it is, or has closed its end."""
        told = reader.read()
        if told is None:
            asyncio.get_running_loop().remove_reader(fd)
            return
        for kind, detail in told:
            if kind == "taking":
                worker.taking.set()
            elif kind == "ready":
                worker.ready.set()
                worker.failure = ""
            elif kind == "failed":
                worker.failure = detail
            elif kind == "empty":
                worker.empty = True
            if kind != "opening" or detail != worker.detail:
                worker.heard = time.monotonic()
            worker.detail = detail if kind in ("opening", "fault") else ""
        self._on_change()

    async def _pause(self, worker: WorkerProcess, *, failed_start: bool) -> None:
        """Wait before the next start: nothing after a long life, a little longer after each quick death.

        Only a worker that fails to start is given up for a while: one that was ready, or was killed, will do its work when it is back.
        """
        if time.monotonic() - worker.started > QUICK_SECONDS:
            worker.quick_deaths = worker.failed_starts = 0
            return
        worker.quick_deaths += 1
        worker.failed_starts = worker.failed_starts + 1 if failed_start else 0
        if worker.failed_starts < GIVE_UP:
            await self._sleep(min(0.05 * 2**worker.quick_deaths, LONGEST_PAUSE))
            return
        log.error("worker keeps dying; other workers take its clients", worker=worker.index, retry_seconds=RETRY_SECONDS)
        close_all(worker.sockets)
        worker.sockets = {}
        while not worker.sockets and not self._stopping.is_set():
            await self._sleep(RETRY_SECONDS)
            try:
                worker.sockets = self._listeners.open()
            except (ListenError, OSError) as error:
                log.error("worker cannot listen", worker=worker.index, error=str(error), retry_seconds=RETRY_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `stop`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def signal_all(self, number: signal.Signals) -> None:
        """Pass a signal on to every living worker."""
        for worker in self.workers:
            if worker.process is not None and worker.process.returncode is None:
                worker.process.send_signal(number)

    async def stop(self, grace: float) -> None:
        """SIGTERM, wait `grace` seconds, then SIGKILL what is left. A second call finds nothing to do."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.signal_all(signal.SIGTERM)
        pending = [k for k in self._keepers if not k.done()]
        if pending:
            _, late = await asyncio.wait(pending, timeout=grace)
            if late:
                log.warning("workers did not stop in time; killed", count=len(late))
                self.signal_all(signal.SIGKILL)
                await asyncio.wait(late, timeout=1.0)
        for keeper in self._keepers:
            keeper.cancel()
        for worker in self.workers:
            close_all(worker.sockets)


async def _all(waits: Sequence[Coroutine[object, object, object]]) -> None:
    await asyncio.gather(*waits)


def _status(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
