"""Fan-out to watchers within one process. Used by the queue's own events and by the event bus.

Invariants: a watcher's buffer is bounded; when it is full what comes is dropped, and the watcher gets one word about how many in their
place. Publishing never waits and costs nothing while nobody watches.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

MAX_BUFFER = 4096

T = TypeVar("T")


class _Watcher(Generic[T]):
    def __init__(self, limit: int, lost: Callable[[int], T]) -> None:
        self.buffer: deque[T] = deque()
        self.limit = limit
        self.lost = 0
        self.wake = asyncio.Event()
        self._told = lost

    def put(self, event: T) -> None:
        if len(self.buffer) >= self.limit:
            self.lost += 1
        else:
            self.buffer.append(event)
        self.wake.set()

    def get(self) -> T | None:
        if self.buffer:
            return self.buffer.popleft()
        if self.lost:
            lost, self.lost = self.lost, 0
            return self._told(lost)
        return None


class Hub(Generic[T]):
    """`lost` makes the event that stands for so many dropped ones. `watched` is worth a look before an event is built."""

    def __init__(self, lost: Callable[[int], T], limit: int = MAX_BUFFER) -> None:
        self._watchers: set[_Watcher[T]] = set()
        self._lost = lost
        self._limit = limit
        self._closed = False

    @property
    def watched(self) -> bool:
        """True while someone watches."""
        return bool(self._watchers)

    def publish(self, event: T) -> None:
        """Give the event to every watcher."""
        for watcher in self._watchers:
            watcher.put(event)

    async def watch(self) -> AsyncIterator[T]:
        """Events from now on, until the caller stops or the hub closes."""
        watcher = _Watcher(self._limit, self._lost)
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
