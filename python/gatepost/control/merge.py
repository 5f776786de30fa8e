"""QueueService of the supervisor: the queues of all workers as one. Served on DIR/control.sock and TCP; asks queue.py in each worker.

Message ids are unique and sort by time, so a page is the merge of the workers' pages by id and its token is an id. A message is
found by asking every worker. A worker that is away makes an answer partial; a change that may concern a message of that worker is
refused with UNAVAILABLE instead of being half made. Every call to a worker has a deadline.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import grpc.aio

from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.control.access import actor_metadata
from gatepost.control.convert import timestamp
from gatepost.control.errors import from_rpc, unavailable
from gatepost.control.merge_bulk import MergedBulkServicer, passed_on
from gatepost.control.paging import MAX_SIZE, page, page_size
from gatepost.control.queue import after_id
from gatepost.control.queue_convert import filter_from_proto
from gatepost.control.server import Service
from gatepost.control.watching import follow, watched
from gatepost.control.workers import CALL_SECONDS, Answers, WorkerLink

BULK_SECONDS = 120.0
BODY_SECONDS = 600.0
MAX_DESTINATIONS = 10_000

T = TypeVar("T")
BulkCall = Callable[[WorkerLink, api.MessageSelection], Awaitable[api.BulkResult]]


class MergedQueueServicer(MergedBulkServicer):
    """See the proto for every method; what acts on many messages is in merge_bulk.py."""

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.queue.v1.QueueService", self, queue_pb2_grpc.add_QueueServiceServicer_to_server)

    async def ListMessages(self, request: api.ListMessagesRequest, context: object) -> api.ListMessagesResponse:
        """See the proto."""
        filter_from_proto(request.filter)
        after_id(request.page_token)
        size = page_size(request.page_size)
        inner = api.ListMessagesRequest(filter=request.filter, page_size=size, page_token=request.page_token)
        answers = await self._links.ask_all(lambda link: link.queue.ListMessages(inner, timeout=CALL_SECONDS))
        return merge_pages(answers, size)

    async def GetMessage(self, request: api.GetMessageRequest, context: object) -> api.GetMessageResponse:
        """See the proto."""
        found = await self.find(request.message_id)
        return await passed_on(found.link.queue.GetMessage(api.GetMessageRequest(message_id=found.message_id), timeout=CALL_SECONDS))

    async def DownloadMessage(self, request: api.DownloadMessageRequest, context: object) -> AsyncIterator[api.DownloadMessageResponse]:
        """See the proto."""
        found = await self.find(request.message_id)
        inner = api.DownloadMessageRequest(message_id=found.message_id)
        try:
            async for part in found.link.queue.DownloadMessage(inner, timeout=BODY_SECONDS):
                yield part
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def WatchQueue(self, request: api.WatchQueueRequest, context: Any) -> AsyncIterator[api.WatchQueueResponse]:
        """See the proto. Initial metadata is sent once every worker that is there watches."""
        filter_from_proto(request.filter)

        async def follow_one(link: WorkerLink, events: "asyncio.Queue[api.WatchQueueResponse]", ready: asyncio.Event) -> None:
            async def tell(back: bool) -> None:
                await events.put(_worker_event(link, "is back" if back else "went away; its events may be missing until it is back"))

            await follow(link, lambda: link.queue.WatchQueue(request), events, ready, tell)

        async with aclosing(watched(context, self._links.all(), follow_one)) as events:
            async for event in events:
                yield event

    async def GetStats(self, request: api.GetStatsRequest, context: object) -> api.GetStatsResponse:
        """See the proto."""
        answers = await self._links.ask_all(lambda link: link.queue.GetStats(request, timeout=CALL_SECONDS))
        workers = {index: answer.total for index, answer in answers.by_worker.items()}
        return api.GetStatsResponse(
            total=sum_stats(list(workers.values())), workers=workers, partial=answers.partial, warnings=answers.warnings
        )

    async def ListDestinations(self, request: api.ListDestinationsRequest, context: object) -> api.ListDestinationsResponse:
        """See the proto."""
        answers = await self._links.ask_all(_all_destinations)
        merged: dict[str, api.Destination] = {}
        for entries in answers.by_worker.values():
            for entry in entries:
                merge_destination(merged.setdefault(entry.name, api.Destination(name=entry.name)), entry)
        chosen, token = page(merged.values(), lambda entry: entry.name, request.page_size, request.page_token)
        return api.ListDestinationsResponse(destinations=chosen, next_page_token=token, partial=answers.partial, warnings=answers.warnings)

    async def PauseDestination(self, request: api.PauseDestinationRequest, context: object) -> api.PauseDestinationResponse:
        """See the proto."""
        answers = await self._links.ask_all(
            lambda link: link.queue.PauseDestination(request, timeout=CALL_SECONDS, metadata=actor_metadata())
        )
        return api.PauseDestinationResponse(destination=_everywhere(request.name, answers))

    async def ResumeDestination(self, request: api.ResumeDestinationRequest, context: object) -> api.ResumeDestinationResponse:
        """See the proto."""
        answers = await self._links.ask_all(
            lambda link: link.queue.ResumeDestination(request, timeout=CALL_SECONDS, metadata=actor_metadata())
        )
        return api.ResumeDestinationResponse(destination=_everywhere(request.name, answers))

    async def SubmitMessage(self, request_iterator: AsyncIterator[api.SubmitMessageRequest], context: object) -> api.SubmitMessageResponse:
        """See the proto. Goes to one worker; when that dies before it answered, whether the message was queued is not known."""
        link = await self._links.pick_healthy()
        call = link.queue.SubmitMessage(timeout=BODY_SECONDS, metadata=actor_metadata())
        try:
            async for request in request_iterator:
                if call.done():  # refused before the end: its status says why
                    break
                await call.write(request)
            await call.done_writing()
        except asyncio.InvalidStateError:
            pass  # the call ended while we wrote: its status says why
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        except BaseException:
            call.cancel()
            raise
        return await passed_on(call)


def merge_pages(answers: Answers[api.ListMessagesResponse], size: int) -> api.ListMessagesResponse:
    """One page by id. Nothing beyond the point up to which *every* worker has looked may be shown, or it would be shown too early."""
    limits = [answer.next_page_token for answer in answers.by_worker.values() if answer.next_page_token]
    limit = min(limits, default="")
    messages = sorted((m for answer in answers.by_worker.values() for m in answer.messages), key=lambda m: m.message_id)
    shown = [message for message in messages if not limit or message.message_id <= limit]
    more = bool(limit) or len(shown) > size
    token = limit
    if len(shown) > size:
        shown = shown[:size]
        token = shown[-1].message_id
    warnings = [*answers.warnings, *(text for answer in answers.by_worker.values() for text in answer.warnings)]
    return api.ListMessagesResponse(messages=shown, next_page_token=token if more else "", partial=bool(warnings), warnings=warnings)


def sum_stats(parts: Sequence[api.QueueStats]) -> api.QueueStats:
    """Totals; free space is the least of all."""
    total = api.QueueStats()
    for field in api.QueueStats.DESCRIPTOR.fields:
        values = [getattr(part, field.name) for part in parts]
        setattr(total, field.name, min(values, default=0) if field.name == "free_octets" else sum(values))
    return total


def merge_destination(total: api.Destination, part: api.Destination) -> None:
    """Add one worker's view to the whole."""
    total.pending += part.pending
    total.ready += part.ready
    total.in_flight += part.in_flight
    total.paused |= part.paused
    total.last_error = total.last_error or part.last_error
    if part.HasField("backoff_until") and part.backoff_until.ToMicroseconds() > total.backoff_until.ToMicroseconds():
        total.backoff_until.CopyFrom(part.backoff_until)


def _everywhere(name: str, answers: Answers[Any]) -> api.Destination:
    if answers.partial:
        raise unavailable(f"not every worker could be told; call again: {'; '.join(answers.warnings)}")
    total = api.Destination(name=name)
    for answer in answers.by_worker.values():
        merge_destination(total, answer.destination)
    return total


async def _all_destinations(link: WorkerLink) -> list[api.Destination]:
    found: list[api.Destination] = []
    token = ""
    while len(found) < MAX_DESTINATIONS:
        request = api.ListDestinationsRequest(page_size=MAX_SIZE, page_token=token)
        answer = await link.queue.ListDestinations(request, timeout=CALL_SECONDS)
        found.extend(answer.destinations)
        token = answer.next_page_token
        if not token:
            break
    return found


def _worker_event(link: WorkerLink, text: str) -> api.WatchQueueResponse:
    now = timestamp(time.time_ns() // 1000)
    return api.WatchQueueResponse(
        time=now, kind=api.QUEUE_EVENT_KIND_WORKER, recipient_index=-1, text=f"worker {link.index} {text}", worker=link.index
    )
