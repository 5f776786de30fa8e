"""QueueService: what an operator sees of one worker's part of the queue, and pauses. Called by control/ (and through it CLI and SDK).

What changes messages is in actions. Invariants: what reads many messages runs in a thread, natively; a message that is not there raises
NotFoundError. Memory per call is bounded by the page, or by 16 octets per message selected.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.native import K_RETRY, Cause, NativeFilter, Reader
from gatepost.queue import withheld
from gatepost.queue.events import QueueEvent
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
from gatepost.spool import AsyncSpool

MAX_PAGE = 1000
MAX_SELECTED = 10_000_000


class QueueService:
    """One per worker."""

    def __init__(self, spool: AsyncSpool, scheduler: Scheduler) -> None:
        self._spool = spool
        self._scheduler = scheduler

    async def whole(self) -> None:
        """Return when all messages can be seen: a deep queue takes a while to read. Raises CoreError when it cannot be read."""
        await self._spool.whole()

    # ---- seeing

    async def list(self, wanted: Filter | None = None, page_token: str = "", limit: int = 100) -> Page:
        """Messages in id order after `page_token`. Raises ValueError on a bad token."""
        after = parse_message_id(page_token) if page_token else None
        native = (wanted or Filter()).native(self._scheduler.now())
        return await asyncio.to_thread(self._page, native, after, max(1, min(limit, MAX_PAGE)))

    def _page(self, wanted: NativeFilter, after: bytes | None, limit: int) -> Page:
        partial = not self._spool.recovered
        rows, following = self._spool.page(wanted, after, limit)
        token = format_message_id(following) if following else ""
        return Page(tuple(decode_summary(raw) for raw in rows), token, partial)

    async def count(self, wanted: Filter) -> tuple[int, int]:
        """How many messages match, and how many of their recipients."""
        await self._spool.whole()
        return await asyncio.to_thread(self._spool.count, wanted.native(self._scheduler.now()))

    async def select(self, wanted: Filter, limit: int = MAX_SELECTED) -> bytes:
        """Ids of the first `limit` messages that match, oldest first, one behind the other (16 octets each)."""
        await self._spool.whole()
        return await asyncio.to_thread(self._spool.select, wanted.native(self._scheduler.now()), limit)

    async def without_withheld(self, ids: bytes) -> tuple[bytes, int]:
        """Those of these messages (packed ids) of which no recipient is in quarantine or waits for a scanner, and how many others."""
        return await asyncio.to_thread(withheld.without, self._spool, ids)

    async def get(self, message_id: bytes) -> QueuedMessage:
        """One live message. Raises NotFoundError."""
        await self._spool.whole()
        return decode_summary(self._spool.get(message_id))

    async def history(self, message_id: bytes) -> tuple[HistoryEntry, ...]:
        """The journal of one live message, oldest first. Raises NotFoundError."""
        return tuple(decode_history(await self._spool.history(message_id)))

    async def measure(self, ids: bytes) -> tuple[int, int, int, int, int]:
        """Of these messages (packed ids): those in the queue, their pending recipients, held and being delivered ones of these, octets."""
        await self._spool.whole()
        return await self._spool.measure(ids)

    async def present(self, ids: bytes) -> bytes:
        """Those of these messages (packed ids) that have a pending recipient."""
        await self._spool.whole()
        return await self._spool.changeable(ids, K_RETRY)

    async def causes(self, limit: int) -> tuple[Sequence[Cause], int, int]:
        """Why recipients wait: the `limit` largest groups, and how many recipients and messages all of them have."""
        await self._spool.whole()
        return await self._spool.causes(limit)

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

    # ---- pauses

    async def pause_destination(self, name: str, author: str = "") -> Destination:
        """Start no delivery to it until it is resumed, also after a restart. Raises ValueError on an empty name."""
        if not name:
            raise ValueError("a destination has a name")
        if await self._scheduler.pause(name):
            self._publish("paused", name, author)
        return self._one_destination(name)

    async def resume_destination(self, name: str, author: str = "") -> Destination:
        """End a pause; the back-off of the destination is forgotten."""
        if not name:
            raise ValueError("a destination has a name")
        if await self._scheduler.resume(name):
            self._publish("resumed", name, author)
        return self._one_destination(name)

    # ---- inside

    def _destination(self, name: str, pending: int, ready: int, in_flight: int, now: int) -> Destination:
        state = self._scheduler.state(name)
        backoff = state.down_until if state is not None and state.backing_off(now) else 0
        error = state.last_error if state is not None and state.failures else ""
        return Destination(name, pending, ready, in_flight, self._scheduler.is_paused(name), backoff, error)

    def _one_destination(self, name: str) -> Destination:
        known = next((one for one in self.destinations() if one.name == name), None)
        return known or Destination(name, 0, 0, 0, self._scheduler.is_paused(name))

    def _publish(self, kind: str, name: str, author: str) -> None:
        hub = self._scheduler.events
        if hub.watched:
            hub.publish(QueueEvent(self._scheduler.now(), kind, destination=name, detail={"by": author}))
