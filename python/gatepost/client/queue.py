"""The queue: list, look, act, watch, submit. `client.queue` of GatepostClient."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.client.connection import BODY_TIMEOUT, BULK_TIMEOUT, Connection, Warn, pages
from gatepost.client.operations import (
    Causes,
    Frozen,
    Operation,
    Preview,
    Rerouted,
    RerouteTarget,
    Undone,
    cause_value,
    operation_value,
    undo_value,
)
from gatepost.client.values import (
    BulkResult,
    Destination,
    HistoryEntry,
    MessageDetails,
    Origin,
    QueueEvent,
    QueueFilter,
    QueueMessage,
    QueueRecipient,
    QueueStats,
    QueueTotals,
    Refused,
    Route,
    Submitted,
    number,
    reply_or_none,
    reply_value,
    route_value,
    time_or_none,
    time_value,
    word,
)

CHUNK = 64 << 10


class Everything:
    """Every message of the queue, as a selection."""


ALL: Final = Everything()
Selection = str | Sequence[str] | QueueFilter | Everything | Frozen
"""Ids or unambiguous prefixes of ids, a filter that has at least one field, ALL, or what a preview froze."""


class Queue:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = queue_pb2_grpc.QueueServiceStub(connection.channel)

    async def list(
        self, wanted: QueueFilter | None = None, *, limit: int | None = None, page_size: int = 0, warn: Warn | None = None
    ) -> AsyncIterator[QueueMessage]:
        """Messages, oldest first, fetched page by page; at most `limit`. `warn` hears of workers whose messages are missing."""
        proto = filter_proto(wanted) if wanted else None

        async def fetch(token: str) -> Any:
            request = api.ListMessagesRequest(filter=proto, page_size=page_size, page_token=token)
            return await self._connection.call(self._stub.ListMessages, request)

        async for message in pages(fetch, lambda answer: answer.messages, limit, warn=warn):
            yield message_value(message)

    async def get(self, message_id: str) -> MessageDetails:
        """One message with history and header fields, by id or unambiguous prefix."""
        answer = await self._connection.call(self._stub.GetMessage, api.GetMessageRequest(message_id=message_id))
        return MessageDetails(
            message_value(answer.message),
            tuple(history_value(entry) for entry in answer.history),
            tuple((field.name, field.value) for field in answer.headers),
        )

    async def download(self, message_id: str) -> AsyncIterator[bytes]:
        """The message's octets, trace header included, in chunks."""
        request = api.DownloadMessageRequest(message_id=message_id)
        async for part in self._connection.stream(self._stub.DownloadMessage, request, BODY_TIMEOUT):
            yield part.chunk

    async def preview(self, selection: Selection, *, sample_size: int = 0) -> Preview:
        """Freeze a selection: its figures, its oldest messages, and a token. Pass `Frozen(preview.token)` to the calls below."""
        request = api.PreviewSelectionRequest(selection=_selection(selection), sample_size=sample_size)
        answer = await self._connection.call(self._stub.PreviewSelection, request, BULK_TIMEOUT)
        return Preview(
            answer.token,
            time_value(answer.expire_time),
            answer.messages,
            answer.recipients,
            answer.held,
            answer.octets,
            time_value(answer.selected_at),
            tuple(message_value(message) for message in answer.sample),
            tuple(answer.warnings),
        )

    async def hold(self, selection: Selection, *, dry_run: bool = False) -> BulkResult:
        """Stop deliveries of these messages."""
        request = api.HoldMessagesRequest(selection=_selection(selection), dry_run=dry_run)
        return bulk_value(await self._connection.call(self._stub.HoldMessages, request, BULK_TIMEOUT))

    async def release(self, selection: Selection, *, dry_run: bool = False) -> BulkResult:
        """Let held messages go on."""
        request = api.ReleaseMessagesRequest(selection=_selection(selection), dry_run=dry_run)
        return bulk_value(await self._connection.call(self._stub.ReleaseMessages, request, BULK_TIMEOUT))

    async def retry(self, selection: Selection, *, dry_run: bool = False) -> BulkResult:
        """Make them due now."""
        request = api.RetryMessagesRequest(selection=_selection(selection), dry_run=dry_run)
        return bulk_value(await self._connection.call(self._stub.RetryMessages, request, BULK_TIMEOUT))

    async def remove(self, selection: Selection, *, send_dsn: bool = False, dry_run: bool = False) -> BulkResult:
        """Take them out of the queue; with `send_dsn` the senders are told at once, and it cannot be undone."""
        request = api.RemoveMessagesRequest(selection=_selection(selection), dry_run=dry_run, send_dsn=send_dsn)
        return bulk_value(await self._connection.call(self._stub.RemoveMessages, request, BULK_TIMEOUT))

    async def reroute(
        self, message_id: str, *, recipients: Iterable[str] = (), route: Route | None = None, new_address: str = ""
    ) -> tuple[Route, ...]:
        """Give pending recipients another way: a route, another address, or (neither given) a new decision by the rules."""
        request = api.RerouteMessageRequest(message_id=message_id, recipients=list(recipients))
        if route is not None:
            request.route.CopyFrom(_route_proto(route))
        elif new_address:
            request.new_address = new_address
        else:
            request.by_rules = True
        answer = await self._connection.call(self._stub.RerouteMessage, request)
        return tuple(route_value(one) for one in answer.routes)

    async def reroute_all(self, selection: Selection, target: RerouteTarget, *, dry_run: bool = False) -> Rerouted:
        """Give the pending recipients of many messages another way."""
        request = api.RerouteMessagesRequest(selection=_selection(selection), dry_run=dry_run)
        if target.route is not None:
            request.route.CopyFrom(_route_proto(target.route))
        elif target.new_address:
            request.new_address = target.new_address
        else:
            request.by_rules = True
        answer = await self._connection.call(self._stub.RerouteMessages, request, BULK_TIMEOUT)
        return Rerouted(bulk_value(answer), answer.refused, answer.first_refusal)

    async def operations(self, *, limit: int | None = None, warn: Warn | None = None) -> AsyncIterator[Operation]:
        """What operators did to messages, newest first. `warn` as for `list`."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListOperations, api.ListOperationsRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.operations, limit, warn=warn):
            yield operation_value(one)

    async def undo(self, operation_id: str = "") -> Undone:
        """Put back what an operation changed; '' is the caller's newest that can be undone."""
        request = api.UndoOperationRequest(operation_id=operation_id)
        answer = await self._connection.call(self._stub.UndoOperation, request, BULK_TIMEOUT)
        return Undone(operation_value(answer.operation), undo_value(answer.result), answer.partial, tuple(answer.warnings))

    async def causes(self, limit: int = 0) -> Causes:
        """Why mail waits: the largest groups of recipients whose last attempt failed for the same cause."""
        answer = await self._connection.call(self._stub.ListCauses, api.ListCausesRequest(limit=limit), BULK_TIMEOUT)
        found = tuple(cause_value(one) for one in answer.causes)
        return Causes(found, answer.recipients, answer.messages, answer.partial, tuple(answer.warnings))

    async def watch(self, wanted: QueueFilter | None = None, *, started: Callable[[], None] | None = None) -> AsyncIterator[QueueEvent]:
        """Events from now on, without end. `started` is called once the watch is in place."""
        request = api.WatchQueueRequest(filter=filter_proto(wanted) if wanted else None)
        async for event in self._connection.stream(self._stub.WatchQueue, request, wait=started or (lambda: None)):
            yield _event(event)

    async def stats(self) -> QueueTotals:
        """Totals of all workers and of each."""
        answer = await self._connection.call(self._stub.GetStats, api.GetStatsRequest())
        workers = {index: stats_value(one) for index, one in sorted(answer.workers.items())}
        return QueueTotals(stats_value(answer.total), workers, answer.partial, tuple(answer.warnings))

    async def destinations(self, *, warn: Warn | None = None) -> AsyncIterator[Destination]:
        """Destinations with something pending, and paused ones, by name. `warn` as for `list`."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListDestinations, api.ListDestinationsRequest(page_token=token))

        async for destination in pages(fetch, lambda answer: answer.destinations, warn=warn):
            yield _destination(destination)

    async def pause(self, destination: str) -> Destination:
        """Start no delivery to a destination until it is resumed."""
        answer = await self._connection.call(self._stub.PauseDestination, api.PauseDestinationRequest(name=destination))
        return _destination(answer.destination)

    async def resume(self, destination: str) -> Destination:
        """End a pause."""
        answer = await self._connection.call(self._stub.ResumeDestination, api.ResumeDestinationRequest(name=destination))
        return _destination(answer.destination)

    async def submit(
        self,
        sender: str,
        recipients: Sequence[str],
        message: bytes | AsyncIterable[bytes],
        *,
        envelope_id: str = "",
        return_content: str = "",
        notify: Sequence[str] = (),
        hold: bool = False,
    ) -> Submitted:
        """Queue an RFC 5322 message. On return it is on disk. `notify` holds for every recipient."""
        header = api.SubmitHeader(sender=sender, envelope_id=envelope_id, return_content=return_content, hold=hold)
        header.recipients.extend(api.SubmitRecipient(address=address, notify=notify) for address in recipients)
        answer = await self._connection.upload(self._stub.SubmitMessage, _parts(header, message))
        refused = tuple(Refused(one.address, reply_value(one.reply)) for one in answer.refused)
        return Submitted(answer.message_id, answer.size, refused)


async def _parts(header: api.SubmitHeader, message: bytes | AsyncIterable[bytes]) -> AsyncIterator[api.SubmitMessageRequest]:
    yield api.SubmitMessageRequest(header=header)
    size = 0
    async for chunk in _chunks(message):
        size += len(chunk)
        yield api.SubmitMessageRequest(chunk=chunk)
    yield api.SubmitMessageRequest(finish=api.SubmitFinish(size=size))


async def _chunks(message: bytes | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(message, bytes):
        for start in range(0, len(message), CHUNK):
            yield message[start : start + CHUNK]
        return
    async for piece in message:
        for start in range(0, len(piece), CHUNK):
            yield piece[start : start + CHUNK]


def filter_proto(wanted: QueueFilter) -> api.QueueFilter:
    """QueueFilter → proto. Raises ValueError for an unknown state."""
    made = api.QueueFilter(
        sender=wanted.sender,
        recipient=wanted.recipient,
        domain=wanted.domain,
        destination=wanted.destination,
        state=number(api.RecipientState, wanted.state, "RECIPIENT_STATE_", "state"),
        held=wanted.held,
        min_size=wanted.min_size,
        max_size=wanted.max_size,
        reply_contains=wanted.reply_contains,
    )
    for name in ("older_than", "newer_than"):
        age: timedelta | None = getattr(wanted, name)
        if age is not None:
            value = Duration()
            value.FromTimedelta(age)
            getattr(made, name).CopyFrom(value)
    if wanted.received_before is not None:
        made.received_before.CopyFrom(_timestamp(wanted.received_before))
    return made


def _timestamp(moment: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def _selection(selection: Selection) -> api.MessageSelection:
    if isinstance(selection, Everything):
        return api.MessageSelection(all=True)
    if isinstance(selection, Frozen):
        return api.MessageSelection(token=selection.token)
    if isinstance(selection, QueueFilter):
        return api.MessageSelection(filter=filter_proto(selection))
    return api.MessageSelection(message_ids=[selection] if isinstance(selection, str) else selection)


def _route_proto(route: Route) -> common.Route:
    return common.Route(
        kind=number(common.RouteKind, route.kind, "ROUTE_KIND_", "route kind"),
        address=route.address,
        host=route.host,
        port=route.port,
        tls=number(common.TlsPolicy, route.tls, "TLS_POLICY_", "tls"),
        implicit_tls=route.implicit_tls,
    )


def message_value(message: api.QueueMessage) -> QueueMessage:
    """Proto → QueueMessage."""
    origin = message.origin
    return QueueMessage(
        message_id=message.message_id,
        sender=message.sender,
        size=message.size,
        received=time_value(message.received_time),
        origin=Origin(origin.protocol, origin.client_address, origin.client_port, origin.helo, origin.user, origin.tls, origin.listener),
        envelope_id=message.envelope_id,
        return_content=message.return_content,
        body=message.body,
        smtputf8=message.smtputf8,
        rule_version=message.rule_version,
        in_flight=message.in_flight,
        held=message.held,
        worker=message.worker,
        recipient_count=message.recipient_count,
        recipients=tuple(_recipient(one) for one in message.recipients),
    )


def _recipient(one: api.QueueRecipient) -> QueueRecipient:
    return QueueRecipient(
        index=one.index,
        address=one.address,
        original_recipient=one.original_recipient,
        destination=one.destination,
        state=word(api.RecipientState, one.state, "RECIPIENT_STATE_").upper(),
        held=one.held,
        next_attempt=time_or_none(one, "next_attempt_time"),
        attempts=one.attempts,
        last_reply=reply_or_none(one, "last_reply"),
        last_reason=one.last_reason,
        route=route_value(one.route),
        notify=tuple(one.notify),
        removed_until=time_or_none(one, "removed_until"),
    )


def history_value(entry: api.HistoryEntry) -> HistoryEntry:
    """Proto → HistoryEntry."""
    kind = word(api.QueueEventKind, entry.kind, "QUEUE_EVENT_KIND_")
    return HistoryEntry(time_value(entry.time), kind, entry.recipient_index, entry.text, reply_or_none(entry, "reply"))


def _event(event: api.WatchQueueResponse) -> QueueEvent:
    return QueueEvent(
        time_value(event.time),
        word(api.QueueEventKind, event.kind, "QUEUE_EVENT_KIND_"),
        event.message_id,
        event.recipient_index,
        event.sender,
        event.recipient,
        event.destination,
        event.text,
        reply_or_none(event, "reply"),
        event.worker,
    )


def bulk_value(answer: Any) -> BulkResult:
    """The result in an answer → BulkResult."""
    result: api.BulkResult = answer.result
    ids, warnings = tuple(result.message_ids), tuple(result.warnings)
    selected_at, until = time_value(result.selected_at), time_or_none(result, "undo_until")
    return BulkResult(
        result.matched, result.changed, ids, selected_at, result.partial, warnings, result.operation_id, until, result.gone, result.withheld
    )


def _destination(one: api.Destination) -> Destination:
    until = time_or_none(one, "backoff_until")
    return Destination(one.name, one.pending, one.ready, one.in_flight, one.paused, until, one.last_error)


def stats_value(stats: api.QueueStats) -> QueueStats:
    """Proto → QueueStats."""
    return QueueStats(**{field.name: getattr(stats, field.name) for field in api.QueueStats.DESCRIPTOR.fields})
