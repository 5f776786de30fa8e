"""QueueActions: what an operator does to the messages of one worker, each an operation that can be undone for a while. Called by
control/.

Invariants: an operation is on disk, with its ids, before it touches a message; every record it writes has its id and author in the
detail; once begun it is carried out even when the caller goes away. Removed mail is kept until its grace is over, or disk space
runs low, whichever is first. Fails with CoreError (journal), UndoRefusedError and UnknownOperationError; a message that left
meanwhile is no error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import structlog

from gatepost.config import Settings
from gatepost.message.ids import format_message_id
from gatepost.message.verdict import WITHHELD
from gatepost.native import K_HELD, K_RELEASED, K_REMOVED, K_RETRY, CoreError, InvalidError, NotFoundError, Summary, new_message_id
from gatepost.queue import withheld
from gatepost.queue.attempt import encode_detail
from gatepost.queue.changes import KIND_NAMES
from gatepost.queue.events import QueueEvent
from gatepost.queue.operations import Operation, OperationLog
from gatepost.queue.report import Action, RecipientReport, Reporter, Subject, is_due
from gatepost.queue.retry import MICROSECONDS
from gatepost.queue.return_path import report_path
from gatepost.queue.scheduler import Scheduler
from gatepost.queue.views import Outline, QueuedMessage, decode_outline, decode_summary
from gatepost.queue.withheld import Some
from gatepost.spool import AsyncSpool

ID = 16
SLICE = 1024
PURGE = 2048
SPACE_SECONDS = 2.0
MAX_EVENTS = 1000
EVERYTHING = (1 << 63) - 1
NEVER = "nothing is kept for an undo (queue.undo_seconds is 0)"
_WORDS = {
    "quarantine release": "released from quarantine",
    "quarantine confine": "put into quarantine",
}
"""What history says of a change of route that is not an operator's reroute."""
TOLD = "the senders have been told"
ONLY_TIMES = "a retry only makes messages due"

T = TypeVar("T")


class Way(Protocol):
    """Where one recipient is to go; a Route is one."""

    @property
    def address(self) -> str:
        """The final address."""
        ...

    @property
    def destination(self) -> str:
        """The scheduling key; never empty."""
        ...

    @property
    def hold(self) -> bool:
        """It is held there."""
        ...

    def encode(self) -> bytes:
        """The route for the journal."""
        ...


Ways = Mapping[int, Way]
Choose = Callable[[Summary], Ways]
"""Of a message as the native spool gives it. Raises RerouteRefusedError for one that stays as it is."""

log = structlog.get_logger()


class UnknownOperationError(LookupError):
    """No such operation in this partition."""


class UndoRefusedError(Exception):
    """It cannot be undone (any more); the text says why."""


class RerouteRefusedError(Exception):
    """A message cannot go the way asked for; the text says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for it, the operation's id ('': made here), and the selection in words."""

    actor: str
    operation_id: str = ""
    selection: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Messages changed; the operation, None when there was nothing to change. refused: messages that could not go the way asked for."""

    changed: int
    operation: Operation | None = None
    refused: int = 0
    first_refusal: str = ""


Row = tuple[bytes, int, str, str, bytes, bool]


@dataclass(slots=True)
class Chosen:
    """Where the pending recipients of some messages are to go: a row each, of so many messages; and how many messages cannot go there."""

    rows: list[Row] = field(default_factory=list)
    messages: int = 0
    refused: int = 0
    first_refusal: str = ""

    def add(self, message_id: bytes, ways: Ways) -> None:
        """One message's new ways."""
        self.messages += bool(ways)
        for index, way in ways.items():
            self.rows.append((message_id, index, way.address, way.destination, way.encode(), way.hold))


class QueueActions:
    """One per worker. `start` begins to end graces; `stop` waits for what is under way."""

    def __init__(
        self, spool: AsyncSpool, scheduler: Scheduler, reporter: Reporter, operations: OperationLog, settings: Callable[[], Settings]
    ) -> None:
        self._spool = spool
        self._scheduler = scheduler
        self._reporter = reporter
        self._log = operations
        self._settings = settings
        self._under_way: set[asyncio.Task[Any]] = set()
        self._wake = asyncio.Event()
        self._graces: asyncio.Task[None] | None = None
        self._resumed: set[str] = set()

    def start(self) -> None:
        """Begin to end graces that are over."""
        self._graces = asyncio.create_task(self._end_graces(), name="graces")
        task = asyncio.create_task(self._count_cut_short(), name="operations")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def stop(self) -> None:
        """Wait for operations under way; end no more graces."""
        if self._graces is not None:
            self._graces.cancel()
            await asyncio.gather(self._graces, return_exceptions=True)
        await asyncio.gather(*self._under_way, return_exceptions=True)

    # ---- operations; ids are packed, 16 octets each

    async def hold(self, ids: bytes, order: Order) -> Done:
        """Stop further attempts; one under way is not broken off."""
        return await self._unbroken(self._change("hold", K_HELD, ids, order))

    async def release(self, ids: bytes, order: Order) -> Done:
        """Let held messages go on. Recipients in quarantine, or waiting for a scanner, stay: queue.quarantine releases them."""
        return await self._unbroken(self._release(ids, order))

    async def retry(self, ids: bytes, order: Order) -> Done:
        """Make pending recipients due now; the back-off of their destinations is forgotten."""
        return await self._unbroken(self._change("retry", K_RETRY, ids, order, ONLY_TIMES))

    async def remove(self, ids: bytes, order: Order, *, dsn: bool = False) -> Done:
        """Take pending recipients out of the queue. With `dsn` the senders are told first, and it is for good."""
        return await self._unbroken(self._remove(ids, order) if not dsn else self._remove_and_tell(ids, order))

    async def reroute(self, message_id: bytes, ways: Ways, order: Order) -> Done:
        """Give pending recipients of one message another way, due now; held only if the new route says so. Raises NotFoundError,
        InvalidError.
        """
        return await self._unbroken(self._reroute(message_id, lambda _: ways, order))

    async def reroute_all(self, ids: bytes, choose: Callable[[Outline], Ways], order: Order) -> Done:
        """The same for many; `choose` raises RerouteRefusedError for a message that stays as it is."""
        return await self._unbroken(self._reroute(ids, lambda raw: choose(decode_outline(raw)), order, skip=True))

    async def send_on(self, kind: str, ids: bytes, choose: Callable[[QueuedMessage], Ways], order: Order) -> Done:
        """As `reroute_all`, as an operation of another kind."""
        return await self._unbroken(self._reroute(ids, lambda raw: choose(decode_summary(raw)), order, skip=True, kind=kind))

    async def change_some(self, kind: str, change: int, some: Some, order: Order) -> Done:
        """One transition (K_REMOVED or K_RELEASED) of exactly these recipients, as an operation of this kind."""
        return await self._unbroken(self._change_some(kind, change, some, order))

    async def undo(self, operation_id: str, actor: str) -> Operation:
        """Put back what an operation changed; its counts are in `undo`. Raises UnknownOperationError, UndoRefusedError, CoreError."""
        return await self._unbroken(self._undo(operation_id, actor))

    def operations(self) -> Sequence[Operation]:
        """Every operation known, newest first."""
        return self._log.newest_first()

    async def ids_of(self, operation: Operation) -> bytes:
        """Packed ids of the messages of an operation, b'' when they are not known any more."""
        try:
            ids = await asyncio.to_thread(self._log.ids, operation)
        except OSError:
            return b""
        return ids[: len(ids) // ID * ID]

    # ---- inside

    async def _unbroken(self, work: Coroutine[Any, Any, T]) -> T:
        """Carried to its end even when the caller goes away; begun when all messages can be seen."""
        try:
            await self._spool.whole()
        except BaseException:
            work.close()
            raise
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _change(self, name: str, kind: int, ids: bytes, order: Order, reason: str = "") -> Done:
        wanted = await self._spool.changeable(ids, kind)
        if not wanted:
            return Done(0)
        if kind == K_RETRY:  # before the change: it makes messages ready, and a back-off would put them off at once
            self._scheduler.forget_backoff(await self._spool.destinations_of(wanted))
        operation = await self._begin(name, wanted, order, reason)
        until = operation.until if kind == K_REMOVED else 0
        detail = self._detail(operation, KIND_NAMES[kind])
        changed = await self._finishing(operation, self._spool.change_all(wanted, kind, until, detail))
        self._publish(KIND_NAMES[kind], wanted, order.actor)
        self._scheduler.advance()
        self._wake.set()
        return Done(changed, replace(operation, changed=changed, state="done"))

    async def _release(self, ids: bytes, order: Order) -> Done:
        wanted = await self._spool.changeable(ids, K_RELEASED)
        some = await asyncio.to_thread(withheld.others, self._spool, wanted)
        return await self._change_some("release", K_RELEASED, some, order)

    async def _change_some(self, name: str, kind: int, some: Some, order: Order) -> Done:
        if not some.ids:
            return Done(0)
        operation = await self._begin(name, some.ids, order)
        until = operation.until if kind == K_REMOVED else 0
        detail = self._detail(operation, KIND_NAMES[kind])
        changed = await self._finishing(operation, self._change_each(kind, some, until, detail))
        self._publish(KIND_NAMES[kind], some.ids, order.actor)
        self._scheduler.advance()
        self._wake.set()
        return Done(changed, replace(operation, changed=changed, state="done"))

    async def _change_each(self, kind: int, some: Some, until: int, detail: bytes) -> int:
        changed = await self._spool.change_all(some.whole, kind, until, detail) if some.whole else 0
        for start in range(0, len(some.single), SLICE):
            part = some.single[start : start + SLICE]
            await self._spool.change([(message_id, index, kind, until, detail) for message_id, index in part])
        return changed + len({message_id for message_id, _ in some.single})

    async def _remove(self, ids: bytes, order: Order) -> Done:
        return await self._change("remove", K_REMOVED, ids, order)

    async def _remove_and_tell(self, ids: bytes, order: Order) -> Done:
        for message_id in _split(await self._spool.changeable(ids, K_REMOVED)):
            await self._tell_removed(message_id)
        return await self._change("remove", K_REMOVED, ids, order, TOLD)

    async def _reroute(self, ids: bytes, choose: Choose, order: Order, *, skip: bool = False, kind: str = "reroute") -> Done:
        if not ids:
            return Done(0)
        operation = await self._begin(kind, ids, order)
        result = await self._finishing(operation, self._reroute_each(operation, ids, choose, skip=skip))
        self._scheduler.advance()
        return replace(result, operation=replace(operation, changed=result.changed, state="done"))

    async def _reroute_each(self, operation: Operation, ids: bytes, choose: Choose, *, skip: bool) -> Done:
        changed, refused, first = 0, 0, ""
        detail = self._detail(operation, _WORDS.get(operation.kind, "rerouted"))
        for start in range(0, len(ids), SLICE * ID):
            some = _split(ids[start : start + SLICE * ID])
            chosen = await asyncio.to_thread(self._choose_ways, some, choose, skip=skip)
            refused += chosen.refused
            first = first or chosen.first_refusal
            rows = chosen.rows
            self._scheduler.forget_backoff(list({row[3] for row in rows}))
            done = await self._spool.reroute_all(rows, detail)
            if done < len(rows) and not skip:
                raise InvalidError("a recipient is not pending any more")
            # Those that ended since they were looked at are few; which of them is not told.
            changed += max(0, chosen.messages - (len(rows) - done))
            self._tell_rerouted(operation, rows)
        return Done(changed, None, refused, first)

    def _choose_ways(self, ids: Sequence[bytes], choose: Choose, *, skip: bool) -> Chosen:
        """*blocking* Where messages are to go. Raises NotFoundError unless `skip`."""
        chosen = Chosen()
        for message_id in ids:
            try:
                chosen.add(message_id, choose(self._spool.get(message_id)))
            except NotFoundError:
                if not skip:
                    raise
            except RerouteRefusedError as error:
                chosen.refused += 1
                chosen.first_refusal = chosen.first_refusal or str(error)
        return chosen

    def _tell_rerouted(self, operation: Operation, rows: Sequence[Row]) -> None:
        if self._scheduler.events.watched:
            fields = {"by": operation.actor, "op": operation.operation_id}
            for message_id, index, address, destination, *_ in rows:
                self._event("rerouted", message_id, index, fields, address, destination)

    async def _undo(self, operation_id: str, actor: str) -> Operation:
        operation = self._log.get(operation_id)
        if operation is None:
            raise UnknownOperationError(operation_id)
        now = self._scheduler.now()
        if reason := operation.why_not(now):
            raise UndoRefusedError(f"operation {operation_id} cannot be undone: {reason}")
        try:
            ids = await asyncio.to_thread(self._log.ids, operation)
        except OSError as error:
            raise UndoRefusedError(f"operation {operation_id} cannot be undone: its list of messages cannot be read ({error})") from error
        note = encode_detail({"t": now, "by": actor, "action": "undone", "undo": operation_id})
        counts = await self._spool.undo(operation_id, ids[: len(ids) // ID * ID], note)
        undone = replace(operation, state="undone", undone_by=actor, undone_at=now, undo=counts)
        await self._write_down(undone)
        self._event("note", b"", -1, {"action": f"{operation.kind} undone", "by": actor, "undo": operation_id})
        self._scheduler.advance()
        return undone

    async def _begin(self, name: str, ids: bytes, order: Order, reason: str = "") -> Operation:
        """On disk on return. One that cannot be written down is carried out all the same, and cannot be undone: removing must work
        on a full disk.
        """
        now = self._scheduler.now()
        keep = int(self._settings().queue.undo_seconds * MICROSECONDS)
        reason = reason or ("" if keep else NEVER)
        operation_id = order.operation_id or format_message_id(new_message_id())
        until = 0 if reason else now + keep
        if (former := self._log.get(operation_id)) is not None:
            # The same call again, after the process that began it died: what was done then is part of the operation.
            ids = await asyncio.to_thread(self._joined, former, ids)
            self._resumed.add(operation_id)
        operation = Operation(operation_id, name, order.actor, now, len(ids) // ID, until, reason, order.selection)
        try:
            await asyncio.to_thread(self._log.begin, operation, ids)
        except OSError as error:
            log.warning("an operation cannot be written down, so it cannot be undone", operation=operation_id, error=str(error))
            return replace(operation, until=0, reason=f"it could not be written down: {error}")
        return operation

    def _joined(self, former: Operation, ids: bytes) -> bytes:
        """*blocking* The ids of an operation that was begun before and those it goes on with."""
        try:
            known = self._log.ids(former)
        except OSError:
            return ids
        seen = set(_split(known))
        return known + b"".join(one for one in _split(ids) if one not in seen)

    async def _finishing(self, operation: Operation, work: Coroutine[Any, Any, T]) -> T:
        """Carry out and write down how it ended."""
        try:
            result = await work
        except Exception:
            await self._write_down(replace(operation, state="interrupted"))
            raise
        changed = result.changed if isinstance(result, Done) else int(result)  # type: ignore[call-overload]  # T is Done or int
        if operation.operation_id in self._resumed and operation.until:
            self._resumed.discard(operation.operation_id)
            changed = await self._spool.touched(operation.operation_id, await asyncio.to_thread(self._log.ids, operation))
        await self._write_down(replace(operation, state="done", changed=changed))
        return result

    async def _count_cut_short(self) -> None:
        """How far operations had come when the process before this one ended: the journal knows."""
        for operation in self._log.cut_short():
            try:
                await self._spool.whole()
                ids = await asyncio.to_thread(self._log.ids, operation)
                changed = await self._spool.touched(operation.operation_id, ids[: len(ids) // ID * ID])
            except (CoreError, OSError) as error:
                log.warning("how far an operation came cannot be told", operation=operation.operation_id, error=str(error))
                continue
            known = self._log.get(operation.operation_id)
            if known is not None and known.state == "interrupted":
                await self._write_down(replace(known, changed=changed))

    async def _write_down(self, operation: Operation) -> None:
        try:
            await asyncio.to_thread(self._log.update, operation)
        except OSError as error:
            log.warning("the end of an operation cannot be written down", operation=operation.operation_id, error=str(error))

    def _detail(self, operation: Operation, action: str) -> bytes:
        return encode_detail({"t": self._scheduler.now(), "by": operation.actor, "action": action, "op": operation.operation_id})

    async def _tell_removed(self, message_id: bytes) -> None:
        """RFC 3464 'failed' for what an operator removes, never for what is in quarantine: its sender is most likely forged.
        Raises CoreError: then nothing is removed.
        """
        try:
            message = decode_summary(self._spool.get(message_id))
        except NotFoundError:
            return
        now = self._scheduler.now()
        words = "the administrator removed the message from the queue"
        rows: dict[str, list[RecipientReport]] = {}
        for one in message.recipients:
            path = report_path(message.reverse_path, one.route)
            if one.pending and one.destination not in WITHHELD and is_due(one.notify, Action.FAILED, path):
                rows.setdefault(path, []).append(RecipientReport(one.address, one.orcpt, Action.FAILED, "5.7.1", words, None, now))
        for path, reports in rows.items():
            subject = Subject(message_id, message.size, message.received_at, path, message.meta)
            await self._reporter.send(subject, reports, now)

    async def _end_graces(self) -> None:
        """One timer: sleeps until the next grace is over, an operation begins, or (while removed mail is kept) to look at the disk."""
        await self._spool.whole()
        while self._spool.fatal is None:
            self._wake.clear()
            low = self._spool.low_space and self._spool.stats()["removed"] > 0
            due, ended = await self._spool.purge(EVERYTHING if low else self._scheduler.now(), PURGE)
            if low and ended:
                log.warning("disk space is low: removed messages are given up before their time", messages=ended)
            if ended >= PURGE:
                continue
            expiry = await asyncio.to_thread(self._log.expire)
            ends = [(one - self._scheduler.now()) / MICROSECONDS for one in (due, expiry) if one] + ([SPACE_SECONDS] if due else [])
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, min(ends)) if ends else None)
            except TimeoutError:
                pass

    # ---- events

    def _publish(self, kind: str, ids: bytes, actor: str) -> None:
        """An event for each of the first messages; a watcher's buffer holds no more anyway."""
        if not self._scheduler.events.watched:
            return
        for message_id in _split(ids[: MAX_EVENTS * ID]):
            try:
                sender = self._spool.get(message_id)[3]
            except NotFoundError:
                sender = ""
            self._event(kind, message_id, -1, {"by": actor}, sender=sender)
        if len(ids) > MAX_EVENTS * ID:
            self._event("overflow", b"", -1, {"lost": len(ids) // ID - MAX_EVENTS})

    def _event(
        self,
        kind: str,
        message_id: bytes,
        index: int,
        detail: Mapping[str, object],
        address: str = "",
        destination: str = "",
        sender: str = "",
    ) -> None:
        hub = self._scheduler.events
        if hub.watched:
            hub.publish(QueueEvent(self._scheduler.now(), kind, message_id, index, address, destination, sender, detail))


def _split(ids: bytes) -> list[bytes]:
    return [ids[at : at + ID] for at in range(0, len(ids), ID)]
