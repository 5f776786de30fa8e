"""The part of the supervisor's QueueService that acts on many messages, over all workers: previews, bulk calls, undo, causes. Used
by merge.py.

A token of a selection is the workers' tokens joined; it is checked with every worker before the first one acts. An operation has
one id on all workers, made here. A change that may concern a worker that is away is refused with UNAVAILABLE, unless it is by
filter: that is made where it can be, and the answer is partial. Every call to a worker has a deadline.
"""

import re
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc
import grpc.aio

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.api.worker.v1 import worker_pb2 as worker_api
from gatepost.control.access import actor_metadata, author, operation_metadata
from gatepost.control.convert import timestamp
from gatepost.control.errors import from_rpc, invalid, not_found, precondition, unavailable
from gatepost.control.paging import MAX_SIZE, page
from gatepost.control.queue_bulk import DEFAULT_SAMPLE, MAX_RESULT_IDS, MAX_SAMPLE, causes_limit, check_target, operation_key
from gatepost.control.queue_convert import check_selection, filter_from_proto, id_prefix
from gatepost.control.workers import CALL_SECONDS, Answers, WorkerLink, WorkerLinks
from gatepost.message.ids import format_message_id
from gatepost.native import new_message_id
from gatepost.queue.selections import AGAIN

BULK_SECONDS = 600.0
_TOKEN = re.compile(r"[0-9]{1,4}-[0-9a-f]{32}(\.[0-9]{1,4}-[0-9a-f]{32}){0,1023}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Found:
    """A message and the worker that keeps it."""

    link: WorkerLink
    message_id: str


@dataclass(frozen=True, slots=True)
class Bulk:
    """What a bulk call did, and each worker's own answer."""

    result: api.BulkResult
    answers: Sequence[Any]


class MergedBulkServicer(queue_pb2_grpc.QueueServiceServicer):
    """See the proto for every method."""

    def __init__(self, links: WorkerLinks) -> None:
        self._links = links

    async def PreviewSelection(self, request: api.PreviewSelectionRequest, context: object) -> api.PreviewSelectionResponse:
        """See the proto."""
        parts = await self._parts(request.selection)
        size = DEFAULT_SAMPLE if request.sample_size <= 0 else min(request.sample_size, MAX_SAMPLE)

        async def preview(link: WorkerLink) -> api.PreviewSelectionResponse:
            inner = api.PreviewSelectionRequest(selection=parts[link.index], sample_size=size)
            return await link.queue.PreviewSelection(inner, timeout=BULK_SECONDS, metadata=actor_metadata())

        answers = await self._links.ask([self._links[index] for index in parts], preview)
        if answers.partial:
            raise unavailable(f"a selection is frozen on every worker or on none: {'; '.join(answers.warnings)}")
        return merge_previews(answers.by_worker, size)

    async def HoldMessages(self, request: api.HoldMessagesRequest, context: object) -> api.HoldMessagesResponse:
        """See the proto."""
        return api.HoldMessagesResponse(result=(await self._bulk("HoldMessages", request)).result)

    async def ReleaseMessages(self, request: api.ReleaseMessagesRequest, context: object) -> api.ReleaseMessagesResponse:
        """See the proto."""
        return api.ReleaseMessagesResponse(result=(await self._bulk("ReleaseMessages", request)).result)

    async def RetryMessages(self, request: api.RetryMessagesRequest, context: object) -> api.RetryMessagesResponse:
        """See the proto."""
        return api.RetryMessagesResponse(result=(await self._bulk("RetryMessages", request)).result)

    async def RemoveMessages(self, request: api.RemoveMessagesRequest, context: object) -> api.RemoveMessagesResponse:
        """See the proto."""
        return api.RemoveMessagesResponse(result=(await self._bulk("RemoveMessages", request)).result)

    async def RerouteMessages(self, request: api.RerouteMessagesRequest, context: object) -> api.RerouteMessagesResponse:
        """See the proto."""
        check_target(request)
        done = await self._bulk("RerouteMessages", request)
        refusals = [answer.first_refusal for answer in done.answers if answer.first_refusal]
        return api.RerouteMessagesResponse(
            result=done.result, refused=sum(answer.refused for answer in done.answers), first_refusal=refusals[0] if refusals else ""
        )

    async def RerouteMessage(self, request: api.RerouteMessageRequest, context: object) -> api.RerouteMessageResponse:
        """See the proto."""
        found = await self.find(request.message_id)
        inner = api.RerouteMessageRequest()
        inner.CopyFrom(request)
        inner.message_id = found.message_id
        metadata = (*actor_metadata(), *operation_metadata(_new_id()))
        return await passed_on(found.link.queue.RerouteMessage(inner, timeout=CALL_SECONDS, metadata=metadata))

    async def ListOperations(self, request: api.ListOperationsRequest, context: object) -> api.ListOperationsResponse:
        """See the proto."""
        merged, answers = await self._operations()
        chosen, token = page(merged, operation_key, request.page_size, request.page_token)
        return api.ListOperationsResponse(operations=chosen, next_page_token=token, partial=answers.partial, warnings=answers.warnings)

    async def UndoOperation(self, request: api.UndoOperationRequest, context: object) -> api.UndoOperationResponse:
        """See the proto."""
        inner = api.UndoOperationRequest(operation_id=request.operation_id or await self._newest())

        async def undo(link: WorkerLink) -> api.UndoOperationResponse | None:
            try:
                return await link.queue.UndoOperation(inner, timeout=BULK_SECONDS, metadata=actor_metadata())
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:  # it had nothing to do with this worker's messages
                    return None
                raise

        answers = await self._links.ask_all(undo)
        done = [answer for answer in answers.by_worker.values() if answer is not None]
        if not done and answers.partial:
            raise unavailable(f"no worker that answers knows the operation; {'; '.join(answers.warnings)}")
        if not done:
            raise not_found("operation", inner.operation_id)
        operation = merge_operations([answer.operation for answer in done])
        return api.UndoOperationResponse(
            operation=operation, result=operation.undo, partial=answers.partial, warnings=[f"{one}; call again" for one in answers.warnings]
        )

    async def ListCauses(self, request: api.ListCausesRequest, context: object) -> api.ListCausesResponse:
        """See the proto."""
        inner = api.ListCausesRequest(limit=MAX_SIZE)
        answers = await self._links.ask_all(lambda link: link.queue.ListCauses(inner, timeout=BULK_SECONDS))
        return merge_causes(answers, causes_limit(request.limit))

    # ---- inside

    async def _bulk(self, method: str, request: Any) -> Bulk:
        """All bulk calls have a selection and dry_run in the request, and a result in the answer; the rest goes on as it is."""
        if request.selection.HasField("filter"):
            filter_from_proto(request.selection.filter)
        started = timestamp(time.time_ns() // 1000)
        parts = await self._parts(request.selection)
        links = [self._links[index] for index in parts]
        metadata = (*actor_metadata(), *operation_metadata(_new_id()))

        async def call(link: WorkerLink, *, dry_run: bool) -> Any:
            inner = type(request)()
            inner.CopyFrom(request)
            inner.selection.CopyFrom(parts[link.index])
            inner.dry_run = dry_run
            return await getattr(link.queue, method)(inner, timeout=BULK_SECONDS, metadata=metadata)

        if len(links) > 1 and not request.selection.message_ids and not request.dry_run:
            # Every worker's part, a token or a number, is looked at before the first message is touched.
            checked = await self._links.ask(links, lambda link: call(link, dry_run=True))
            if checked.partial and request.selection.token:
                raise unavailable(f"nothing was changed: {'; '.join(checked.warnings)}")
        answers = await self._links.ask(links, lambda link: call(link, dry_run=request.dry_run))
        results = replace(answers, by_worker={index: answer.result for index, answer in answers.by_worker.items()})
        return Bulk(merge_bulk(results, started), list(answers.by_worker.values()))

    async def _parts(self, selection: api.MessageSelection) -> Mapping[int, api.MessageSelection]:
        """What each worker is asked for. Raises ControlError when a message is unknown or ambiguous: then nothing is changed."""
        check_selection(selection)
        if selection.token:
            return self._token_parts(selection.token)
        if selection.message_ids:
            return await self.owners(selection.message_ids)
        return {link.index: selection for link in self._links.all()}

    def _token_parts(self, token: str) -> Mapping[int, api.MessageSelection]:
        if not _TOKEN.fullmatch(token):
            raise invalid("selection.token", "is not one this server gave out")
        parts = dict(part.split("-") for part in token.split("."))
        known = {link.index for link in self._links.all()}
        if any(int(index) not in known for index in parts):
            raise precondition(common.ERROR_REASON_INVALID_FIELD, f"the token is from before the number of workers changed; {AGAIN}")
        return {int(index): api.MessageSelection(token=part) for index, part in parts.items()}

    async def owners(self, texts: Sequence[str]) -> dict[int, api.MessageSelection]:
        """Which worker keeps which of the messages. Raises ControlError when one is unknown or ambiguous."""
        found = await self._resolve(texts, "selection.message_ids")
        chosen: dict[int, api.MessageSelection] = {}
        for one in dict.fromkeys(found):
            chosen.setdefault(one.link.index, api.MessageSelection()).message_ids.append(one.message_id)
        return chosen

    async def find(self, text: str) -> Found:
        """The one message an id or prefix fits, on any worker. Raises ControlError."""
        return (await self._resolve([text], "message_id"))[0]

    async def _resolve(self, texts: Sequence[str], field: str) -> list[Found]:
        """The one message that each id or prefix fits. Raises ControlError."""
        prefixes = {text: id_prefix(text, field) for text in texts}
        request = worker_api.ResolveMessagesRequest(prefixes=prefixes.values())
        answers = await self._links.ask_all(lambda link: link.worker.ResolveMessages(request, timeout=CALL_SECONDS))
        fits: dict[str, list[Found]] = {}
        for index, answer in answers.by_worker.items():
            for match in answer.matches:
                fits.setdefault(match.prefix, []).extend(Found(self._links[index], message_id) for message_id in match.message_ids)
        return [_only(text, fits.get(prefix, []), field, answers.warnings) for text, prefix in prefixes.items()]

    async def _operations(self) -> tuple[list[api.Operation], Answers[Any]]:
        inner = api.ListOperationsRequest(page_size=MAX_SIZE)
        answers = await self._links.ask_all(lambda link: link.queue.ListOperations(inner, timeout=CALL_SECONDS))
        by_id: dict[str, list[api.Operation]] = {}
        for answer in answers.by_worker.values():
            for operation in answer.operations:
                by_id.setdefault(operation.operation_id, []).append(operation)
        return [merge_operations(parts) for parts in by_id.values()], answers

    async def _newest(self) -> str:
        """The caller's newest operation that can be undone and was not. Raises ControlError."""
        merged, _ = await self._operations()
        mine = [one for one in merged if one.actor == author() and one.HasField("undo_until") and not one.HasField("undo_time")]
        if not mine:
            raise precondition(common.ERROR_REASON_INVALID_FIELD, "there is no operation of yours that can be undone")
        return min(mine, key=operation_key).operation_id


def merge_previews(answers: Mapping[int, api.PreviewSelectionResponse], size: int) -> api.PreviewSelectionResponse:
    """Sums; the token is the workers' joined, the sample the oldest of all."""
    parts = list(answers.values())
    sample = sorted((message for part in parts for message in part.sample), key=lambda message: message.message_id)
    return api.PreviewSelectionResponse(
        token=".".join(f"{index}-{part.token}" for index, part in sorted(answers.items())),
        expire_time=min((part.expire_time for part in parts), key=lambda stamp: stamp.ToMicroseconds()),
        selected_at=min((part.selected_at for part in parts), key=lambda stamp: stamp.ToMicroseconds()),
        messages=sum(part.messages for part in parts),
        recipients=sum(part.recipients for part in parts),
        held=sum(part.held for part in parts),
        octets=sum(part.octets for part in parts),
        sample=sample[:size],
        warnings=[f"worker {index}: {text}" for index, part in sorted(answers.items()) for text in part.warnings],
    )


def merge_bulk(answers: Answers[api.BulkResult], started: Any) -> api.BulkResult:
    """Sums, and the first ids in order."""
    results = list(answers.by_worker.values())
    ids = sorted(message_id for result in results for message_id in result.message_ids)
    made = api.BulkResult(
        matched=sum(result.matched for result in results),
        changed=sum(result.changed for result in results),
        gone=sum(result.gone for result in results),
        withheld=sum(result.withheld for result in results),
        message_ids=ids[:MAX_RESULT_IDS],
        selected_at=started,
        partial=answers.partial,
        warnings=answers.warnings,
        operation_id=next((result.operation_id for result in results if result.operation_id), ""),
    )
    _earliest(made.undo_until, (result.undo_until for result in results if result.HasField("undo_until")))
    return made


def merge_operations(parts: Sequence[api.Operation]) -> api.Operation:
    """One operation as the workers know it, as one: sums; the least finished of the states; undoable as long as a part is."""
    states = (
        api.OPERATION_STATE_RUNNING,
        api.OPERATION_STATE_INTERRUPTED,
        api.OPERATION_STATE_DONE,
        api.OPERATION_STATE_UNDONE,
    )
    merged = api.Operation()
    merged.CopyFrom(min(parts, key=lambda one: one.start_time.ToMicroseconds()))
    merged.state = min((one.state for one in parts), key=lambda state: states.index(state) if state in states else 0)
    merged.matched = sum(one.matched for one in parts)
    merged.changed = sum(one.changed for one in parts)
    open_parts = [one.undo_until for one in parts if one.HasField("undo_until")]
    merged.reason = "" if open_parts else merged.reason
    merged.ClearField("undo_until")
    _earliest(merged.undo_until, open_parts)
    merged.ClearField("undo")
    for one in parts:
        if one.HasField("undo_time"):
            merged.undone_by = one.undone_by
            merged.undo_time.CopyFrom(one.undo_time)
            for field in api.UndoResult.DESCRIPTOR.fields:
                setattr(merged.undo, field.name, getattr(merged.undo, field.name) + getattr(one.undo, field.name))
    return merged


def merge_causes(answers: Answers[api.ListCausesResponse], limit: int) -> api.ListCausesResponse:
    """Groups of the same cause become one; most recipients first."""
    merged: dict[tuple[str, ...], api.Cause] = {}
    for answer in answers.by_worker.values():
        for cause in answer.causes:
            key = (getattr(cause, "class"), cause.enhanced, str(cause.code), cause.host, cause.text)
            known = merged.get(key)
            merged[key] = cause if known is None else _joined(known, cause)
    ordered = sorted(merged.values(), key=lambda cause: (-cause.recipients, cause.oldest.ToMicroseconds()))
    return api.ListCausesResponse(
        causes=ordered[:limit],
        recipients=sum(answer.recipients for answer in answers.by_worker.values()),
        messages=sum(answer.messages for answer in answers.by_worker.values()),
        partial=answers.partial,
        warnings=answers.warnings,
    )


def _joined(one: api.Cause, other: api.Cause) -> api.Cause:
    """The example is that of the older one."""
    older, newer = sorted((one, other), key=lambda cause: cause.oldest.ToMicroseconds())
    made = api.Cause()
    made.CopyFrom(older)
    made.recipients += newer.recipients
    made.messages += newer.messages
    made.held += newer.held
    made.ClearField("next_attempt_time")
    _earliest(made.next_attempt_time, (part.next_attempt_time for part in (one, other) if part.HasField("next_attempt_time")))
    return made


def _earliest(field: Any, stamps: Iterable[Any]) -> None:
    """Set a timestamp field to the earliest of some; leave it unset when there is none."""
    found = min(stamps, key=lambda stamp: stamp.ToMicroseconds(), default=None)
    if found is not None:
        field.CopyFrom(found)


def _new_id() -> str:
    return format_message_id(new_message_id())


def _only(text: str, found: Sequence[Found], field: str, warnings: Sequence[str]) -> Found:
    if len(found) == 1:
        return found[0]
    if found:
        raise invalid(field, f"{text!r} fits several messages; give more digits")
    if warnings:
        raise unavailable(f"message {text} is not with the workers that answer; {'; '.join(warnings)}")
    raise not_found("message", text)


async def passed_on(call: Awaitable[T]) -> T:
    """A worker's answer, or its error as ours."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error) from error
