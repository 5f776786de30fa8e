"""QuarantineService of one worker, over its own partition. The supervisor's (quarantine_merge.py) calls it over DIR/run/worker-I.sock.

Decodes, calls queue.quarantine, encodes. What concerns the server as a whole (allowed senders, digests) is the supervisor's alone. Errors:
see control.errors.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.quarantine.v1 import quarantine_pb2_grpc
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.config import Settings
from gatepost.control.access import author, operation_of
from gatepost.control.convert import timestamp
from gatepost.control.errors import ControlError, precondition
from gatepost.control.paging import page_size
from gatepost.control.quarantine_convert import (
    check_selection,
    quarantine_filter,
    quarantined_proto,
    scan_proto,
    selection_words,
    verdict_proto,
)
from gatepost.control.queue import CHUNK, MAX_HISTORY, after_id
from gatepost.control.queue_bulk import MAX_RESULT_IDS
from gatepost.control.queue_convert import header_fields, journal_proto
from gatepost.control.server import Service
from gatepost.message.ids import format_message_id
from gatepost.queue.actions import Done, Order
from gatepost.queue.quarantine import NoScannerError, Quarantine
from gatepost.queue.service import QueueService
from gatepost.queue.withheld import split

NAME = "gatepost.api.quarantine.v1.QuarantineService"

ResolveOne = Callable[[str, str], Awaitable[bytes]]
"""An id or its beginning, and the request's field, to an id. Raises ControlError."""


class SupervisorOnly(quarantine_pb2_grpc.QuarantineServiceServicer):
    """What a worker is never asked for."""

    async def ReleaseAndAllow(self, request: api.ReleaseAndAllowRequest, context: object) -> api.ReleaseAndAllowResponse:
        """Refused."""
        raise _not_here()

    async def ListAllowedSenders(self, request: api.ListAllowedSendersRequest, context: object) -> api.ListAllowedSendersResponse:
        """Refused."""
        raise _not_here()

    async def AllowSender(self, request: api.AllowSenderRequest, context: object) -> api.AllowSenderResponse:
        """Refused."""
        raise _not_here()

    async def DisallowSender(self, request: api.DisallowSenderRequest, context: object) -> api.DisallowSenderResponse:
        """Refused."""
        raise _not_here()

    async def PreviewDigest(self, request: api.PreviewDigestRequest, context: object) -> api.PreviewDigestResponse:
        """Refused."""
        raise _not_here()

    async def ResolveDigestLink(self, request: api.ResolveDigestLinkRequest, context: object) -> api.ResolveDigestLinkResponse:
        """Refused."""
        raise _not_here()


def _not_here() -> ControlError:
    return precondition(common.ERROR_REASON_REFUSED, "the supervisor answers this")


class QuarantineServicer(SupervisorOnly):
    """`index` is the worker's number; `resolve_one` that of its QueueServicer."""

    def __init__(
        self, quarantine: Quarantine, queue: QueueService, resolve_one: ResolveOne, settings: Callable[[], Settings], index: int = 0
    ) -> None:
        self._quarantine = quarantine
        self._queue = queue
        self._resolve_one = resolve_one
        self._settings = settings
        self._index = index

    def service(self) -> Service:
        """For ControlServer."""
        return Service(NAME, self, quarantine_pb2_grpc.add_QuarantineServiceServicer_to_server)

    async def ListQuarantined(self, request: api.ListQuarantinedRequest, context: object) -> api.ListQuarantinedResponse:
        """See the proto."""
        wanted = quarantine_filter(request.filter)
        found = await self._quarantine.page(wanted, after_id(request.page_token), page_size(request.page_size))
        messages = (quarantined_proto(one, self._index, self._keep_days()) for one in found.messages)
        warnings = [f"worker {self._index} is still reading its queue after a start"] if found.partial else []
        return api.ListQuarantinedResponse(
            messages=messages, next_page_token=found.next_page_token, partial=found.partial, warnings=warnings
        )

    async def GetQuarantined(self, request: api.GetQuarantinedRequest, context: object) -> api.GetQuarantinedResponse:
        """See the proto."""
        message_id = await self._resolve_one(request.message_id, "message_id")
        found = await self._quarantine.get(message_id)
        history = await self._queue.history(message_id)
        header = await asyncio.to_thread(self._quarantine.open(message_id).header)
        return api.GetQuarantinedResponse(
            message=quarantined_proto(found, self._index, self._keep_days(), None),
            scans=map(scan_proto, found.scans),
            history=journal_proto(found.message, history[-MAX_HISTORY:]),
            headers=header_fields(header),
        )

    async def ReadContent(self, request: api.ReadContentRequest, context: object) -> AsyncIterator[api.ReadContentResponse]:
        """See the proto."""
        found = await self._quarantine.get(await self._resolve_one(request.message_id, "message_id"))
        reader = self._quarantine.open(found.message.message_id)
        while chunk := await asyncio.to_thread(reader.read, CHUNK):
            yield api.ReadContentResponse(chunk=chunk)

    async def ReleaseQuarantined(self, request: api.ReleaseQuarantinedRequest, context: object) -> api.ReleaseQuarantinedResponse:
        """See the proto."""
        recipients = list(request.recipients)
        result, done = await self._bulk(request, context, lambda ids, order: self._quarantine.release(ids, order, recipients))
        return api.ReleaseQuarantinedResponse(result=result, refused=done.refused, first_refusal=done.first_refusal)

    async def DeleteQuarantined(self, request: api.DeleteQuarantinedRequest, context: object) -> api.DeleteQuarantinedResponse:
        """See the proto."""
        recipients = list(request.recipients)
        result, _ = await self._bulk(request, context, lambda ids, order: self._quarantine.delete(ids, order, recipients))
        return api.DeleteQuarantinedResponse(result=result)

    async def RescanQuarantined(self, request: api.RescanQuarantinedRequest, context: object) -> api.RescanQuarantinedResponse:
        """See the proto."""
        message_id = await self._resolve_one(request.message_id, "message_id")
        order = Order(author(), operation_of(context), f"scanned again: {format_message_id(message_id)}")
        try:
            done = await self._quarantine.rescan(message_id, order, release_if_clean=request.release_if_clean)
        except NoScannerError as error:
            raise precondition(common.ERROR_REASON_REFUSED, str(error)) from error
        released = done.released or Done(0)
        operation = released.operation.operation_id if released.operation is not None and released.changed else ""
        return api.RescanQuarantinedResponse(
            verdict=verdict_proto(done.verdict), released=released.changed > 0, operation_id=operation, refusal=released.first_refusal
        )

    # ---- inside

    def _keep_days(self) -> float:
        return self._settings().quarantine.keep_days

    async def _bulk(
        self, request: Any, context: object, act: Callable[[bytes, Order], Awaitable[Done]]
    ) -> tuple[queue_api.BulkResult, Done]:
        """`request` has a selection and dry_run."""
        check_selection(request.selection)
        result = queue_api.BulkResult(selected_at=timestamp(time.time_ns() // 1000))
        ids = await self._choose(request.selection)
        result.matched = len(ids) // 16
        result.message_ids.extend(format_message_id(one) for one in split(ids[: MAX_RESULT_IDS * 16]))
        if request.dry_run or not ids:
            return result, Done(0)
        done = await act(ids, Order(author(), operation_of(context), selection_words(request.selection)))
        result.changed = done.changed
        if done.operation is not None and done.changed:
            result.operation_id = done.operation.operation_id
            if done.operation.until:
                result.undo_until.CopyFrom(timestamp(done.operation.until))
        return result, done

    async def _choose(self, selection: api.QuarantineSelection) -> bytes:
        """Packed ids. Every id is known before the first message is touched."""
        if not selection.message_ids:
            return await self._quarantine.select(quarantine_filter(selection.filter))
        ids = [await self._resolve_one(text, "selection.message_ids") for text in selection.message_ids]
        for one in ids:
            await self._quarantine.get(one)
        return b"".join(dict.fromkeys(ids))
