"""The event bus of one process: its newest events, and a fan-out to watchers. Made by app/, published to by whoever has something to tell.

Invariants: at most KEPT events are kept, of bounded texts; ids rise, and no two processes make the same one. Nothing is written to disk:
an event is a word to whoever listens, not a record (history and audit are). `publish` is called on the event loop and does not fail.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from gatepost.events.hub import MAX_BUFFER, Hub

KEPT = 5_000
MAX_TEXT = 500
SUPERVISOR = -1
NOTICE, FAULT, RULES, WORKER, OVERFLOW = "policy-notice", "policy-fault", "rules-changed", "worker", "overflow"
KINDS = (NOTICE, FAULT, RULES, WORKER, OVERFLOW)


@dataclass(frozen=True, slots=True)
class Event:
    """time is Unix microseconds; worker -1 is the supervisor."""

    id: str
    time: int
    kind: str
    text: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    worker: int = SUPERVISOR


class EventBus:
    """`worker`: whose it is."""

    def __init__(
        self, worker: int = SUPERVISOR, clock: Callable[[], float] = time.time, *, kept: int = KEPT, buffer: int = MAX_BUFFER
    ) -> None:
        self._worker = worker
        self._clock = clock
        self._last = 0
        self._events: deque[Event] = deque(maxlen=kept)
        self._hub: Hub[Event] = Hub(lambda lost: self._made(OVERFLOW, f"{lost} events were lost", {}), buffer)

    def publish(self, kind: str, text: str = "", **fields: str) -> Event:
        """Keep an event and give it to every watcher."""
        event = self._made(kind, text, fields)
        self._events.append(event)
        self._hub.publish(event)
        return event

    def _made(self, kind: str, text: str, fields: Mapping[str, str]) -> Event:
        self._last = now = max(int(self._clock() * 1_000_000), self._last + 1)
        kept = {name: value[:MAX_TEXT] for name, value in fields.items() if value}
        return Event(f"{now:016x}{self._worker & 0xFFFF:04x}", now, kind, text[:MAX_TEXT], kept, self._worker)

    def newest(self, limit: int, *, before: str = "", kind: str = "") -> list[Event]:
        """Newest first, those with a smaller id than `before`."""
        return list(islice(_chosen(reversed(self._events), before, kind), limit))

    def watch(self) -> AsyncIterator[Event]:
        """Events from now on."""
        return self._hub.watch()

    def close(self) -> None:
        """End every watch."""
        self._hub.close()


def _chosen(events: Iterable[Event], before: str, kind: str) -> Iterable[Event]:
    return (one for one in events if (not before or one.id < before) and (not kind or one.kind == kind))
