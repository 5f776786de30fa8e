"""QuarantineService of the supervisor: the quarantines of all workers as one, allowed senders, digests. Asks quarantine.py in each worker.

Ids sort by time, so a page is the merge of the workers' pages by id and its token an id. An operation has one id on all workers, made here.
A selection by ids that may concern a worker that is away is refused with UNAVAILABLE; one by filter is carried out where it can be, and the
answer is partial. Every call to a worker has a deadline.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.quarantine.v1 import quarantine_pb2_grpc
from gatepost.config import Settings
from gatepost.control.access import actor_metadata, author, operation_metadata
from gatepost.control.convert import timestamp
from gatepost.control.digest import Digests
from gatepost.control.errors import ControlError, from_rpc, invalid, not_found, precondition
from gatepost.control.merge_bulk import BULK_SECONDS, MergedBulkServicer, merge_bulk, passed_on
from gatepost.control.paging import page, page_size
from gatepost.control.quarantine import NAME
from gatepost.control.quarantine_convert import MAX_IDS, allowed_proto, check_selection, quarantine_filter, withheld_addresses
from gatepost.control.queue import after_id
from gatepost.control.server import Service
from gatepost.control.workers import CALL_SECONDS, Answers, WorkerLink, WorkerLinks
from gatepost.directory import AllowedSender, Directory
from gatepost.message.ids import format_message_id
from gatepost.message.verdict import WITHHELD
from gatepost.native import new_message_id
from gatepost.queue.digest import LinkError
from gatepost.queue.history import merge
from gatepost.routing.model import RuleSet

BODY_SECONDS = 600.0
GONE = ": it is not there, or not any more; its history (gatepost trace) tells who released or deleted it"

T = TypeVar("T")


class MergedQuarantineServicer(quarantine_pb2_grpc.QuarantineServiceServicer):
    """See the proto for every method. `queue` finds messages; `changed` is awaited after each change of the directory, see rules.py."""

    def __init__(
        self,
        links: WorkerLinks,
        queue: MergedBulkServicer,
        directory: Directory,
        changed: Callable[[], Awaitable[None]],
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
    ) -> None:
        self._links = links
        self._directory = directory
        self._changed = changed
        self._queue = queue
        self.digests = Digests(links, directory, rule_set, settings)

    def service(self) -> Service:
        """For ControlServer."""
        return Service(NAME, self, quarantine_pb2_grpc.add_QuarantineServiceServicer_to_server)

    async def ListQuarantined(self, request: api.ListQuarantinedRequest, context: object) -> api.ListQuarantinedResponse:
        """See the proto."""
        quarantine_filter(request.filter)
        after_id(request.page_token)
        size = page_size(request.page_size)
        inner = api.ListQuarantinedRequest(filter=request.filter, page_size=size, page_token=request.page_token)
        answers = await self._links.ask_all(lambda link: link.quarantine.ListQuarantined(inner, timeout=CALL_SECONDS))
        pages = [(answer.messages, answer.next_page_token or None) for answer in answers.by_worker.values()]
        messages, token = merge(pages, lambda one: one.message.message_id, size, ascending=True)
        warnings = [*answers.warnings, *(text for answer in answers.by_worker.values() for text in answer.warnings)]
        return api.ListQuarantinedResponse(messages=messages, next_page_token=token or "", partial=bool(warnings), warnings=warnings)

    async def GetQuarantined(self, request: api.GetQuarantinedRequest, context: object) -> api.GetQuarantinedResponse:
        """See the proto."""
        found = await _kept(self._queue.find(request.message_id))
        inner = api.GetQuarantinedRequest(message_id=found.message_id)
        return await passed_on(found.link.quarantine.GetQuarantined(inner, timeout=CALL_SECONDS))

    async def ReadContent(self, request: api.ReadContentRequest, context: object) -> AsyncIterator[api.ReadContentResponse]:
        """See the proto."""
        found = await _kept(self._queue.find(request.message_id))
        try:
            async for part in found.link.quarantine.ReadContent(api.ReadContentRequest(message_id=found.message_id), timeout=BODY_SECONDS):
                yield part
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error

    async def ReleaseQuarantined(self, request: api.ReleaseQuarantinedRequest, context: object) -> api.ReleaseQuarantinedResponse:
        """See the proto."""
        answers = await self._bulk("ReleaseQuarantined", request)
        refused, first = _refusals(answers)
        return api.ReleaseQuarantinedResponse(result=_merged(answers), refused=refused, first_refusal=first)

    async def ReleaseAndAllow(self, request: api.ReleaseAndAllowRequest, context: object) -> api.ReleaseAndAllowResponse:
        """See the proto. Allowed first: a release that is cut short can be asked for again."""
        if not 1 <= len(request.message_ids) <= MAX_IDS:
            raise invalid("message_ids", f"must be 1 to {MAX_IDS}")
        messages = [(await self.GetQuarantined(api.GetQuarantinedRequest(message_id=one), context)).message for one in request.message_ids]
        allowed = await self.allow(messages, for_recipients_only=request.for_recipients_only)
        inner = api.ReleaseQuarantinedRequest()
        inner.selection.message_ids.extend(one.message.message_id for one in messages)
        done = await self.ReleaseQuarantined(inner, context)
        return api.ReleaseAndAllowResponse(
            result=done.result, refused=done.refused, first_refusal=done.first_refusal, allowed=map(allowed_proto, allowed)
        )

    async def DeleteQuarantined(self, request: api.DeleteQuarantinedRequest, context: object) -> api.DeleteQuarantinedResponse:
        """See the proto."""
        return api.DeleteQuarantinedResponse(result=_merged(await self._bulk("DeleteQuarantined", request)))

    async def RescanQuarantined(self, request: api.RescanQuarantinedRequest, context: object) -> api.RescanQuarantinedResponse:
        """See the proto."""
        found = await _kept(self._queue.find(request.message_id))
        inner = api.RescanQuarantinedRequest(message_id=found.message_id, release_if_clean=request.release_if_clean)
        return await passed_on(found.link.quarantine.RescanQuarantined(inner, timeout=BULK_SECONDS, metadata=_metadata()))

    # ---- allowed senders

    async def ListAllowedSenders(self, request: api.ListAllowedSendersRequest, context: object) -> api.ListAllowedSendersResponse:
        """See the proto."""
        known = await asyncio.to_thread(self._directory.list_allowed_senders)
        chosen, token = page(known, lambda one: f"{one.sender} {one.recipient}", request.page_size, request.page_token)
        return api.ListAllowedSendersResponse(senders=map(allowed_proto, chosen), next_page_token=token)

    async def AllowSender(self, request: api.AllowSenderRequest, context: object) -> api.AllowSenderResponse:
        """See the proto."""
        made = await asyncio.to_thread(self._directory.allow_sender, request.sender, request.recipient, author=author())
        await self._changed()
        return api.AllowSenderResponse(sender=allowed_proto(made))

    async def DisallowSender(self, request: api.DisallowSenderRequest, context: object) -> api.DisallowSenderResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.disallow_sender, request.sender, request.recipient)
        await self._changed()
        return api.DisallowSenderResponse()

    # ---- digests

    async def PreviewDigest(self, request: api.PreviewDigestRequest, context: object) -> api.PreviewDigestResponse:
        """See the proto."""
        made = await self.digests.preview(request.mailbox)
        if made is None:
            return api.PreviewDigestResponse()
        return api.PreviewDigestResponse(message=made.octets, listed=made.listed, omitted=made.omitted)

    async def ResolveDigestLink(self, request: api.ResolveDigestLinkRequest, context: object) -> api.ResolveDigestLinkResponse:
        """See the proto."""
        try:
            link = await asyncio.to_thread(self.digests.read_link, request.link_token)
        except LinkError as error:
            raise precondition(common.ERROR_REASON_REFUSED, str(error)) if error.expired else invalid("link_token", str(error)) from error
        message_id = format_message_id(link.message_id)
        try:
            found = (await self.GetQuarantined(api.GetQuarantinedRequest(message_id=message_id), context)).message
        except ControlError as error:
            if error.status is not grpc.StatusCode.NOT_FOUND:
                raise
            gone = "the message is not in quarantine any more: it was released or deleted"
            raise precondition(common.ERROR_REASON_REFUSED, gone) from error
        if link.recipient.lower() not in (one.lower() for one in withheld_addresses(found.message, [*WITHHELD])):
            raise precondition(common.ERROR_REASON_REFUSED, "the message is not in quarantine for this recipient any more")
        if link.releases and found.infected:
            raise precondition(common.ERROR_REASON_REFUSED, "the message is infected: only an operator may release it")
        if not request.dry_run:
            await self._carry_out(link.action, found, link.recipient)
        return api.ResolveDigestLinkResponse(
            action=api.LinkAction.Value(f"LINK_ACTION_{link.action.upper()}"),
            message_id=message_id,
            recipient=link.recipient,
            sender=found.message.sender,
            subject=found.subject,
            done=not request.dry_run,
            expire_time=timestamp(link.expires * 1_000_000),
        )

    async def _carry_out(self, action: str, found: api.QuarantinedMessage, recipient: str) -> None:
        """Raises ControlError also when nothing could be released."""
        selection = api.QuarantineSelection(message_ids=[found.message.message_id])
        by = f"link:{recipient}"
        if action == "delete":
            request = api.DeleteQuarantinedRequest(selection=selection, recipients=[recipient])
            await self._bulk("DeleteQuarantined", request, by)
            return
        if action == "allow":
            await self._allow([(found.message.sender, recipient)], by)
        answers = await self._bulk("ReleaseQuarantined", api.ReleaseQuarantinedRequest(selection=selection, recipients=[recipient]), by)
        refused, first = _refusals(answers)
        if refused:
            raise precondition(common.ERROR_REASON_REFUSED, first)

    # ---- inside

    async def allow(self, messages: Sequence[api.QuarantinedMessage], *, for_recipients_only: bool) -> list[AllowedSender]:
        """Allow the senders of messages. Raises ControlError when one has none: then nothing is changed."""
        pairs: list[tuple[str, str]] = []
        for one in messages:
            if not one.message.sender:
                raise precondition(
                    common.ERROR_REASON_REFUSED, f"{one.message.message_id} has the null reverse-path: there is no sender to allow"
                )
            recipients = withheld_addresses(one.message, [*WITHHELD]) if for_recipients_only else [""]
            pairs += [(one.message.sender, recipient) for recipient in recipients]
        return await self._allow(pairs, author())

    async def _allow(self, pairs: Sequence[tuple[str, str]], by: str) -> list[AllowedSender]:
        made = [await asyncio.to_thread(self._directory.allow_sender, *pair, author=by) for pair in dict.fromkeys(pairs)]
        await self._changed()
        return made

    async def _bulk(self, method: str, request: Any, by: str = "") -> Answers[Any]:
        """`request` has a selection; the rest goes on as it is. `by` acts in place of the caller."""
        check_selection(request.selection)
        parts: dict[int, api.QuarantineSelection] = {}
        if request.selection.message_ids:
            for index, owned in (await _kept(self._queue.owners(request.selection.message_ids))).items():
                parts[index] = api.QuarantineSelection(message_ids=owned.message_ids)
        else:
            parts = {link.index: request.selection for link in self._links.all()}
        metadata = _metadata(by)

        async def call(link: WorkerLink) -> Any:
            inner = type(request)()
            inner.CopyFrom(request)
            inner.selection.CopyFrom(parts[link.index])
            return await getattr(link.quarantine, method)(inner, timeout=BULK_SECONDS, metadata=metadata)

        return await self._links.ask([self._links[index] for index in parts], call)


async def _kept(looking: Awaitable[T]) -> T:
    """A message that has left the queue was in quarantine most likely: who asks for it again hears where to look."""
    try:
        return await looking
    except ControlError as error:
        if error.status is not grpc.StatusCode.NOT_FOUND:
            raise
        raise not_found("message in quarantine", error.info.resource, GONE) from error


def _metadata(by: str = "") -> tuple[tuple[str, str], ...]:
    by = by.encode("ascii", "backslashreplace").decode()
    return (*actor_metadata(by), *operation_metadata(format_message_id(new_message_id())))


def _merged(answers: Answers[Any]) -> Any:
    results: Answers[Any] = Answers({index: answer.result for index, answer in answers.by_worker.items()}, answers.warnings)
    started = min((one.selected_at for one in results.by_worker.values()), key=lambda stamp: stamp.ToMicroseconds())
    return merge_bulk(results, started)


def _refusals(answers: Answers[Any]) -> tuple[int, str]:
    told = [answer.first_refusal for answer in answers.by_worker.values() if answer.first_refusal]
    return sum(answer.refused for answer in answers.by_worker.values()), told[0] if told else ""
