"""What became of messages: search, one in full, the queue of a past moment. `client.history` of GatepostClient."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.history.v1 import history_pb2 as api
from gatepost.api.history.v1 import history_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.client.connection import Connection, Warn, pages
from gatepost.client.queue import history_value
from gatepost.client.values import HistoryEntry, Origin, Reply, number, reply_or_none, time_or_none, time_value, word

FIRST_PAGE = 100


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which messages; everything given must match.

    sender and recipient are an address, a domain or a glob, sender '<>' the null reverse-path; subject is words that must all occur; host
    is a client or remote host, exactly; outcome is a recipient state ('failed'); since and until bound the time of acceptance.
    """

    sender: str = ""
    recipient: str = ""
    subject: str = ""
    header_message_id: str = ""
    host: str = ""
    outcome: str = ""
    held: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TraceRecipient:
    """A recipient at a moment."""

    index: int
    address: str
    original_recipient: str
    destination: str
    state: str
    held: bool
    attempts: int
    next_attempt: datetime | None
    finished: datetime | None
    last_reply: Reply | None
    last_reason: str


@dataclass(frozen=True, slots=True)
class Trace:
    """A message and what became of it. `finished` None: in the queue, as far as is known; `gaps`: spans of time of which records are
    missing that may have concerned it (None: from the beginning). `events` only from `get`.
    """

    message_id: str
    sender: str
    size: int
    received: datetime
    finished: datetime | None
    origin: Origin
    subject: str
    header_message_id: str
    envelope_id: str
    recipients: tuple[TraceRecipient, ...]
    recipient_count: int
    worker: int
    events: tuple[HistoryEntry, ...] = ()
    gaps: tuple[tuple[datetime | None, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """How one message differs between two moments. kind: 'arrived', 'left', 'changed' or 'passed'."""

    kind: str
    trace: Trace
    before: tuple[TraceRecipient, ...] = field(default=())


class History:
    """Every method raises the errors of gatepost.client.errors; RefusedError or another of them when no history is kept."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = history_pb2_grpc.HistoryServiceStub(connection.channel)

    async def search(
        self, wanted: TraceFilter | None = None, *, limit: int | None = FIRST_PAGE, page_size: int = 0, warn: Warn | None = None
    ) -> AsyncIterator[Trace]:
        """Messages, newest first, at most `limit` (None = all). `warn` hears of what is missing from the answer."""
        proto = filter_proto(wanted) if wanted else None

        async def fetch(token: str) -> Any:
            request = api.ListTracesRequest(filter=proto, page_size=page_size, page_token=token)
            return await self._connection.call(self._stub.ListTraces, request)

        async for one in pages(fetch, lambda answer: answer.traces, limit, warn=warn):
            yield trace_value(one)

    async def get(self, message_id: str, *, warn: Warn | None = None) -> Trace:
        """One message with its events, by id or unambiguous prefix."""
        answer = await self._connection.call(self._stub.GetTrace, api.GetTraceRequest(message_id=message_id))
        for text in answer.warnings if warn else ():
            _tell(warn, text)
        return trace_value(answer.trace)

    async def queue_at(
        self,
        moment: datetime,
        wanted: TraceFilter | None = None,
        *,
        limit: int | None = None,
        page_size: int = 0,
        warn: Warn | None = None,
    ) -> AsyncIterator[Trace]:
        """The queue as it was, oldest first, recipients as they were."""
        proto = filter_proto(wanted) if wanted else None

        async def fetch(token: str) -> Any:
            request = api.ListQueueAtRequest(time=_timestamp(moment), filter=proto, page_size=page_size, page_token=token)
            return await self._connection.call(self._stub.ListQueueAt, request)

        async for one in pages(fetch, lambda answer: answer.traces, limit, warn=warn):
            yield trace_value(one)

    async def diff(
        self,
        start: datetime,
        end: datetime,
        wanted: TraceFilter | None = None,
        *,
        passed: bool = False,
        limit: int | None = None,
        warn: Warn | None = None,
    ) -> AsyncIterator[Difference]:
        """What differs between the queue at two moments, oldest message first; `passed` tells also what came and left in between."""
        proto = filter_proto(wanted) if wanted else None

        async def fetch(token: str) -> Any:
            request = api.DiffQueueRequest(to=_timestamp(end), filter=proto, include_passed=passed, page_token=token, page_size=1000)
            getattr(request, "from").CopyFrom(_timestamp(start))
            return await self._connection.call(self._stub.DiffQueue, request)

        async for one in pages(fetch, lambda answer: answer.differences, limit, warn=warn):
            kind = word(api.DifferenceKind, one.kind, "DIFFERENCE_KIND_")
            yield Difference(kind, trace_value(one.trace), tuple(map(_recipient, one.before)))


def _tell(warn: Callable[[str], None] | None, text: str) -> None:
    if warn is not None:
        warn(text)


def filter_proto(wanted: TraceFilter) -> api.TraceFilter:
    """TraceFilter → proto. Raises ValueError for an unknown outcome."""
    made = api.TraceFilter(
        sender=wanted.sender,
        recipient=wanted.recipient,
        subject=wanted.subject,
        header_message_id=wanted.header_message_id,
        host=wanted.host,
        outcome=number(queue_api.RecipientState, wanted.outcome, "RECIPIENT_STATE_", "outcome"),
        held=wanted.held,
    )
    if wanted.since is not None:
        made.since.CopyFrom(_timestamp(wanted.since))
    if wanted.until is not None:
        made.until.CopyFrom(_timestamp(wanted.until))
    return made


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def trace_value(one: api.Trace) -> Trace:
    """Proto → Trace."""
    origin = one.origin
    return Trace(
        message_id=one.message_id,
        sender=one.sender,
        size=one.size,
        received=time_value(one.received_time),
        finished=time_or_none(one, "finished_time"),
        origin=Origin(origin.protocol, origin.client_address, origin.client_port, origin.helo, origin.user, origin.tls, origin.listener),
        subject=one.subject,
        header_message_id=one.header_message_id,
        envelope_id=one.envelope_id,
        recipients=tuple(map(_recipient, one.recipients)),
        recipient_count=one.recipient_count,
        worker=one.worker,
        events=tuple(map(history_value, one.events)),
        gaps=tuple((time_or_none(gap, "from"), time_value(gap.to)) for gap in one.gaps),
    )


def _recipient(one: api.TraceRecipient) -> TraceRecipient:
    return TraceRecipient(
        index=one.index,
        address=one.address,
        original_recipient=one.original_recipient,
        destination=one.destination,
        state=word(queue_api.RecipientState, one.state, "RECIPIENT_STATE_").upper(),
        held=one.held,
        attempts=one.attempts,
        next_attempt=time_or_none(one, "next_attempt_time"),
        finished=time_or_none(one, "finished_time"),
        last_reply=reply_or_none(one, "last_reply"),
        last_reason=one.last_reason,
    )
