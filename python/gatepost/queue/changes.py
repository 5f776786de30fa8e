"""Names of journal changes, and changes as events. Used by scheduler and service."""

from collections.abc import Sequence

from gatepost.native import (
    K_ACCEPTED,
    K_DEFERRED,
    K_DELIVERED,
    K_EXPIRED,
    K_FAILED,
    K_HELD,
    K_NOTE,
    K_PURGED,
    K_RELEASED,
    K_REMOVED,
    K_REROUTED,
    K_RESTORED,
    K_RETRY,
    Change,
)
from gatepost.queue.attempt import decode_detail
from gatepost.queue.events import EventHub, QueueEvent
from gatepost.queue.transport import Job

KIND_NAMES = {
    K_ACCEPTED: "accepted",
    K_REROUTED: "rerouted",
    K_DELIVERED: "delivered",
    K_DEFERRED: "deferred",
    K_FAILED: "failed",
    K_EXPIRED: "expired",
    K_REMOVED: "removed",
    K_HELD: "held",
    K_RELEASED: "released",
    K_RETRY: "retried",
    K_NOTE: "note",
    K_RESTORED: "restored",
    K_PURGED: "purged",
}
COUNTED = {K_DELIVERED: "delivered", K_DEFERRED: "deferred", K_FAILED: "failed", K_EXPIRED: "failed"}


def publish_changes(hub: EventHub, now: int, destination: str, jobs: Sequence[Job], changes: Sequence[Change]) -> None:
    """One event per change."""
    known = {job.message_id: job for job in jobs}
    for message_id, index, kind, _, detail in changes:
        job = known[message_id]
        address = next((one.address for one in job.recipients if one.index == index), "")
        name = KIND_NAMES.get(kind, "note")
        hub.publish(QueueEvent(now, name, message_id, index, address, destination, job.reverse_path, decode_detail(detail)))
