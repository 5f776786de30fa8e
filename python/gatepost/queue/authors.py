"""Whether the author of a post, as its header names him, may post to the list: asked when the header is there, before the commit. Pure.

Called by the SMTP and LMTP sessions and by the Submitter with the plans of a message. What RCPT decided stands; a post of an author who
may not is held for the owners' word, who are told, so that neither a forged envelope nor an odd From loses anybody's mail.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from email.utils import getaddresses

from gatepost.message.envelope import Notify, Recipient
from gatepost.message.fields import HeaderView
from gatepost.queue.jobs import decode_route
from gatepost.queue.plan import ParticularPlan, Planned, planned
from gatepost.routing.lists import notice
from gatepost.routing.members import address_key
from gatepost.spool import PlannedRecipient

MAX_AUTHORS = 20
"""Addresses of From that are looked at."""


def judge_authors(plans: Sequence[Planned], header: Callable[[], bytes]) -> list[Planned]:
    """The plans, with posts of authors who may not held. `header` is called once, and only when a plan asks for it."""
    if not any(isinstance(plan, ParticularPlan) and plan.authors is not None for plan in plans):
        return list(plans)
    authors = authors_of(HeaderView(header()))
    return [_judged(plan, authors) for plan in plans]


def authors_of(header: HeaderView) -> list[str]:
    """Addresses of the From fields, as mailbox keys."""
    values = [value.decode("utf-8", "replace")[:10_000] for value in header.raw("from")]
    return [address_key(address) for _, address in getaddresses(values) if address][:MAX_AUTHORS]


def _judged(plan: Planned, authors: Sequence[str]) -> Planned:
    check = plan.authors if isinstance(plan, ParticularPlan) else None
    if check is None or (authors and all(author in check.allowed for author in authors)):
        return plan
    told = planned(Recipient(check.address, Notify.NEVER), notice(check.address))
    if any(_identity(one) == _identity(told) for one in plan):
        return plan  # it waits already
    return (*(replace(one, held=True) if _is_post(one, check.address) else one for one in plan), told)


def _identity(one: PlannedRecipient) -> tuple[str, str]:
    return one.address.lower(), one.destination


def _is_post(one: PlannedRecipient, address: str) -> bool:
    """A copy to a member, or to the list's digest."""
    return any(kind in ("list", "digest") and ref == address for kind, ref in decode_route(one.route).edits)
