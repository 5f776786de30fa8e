"""QuarantineService of the supervisor as a domain admin sees it: mail withheld from recipients of the domains of his token, and nothing
else.

What the guard opens to a domain admin (`Rule.by_domain`) is narrowed here before it goes on as anybody's would: a message of which none
of his recipients is withheld is NOT_FOUND, other recipients and their history are left out, releases and deletions carry the domains as
`recipients`, so that workers keep to them. Naming a domain or recipient of others is PERMISSION_DENIED. Callers of other roles pass
through.
"""

from collections.abc import Iterable
from typing import Any

from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.control.access import CALLER, Role
from gatepost.control.errors import denied, invalid, not_found
from gatepost.control.paging import page_size
from gatepost.control.quarantine_convert import check_selection
from gatepost.control.quarantine_merge import MergedQuarantineServicer
from gatepost.message.verdict import WITHHELD
from gatepost.queue.history import merge

SERVER_WIDE = -1
"""Recipient index of what happened to a message as a whole."""


def domains_of_caller() -> frozenset[str] | None:
    """What the running call is kept to; None: everything."""
    caller = CALLER.get()
    return caller.domains if caller is not None and caller.role is Role.DOMAIN_ADMIN else None


class DomainQuarantineServicer(MergedQuarantineServicer):
    """See the proto for every method."""

    async def ListQuarantined(self, request: api.ListQuarantinedRequest, context: object) -> api.ListQuarantinedResponse:
        """See the proto. The pages of several domains are merged by id, as those of workers are."""
        domains = domains_of_caller()
        if domains is None:
            return await super().ListQuarantined(request, context)
        answers = []
        for domain in [_own(request.filter.domain, domains)] if request.filter.domain else sorted(domains):
            inner = api.ListQuarantinedRequest()
            inner.CopyFrom(request)
            inner.filter.domain = domain
            answers.append(await super().ListQuarantined(inner, context))
        pages = [(answer.messages, answer.next_page_token or None) for answer in answers]
        messages, token = merge(pages, lambda one: one.message.message_id, page_size(request.page_size), ascending=True)
        shown = [await self._shown(one, domains, context) for one in messages]
        warnings = dict.fromkeys(text for answer in answers for text in answer.warnings)
        return api.ListQuarantinedResponse(
            messages=[one for one in shown if one is not None],
            next_page_token=token or "",
            partial=any(answer.partial for answer in answers),
            warnings=warnings,
        )

    async def GetQuarantined(self, request: api.GetQuarantinedRequest, context: object) -> api.GetQuarantinedResponse:
        """See the proto."""
        answer = await super().GetQuarantined(request, context)
        domains = domains_of_caller()
        if domains is None:
            return answer
        own = {one.index for one in answer.message.message.recipients if _is_own(one.address, domains)}
        if not _keep_own(answer.message, domains):
            raise not_found("message", request.message_id)
        history = [one for one in answer.history if one.recipient_index == SERVER_WIDE or one.recipient_index in own]
        del answer.history[:]
        answer.history.extend(history)
        return answer

    async def ReleaseQuarantined(self, request: api.ReleaseQuarantinedRequest, context: object) -> api.ReleaseQuarantinedResponse:
        """See the proto."""
        return await super().ReleaseQuarantined(await self._narrowed(request, context), context)

    async def ReleaseAndAllow(self, request: api.ReleaseAndAllowRequest, context: object) -> api.ReleaseAndAllowResponse:
        """See the proto."""
        if domains_of_caller() is not None and not request.for_recipients_only:
            raise denied("a domain admin allows senders for recipients of his domains only: set for_recipients_only")
        return await super().ReleaseAndAllow(request, context)

    async def DeleteQuarantined(self, request: api.DeleteQuarantinedRequest, context: object) -> api.DeleteQuarantinedResponse:
        """See the proto."""
        return await super().DeleteQuarantined(await self._narrowed(request, context), context)

    # ---- inside

    async def _shown(self, one: api.QuarantinedMessage, domains: frozenset[str], context: object) -> api.QuarantinedMessage | None:
        """As far as it is his; lists name the first recipients only, and his may not be among them."""
        if one.message.recipient_count > len(one.message.recipients):
            whole = await super().GetQuarantined(api.GetQuarantinedRequest(message_id=one.message.message_id), context)
            one = whole.message
        return one if _keep_own(one, domains) else None

    async def _narrowed(self, request: Any, context: object) -> Any:
        """A release or deletion kept to his recipients. Raises ControlError before anything is touched."""
        domains = domains_of_caller()
        if domains is None:
            return request
        check_selection(request.selection)
        inner = type(request)()
        inner.CopyFrom(request)
        for address in inner.recipients:
            _own(address.rpartition("@")[2], domains)
        if not inner.recipients:
            inner.recipients.extend(f"@{domain}" for domain in sorted(domains))
        if inner.selection.message_ids:
            for message_id in inner.selection.message_ids:
                await self.GetQuarantined(api.GetQuarantinedRequest(message_id=message_id), context)
            return inner
        wanted = inner.selection.filter.domain
        if not wanted and len(domains) > 1:
            raise invalid("selection.filter.domain", f"is needed: one of {', '.join(sorted(domains))}")
        inner.selection.filter.domain = _own(wanted, domains) if wanted else min(domains)
        inner.selection.all = False
        return inner


def _own(domain: str, domains: frozenset[str]) -> str:
    if domain.lower() not in domains:
        raise denied(f"{domain!r} is not among your domains: {', '.join(sorted(domains))}")
    return domain.lower()


def _is_own(address: str, domains: Iterable[str]) -> bool:
    return address.rpartition("@")[2].lower() in domains


def _keep_own(found: api.QuarantinedMessage, domains: frozenset[str]) -> bool:
    """Leave out other recipients; whether something is withheld from one of the rest."""
    message = found.message
    own = [one for one in message.recipients if _is_own(one.address, domains)]
    del message.recipients[:]
    message.recipients.extend(own)
    message.recipient_count = len(own)
    found.withheld_count = sum(one.state == queue_api.RECIPIENT_STATE_PENDING and one.destination in WITHHELD for one in own)
    return found.withheld_count > 0
