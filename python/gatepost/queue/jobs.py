"""Native tuples → the values of transport.py. Pure. Used by scheduler and service; raises ValueError on a route or meta it cannot read."""

from functools import lru_cache

from gatepost import native
from gatepost.message.envelope import Meta, Notify
from gatepost.queue.transport import Job, JobRecipient
from gatepost.routing.model import Route

decode_route = lru_cache(maxsize=4096)(Route.decode)
"""Routes are immutable and few compared with messages."""

MAX_REMEMBERED = 512
"""Octets of a meta that is worth remembering; longer ones have a verdict and come up once."""

_decode_small_meta = lru_cache(maxsize=1024)(Meta.decode)

_NOTIFY = {value: Notify(value) for value in range(16)}


def decode_meta(data: bytes) -> Meta:
    """Meta of a message; metas are few compared with messages, but for the client's port and verdicts."""
    return _decode_small_meta(data) if len(data) <= MAX_REMEMBERED else Meta.decode(data)


def decode_notify(flags: int) -> Notify:
    """RFC 3461 NOTIFY bits; unknown bits are dropped."""
    return _NOTIFY[flags & 15]


def decode_job(raw: native.Job) -> Job:
    """A job as the native spool's `take` gives it."""
    message_id, size, received_at, reverse_path, meta, recipients = raw
    decoded = [
        JobRecipient(index, address, orcpt, _NOTIFY[notify & 15], decode_route(route), attempts)
        for index, address, orcpt, notify, route, attempts in recipients
    ]
    return Job(message_id, size, received_at, reverse_path, decode_meta(meta), tuple(decoded))
