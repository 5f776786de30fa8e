"""QueueService: what an operator sees and does, on one worker's part of the queue. Called by control/ (and through it CLI and SDK).

Invariants: what reads many messages runs in a thread, natively; every change is journaled with its author; an action on a message
that is not there raises NotFoundError, in bulk it is not counted. Memory per call is bounded by the page, or by 16 octets per message
selected.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.native import K_HELD, K_NOTE, K_RELEASED, K_REMOVED, K_RETRY, Change, NativeFilter, NotFoundError, Reader, Summary
from gatepost.queue.attempt import encode_detail
from gatepost.queue.changes import KIND_NAMES
from gatepost.queue.events import QueueEvent
from gatepost.queue.report import Action, RecipientReport, Reporter, Subject, is_due
from gatepost.queue.scheduler import Scheduler
from gatepost.queue.views import (
    Destination,
    Filter,
    HistoryEntry,
    Page,
    QueuedMessage,
    decode_history,
    decode_summary,
)
from gatepost.routing.model import Route
from gatepost.spool import AsyncSpool

IDS = 512
MAX_PAGE = 1000
MAX_SELECTED = 10_000_000

Changes = list[Change]


class QueueService:
    """One per worker."""

    def __init__(self, spool: AsyncSpool, scheduler: Scheduler, reporter: Reporter) -> None:
        self._spool = spool
        self._scheduler = scheduler
        self._reporter = reporter

    # ---- seeing

    async def list(self, wanted: Filter | None = None, page_token: str = "", limit: int = 100) -> Page:
        """Messages in id order after `page_token`. Raises ValueError on a bad token."""
        after = parse_message_id(page_token) if page_token else None
        native = (wanted or Filter()).native(self._scheduler.now())
        return await asyncio.to_thread(self._page, native, after, max(1, min(limit, MAX_PAGE)))

    def _page(self, wanted: NativeFilter, after: bytes | None, limit: int) -> Page:
        rows, following = self._spool.page(wanted, after, limit)
        return Page(tuple(decode_summary(raw) for raw in rows), format_message_id(following) if following else "")

    async def count(self, wanted: Filter) -> tuple[int, int]:
        """How many messages match, and how many of their recipients."""
        return await asyncio.to_thread(self._spool.count, wanted.native(self._scheduler.now()))

    async def select(self, wanted: Filter, limit: int = MAX_SELECTED) -> bytes:
        """Ids of the first `limit` messages that match, oldest first, one behind the other (16 octets each)."""
        return await asyncio.to_thread(self._spool.select, wanted.native(self._scheduler.now()), limit)

    async def get(self, message_id: bytes) -> QueuedMessage:
        """One live message. Raises NotFoundError."""
        return decode_summary(self._spool.get(message_id))

    async def history(self, message_id: bytes) -> tuple[HistoryEntry, ...]:
        """The journal of one live message, oldest first. Raises NotFoundError."""
        return tuple(decode_history(await self._spool.history(message_id)))

    def open(self, message_id: bytes) -> Reader:
        """Reader over the message, trace header included; its methods block: use a thread. Raises NotFoundError."""
        return self._spool.open_message(message_id)

    def stats(self) -> Mapping[str, int]:
        """Totals of the spool, and accepted, delivered, deferred, failed since start."""
        counters = self._scheduler.counters
        return {**self._spool.stats(), **{name: counters[name] for name in ("accepted", "delivered", "deferred", "failed")}}

    def destinations(self) -> tuple[Destination, ...]:
        """Destinations with something pending, and paused ones, by name."""
        now = self._scheduler.now()
        rows = {name: (pending, ready, flying) for name, pending, ready, flying in self._spool.destinations()}
        for name in self._scheduler.paused_names():
            rows.setdefault(name, (0, 0, 0))
        return tuple(self._destination(name, *rows[name], now) for name in sorted(rows))

    def watch(self) -> AsyncIterator[QueueEvent]:
        """Events from now on. A reader that is too slow gets an 'overflow' event in place of what it missed."""
        return self._scheduler.events.watch()

    # ---- doing

    async def hold(self, ids: Sequence[bytes], author: str) -> int:
        """Stop further attempts; one under way is not broken off. Returns how many messages changed."""
        return await self._bulk(ids, K_HELD, author, lambda raw: any(one[5] == "PENDING" and not one[6] for one in raw[6]))

    async def release(self, ids: Sequence[bytes], author: str) -> int:
        """Let held messages go on; due at once."""
        return await self._bulk(ids, K_RELEASED, author, lambda raw: any(one[5] == "PENDING" and one[6] for one in raw[6]))

    async def retry(self, ids: Sequence[bytes], author: str) -> int:
        """Make pending recipients due now; the back-off of their destinations is forgotten."""
        return await self._bulk(ids, K_RETRY, author, _any_pending)

    async def remove(self, ids: Sequence[bytes], author: str, *, dsn: bool = False) -> int:
        """Take pending recipients out of the queue for good; `dsn` tells the sender, before the removal is journaled."""
        if dsn:
            for message_id in ids:
                await self._tell_removed(message_id)
        return await self._bulk(ids, K_REMOVED, author, _any_pending)

    async def reroute(self, message_id: bytes, recipient_index: int, address: str, route: Route, author: str) -> None:
        """Give one pending recipient another way, due now; held only if the new route says so. Raises NotFoundError, InvalidError."""
        self._scheduler.forget_backoff([route.destination])
        await self._spool.reroute(message_id, recipient_index, address, route.destination, route.encode())
        now = self._scheduler.now()
        fields = {"t": now, "by": author, "action": "rerouted", "destination": route.destination, "address": address}
        detail = encode_detail(fields)
        kind = K_HELD if route.hold else K_RELEASED  # skipped by the spool where it is so already
        self._scheduler.apply([(message_id, recipient_index, K_NOTE, 0, detail), (message_id, recipient_index, kind, 0, detail)])
        self._scheduler.advance()
        self._publish("rerouted", message_id, recipient_index, fields, address, route.destination)

    async def pause_destination(self, name: str, author: str = "") -> Destination:
        """Start no delivery to it until it is resumed, also after a restart. Raises ValueError on an empty name."""
        if not name:
            raise ValueError("a destination has a name")
        if await self._scheduler.pause(name):
            self._publish("paused", b"", -1, {"by": author}, "", name)
        return self._one_destination(name)

    async def resume_destination(self, name: str, author: str = "") -> Destination:
        """End a pause; the back-off of the destination is forgotten."""
        if not name:
            raise ValueError("a destination has a name")
        if await self._scheduler.resume(name):
            self._publish("resumed", b"", -1, {"by": author}, "", name)
        return self._one_destination(name)

    # ---- inside

    def _summary(self, message_id: bytes) -> Summary | None:
        try:
            return self._spool.get(message_id)
        except NotFoundError:
            return None

    async def _bulk(self, ids: Sequence[bytes], kind: int, author: str, changes_it: Callable[[Summary], bool]) -> int:
        """One change per message, journaled in batches, on disk on return."""
        now = self._scheduler.now()
        detail = encode_detail({"t": now, "by": author, "action": KIND_NAMES[kind]})
        changed = 0
        for start in range(0, len(ids), IDS):
            rows = [(one, raw) for one in ids[start : start + IDS] if (raw := self._summary(one)) is not None and changes_it(raw)]
            batch: Changes = [(message_id, -1, kind, now, detail) for message_id, _ in rows]
            if kind == K_RETRY:  # before the change: it makes messages ready, and a back-off would put them off at once
                self._scheduler.forget_backoff([one[2] for _, raw in rows for one in raw[6] if one[5] == "PENDING"])
            if batch:
                await self._spool.change(batch)
            for message_id, raw in rows:
                self._publish(KIND_NAMES[kind], message_id, -1, {"by": author}, sender=raw[3])
            changed += len(rows)
            await asyncio.sleep(0)
        self._scheduler.advance()
        return changed

    async def _tell_removed(self, message_id: bytes) -> None:
        """RFC 3464 'failed' for what an operator removes. Raises CoreError: then nothing is removed."""
        raw = self._summary(message_id)
        if raw is None:
            return
        message = decode_summary(raw)
        now = self._scheduler.now()
        rows = [
            RecipientReport(
                one.address, one.orcpt, Action.FAILED, "5.7.1", "the administrator removed the message from the queue", None, now
            )
            for one in message.recipients
            if one.pending and is_due(one.notify, Action.FAILED, message.reverse_path)
        ]
        subject = Subject(message_id, message.size, message.received_at, message.reverse_path, message.meta)
        await self._reporter.send(subject, rows, now)

    def _destination(self, name: str, pending: int, ready: int, in_flight: int, now: int) -> Destination:
        state = self._scheduler.state(name)
        backoff = state.down_until if state is not None and state.backing_off(now) else 0
        error = state.last_error if state is not None and state.failures else ""
        return Destination(name, pending, ready, in_flight, self._scheduler.is_paused(name), backoff, error)

    def _one_destination(self, name: str) -> Destination:
        known = next((one for one in self.destinations() if one.name == name), None)
        return known or Destination(name, 0, 0, 0, self._scheduler.is_paused(name))

    def _publish(
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


def _any_pending(raw: Summary) -> bool:
    return any(one[5] == "PENDING" for one in raw[6])
