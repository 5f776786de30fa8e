"""LocalTransport: routes of kind local → the mail store, hundreds of messages per call. Called by queue.scheduler.

Most mail goes in rounds: the store's thread takes, stores and journals it without a call of Python per message. What a round leaves
(a fault, a report that is due, a route that the store has not been taught yet) goes through `deliver`.

Invariants: the store keeps (message id, recipient index) as the key of a delivery, so a batch that is repeated after a crash stores nothing
twice; the message's octets never pass through Python. A fault of one mailbox touches only its own recipients; a fault of the volume
(disk full, fsync) backs the volume off as a whole. Never raises.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from gatepost.delivery.changes import Circle, RouteChanges
from gatepost.delivery.surround import Edit
from gatepost.mailbox import Delivery, Volumes
from gatepost.native import ClosedError, CoreError, DamagedError, DiskFullError, NotFoundError, SyncFailedError
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobRecipient, JobResult, Outcome, RoundResult
from gatepost.routing.model import Route
from gatepost.spool import AsyncSpool

BATCH = 256

_DELIVERED = Delivered()

_encoded = lru_cache(maxsize=4096)(Route.encode)


class LocalTransport:
    """Deliveries into the volumes of this machine. The destination is 'local:VOLUME'."""

    batch = BATCH

    def __init__(self, volumes: Volumes, spool: AsyncSpool, changes: RouteChanges) -> None:
        self._volumes = volumes
        self._spool = spool
        self._changes = changes

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """Store all jobs in one batch: one fdatasync and one index transaction."""
        found = [await self._delivery(job, recipient) for job in jobs for recipient in job.recipients]
        ready = [one for one in found if isinstance(one, tuple)]
        try:
            store = self._volumes.by_name(destination.partition(":")[2])
            results = iter([outcome(error) for error in await store.deliver(ready, self._spool)])
            plain = [one.route for job in jobs for one in job.recipients if not (one.route.edits or one.route.return_path)]
            store.learn([(_encoded(route), route.mailbox_id, route.folder) for route in plain])
        except (CoreError, LookupError, OSError) as error:
            results = iter([outcome(error)] * len(ready))
        outcomes = iter([next(results) if isinstance(one, tuple) else one for one in found])
        return [JobResult(tuple(next(outcomes) for _ in job.recipients)) for job in jobs]

    async def _delivery(self, job: Job, recipient: JobRecipient) -> Delivery | Outcome:
        """What the store gets of one recipient, or why it gets nothing."""
        route = recipient.route
        if not (route.edits or route.return_path):
            return delivery(job, recipient)
        try:
            edits = await asyncio.to_thread(self._edits, job, route)
        except Circle as error:
            return Failed(f"the message has been through the list {error} before", "5.4.6")
        except CoreError as error:
            return outcome(error)
        return delivery(replace(job, reverse_path=self._changes.sender(job.reverse_path, route)), recipient, edits)

    def _edits(self, job: Job, route: Route) -> Sequence[Edit]:
        return self._changes.edits(self._spool.open_message(job.message_id), job, route) if route.edits else ()

    async def round(self, destination: str, count: int) -> RoundResult | None:
        """Take, store and journal up to `count` jobs. None when the volume is not to be had; `deliver` says why."""
        try:
            store = self._volumes.by_name(destination.partition(":")[2])
            taken, delivered, left = await store.deliver_due(destination, count, self._spool)
        except (CoreError, LookupError, OSError):
            return None
        return RoundResult(taken, delivered, [(job, _result(errors)) for job, errors in left])

    async def close(self) -> None:
        """Nothing to close: the volumes belong to app."""


def delivery(job: Job, recipient: JobRecipient, edits: Sequence[Edit] = ()) -> Delivery:
    """The store's view of one recipient. RFC 5321 4.4: the final delivery adds Return-Path; Delivered-To stops loops through forwards."""
    route = recipient.route
    prefix = f"Return-Path: <{job.reverse_path}>\r\nDelivered-To: {recipient.address}\r\n"
    return (job.message_id, recipient.index, route.mailbox_id, route.folder, prefix.encode("utf-8", "replace"), edits)


def outcome(error: Exception | None) -> Outcome:
    """What the store's answer means for the recipient. Our own trouble is temporary: it is no reason to return mail."""
    if error is None:
        return _DELIVERED
    if isinstance(error, DiskFullError):
        return Deferred(f"the mail store is full: {error}", "4.3.1", destination_down=True)
    if isinstance(error, SyncFailedError | ClosedError):
        return Deferred(f"the mail store cannot be written: {error}", "4.3.0", destination_down=True)
    if isinstance(error, DamagedError):
        return Deferred(f"the queued message cannot be read: {error}", "4.3.0")
    if isinstance(error, NotFoundError | LookupError):
        return Deferred(f"no such mailbox or volume now: {error}", "4.3.5")
    return Deferred(f"the mailbox cannot take the message: {error}", "4.2.0")


def _result(errors: Sequence[CoreError | None] | None) -> JobResult | None:
    return JobResult(tuple(outcome(error) for error in errors)) if errors is not None else None
