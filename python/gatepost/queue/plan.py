"""Envelope recipients → what the spool commits: one PlannedRecipient per final route, or the refusal. No I/O.

Called by Submitter and by the SMTP and LMTP servers before a commit, through the Planner that each worker has one of. Pure but for the
clock and the Planner's bounded memory. Invariant: within one message a (mailbox, folder) or an (address, destination) comes up once,
however many recipients or forwards lead there.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gatepost.message.envelope import Notify, Recipient
from gatepost.message.reply import Reply
from gatepost.queue.jobs import decode_route
from gatepost.routing.decide import decide, way_out
from gatepost.routing.model import AuthorCheck, Check, Decision, Question, Route, RouteKind, RuleSet
from gatepost.spool import PlannedRecipient

Planned = tuple[PlannedRecipient, ...]

MAX_REMEMBERED = 4096


class ParticularPlan(Planned):
    """A plan that holds for this message only, or with a limit: it is not remembered, nor is the recipient a plain one.

    size_limit: octets that the address takes; 0 is no limit of its own. authors: who may be the author of a post to a list.
    """

    size_limit = 0
    authors: AuthorCheck | None = None
    verify: Check | None = None
    """Whom to ask whether it takes the recipient."""


def size_limit(plans: Iterable[Planned]) -> int:
    """The least that the recipients of a message take; 0 when none has a limit of its own."""
    return min((plan.size_limit for plan in plans if isinstance(plan, ParticularPlan) and plan.size_limit), default=0)


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipient that is not taken, with the reply the client gets."""

    recipient: Recipient
    reply: Reply


class Planner:
    """Plans recipients, and remembers the plans of plain ones under the rule set it was asked with last. For one thread."""

    def __init__(self) -> None:
        self._rule_set: RuleSet | None = None
        self._plans: dict[tuple[str, bool, str], Planned] = {}

    def plan(
        self,
        rule_set: RuleSet,
        reverse_path: str,
        recipient: Recipient,
        *,
        trusted: bool,
        delimiter: str = "+",
        size: int = 0,
        tls: bool = False,
        client: str = "",
        user: str = "",
    ) -> Planned | Refused:
        """What becomes of one RCPT: at least one planned recipient, or a refusal. `tls`, `client`, `user`: of the session, see Question."""
        plain = not (recipient.notify or recipient.orcpt)
        key = (recipient.address, trusted, delimiter)  # with the rule set all that a fixed decision depends on
        question = Question(reverse_path, recipient.address, trusted, size, tls, int(time.time()), client, user)
        if plain and self._rule_set is rule_set and way_out(rule_set, question) is None:
            known = self._plans.get(key)
            if known is not None:
                return known
        decision = decide(rule_set, question, delimiter=delimiter)
        if decision.reply is not None:
            return Refused(recipient, decision.reply)
        routes = (planned(recipient, route) for route in decision.routes)
        if decision.size_limit or not decision.fixed:
            return _particular(routes, decision)
        plan = tuple(routes)
        if plain:
            self._keep(rule_set, key, plan)
        return plan

    def plan_all(
        self,
        rule_set: RuleSet,
        reverse_path: str,
        recipients: Sequence[Recipient],
        *,
        trusted: bool,
        delimiter: str = "+",
        tls: bool = False,
        user: str = "",
    ) -> list[Planned | Refused]:
        """One answer per recipient, in order. Give the accepted ones to `merge_planned` before the commit."""
        return [
            self.plan(rule_set, reverse_path, recipient, trusted=trusted, delimiter=delimiter, tls=tls, user=user)
            for recipient in recipients
        ]

    def _keep(self, rule_set: RuleSet, key: tuple[str, bool, str], plan: Planned) -> None:
        if self._rule_set is not rule_set or len(self._plans) >= MAX_REMEMBERED:
            self._rule_set = rule_set
            self._plans.clear()
        self._plans[key] = plan


def _particular(routes: Iterable[PlannedRecipient], decision: Decision) -> ParticularPlan:
    made = ParticularPlan(routes)
    made.size_limit = decision.size_limit
    made.authors = decision.authors
    made.verify = decision.verify
    return made


class Sent(Protocol):
    """Whom a message came from: its origin, or the proto's form of it."""

    @property
    def client_address(self) -> str:
        """'' for programs of ours."""

    @property
    def user(self) -> str:
        """'' when nobody had logged in."""

    @property
    def tls(self) -> str:
        """'' without TLS."""


def question_anew(origin: Sent, reverse_path: str, address: str, size: int) -> Question:
    """About a queued recipient that is decided by the rules of now. It was taken once, so it may go where a trusted sender's mail may; who
    sent it still has a say in the way out (sender rules).
    """
    return Question(reverse_path, address, True, size, bool(origin.tls), int(time.time()), origin.client_address, origin.user)


def planned(recipient: Recipient, route: Route) -> PlannedRecipient:
    """One route of one RCPT in the form the spool keeps."""
    orcpt = recipient.orcpt
    if not orcpt and route.address.lower() != recipient.address.lower():
        # RFC 3461 5.2.1: a relay may add ORCPT, and then it is the address by which the message came to us.
        orcpt = f"{'rfc822' if recipient.address.isascii() else 'utf-8'};{recipient.address}"
    # An answer to the sender, or what a list is told, is our own doing: when it fails, the sender is not to be told of it.
    notify = int(Notify.NEVER if route.kind in (RouteKind.AUTO_REPLY, RouteKind.LIST) else recipient.notify)
    return PlannedRecipient(route.address, orcpt, notify, route.destination, route.encode(), route.hold)


def merge_planned(plans: Iterable[Iterable[PlannedRecipient]]) -> list[PlannedRecipient]:
    """All planned recipients without duplicates; NOTIFY of those that fall together is united."""
    everything = [one for plan in plans for one in plan]
    if len(everything) < 2:
        return everything
    merged: dict[tuple[str, str], PlannedRecipient] = {}
    for one in everything:
        key = _identity(one)
        known = merged.get(key)
        merged[key] = one if known is None else replace(known, notify=_united(known.notify, one.notify))
    return list(merged.values())


def _identity(one: PlannedRecipient) -> tuple[str, str]:
    if one.destination.startswith(f"{RouteKind.LOCAL}:"):
        route = decode_route(one.route)
        return route.mailbox_id.hex(), route.folder
    return one.address.lower(), one.destination


def _united(first: int, second: int) -> int:
    """NEVER gives way to anything else; UNSET means failure and delay (RFC 3461 4.1)."""
    if first == second:
        return first
    default = int(Notify.FAILURE | Notify.DELAY)
    flags = (default if value == Notify.UNSET else value for value in (first, second))
    union = 0
    for value in flags:
        union |= value
    return union & ~int(Notify.NEVER) or int(Notify.NEVER)
