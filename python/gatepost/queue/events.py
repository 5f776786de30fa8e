"""Queue events for watchers: `gatepost queue watch` and the RPC behind it. Published by scheduler and service.

Invariants: a watcher's buffer is bounded; when it is full events are dropped and the watcher gets one 'overflow' event with their
number in their place. Publishing never waits and costs nothing while nobody watches.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

MAX_BUFFER = 4096


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """kind: accepted, delivered, deferred, failed, expired, removed, held, released, retried, rerouted, note, paused, resumed, overflow.

    time is Unix microseconds; recipient_index -1 means every pending recipient; detail is the decoded journal detail.
    """

    time: int
    kind: str
    message_id: bytes = b""
    recipient_index: int = -1
    address: str = ""
    destination: str = ""
    sender: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)


class _Watcher:
    def __init__(self, limit: int) -> None:
        self.buffer: deque[QueueEvent] = deque()
        self.limit = limit
        self.lost = 0
        self.wake = asyncio.Event()

    def put(self, event: QueueEvent) -> None:
        if len(self.buffer) >= self.limit:
            self.lost += 1
        else:
            self.buffer.append(event)
        self.wake.set()

    def get(self) -> QueueEvent | None:
        if self.buffer:
            return self.buffer.popleft()
        if self.lost:
            lost, self.lost = self.lost, 0
            return QueueEvent(0, "overflow", detail={"lost": lost})
        return None


class EventHub:
    """Fan-out of events. `watched` is worth a look before an event is built."""

    def __init__(self, limit: int = MAX_BUFFER) -> None:
        self._watchers: set[_Watcher] = set()
        self._limit = limit
        self._closed = False

    @property
    def watched(self) -> bool:
        """True while someone watches."""
        return bool(self._watchers)

    def publish(self, event: QueueEvent) -> None:
        """Give the event to every watcher."""
        for watcher in self._watchers:
            watcher.put(event)

    async def watch(self) -> AsyncIterator[QueueEvent]:
        """Events from now on, until the caller stops or the hub closes."""
        watcher = _Watcher(self._limit)
        self._watchers.add(watcher)
        try:
            while not self._closed:
                await watcher.wake.wait()
                watcher.wake.clear()
                while (event := watcher.get()) is not None:
                    yield event
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake.set()
