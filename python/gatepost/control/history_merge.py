"""HistoryService of the supervisor: the histories of all workers as one. Served on DIR/control.sock and TCP; asks history.py in each.

Ids sort by time, so a page is the merge of the workers' pages by id, and its token an id. A worker that is away makes an answer partial.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from gatepost.api.history.v1 import history_pb2 as api
from gatepost.api.history.v1 import history_pb2_grpc
from gatepost.control.errors import invalid, not_found, unavailable
from gatepost.control.history import SERVICE, moments
from gatepost.control.history_convert import filter_from_proto, moment
from gatepost.control.paging import page_size
from gatepost.control.queue import after_id
from gatepost.control.queue_convert import id_prefix
from gatepost.control.server import Service
from gatepost.control.workers import CALL_SECONDS, Answers, WorkerLink, WorkerLinks
from gatepost.queue.history import merge

T = TypeVar("T")


class MergedHistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """See the proto for every method."""

    def __init__(self, links: WorkerLinks) -> None:
        self._links = links

    def service(self) -> Service:
        """For ControlServer."""
        return Service(SERVICE, self, history_pb2_grpc.add_HistoryServiceServicer_to_server)

    async def ListTraces(self, request: api.ListTracesRequest, context: object) -> api.ListTracesResponse:
        """See the proto."""
        size = _check(request)
        answers = await self._ask(lambda link: link.history.ListTraces(request, timeout=CALL_SECONDS))
        pages = [(answer.traces, answer.next_page_token) for answer in answers.by_worker.values()]
        traces, token = _merge(pages, lambda one: one.message_id, size, ascending=False)
        return api.ListTracesResponse(traces=traces, next_page_token=token, **_warnings(answers))

    async def GetTrace(self, request: api.GetTraceRequest, context: object) -> api.GetTraceResponse:
        """See the proto."""
        id_prefix(request.message_id)

        async def one(link: WorkerLink) -> api.GetTraceResponse:
            try:
                answer: api.GetTraceResponse = await link.history.GetTrace(request, timeout=CALL_SECONDS)
                return answer
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return api.GetTraceResponse()
                raise

        answers = await self._links.ask_all(one)
        found = {answer.trace.message_id: answer for answer in answers.by_worker.values() if answer.HasField("trace")}
        if len(found) > 1:
            raise invalid("message_id", f"{request.message_id!r} fits several messages; give more digits")
        if not found and answers.partial:
            raise unavailable(f"message {request.message_id} is not with the workers that answer; {'; '.join(answers.warnings)}")
        if not found:
            raise not_found("message", request.message_id)
        return api.GetTraceResponse(trace=next(iter(found.values())).trace, **_warnings(answers))

    async def ListQueueAt(self, request: api.ListQueueAtRequest, context: object) -> api.ListQueueAtResponse:
        """See the proto."""
        size = _check(request)
        moment(request.time, "time")
        answers = await self._ask(lambda link: link.history.ListQueueAt(request, timeout=CALL_SECONDS))
        pages = [(answer.traces, answer.next_page_token) for answer in answers.by_worker.values()]
        traces, token = _merge(pages, lambda one: one.message_id, size, ascending=True)
        return api.ListQueueAtResponse(traces=traces, next_page_token=token, **_warnings(answers))

    async def DiffQueue(self, request: api.DiffQueueRequest, context: object) -> api.DiffQueueResponse:
        """See the proto."""
        size = _check(request)
        moments(request)
        answers = await self._ask(lambda link: link.history.DiffQueue(request, timeout=CALL_SECONDS))
        pages = [(answer.differences, answer.next_page_token) for answer in answers.by_worker.values()]
        differences, token = _merge(pages, lambda one: one.trace.message_id, size, ascending=True)
        return api.DiffQueueResponse(differences=differences, next_page_token=token, **_warnings(answers))

    async def _ask(self, call: Callable[[WorkerLink], Awaitable[T]]) -> Answers[T]:
        return await self._links.ask_all(call)


def _check(request: Any) -> int:
    """The page size of a request that is in order. Raises ControlError."""
    filter_from_proto(request.filter)
    after_id(request.page_token)
    return page_size(request.page_size)


def _merge(pages: Sequence[tuple[Sequence[T], str]], key: Callable[[T], str], size: int, *, ascending: bool) -> tuple[list[T], str]:
    items, token = merge([(part, end or None) for part, end in pages], key, size, ascending=ascending)
    return items, token or ""


def _warnings(answers: Answers[Any]) -> dict[str, Any]:
    """What the workers could not tell, and which of them were away."""
    warnings = list(answers.warnings)
    for index, answer in answers.by_worker.items():
        warnings += [f"worker {index}: {text}" for text in answer.warnings]
    return {"partial": bool(warnings), "warnings": warnings}
