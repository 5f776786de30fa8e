"""QueueService of one worker, over its own partition. The supervisor's QueueService (merge.py) calls it over DIR/run/worker-I.sock.

Decodes, calls queue.service, encodes; what acts on many messages is in queue_bulk.py. Bodies are read in threads. Errors: see
control.errors.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.config import Settings
from gatepost.control.access import author
from gatepost.control.convert import address_from_text, reply_proto
from gatepost.control.errors import cut_short, invalid, precondition, refused
from gatepost.control.paging import page, page_size
from gatepost.control.queue_bulk import BulkServicer
from gatepost.control.queue_convert import (
    destination_proto,
    event_proto,
    filter_from_proto,
    header_fields,
    journal_proto,
    message_proto,
    notify_flags,
    stats_proto,
)
from gatepost.control.server import Service
from gatepost.message.envelope import Envelope, Origin, Recipient
from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.message.reply import Reply
from gatepost.queue.actions import QueueActions
from gatepost.queue.events import QueueEvent
from gatepost.queue.service import QueueService
from gatepost.queue.submit import SubmissionRefused, Submitter
from gatepost.queue.withheld import is_withheld
from gatepost.routing.model import RuleSet

BATCH = 500
MAX_RESULT_IDS = 1000
MAX_HISTORY = 5000
CHUNK = 64 << 10
MAX_CHUNK = 1 << 20
SUBMIT_CHUNK_SECONDS = 60.0
_ESMTP_TEXT = re.compile(r"[!-~]{0,100}")
_ORCPT = re.compile(r"[A-Za-z0-9-]{1,64};[!-~]{1,500}")

Action = Callable[[Sequence[bytes], str], Awaitable[int]]


class QueueServicer(BulkServicer):
    """`index` is the worker's number; `rule_set` what is in force."""

    def __init__(
        self,
        queue: QueueService,
        actions: QueueActions,
        submitter: Submitter,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        index: int = 0,
    ) -> None:
        super().__init__(queue, actions, rule_set, settings, index)
        self._submitter = submitter

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.queue.v1.QueueService", self, queue_pb2_grpc.add_QueueServiceServicer_to_server)

    async def ListMessages(self, request: api.ListMessagesRequest, context: object) -> api.ListMessagesResponse:
        """See the proto. The page token of a worker is the text of the last id looked at, which lets merge.py merge tokens."""
        wanted = filter_from_proto(request.filter)
        found = await self._queue.list(wanted, after_id(request.page_token), page_size(request.page_size))
        messages = (message_proto(message, self._index) for message in found.messages)
        warnings = [f"worker {self._index} is still reading its queue after a start"] if found.partial else []
        return api.ListMessagesResponse(messages=messages, next_page_token=found.next_page_token, partial=found.partial, warnings=warnings)

    async def GetMessage(self, request: api.GetMessageRequest, context: object) -> api.GetMessageResponse:
        """See the proto."""
        message_id = await self.resolve_one(request.message_id)
        message = await self._queue.get(message_id)
        history = await self._queue.history(message_id)
        reader = self._queue.open(message_id)
        header = await asyncio.to_thread(reader.header)
        return api.GetMessageResponse(
            message=message_proto(message, self._index, None),
            history=journal_proto(message, history[-MAX_HISTORY:]),
            headers=header_fields(header),
        )

    async def DownloadMessage(self, request: api.DownloadMessageRequest, context: object) -> AsyncIterator[api.DownloadMessageResponse]:
        """See the proto."""
        message_id = await self.resolve_one(request.message_id)
        if is_withheld(await self._queue.get(message_id)):
            raise precondition(common.ERROR_REASON_REFUSED, "the message is in quarantine: an administrator may look at it (ReadContent)")
        reader = self._queue.open(message_id)
        while chunk := await asyncio.to_thread(reader.read, CHUNK):
            yield api.DownloadMessageResponse(chunk=chunk)

    async def WatchQueue(self, request: api.WatchQueueRequest, context: Any) -> AsyncIterator[api.WatchQueueResponse]:
        """See the proto. Initial metadata is sent when the watch is in place, so a caller can wait for it."""
        filter_from_proto(request.filter)
        events = self._queue.watch()
        pending = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # lets the generator register
        await context.send_initial_metadata(())
        try:
            while True:
                event = await pending
                if _matches(request.filter, event):
                    yield event_proto(event, self._index)
                pending = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            return
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator

    async def GetStats(self, request: api.GetStatsRequest, context: object) -> api.GetStatsResponse:
        """See the proto."""
        stats = stats_proto(self._queue.stats())
        return api.GetStatsResponse(total=stats, workers={self._index: stats})

    async def ListDestinations(self, request: api.ListDestinationsRequest, context: object) -> api.ListDestinationsResponse:
        """See the proto."""
        everything = self._queue.destinations()
        chosen, token = page(everything, lambda entry: entry.name, request.page_size, request.page_token)
        return api.ListDestinationsResponse(destinations=map(destination_proto, chosen), next_page_token=token)

    async def PauseDestination(self, request: api.PauseDestinationRequest, context: object) -> api.PauseDestinationResponse:
        """See the proto."""
        paused = await self._queue.pause_destination(_named(request.name), author())
        return api.PauseDestinationResponse(destination=destination_proto(paused))

    async def ResumeDestination(self, request: api.ResumeDestinationRequest, context: object) -> api.ResumeDestinationResponse:
        """See the proto."""
        resumed = await self._queue.resume_destination(_named(request.name), author())
        return api.ResumeDestinationResponse(destination=destination_proto(resumed))

    async def SubmitMessage(self, request_iterator: AsyncIterator[api.SubmitMessageRequest], context: object) -> api.SubmitMessageResponse:
        """See the proto."""
        requests = aiter(request_iterator)
        first = await asyncio.wait_for(anext(requests, None), SUBMIT_CHUNK_SECONDS)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("header", "must be the first request of the stream")
        envelope = _envelope(first.header)

        try:
            done = await self._submitter.submit(envelope, _body(requests), trusted=True, hold=first.header.hold)
        except SubmissionRefused as error:
            raise refused([_refused(*one) for one in error.refused]) from error
        answers = [_refused(*one) for one in done.refused]
        return api.SubmitMessageResponse(message_id=format_message_id(done.message_id), size=done.size, refused=answers)


def after_id(token: str) -> str:
    """A page token checked. Raises ControlError."""
    if token:
        try:
            parse_message_id(token)
        except ValueError:
            raise invalid("page_token", "is not one this server gave out") from None
    return token


def _named(name: str) -> str:
    if not name or len(name) > 500:
        raise invalid("name", "is needed: a destination as ListDestinations names it")
    return name


def _matches(wanted: api.QueueFilter, event: QueueEvent) -> bool:
    """The part of a filter that a watch looks at. Events that concern no message pass."""
    if event.kind == "overflow":
        return True
    address = event.address.lower()
    return (
        (not wanted.sender or fnmatchcase(event.sender.lower() or "<>", wanted.sender.lower()))
        and (not wanted.recipient or not address or fnmatchcase(address, wanted.recipient.lower()))
        and (not wanted.domain or not address or address.rpartition("@")[2] == wanted.domain.lower())
        and (not wanted.destination or fnmatchcase(event.destination, wanted.destination))
    )


def _envelope(header: api.SubmitHeader) -> Envelope:
    if header.return_content not in {"", "FULL", "HDRS"}:
        raise invalid("header.return_content", "must be FULL or HDRS")
    if not 1 <= len(header.recipients) <= 1000:
        raise invalid("header.recipients", "must be 1 to 1,000")
    if not _ESMTP_TEXT.fullmatch(header.envelope_id):
        raise invalid("header.envelope_id", "must be at most 100 printable ASCII characters (RFC 3461 4.4)")
    sender = str(address_from_text("header.sender", header.sender)) if header.sender else ""
    recipients = tuple(_recipient(recipient) for recipient in header.recipients)
    utf8 = not all(text.isascii() for text in (sender, *(recipient.address for recipient in recipients)))
    origin = Origin("GRPC", listener="control")
    return Envelope(sender, recipients, origin, header.envelope_id, header.return_content, "8BITMIME", utf8)


def _recipient(recipient: api.SubmitRecipient) -> Recipient:
    """Nothing that could break out of an SMTP command may pass."""
    address = str(address_from_text("header.recipients.address", recipient.address))
    original = recipient.original_recipient
    if original and not _ORCPT.fullmatch(original):
        raise invalid("header.recipients.original_recipient", "must be 'rfc822;ADDRESS' (RFC 3461 4.2)")
    return Recipient(address, notify_flags(list(recipient.notify)), original)


async def _body(requests: AsyncIterator[api.SubmitMessageRequest]) -> AsyncIterator[bytes]:
    """The chunks up to `finish`. Raises ControlError when the stream ends without it: the message would be cut short."""
    size = 0
    while (request := await asyncio.wait_for(anext(requests, None), SUBMIT_CHUNK_SECONDS)) is not None:
        part = request.WhichOneof("part")
        if part == "finish":
            if request.finish.HasField("size") and request.finish.size != size:
                raise invalid("finish.size", f"says {request.finish.size} octets, {size} came")
            return
        if part != "chunk" or len(request.chunk) > MAX_CHUNK:
            raise invalid("chunk", f"after the header come chunks of at most {MAX_CHUNK} octets, then finish")
        size += len(request.chunk)
        yield request.chunk
    raise cut_short()


def _refused(address: str, reply: Reply) -> common.RefusedRecipient:
    return common.RefusedRecipient(address=address, reply=reply_proto(reply))
