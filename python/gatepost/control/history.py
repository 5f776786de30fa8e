"""HistoryService of one worker: decodes, calls queue/history, encodes. Served on DIR/run/worker-I.sock; see history_merge for the whole."""

from typing import Any

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.history.v1 import history_pb2 as api
from gatepost.api.history.v1 import history_pb2_grpc
from gatepost.control.errors import ControlError, invalid, not_found, precondition
from gatepost.control.history_convert import difference_proto, filter_from_proto, moment, trace_proto
from gatepost.control.paging import page_size
from gatepost.control.queue import after_id
from gatepost.control.queue_convert import id_prefix
from gatepost.control.server import Service
from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.queue.history import Found, HistoryOffError, HistoryService, Search

SERVICE = "gatepost.api.history.v1.HistoryService"


class HistoryServicer(history_pb2_grpc.HistoryServiceServicer):
    """See the proto for every method. `worker` is this worker's number."""

    def __init__(self, history: HistoryService, worker: int) -> None:
        self._history = history
        self._worker = worker

    def service(self) -> Service:
        """For ControlServer."""
        return Service(SERVICE, self, history_pb2_grpc.add_HistoryServiceServicer_to_server)

    async def ListTraces(self, request: api.ListTracesRequest, context: object) -> api.ListTracesResponse:
        """See the proto."""
        search = Search(filter_from_proto(request.filter), page_size(request.page_size), _after(request.page_token))
        found = await self._search(search)
        return api.ListTracesResponse(traces=[trace_proto(one, self._worker, found) for one in found.traces], **_ends(found))

    async def GetTrace(self, request: api.GetTraceRequest, context: object) -> api.GetTraceResponse:
        """See the proto."""
        prefix = id_prefix(request.message_id)
        low, high = bytes.fromhex(prefix.ljust(32, "0")), bytes.fromhex(prefix.ljust(32, "f"))
        try:
            found = await self._history.find(low, high)
        except HistoryOffError:
            raise _off() from None
        if not found.traces:
            raise not_found("message", request.message_id)
        if len(found.traces) > 1:
            raise invalid("message_id", f"{request.message_id!r} fits several messages; give more digits")
        trace = trace_proto(found.traces[0], self._worker, found, whole=True)
        return api.GetTraceResponse(trace=trace, partial=bool(found.warnings), warnings=found.warnings)

    async def ListQueueAt(self, request: api.ListQueueAtRequest, context: object) -> api.ListQueueAtResponse:
        """See the proto."""
        search = Search(
            filter_from_proto(request.filter),
            page_size(request.page_size),
            _after(request.page_token),
            ascending=True,
            at=moment(request.time, "time"),
        )
        found = await self._search(search)
        return api.ListQueueAtResponse(traces=[trace_proto(one, self._worker, found) for one in found.traces], **_ends(found))

    async def DiffQueue(self, request: api.DiffQueueRequest, context: object) -> api.DiffQueueResponse:
        """See the proto."""
        start, end = moments(request)
        search = Search(
            filter_from_proto(request.filter),
            page_size(request.page_size),
            _after(request.page_token),
            ascending=True,
            at=start,
            later=end,
            passed=request.include_passed,
        )
        found = await self._search(search)
        differences = [difference_proto(one, self._worker, found, start) for one in found.traces]
        return api.DiffQueueResponse(differences=differences, **_ends(found))

    async def _search(self, search: Search) -> Found:
        try:
            return await self._history.search(search)
        except HistoryOffError:
            raise _off() from None


def moments(request: api.DiffQueueRequest) -> tuple[int, int]:
    """The two moments of a difference. Raises ControlError."""
    start, end = moment(getattr(request, "from"), "from"), moment(request.to, "to")
    if end < start:
        raise invalid("to", "must not be before from")
    return start, end


def _after(token: str) -> bytes | None:
    return parse_message_id(after_id(token)) if token else None


def _ends(found: Found) -> dict[str, Any]:
    """The fields that end every page."""
    token = format_message_id(found.next_id) if found.next_id is not None else ""
    return {"next_page_token": token, "partial": bool(found.warnings), "warnings": found.warnings}


def _off() -> ControlError:
    return precondition(common.ERROR_REASON_REFUSED, "no history is kept: setting history.days is 0")
