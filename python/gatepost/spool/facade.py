"""AsyncSpool: the native partition with futures in place of tickets.

Invariants: a commit's future has a result only after the message is on disk; every future ends, at the latest when the
spool closes; callbacks run in the loop that opened the spool, and one that raises is logged and does not stop the others.
The native side signals through an eventfd, once per batch. Fails with CoreError and its kinds; a failed sync sets `fatal`
and every later commit fails with it.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVarTuple

import structlog

from gatepost.message.envelope import Envelope, Meta
from gatepost.native import (
    Cause,
    Change,
    ClosedError,
    CoreError,
    Incoming,
    Job,
    NativeFilter,
    Reader,
    RecipientSpec,
    Spool,
    Summary,
    SyncFailedError,
    Way,
)

ReadyCallback = Callable[[Sequence[str]], None]
CommittedCallback = Callable[[bytes, str], None]
Done = Callable[[CoreError | None], None]

Args = TypeVarTuple("Args")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PlannedRecipient:
    """A final recipient with its encoded route. `destination` is the scheduling key, '' when routing ended it (discard)."""

    address: str
    orcpt: str
    notify: int
    destination: str
    route: bytes
    held: bool = False

    def spec(self) -> RecipientSpec:
        """As the native commit takes it."""
        return (self.address, self.orcpt, self.destination, int(self.notify), self.route, 0, self.held)


class AsyncSpool:
    """One open partition. Made by `open`; not to be shared between event loops."""

    def __init__(self, native: Spool) -> None:
        self._native = native
        self._loop = asyncio.get_running_loop()
        self._tickets = itertools.count(1)
        self._waiting: dict[int, Done] = {}
        self._announced: dict[int, tuple[bytes, str]] = {}
        self._ready: list[ReadyCallback] = []
        self._committed: list[CommittedCallback] = []
        self._fatal: CoreError | None = None
        self._closed = False
        self._loop.add_reader(native.event_fd, self._pick_up)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        segment_bytes: int = 67_108_864,
        min_free_bytes: int = 0,
        resume_free_bytes: int = 0,
        tailed: bool = False,
        background: bool = False,
    ) -> "AsyncSpool":
        """Open or create the partition in `path`. Raises LockedError, FormatVersionError, DiskFullError, CoreError. With `background`
        it takes mail before what was there is read: see `recovered` and `whole`. tailed: a History will follow it.
        """

        def start() -> Spool:
            return Spool(
                str(path),
                segment_bytes=segment_bytes,
                min_free_bytes=min_free_bytes,
                resume_free_bytes=resume_free_bytes,
                tailed=tailed,
                background=background,
            )

        return cls(await asyncio.to_thread(start))

    async def close(self) -> None:
        """Make everything durable, write a checkpoint, unlock. Idempotent. Futures that are still open end."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._native.event_fd)
        try:
            await asyncio.to_thread(self._native.close)
        finally:
            self._pick_up()
            for ticket in list(self._waiting):
                self._settle(ticket, ClosedError("the spool was closed"))

    # ---- what is known without asking the disk

    @property
    def native(self) -> Spool:
        """The native partition, for mailbox delivery."""
        return self._native

    @property
    def fatal(self) -> CoreError | None:
        """The error that closed the partition for good."""
        return self._fatal or self._native.fatal

    @property
    def recovered(self) -> bool:
        """Everything that was there when the spool was opened can be seen."""
        return self._native.recovered

    async def whole(self) -> None:
        """Return when that is so. Raises the CoreError that ended the recovery."""
        if not self._native.recovered:
            ticket, future = self._ticket()
            self._native.when_recovered(ticket)
            await future

    @property
    def recovery(self) -> dict[str, int | float | list[str]]:
        """What opening found (see _core.pyi)."""
        return self._native.recovery

    @property
    def low_space(self) -> bool:
        """Less free space than configured: new mail is refused. At most a quarter of a second old."""
        return self._native.low_space()

    @property
    def free_bytes(self) -> int:
        """Free octets on the file system."""
        return self._native.stats()["free_bytes"]

    def pending_bytes(self) -> int:
        """Octets taken in and not yet on disk."""
        return self._native.pending_bytes()

    def congested(self) -> bool:
        """Receivers should `await drain()` before they take more: so many octets wait for the disk."""
        return self._native.congested()

    def stats(self) -> dict[str, int]:
        """Figures (see _core.pyi)."""
        return self._native.stats()

    def destinations(self) -> list[tuple[str, int, int, int]]:
        """(destination, pending, ready, in flight) of each that has pending recipients."""
        return self._native.destinations()

    def list_ids(self, after: bytes | None, limit: int) -> list[bytes]:
        """Ids of live messages in order, after `after`."""
        return self._native.list_ids(after, limit)

    # ---- questions about many messages: from a thread, they may take seconds

    def page(self, wanted: NativeFilter, after: bytes | None, limit: int) -> tuple[Sequence[Summary], bytes | None]:
        """A page of messages that match, and where to go on (None: that was all)."""
        return self._native.list(wanted, after, limit)

    def count(self, wanted: NativeFilter) -> tuple[int, int]:
        """(messages, recipients) that match."""
        return self._native.count(wanted)

    def select(self, wanted: NativeFilter, limit: int) -> bytes:
        """Ids of the first `limit` messages that match, one behind the other."""
        return self._native.select(wanted, limit)

    # ---- receiving

    def receive(self, prefix: bytes, max_bytes: int, allow_bare: bool = False, message_id: bytes | None = None) -> Incoming:
        """Begin a message; `prefix` is stored in front of it, `max_bytes` (0: none) bounds it without the prefix."""
        return self._native.receive(prefix=prefix, max_bytes=max_bytes, allow_bare=allow_bare, message_id=message_id)

    def begin(self, lead: bytes, tail: bytes, max_bytes: int, allow_bare: bool = False) -> Incoming:
        """Like `receive` with a new id, which stands in text form between `lead` and `tail` in the prefix."""
        return self._native.begin(lead, tail, max_bytes, allow_bare)

    async def drain(self) -> None:
        """Return when so little waits for the disk that memory stays bounded (see `congested`)."""
        while not self._closed and self._native.congested():
            ticket, future = self._ticket()
            self._native.sync(ticket)
            await future

    def commit(
        self, incoming: Incoming, envelope: Envelope, recipients: Sequence[PlannedRecipient], rule_version: int
    ) -> asyncio.Future[None]:
        """The commit point. The future ends without error once the message is on disk; it fails with CoreError. Nothing is raised here."""
        future = self._loop.create_future()
        self.commit_then(incoming, envelope, recipients, rule_version, partial(_end, future))
        return future

    def commit_then(
        self, incoming: Incoming, envelope: Envelope, recipients: Sequence[PlannedRecipient], rule_version: int, done: Done
    ) -> None:
        """The commit point with a callback: `done(None)` once the message is on disk, `done(error)` when it is not to be. Called once,
        from the event loop and never before this returns.
        """
        ticket = next(self._tickets)
        self._waiting[ticket] = done
        meta = Meta(
            envelope.origin, envelope.envid, envelope.ret, envelope.body, envelope.smtputf8, rule_version, envelope.verdict
        ).encode()
        specs = [recipient.spec() for recipient in recipients]
        try:
            self._native.commit(ticket, incoming, envelope.reverse_path, specs, meta)
        except CoreError as error:
            self._loop.call_soon(self._settle, ticket, error)
            return
        if self._committed:
            self._announced[ticket] = (incoming.message_id, envelope.reverse_path)

    def on_committed(self, callback: CommittedCallback | None) -> None:
        """Call `callback(message_id, reverse_path)` after each commit that succeeded; None forgets all callbacks."""
        if callback is None:
            self._committed.clear()
        else:
            self._committed.append(callback)

    def _announce(self, message_id: bytes, reverse_path: str) -> None:
        for callback in tuple(self._committed):
            _guarded(callback, message_id, reverse_path)

    # ---- the queue

    def on_ready(self, callback: ReadyCallback) -> None:
        """Call `callback(names)` when destinations have new ready recipients, once per batch."""
        self._ready.append(callback)

    def ready(self, destination: str) -> int:
        """Recipients of a destination that `take` would give now."""
        return self._native.ready(destination)

    def take(self, destination: str, max_jobs: int, max_bytes: int = 0) -> list[Job]:
        """Take ready messages of a destination; their due recipients are in flight until a change names them."""
        return self._native.take(destination, max_jobs, max_bytes)

    async def wait_for(
        self, destination: str, times: tuple[int, int], ages: tuple[int, int], detail: bytes, max_jobs: int
    ) -> tuple[bool, list[Job]]:
        """What is ready for a destination that backs off waits for it: (there may be more, jobs to be settled). See _core.pyi."""
        return await asyncio.to_thread(self._native.wait_for, destination, times, ages, detail, max_jobs)

    def done_waiting(self, destination: str) -> None:
        """What waits for a destination may be taken; it is announced."""
        self._native.done_waiting(destination)

    def give_back(self, message_id: bytes, recipient_indexes: Sequence[int]) -> None:
        """Undo `take` without an attempt."""
        self._native.give_back(message_id, recipient_indexes)

    def advance(self, now_us: int) -> int:
        """Make ready what is due. Returns the next due time, 0 = none."""
        return self._native.advance(now_us)

    def change(self, changes: Sequence[Change]) -> asyncio.Future[None]:
        """Journal transitions; they take effect at once, the future says when they are on disk."""
        ticket, future = self._ticket()
        self._native.change(ticket, changes)
        return future

    def change_nowait(self, changes: Sequence[Change]) -> None:
        """Like `change`, but nobody waits: on disk within about 10 ms. A failure is found by the next call that waits."""
        self._native.change(0, changes)

    def reroute(
        self, message_id: bytes, recipient_index: int, address: str, destination: str, route: bytes, note: bytes = b""
    ) -> asyncio.Future[None]:
        """Give a pending recipient a new route, due now; `note`: JSON, who did it. Raises NotFoundError, InvalidError at once."""
        ticket, future = self._ticket()
        try:
            self._native.reroute(ticket, message_id, recipient_index, address, destination, route, note)
        except CoreError:
            del self._waiting[ticket]
            raise
        return future

    async def reroute_all(self, ways: Sequence[Way], note: bytes) -> int:
        """The same for many recipients; those that are gone or not pending are passed over: how many were not. On disk on return."""
        ticket, future = self._ticket()
        try:
            changed = await asyncio.to_thread(self._native.reroute_all, ticket, ways, note)
        except CoreError:
            del self._waiting[ticket]
            raise
        await future
        return changed

    async def change_all(self, ids: bytes, kind: int, next_us: int, detail: bytes) -> int:
        """One transition for all pending recipients of each message (packed ids); how many changed. On disk on return."""
        ticket, future = self._ticket()
        changed = await asyncio.to_thread(self._native.change_all, ticket, ids, kind, next_us, detail)
        await future
        return changed

    async def changeable(self, ids: bytes, kind: int) -> bytes:
        """Those of the ids for which `change_all` would change something now."""
        return await asyncio.to_thread(self._native.changeable, ids, kind)

    async def destinations_of(self, ids: bytes) -> list[str]:
        """Destinations of the pending recipients of these messages."""
        return await asyncio.to_thread(self._native.destinations_of, ids)

    async def measure(self, ids: bytes) -> tuple[int, int, int, int, int]:
        """Of those in the queue: (messages, pending recipients, held and being delivered among these, octets)."""
        return await asyncio.to_thread(self._native.measure, ids)

    async def causes(self, limit: int) -> tuple[list[Cause], int, int]:
        """Why recipients wait (see _core.pyi)."""
        return await asyncio.to_thread(self._native.causes, limit)

    async def touched(self, operation: str, ids: bytes) -> int:
        """How many of these messages an operation has changed, of those that are still here."""
        return await asyncio.to_thread(self._native.touched, operation, ids)

    async def undo(self, operation: str, ids: bytes, note: bytes) -> dict[str, int]:
        """Put back what an operation changed in these messages (packed ids); on disk on return. Counts as in _core.pyi."""
        ticket, future = self._ticket()
        counts = await asyncio.to_thread(self._native.undo, ticket, operation, ids, note)
        await future
        return counts

    async def purge(self, now_us: int, limit: int) -> tuple[int, int]:
        """End graces of removed recipients: (when the next one is over, 0 = none left; how many ended)."""
        return await asyncio.to_thread(self._native.purge, now_us, limit)

    def get(self, message_id: bytes) -> Summary:
        """State of a live message. Raises NotFoundError."""
        return self._native.get(message_id)

    async def history(self, message_id: bytes) -> list[tuple[int, int, int, bytes]]:
        """Journal of a live message, oldest first: (time_us, kind, recipient_index, detail). Raises NotFoundError."""
        return await asyncio.to_thread(self._native.history, message_id)

    def open_message(self, message_id: bytes) -> Reader:
        """Reader over prefix and message. Raises NotFoundError."""
        return self._native.open(message_id)

    # ---- tickets

    def _ticket(self) -> tuple[int, asyncio.Future[None]]:
        ticket = next(self._tickets)
        future = self._loop.create_future()
        self._waiting[ticket] = partial(_end, future)
        return ticket, future

    def _settle(self, ticket: int, error: CoreError | None) -> None:
        if isinstance(error, SyncFailedError) and self._fatal is None:
            self._fatal = error
            log.critical("spool partition failed and is closed: check the disk; `gatepost status` tells what follows", error=str(error))
        announced = self._announced.pop(ticket, None)
        if announced is not None and error is None:
            self._announce(*announced)
        done = self._waiting.pop(ticket, None)
        if done is not None:
            _guarded(done, error)

    def _pick_up(self) -> None:
        """The eventfd is readable: end futures, then tell who schedules."""
        tickets, ready, plain = self._native.completions()
        for ticket, error in tickets:
            self._settle(ticket, error)
        for message_id, reverse_path in plain:
            self._announce(message_id, reverse_path)
        if ready and not self._closed:
            for callback in tuple(self._ready):
                _guarded(callback, ready)


def _end(future: asyncio.Future[None], error: CoreError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _guarded(callback: Callable[[*Args], None], *args: *Args) -> None:
    try:
        callback(*args)
    except Exception:
        log.exception("a spool callback raised")
