"""One volume for asyncio. Deliveries complete through the store's eventfd, everything else runs in threads, changes are told to watchers.

The volume is opened at the first use or by `open`. Invariants: no call blocks the loop; every ticket gets its result, also when the
store is closed meanwhile; a watcher hears of a change by this process at once and of one by another process within a tick.
Failures are CoreError from native, passed through; one that a watcher's callback raises is logged and goes no further.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from gatepost.native import ClosedError, CoreError, Job, Spool, Store, SyncFailedError
from gatepost.spool import sync_failure

log = structlog.get_logger(__name__)

TICK_SECONDS = 0.2
"""How often changes by other processes are looked for while somebody watches."""
SETTLE_SECONDS = 0.01
"""Local changes within this time are told together."""

T = TypeVar("T")

Delivery = tuple[bytes, int, bytes, str, bytes, Sequence[tuple[int, int, bytes]]]
"""(message_id, recipient_index, mailbox_id, folder_name, prefix, edits), as in _core.pyi."""

Round = tuple[int, int, list[tuple[Job, list[CoreError | None] | None]]]
"""What `deliver_due` did: (jobs taken, recipients delivered and journaled, jobs to finish), as in _core.pyi."""

FolderInfo = tuple[bytes, str, str, bool, int, int, int, int, int, int, int]
"""As in _core.pyi."""

MessageInfo = tuple[int, int, int, int, list[str], bytes]
"""As in _core.pyi."""

_CHANGING = frozenset(
    {"copy", "create_folder", "delete_folder", "delete_mailbox", "expunge", "fetch", "remove", "rename_folder", "store_flags", "subscribe"}
)
"""Methods after which watchers may have something to hear ('fetch' sets \\Seen)."""


class SpoolHandle(Protocol):
    """The facade of the partition that messages are delivered from."""

    @property
    def native(self) -> Spool:
        """The native spool."""
        ...


class AsyncStore:
    """One volume, for one event loop."""

    def __init__(self, path: str, executor: Executor, *, stream: str, min_free_bytes: int = 0, segment_bytes: int = 64 << 20) -> None:
        self.path = path
        self._executor = executor
        self._place = Path(path) / "log" / stream
        # Deliveries free the queue's own space: they go on as soon as they can, without the distance that keeps reception from flapping.
        room = {"min_free_bytes": min_free_bytes, "resume_free_bytes": min_free_bytes}
        self._make = partial(Store, path, stream=stream, segment_bytes=segment_bytes, **room)
        self.fatal: SyncFailedError | None = None
        """The failed sync that closed the volume for this process."""
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._ticket = 0
        self._waiting: dict[int, tuple[asyncio.Future[list[CoreError | None]], int]] = {}
        self._rounds: dict[int, tuple[asyncio.Future[Round], Spool]] = {}
        self._watchers: dict[bytes, list[Callable[[], None]]] = defaultdict(list)
        self._modseq = 0
        self._poke = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None

    @property
    def place(self) -> Path:
        """Directory of this process's own log in the volume."""
        return self._place

    def _open_trusted(self) -> Store:
        """*blocking* Open; after a failed sync from what is really on the disk. Raises SyncFailedError when it still fails."""
        failures = sync_failure.distrust(self._place)
        store = self._make()
        if failures is not None:
            log.warning("volume opened again after a failed sync", path=self.path, error=failures.error)
            sync_failure.trust(self._place, failures)
        return store

    async def open(self) -> Store:
        """The native store, opened if it is not. Raises LockedError, DamagedError, FormatVersionError … and may be tried again."""
        if self._store is not None:
            return self._store
        async with self._opening:
            if self._closed:
                raise ClosedError("the store is closed")
            if self._store is None:
                loop = asyncio.get_running_loop()
                store = await loop.run_in_executor(self._executor, self._open_trusted)
                loop.add_reader(store.event_fd, self._completed)
                self._store = store
                self._modseq = (await self.call(store.poll, 0))[0]
                say = log.warning if store.recovery["damaged"] else log.info
                say("volume open", path=self.path, recovery=store.recovery)
        return self._store

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A blocking call on the store or on one of its objects, in a thread."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *args, **kwargs))
        except SyncFailedError as error:
            self._note_fatal(error)
            raise
        if getattr(function, "__name__", "") == "commit":
            self._poke.set()
        return result

    async def run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of the native store by name, in a thread."""
        store = await self.open()
        try:
            return await self.call(getattr(store, method), *args, **kwargs)
        finally:
            if method in _CHANGING:
                self._poke.set()

    async def deliver(self, deliveries: Sequence[Delivery], spool: SpoolHandle) -> list[CoreError | None]:
        """Store messages of the spool; one result per delivery. Those stored are durable and visible to all processes."""
        if not deliveries:
            return []
        store = await self.open()
        self._ticket += 1
        ticket = self._ticket
        future: asyncio.Future[list[CoreError | None]] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = (future, len(deliveries))
        try:
            store.deliver(ticket, spool.native, deliveries)
            return await future
        finally:
            self._waiting.pop(ticket, None)

    def learn(self, routes: Iterable[tuple[bytes, bytes, str]]) -> None:
        """Teach `deliver_due` what encoded routes mean: (route, mailbox id, folder)."""
        for route, mailbox_id, folder in routes:
            if self._store is not None:
                self._store.learn(route, mailbox_id, folder)

    async def deliver_due(self, destination: str, count: int, spool: SpoolHandle) -> Round:
        """Take up to `count` due jobs of the spool, store and journal them. Raises as `open` does; nothing has been taken then."""
        store = await self.open()
        self._ticket += 1
        future: asyncio.Future[Round] = asyncio.get_running_loop().create_future()
        store.deliver_due(self._ticket, spool.native, destination, count)
        self._rounds[self._ticket] = (future, spool.native)
        return await future

    def _note_fatal(self, error: CoreError | None) -> None:
        if isinstance(error, SyncFailedError) and self.fatal is None:
            self.fatal = error

    def _completed(self) -> None:
        if self._store is None:
            return
        finished = self._store.completions()  # this clears the descriptor, so it comes first
        for ticket, taken, delivered, left in self._store.rounds():
            self._end_round(ticket, (taken, delivered, left))
        for ticket, error, each in finished:
            for one in (error, *(each or ())):
                self._note_fatal(one)
            future, count = self._waiting.pop(ticket, (None, 0))
            if future is not None and not future.done():
                future.set_result(each if each is not None else [error] * count)
        self._poke.set()

    def _end_round(self, ticket: int, result: Round) -> None:
        future, spool = self._rounds.pop(ticket)
        for _, errors in result[2]:
            for error in errors or ():
                self._note_fatal(error)
        if not future.done():
            future.set_result(result)
            return
        for job, _ in result[2]:  # nobody waits any more
            spool.give_back(job[0], [recipient[0] for recipient in job[5]])

    def watch(self, folder_id: bytes, callback: Callable[[], None]) -> None:
        """Call back on the loop after anything in the folder changed, by whomever; also when the folder is deleted."""
        self._watchers[folder_id].append(callback)
        if self._ticker is None and not self._closed:
            self._ticker = asyncio.get_running_loop().create_task(self._tick(), name=f"changes of {self.path}")

    def unwatch(self, folder_id: bytes, callback: Callable[[], None]) -> None:
        """Inverse of `watch`; unknown ones are passed over."""
        callbacks = self._watchers.get(folder_id, [])
        if callback in callbacks:
            callbacks.remove(callback)
        if not callbacks:
            self._watchers.pop(folder_id, None)

    async def _tick(self) -> None:
        """Look for changes while somebody watches: at once after a local one, else every tick."""
        while self._watchers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._poke.wait()
                    await asyncio.sleep(SETTLE_SECONDS)
            self._poke.clear()
            try:
                await self._tell_changes()
            except CoreError as error:
                log.warning("changes cannot be read", path=self.path, error=str(error))
                await asyncio.sleep(TICK_SECONDS)
        self._ticker = None

    async def _tell_changes(self) -> None:
        store = await self.open()
        self._modseq, changed = await self.call(store.poll, self._modseq)
        for folder_id in changed:
            for callback in tuple(self._watchers.get(folder_id, ())):
                try:
                    callback()
                except Exception:  # a session's fault must not stop the others' news
                    log.exception("a watcher failed")

    async def close(self) -> None:
        """Let deliveries finish, close the volume. Idempotent."""
        self._closed = True
        self._watchers.clear()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None
        async with self._opening:
            store = self._store
            if store is None:
                return
            await self.call(store.close)
            self._completed()
            asyncio.get_running_loop().remove_reader(store.event_fd)
            self._store = None
        for future, count in self._waiting.values():
            if not future.done():
                future.set_result([ClosedError("the store is closed")] * count)
        self._waiting.clear()
