"""The part of a worker's QueueService that acts on many messages: previews, bulk calls, undo; and causes. Used by control/queue.py.

Decodes, calls queue.actions and queue.selections, encodes. A selection is resolved to ids before the first message is touched: 16
octets for each, so that a call means what was there when it began. Errors: see control.errors.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.api.queue.v1 import queue_pb2_grpc
from gatepost.config import Settings
from gatepost.control.access import author, operation_of
from gatepost.control.convert import address_from_text, route_from_proto, route_proto, timestamp
from gatepost.control.errors import ControlError, invalid, not_found, precondition
from gatepost.control.operation_convert import cause_proto, operation_proto, selection_words, undo_proto
from gatepost.control.paging import page
from gatepost.control.queue_convert import check_selection, filter_from_proto, id_prefix, message_proto
from gatepost.message.ids import format_message_id
from gatepost.message.verdict import WITHHELD
from gatepost.native import NotFoundError
from gatepost.queue.actions import (
    Done,
    Order,
    QueueActions,
    RerouteRefusedError,
    UndoRefusedError,
    UnknownOperationError,
    Ways,
)
from gatepost.queue.anew import Anew
from gatepost.queue.selections import TTL_SECONDS, Selections, UnknownSelectionError
from gatepost.queue.service import QueueService
from gatepost.queue.views import Filter, Outline, QueuedMessage, RecipientOutline, RecipientStatus
from gatepost.queue.withheld import is_withheld
from gatepost.routing.model import Route, RuleSet

ID = 16
MAX_RESULT_IDS = 1000
MAX_SELECTED = 4_000_000
MAX_SAMPLE = 100
DEFAULT_SAMPLE = 10
MAX_CAUSES = 1000
DEFAULT_CAUSES = 100

IN_QUARANTINE = "in quarantine, or waiting for a scanner: `gatepost quarantine release` lets it go"

Action = Callable[[bytes, Order], Awaitable[Done]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """Packed ids, how many of a frozen selection are gone, the selection in words, and how many in quarantine were left out."""

    ids: bytes
    gone: int
    words: str
    withheld: int = 0


class BulkServicer(queue_pb2_grpc.QueueServiceServicer):
    """See the proto for every method."""

    def __init__(
        self,
        queue: QueueService,
        actions: QueueActions,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        index: int,
        selections: Selections | None = None,
    ) -> None:
        self._queue = queue
        self._actions = actions
        self._rule_set = rule_set
        self._settings = settings
        self._index = index
        self._selections = selections or Selections()

    async def PreviewSelection(self, request: api.PreviewSelectionRequest, context: object) -> api.PreviewSelectionResponse:
        """See the proto."""
        now = time.time_ns() // 1000
        chosen = await self._choose(request.selection)
        messages, recipients, held, flying, octets = await self._queue.measure(chosen.ids)
        size = DEFAULT_SAMPLE if request.sample_size <= 0 else min(request.sample_size, MAX_SAMPLE)
        try:
            token = self._selections.freeze(chosen.ids, author(), chosen.words)
        except UnknownSelectionError as error:
            raise precondition(common.ERROR_REASON_INVALID_FIELD, str(error)) from error
        warnings = [f"{flying} recipients are being delivered now: their messages may leave the queue meanwhile"] if flying else []
        if chosen.gone:
            warnings.append(f"{chosen.gone} messages of the former selection left the queue")
        if chosen.withheld:
            warnings.append(f"{chosen.withheld} messages in quarantine are left out (see `gatepost quarantine`)")
        return api.PreviewSelectionResponse(
            token=token,
            expire_time=timestamp(now + int(TTL_SECONDS * 1_000_000)),
            messages=messages,
            recipients=recipients,
            held=held,
            octets=octets,
            sample=[message_proto(one, self._index) for one in await self._sample(chosen.ids, size)],
            selected_at=timestamp(now),
            warnings=warnings,
        )

    async def HoldMessages(self, request: api.HoldMessagesRequest, context: object) -> api.HoldMessagesResponse:
        """See the proto."""
        return api.HoldMessagesResponse(result=await self._bulk(request, self._actions.hold, context))

    async def ReleaseMessages(self, request: api.ReleaseMessagesRequest, context: object) -> api.ReleaseMessagesResponse:
        """See the proto."""
        stay: list[int] = []

        async def release(ids: bytes, order: Order) -> Done:
            stay.append((await self._queue.without_withheld(ids))[1])
            return await self._actions.release(ids, order)

        result = await self._bulk(request, release, context)
        result.withheld += sum(stay)
        return api.ReleaseMessagesResponse(result=result)

    async def RetryMessages(self, request: api.RetryMessagesRequest, context: object) -> api.RetryMessagesResponse:
        """See the proto."""
        return api.RetryMessagesResponse(result=await self._bulk(request, self._actions.retry, context))

    async def RemoveMessages(self, request: api.RemoveMessagesRequest, context: object) -> api.RemoveMessagesResponse:
        """See the proto."""
        remove = partial(self._actions.remove, dsn=request.send_dsn)
        return api.RemoveMessagesResponse(result=await self._bulk(request, remove, context))

    async def RerouteMessages(self, request: api.RerouteMessagesRequest, context: object) -> api.RerouteMessagesResponse:
        """See the proto."""
        check_target(request)
        refused: list[Done] = []
        # One route for all, but for their addresses.
        fixed = request.WhichOneof("target") == "route" and not request.route.address
        common_route = route_from_proto(request.route, "") if fixed else None

        def choose(message: Outline) -> Ways:
            try:
                pending = [(n, one) for n, one in enumerate(message.recipients) if one.pending and one.destination not in WITHHELD]
                if not pending and is_withheld(message):
                    raise RerouteRefusedError(IN_QUARANTINE)
                if common_route is not None:
                    return {n: replace(common_route, address=one.address) for n, one in pending}
                return {n: self._new_route(message, one, request) for n, one in pending}
            except ControlError as error:
                raise RerouteRefusedError(str(error)) from error

        async def reroute(ids: bytes, order: Order) -> Done:
            refused.append(await self._actions.reroute_all(ids, choose, order))
            return refused[0]

        result = await self._bulk(request, reroute, context)
        done = refused[0] if refused else Done(0)
        return api.RerouteMessagesResponse(result=result, refused=done.refused, first_refusal=done.first_refusal)

    async def RerouteMessage(self, request: api.RerouteMessageRequest, context: object) -> api.RerouteMessageResponse:
        """See the proto."""
        check_target(request)
        message_id = await self.resolve_one(request.message_id)
        message = await self._queue.get(message_id)
        chosen = _pending(message, request.recipients)
        if any(message.recipients[index].destination in WITHHELD for index in chosen):
            raise precondition(common.ERROR_REASON_REFUSED, IN_QUARANTINE)
        # Everything is decided before anything is changed.
        ways = {index: self._new_route(message, message.recipients[index], request) for index in chosen}
        words = f"message {format_message_id(message_id)}"
        done = await self._actions.reroute(message_id, ways, Order(author(), operation_of(context), words))
        answer = api.RerouteMessageResponse(changed=len(ways), routes=map(route_proto, ways.values()))
        if done.operation is not None:
            answer.operation_id = done.operation.operation_id
            if done.operation.until:
                answer.undo_until.CopyFrom(timestamp(done.operation.until))
        return answer

    async def ListOperations(self, request: api.ListOperationsRequest, context: object) -> api.ListOperationsResponse:
        """See the proto."""
        now = time.time_ns() // 1000
        known = [operation_proto(one, now) for one in self._actions.operations()]
        chosen, token = page(known, operation_key, request.page_size, request.page_token)
        return api.ListOperationsResponse(operations=chosen, next_page_token=token)

    async def UndoOperation(self, request: api.UndoOperationRequest, context: object) -> api.UndoOperationResponse:
        """See the proto. A worker is always told which operation."""
        try:
            operation = await self._actions.undo(request.operation_id, author())
        except UnknownOperationError as error:
            raise not_found("operation", request.operation_id) from error
        except UndoRefusedError as error:
            raise precondition(common.ERROR_REASON_INVALID_FIELD, str(error)) from error
        return api.UndoOperationResponse(operation=operation_proto(operation, time.time_ns() // 1000), result=undo_proto(operation.undo))

    async def ListCauses(self, request: api.ListCausesRequest, context: object) -> api.ListCausesResponse:
        """See the proto."""
        causes, recipients, messages = await self._queue.causes(causes_limit(request.limit))
        return api.ListCausesResponse(causes=map(cause_proto, causes), recipients=recipients, messages=messages)

    # ---- inside

    async def _bulk(self, request: Any, action: Action, context: object) -> api.BulkResult:
        """`request` has a selection and dry_run, as all bulk calls have."""
        result = api.BulkResult(selected_at=timestamp(time.time_ns() // 1000))
        chosen = await self._choose(request.selection)
        result.matched, result.gone, result.withheld = len(chosen.ids) // ID, chosen.gone, chosen.withheld
        shown = chosen.ids[: MAX_RESULT_IDS * ID]
        result.message_ids.extend(format_message_id(shown[at : at + ID]) for at in range(0, len(shown), ID))
        if request.dry_run:
            return result
        done = await action(chosen.ids, Order(author(), operation_of(context), chosen.words))
        result.changed = done.changed
        if done.operation is not None:
            result.operation_id = done.operation.operation_id
            if done.operation.until:
                result.undo_until.CopyFrom(timestamp(done.operation.until))
        return result

    async def _choose(self, selection: api.MessageSelection) -> Chosen:
        check_selection(selection)
        if selection.token:
            return await self._frozen(selection.token)
        words = selection_words(selection)
        if selection.message_ids:
            # Every id is known before the first one is touched.
            ids = [await self.resolve_one(text, "selection.message_ids") for text in selection.message_ids]
            return Chosen(b"".join(dict.fromkeys(ids)), 0, words)
        # `all` and a filter mean what is there now, not what comes in while we look.
        now = time.time_ns() // 1000
        wanted = filter_from_proto(selection.filter)
        wanted = replace(wanted, received_before=min(wanted.received_before or now, now))
        selected = await self._queue.select(wanted, MAX_SELECTED + 1)
        if len(selected) > MAX_SELECTED * ID:
            text = f"more than {MAX_SELECTED} messages of one worker are meant and nothing was changed; narrow the filter, by age perhaps"
            raise precondition(common.ERROR_REASON_REFUSED, text)
        if wanted.destination:  # who names the quarantine means it
            return Chosen(selected, 0, words)
        rest, left_out = await self._queue.without_withheld(selected)
        return Chosen(rest, 0, words, left_out)

    async def _frozen(self, token: str) -> Chosen:
        try:
            frozen = self._selections.get(token, author())
        except UnknownSelectionError as error:
            raise precondition(common.ERROR_REASON_INVALID_FIELD, str(error)) from error
        here = await self._queue.present(frozen.ids)
        return Chosen(here, (len(frozen.ids) - len(here)) // ID, frozen.words)

    async def _sample(self, ids: bytes, size: int) -> list[QueuedMessage]:
        found = []
        for at in range(0, min(len(ids), size * ID), ID):
            try:
                found.append(await self._queue.get(ids[at : at + ID]))
            except NotFoundError:
                continue
        return found

    def _new_route(self, message: QueuedMessage | Outline, recipient: RecipientStatus | RecipientOutline, request: Any) -> Route:
        """`request`: either of the two reroutes; they have the same targets."""
        if request.WhichOneof("target") == "route":
            return route_from_proto(request.route, recipient.address)
        other = request.new_address
        target, orcpt = (str(address_from_text("new_address", other)), "") if other else (recipient.address, recipient.orcpt)
        settings = self._settings()
        anew = Anew(self._rule_set(), settings.smtp.recipient_delimiter, settings.trust.networks)
        decision = anew.decide(message.meta.origin, message.reverse_path, target, message.size, orcpt)
        if decision.reply is not None:
            text = f"{decision.reply.code} {decision.reply.enhanced} {decision.reply.text}"
            raise precondition(common.ERROR_REASON_REFUSED, f"{target} would be refused: {text}", target)
        if len(decision.routes) != 1:
            raise invalid("target", f"{target} leads to {len(decision.routes)} recipients; reroute to one of them")
        return decision.routes[0]

    async def resolve(self, prefix: str) -> list[bytes]:
        """Ids that begin with these hexadecimal digits, at most two. Ids are sorted, so only the next two are looked at."""
        await self._queue.whole()
        before = int(prefix.ljust(32, "0"), 16) - 1
        token = format_message_id(before.to_bytes(16, "big")) if before >= 0 else ""
        found = await self._queue.list(Filter(), token, 2)
        return [message.message_id for message in found.messages if message.message_id.hex().startswith(prefix)]

    async def resolve_one(self, text: str, field: str = "message_id") -> bytes:
        """The message an id or prefix means. Raises ControlError."""
        prefix = id_prefix(text, field)
        found = await self.resolve(prefix)
        if not found:
            raise not_found("message", text)
        if len(found) > 1:
            raise invalid(field, f"{text!r} fits several messages; give more digits")
        return found[0]


def check_target(request: Any) -> None:
    """A reroute says where to. Raises ControlError."""
    if request.WhichOneof("target") is None:
        raise invalid("target", "is needed: route, by_rules or new_address")
    if request.WhichOneof("target") == "route":
        route_from_proto(request.route, "postmaster@localhost")
    elif request.WhichOneof("target") == "new_address":
        address_from_text("new_address", request.new_address)


def operation_key(operation: api.Operation) -> str:
    """Sorts newest first as text: page tokens are keys."""
    return f"{(1 << 62) - operation.start_time.ToMicroseconds():020d}{operation.operation_id}"


def causes_limit(asked: int) -> int:
    """How many causes to answer with."""
    return DEFAULT_CAUSES if asked <= 0 else min(asked, MAX_CAUSES)


def _pending(message: QueuedMessage, addresses: Sequence[str]) -> list[int]:
    """Indexes of the recipients meant. Raises ControlError."""
    known = {recipient.address.lower() for recipient in message.recipients}
    for address in addresses:
        if address.lower() not in known:
            raise not_found("recipient", address)
    wanted = {address.lower() for address in addresses} or known
    chosen = [
        index for index, recipient in enumerate(message.recipients) if recipient.state == "PENDING" and recipient.address.lower() in wanted
    ]
    if not chosen:
        raise precondition(common.ERROR_REASON_INVALID_FIELD, "none of the recipients is pending any more")
    return chosen
