"""Queue events for watchers: `gatepost queue watch` and the RPC behind it. Published by scheduler and service; see events.hub.

A watcher that is too slow gets one 'overflow' event with the number of those that were dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatepost.events.hub import MAX_BUFFER, Hub


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


class EventHub(Hub[QueueEvent]):
    """Fan-out of what happens to messages."""

    def __init__(self, limit: int = MAX_BUFFER) -> None:
        super().__init__(lambda lost: QueueEvent(0, "overflow", detail={"lost": lost}), limit)
