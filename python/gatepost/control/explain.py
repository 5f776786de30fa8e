"""What live mail would meet, asked without sending any: the checks of the SMTP server's policy, then routing.decide. Pure.

Called by RulesService.Explain and RulesetsService.ExplainMail. Uses the very functions the servers use; only their order is repeated
here, and a test holds the two together.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.config import Settings
from gatepost.control.convert import address_from_text, reply_proto, route_proto, trace_proto
from gatepost.control.errors import invalid
from gatepost.message.address import Address
from gatepost.message.fields import HeaderView
from gatepost.message.reply import Reply
from gatepost.message.verdict import QUARANTINE
from gatepost.policy.authors import authors
from gatepost.policy.checks import (
    NEED_LOGIN,
    TOO_BIG,
    check_message,
    check_own_address,
    postmaster_domain,
)
from gatepost.policy.checks import MessageFacts as Received
from gatepost.policy.mail_auth import Results
from gatepost.policy.trust import TrustedNetworks
from gatepost.routing.decide import decide
from gatepost.routing.model import Decision, Question, Route, RouteKind, RuleSet, TraceStep
from gatepost.routing.senders import HOUR, choice_of
from gatepost.routing.stage_facts import NOT_VERIFIED, UNKNOWN, AddressFacts, AttemptFacts, Facts, MessageFacts, PartlyKnown, RouteFacts
from gatepost.routing.stages import Finding, Stage, StageAction, StagePolicy, refusal, rerouted, stage_policies
from gatepost.routing.trust import Client, Trust, trust_of

MAX_HEADER = 262_144
LISTENERS = ("smtp", "submission", "submissions", "lmtp")
_WITH_LOGIN = ("submission", "submissions")
MAX_TOLD = 20
"""Routes whose policies at delivery are told."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One message to one recipient, as texts. assume_trusted None: by client and user. now: Unix seconds."""

    sender: str
    recipient: str
    client_address: str = ""
    user: str = ""
    size: int = 0
    assume_trusted: bool | None = None
    tls: bool = False
    now: int = 0
    message: bytes = b""
    certificate: str = ""
    """The client's, as a trust entry names it: 'sha256:HEX', or 'subject:' and the subject."""
    helo: str = ""
    listener: str = ""
    """'' of both: not known, and a condition that names it has no answer."""
    fingerprint: str = ""
    subject: str = ""
    """Of the certificate, where both are known."""
    results: Results | None = None
    """What the DNS says of sender and message; None when it was not asked."""

    @property
    def client(self) -> Client:
        """Who asks, as trust entries and sender rules see it."""
        if not self.certificate:
            return Client(self.client_address, self.user, self.fingerprint, self.subject, "" if self.sender == "<>" else self.sender)
        kind, _, value = self.certificate.partition(":")
        fingerprint, subject = (value.replace(":", "").lower(), "") if kind == "sha256" else ("", value if kind == "subject" else "")
        return Client(self.client_address, self.user, fingerprint, subject, "" if self.sender == "<>" else self.sender)


@dataclass(frozen=True, slots=True)
class Answer:
    """`reply` refuses at the command `refused_at` ('mail', 'rcpt'), or there are routes."""

    trusted: bool
    trace: tuple[TraceStep, ...]
    routes: tuple[Route, ...] = ()
    reply: Reply | None = None
    refused_at: str = ""
    size_limit: int = 0
    at_delivery: tuple[tuple[str, ...], ...] = ()
    """What policies would do at the first attempt of each route, in words."""
    policy: str = ""
    """The attachment policy that the address's own handler or rule names."""

    @property
    def ways(self) -> list[tuple[Route, tuple[str, ...]]]:
        """Each route with what policies would do at delivery."""
        return [(route, self.at_delivery[n] if n < len(self.at_delivery) else ()) for n, route in enumerate(self.routes)]


Look = Callable[[Asked, bool], tuple[object, Reply | None]]
"""Looks into the message of a question: (what conditions see as `scan`, the reply if it is refused). May block."""


def explain(settings: Settings, rules: RuleSet, request: api.ExplainRequest, now: int) -> api.ExplainResponse:
    """The answer in RulesService's form. Raises ControlError for what is no address."""
    assumed = request.assume_trusted if request.HasField("assume_trusted") else None
    asked = Asked(
        request.sender,
        request.recipient,
        request.client_address,
        request.user,
        request.size,
        assumed,
        request.tls,
        request.time.seconds or now,
        certificate=request.certificate,
        helo=request.helo,
        listener=listener_of(request.listener),
    )
    found = answer(settings, rules, asked)
    made = api.ExplainResponse(trusted=found.trusted, rule_version=rules.version, routes=map(route_proto, found.routes))
    if found.reply is not None:
        made.reply.CopyFrom(reply_proto(found.reply))
    made.trace.extend(trace_proto(found.trace))
    return made


def listener_of(text: str) -> str:
    """A listener that a question names, '' for any. Raises ControlError."""
    if text and text not in LISTENERS:
        raise invalid("listener", f"must be one of {', '.join(LISTENERS)}")
    return text


def answer(settings: Settings, rules: RuleSet, asked: Asked, look: Look | None = None) -> Answer:
    """What would become of it; `look` judges its message. Raises ControlError for what is no address."""
    recipient = _recipient(settings, rules, asked.recipient)
    before = before_recipient(settings, rules, asked)
    trusted, steps = before.trusted, before.steps
    if before.reply is not None:
        return Answer(trusted, tuple(steps), (), before.reply, before.refused_at)
    stages = before.stages.about(recipient)
    question = Question(before.sender, recipient, trusted, asked.size, asked.tls, asked.now, asked.client_address, asked.user)
    decision, reply = _routed(settings, rules, question, stages, steps)
    refused_at = "rcpt"
    if reply is None:
        reply = _too_many_hops(settings, asked, steps) or _strange_author(rules, asked, steps)
        scan, reply = look(asked, trusted) if look is not None and reply is None else (UNKNOWN, reply)
        message = _message(asked, recipient)
        reply = reply or stages.ask(steps, Stage.DATA, message=message, scan=scan)
        refused_at = "data"
    if reply is not None:
        return Answer(trusted, tuple(steps), (), reply, refused_at, decision.size_limit, policy=decision.policy)
    routes = stages.leading(settings, decision.routes, steps)
    told = tuple(stages.at_delivery(steps, one, message=message, scan=scan) for one in routes[:MAX_TOLD])
    return Answer(trusted, tuple(steps), routes, None, "", decision.size_limit, told, decision.policy)


@dataclass(slots=True)
class Before:
    """What is found out before a recipient is named: it holds for each recipient of the same sender and client."""

    asked: Asked
    trusted: bool
    sender: str
    """'' for the null sender."""
    steps: list[TraceStep]
    stages: "_Stages"
    reply: Reply | None = None
    refused_at: str = ""
    at_data: tuple[Reply | None, list[StagePolicy]] | None = None
    """What the policies at data come to without a message, where that does not depend on the recipient; kept by `outcome`."""


def before_recipient(settings: Settings, rules: RuleSet, asked: Asked) -> Before:
    """Of a question; its recipient has no say. Raises ControlError for what is no address."""
    sender = address_from_text("sender", asked.sender) if asked.sender not in ("", "<>") else None
    if asked.assume_trusted is not None:
        trusted, why = asked.assume_trusted, "as the question says"
    else:
        found = is_trusted(settings, rules, asked.client)
        trusted, why = found.trusted, found.why
    steps = [TraceStep("sender", why)]
    made = Before(asked, trusted, str(sender or ""), steps, _Stages(rules, asked, trusted))
    made.stages.auth = _auth(settings, asked, trusted, steps)
    for stage in (Stage.CONNECT, Stage.HELO):
        reply = made.stages.ask(steps, stage, client=_at_first(settings, rules, asked, made.stages.client, stage))
        if reply is not None:
            made.reply, made.refused_at = reply, stage.value
            return made
    reply = _refused_before(settings, rules, sender, asked, steps) or _sender_rules(rules, asked, steps)
    made.reply, made.refused_at = reply or made.stages.ask(steps, Stage.MAIL), "mail"
    return made


def outcome(settings: Settings, rules: RuleSet, before: Before, recipient: str) -> Decision:
    """Routes, reply and attachment policy of what `answer` says of a question without a message, for any recipient, in fewer steps."""
    if before.reply is not None:
        return Decision((), before.reply)
    asked, stages = before.asked, before.stages.about(recipient)
    question = Question(before.sender, recipient, before.trusted, asked.size, asked.tls, asked.now, asked.client_address, asked.user)
    decision, reply = _routed(settings, rules, question, stages, None)
    if reply is None:
        reply = _at_data(before, stages, recipient)
    if reply is None and not stages.met:
        return decision
    routes = stages.leading(settings, decision.routes, None) if reply is None else ()
    return Decision(routes, reply, policy=decision.policy)


def _routed(
    settings: Settings, rules: RuleSet, question: Question, stages: "_Stages", steps: list[TraceStep] | None
) -> tuple[Decision, Reply | None]:
    """What RCPT is answered, noted in `steps`; the decision is empty when it was refused before there was one."""
    reply = stages.ask(steps, Stage.RCPT)
    if reply is not None:
        return Decision((), reply), reply
    decision = decide(rules, question, delimiter=settings.smtp.recipient_delimiter)
    if steps is not None:
        steps += decision.trace
    routes = decision.routes
    if decision.reply is None and stages.are_any(Stage.ROUTE):
        return decision, stages.ask(steps, Stage.ROUTE, route=RouteFacts(routes[0].kind.value, routes[0].host, len(routes)))
    return decision, decision.reply


def _at_data(before: Before, stages: "_Stages", recipient: str) -> Reply | None:
    """As `answer` asks at data when there is no message."""
    if not stages.are_any(Stage.DATA):
        return None
    if stages.reads_recipients:
        return stages.ask(None, Stage.DATA, message=_message(before.asked, recipient), scan=UNKNOWN)
    if before.at_data is None:
        alone = before.stages.about("")
        reply = alone.ask(None, Stage.DATA, message=_message(before.asked, ""), scan=UNKNOWN)
        before.at_data = reply, alone.met[len(before.stages.met) :]
    reply, met = before.at_data
    stages.met += met
    return reply


def _message(asked: Asked, recipient: str) -> Any:
    """The message of the question, for conditions; not known when there is none."""
    if not asked.message:
        return PartlyKnown(recipients=(recipient,), **({"size": asked.size} if asked.size else {}))
    return MessageFacts(len(asked.message), (recipient,), HeaderView(asked.message[:MAX_HEADER]).texts)


_DOES = {
    StageAction.ACCEPT: "let go on",
    StageAction.REJECT: "returned to the sender",
    StageAction.DEFER: "put off",
    StageAction.HOLD: "held",
    StageAction.QUARANTINE: "put into quarantine",
    StageAction.TAG: "tagged",
    StageAction.ADD_HEADER: "given a header field",
    StageAction.REMOVE_HEADER: "rid of a header field",
    StageAction.REROUTE: "rerouted",
    StageAction.COPY: "copied",
    StageAction.NOTIFY: "told of",
    StageAction.LIMIT: "counted and limited",
}


def _at_first(settings: Settings, rules: RuleSet, asked: Asked, client: PartlyKnown, stage: Stage) -> PartlyKnown:
    """The client before it has logged in and named a sender; at connect it has not greeted, nor asked for TLS."""
    known = dict(vars(client), user="")
    if asked.assume_trusted is None:
        known["trusted"] = is_trusted(settings, rules, replace(asked.client, user="", sender=None)).trusted
    if stage is Stage.CONNECT:
        known["helo"] = ""
        encrypted = asked.listener == "submissions"
        if asked.tls and not asked.listener:
            known.pop("tls")  # STARTTLS, or TLS from the first octet: nobody said
            known.pop("certificate", None)
        elif not encrypted:
            known.update(tls=False, certificate="")
    return PartlyKnown(**known)


def _too_many_hops(settings: Settings, asked: Asked, steps: list[TraceStep]) -> Reply | None:
    """What the end of data would be refused for because the message has been around, noted in `steps`."""
    count = len(HeaderView(asked.message[:MAX_HEADER]).texts("received")) if asked.message else 0
    reply = check_message(Received(count), settings.smtp.max_hops)
    if reply is not None:
        steps.append(TraceStep("hops", f"{count} Received fields; smtp.max_hops is {settings.smtp.max_hops}"))
    return reply


def _strange_author(rules: RuleSet, asked: Asked, steps: list[TraceStep]) -> Reply | None:
    """What the end of data would be refused for because of From, noted in `steps`."""
    choice = choice_of(rules, asked.client)
    if choice.allowed is None or not asked.message:
        return None
    for address in authors(asked.message[:MAX_HEADER]):
        reply = choice.refusal(address, "From")
        if reply is not None:
            steps.append(TraceStep("sender", f"sender rule {choice.allowed.name!r}: {address} in From is refused"))
            return reply
    return None


def _once(own: Sequence[Route], copies: Sequence[Route], *, quarantined: bool) -> tuple[Route, ...]:
    """Routes that fall together are one, as in live mail (queue.plan): what is in quarantine falls together with nothing that goes out."""
    found: dict[object, Route] = {}
    for one in own:
        found.setdefault((one.address.lower(), QUARANTINE) if quarantined and one.destination else _identity(one), one)
    for one in copies:
        found.setdefault(_identity(one), one)
    return tuple(found.values())


def _identity(route: Route) -> object:
    return (route.mailbox_id, route.folder) if route.kind is RouteKind.LOCAL else (route.address.lower(), route.destination)


class _Stages:
    """Stage policies, asked one stage after the other; what is not part of the question is not known to them."""

    def __init__(self, rules: RuleSet, asked: Asked, trusted: bool) -> None:
        self._rules = rules
        self._policies = stage_policies(rules)
        self.met: list[StagePolicy] = []
        known: dict[str, object] = {"address": asked.client_address, "user": asked.user, "tls": asked.tls, "trusted": trusted}
        known.update({name: value for name, value in (("helo", asked.helo), ("listener", asked.listener)) if value})
        if asked.client.subject or not asked.client.fingerprint:  # of a certificate named by its digest the subject is not known
            known["certificate"] = asked.client.subject
        self.client = PartlyKnown(**known)
        self._sender = AddressFacts(asked.client.sender or "")
        self._recipient = ""
        self.auth: Any = NOT_VERIFIED

    def about(self, recipient: str) -> "_Stages":
        """The same for a recipient, with the policies that are met so far."""
        if self._policies is None:
            return self  # nothing can be met
        made = object.__new__(_Stages)
        made.__dict__.update(self.__dict__, met=self.met.copy(), _recipient=recipient)
        return made

    def are_any(self, stage: Stage) -> bool:
        """Whether there are policies of a stage."""
        return self._policies is not None and bool(self._policies.by_stage[stage])

    @property
    def reads_recipients(self) -> bool:
        """Whether policies at data look at the message's recipients."""
        return self._policies is not None and self._policies.reads_recipients

    def ask(self, steps: list[TraceStep] | None, stage: Stage, **more: object) -> Reply | None:
        """The policies of a stage, noted in `steps`: the reply of one that refuses."""
        if self._policies is None or not self._policies.by_stage[stage]:
            return None
        facts = Facts(self.client, self._sender, AddressFacts(self._recipient), auth=self.auth)
        for name, value in more.items():
            setattr(facts, name, value)
        for one in self._policies.ask(stage, facts, go_on=True):
            if steps is not None:
                self._note(steps, one)
            reply = refusal(one) if not one.open else None
            if reply is not None:
                return reply
            if one.holds:
                self.met.append(one.policy)
        return None

    def _note(self, steps: list[TraceStep], one: Finding) -> None:
        if one.holds is None and not one.open:
            said = f"cannot be worked out: {one.why}"
        elif one.holds is None:
            said = f"depends on what is not part of the question: {one.why}"
        else:
            said = f"is met: {one.policy.action}" if one.holds else "is not met"
        steps.append(TraceStep("policy", f"{one.policy.stage}: {one.policy.name} {said}"))

    def at_delivery(self, steps: list[TraceStep], route: Route, **more: object) -> tuple[str, ...]:
        """What policies at deliver would do at the first attempt of a route, noted in `steps`, too."""
        if self._policies is None or not route.destination or route.kind in (RouteKind.AUTO_REPLY, RouteKind.LIST):
            return ()
        facts = Facts(self.client, self._sender, AddressFacts(route.address), auth=self.auth)
        facts.route, facts.attempt = RouteFacts(route.kind.value, route.host, 1), AttemptFacts(1, 0, route.destination)
        for name, value in more.items():
            setattr(facts, name, value)
        told: list[str] = []
        for one in self._policies.ask(Stage.DELIVER, facts, go_on=True):
            self._note(steps, one)
            if one.holds:
                told.append(f"{_DOES.get(one.policy.action, one.policy.action)} by policy {one.policy.name}")
        return tuple(told)

    def leading(self, settings: Settings, routes: Sequence[Route], steps: list[TraceStep] | None) -> tuple[Route, ...]:
        """Where it goes as the policies that are met have it, copies included; those are noted in `steps`."""
        quarantined = any(one.action is StageAction.QUARANTINE for one in self.met)
        return _once([self._changed(one) for one in routes], self._copies(settings, steps), quarantined=quarantined)

    def _copies(self, settings: Settings, steps: list[TraceStep] | None) -> list[Route]:
        """The routes of those who get a copy; who cannot be routed gets none."""
        made: list[Route] = []
        for address in dict.fromkeys(one.address for one in self.met if one.action is StageAction.COPY):
            found = decide(self._rules, Question("", address, True, tls=False), delimiter=settings.smtp.recipient_delimiter)
            went = "is left out" if found.reply is not None else ", ".join(str(one.destination or one.kind) for one in found.routes)
            if steps is not None:
                steps.append(TraceStep("copy", f"to {address}: {went}"))
            made += found.routes
        return made

    def _changed(self, route: Route) -> Route:
        """A route as the policies that are met have it."""
        for policy in self.met:
            if policy.action is StageAction.REROUTE:
                route = rerouted(route, policy)
            elif policy.action in (StageAction.HOLD, StageAction.QUARANTINE):
                route = replace(route, hold=True)
        return route


def _auth(settings: Settings, asked: Asked, trusted: bool, steps: list[TraceStep]) -> Any:
    """What conditions see of the verification, noted in `steps`."""
    if trusted or asked.user or asked.listener not in ("", "smtp") or settings.authentication.verify == "off":
        return NOT_VERIFIED
    results = asked.results
    if results is None:
        return UNKNOWN
    spf, dmarc = results.spf.sender, results.dmarc
    told = [f"spf={spf.word} {spf.domain}", f"({spf.reason})" if spf.reason else ""]
    if not asked.message:
        steps.append(TraceStep("authentication", " ".join(filter(None, told))))
        return PartlyKnown(spf=spf.word.value, spf_domain=spf.domain, spf_helo=results.spf.helo.word.value)
    told += [f"dkim={one.word} {one.domain}" + (f" ({one.reason})" if one.reason else "") for one in results.signatures] or ["dkim=none"]
    told += [f"dmarc={dmarc.word} {dmarc.domain}", f"(p={results.policy})" if results.policy else ""]
    steps.append(TraceStep("authentication", " ".join(filter(None, told))))
    return results.facts()


def _refused_before(settings: Settings, rules: RuleSet, sender: Address | None, asked: Asked, steps: list[TraceStep]) -> Reply | None:
    """What MAIL would be refused for (RFC 1870 6.1, RFC 6409 6.1), noted in `steps`."""
    if asked.listener in _WITH_LOGIN and not asked.user:
        steps.append(TraceStep("sender", f"nobody has logged in, and {asked.listener} takes mail of users only"))
        return NEED_LOGIN
    if asked.size > settings.smtp.max_message_bytes:
        steps.append(TraceStep("size", f"more than smtp.max_message_bytes, {settings.smtp.max_message_bytes}"))
        return TOO_BIG
    logs_in = asked.user and asked.listener in ("", *_WITH_LOGIN)
    reply = check_own_address(rules, sender, asked.user, settings.smtp.recipient_delimiter) if logs_in else None
    if reply is not None:
        steps.append(TraceStep("sender", f"{sender} belongs to another user than {asked.user}"))
    return reply


def _sender_rules(rules: RuleSet, asked: Asked, steps: list[TraceStep]) -> Reply | None:
    """What sender rules have to say besides the way out, noted in `steps`; limits are told, not asked."""
    choice = choice_of(rules, asked.client)
    for rule, whom in choice.limited:
        told = ", ".join(f"{most} {what} in {'an hour' if seconds == HOUR else 'a day'}" for what, seconds, most in rule.limits)
        steps.append(TraceStep("limit", f"sender rule {rule.name!r}: {told}, counted for {whom}"))
    if choice.masquerade is not None:
        steps.append(TraceStep("masquerade", f"sender rule {choice.masquerade.name!r}: the sender becomes {choice.masked(asked.sender)}"))
    reply = choice.refusal(asked.client.sender or "")
    if choice.allowed is not None:
        steps.append(TraceStep("sender", f"sender rule {choice.allowed.name!r}: {'refused' if reply else 'allowed'}"))
    return reply


def is_trusted(settings: Settings, rules: RuleSet, client: Client) -> Trust:
    """May the sender relay, and why? The trust list first, then login and networks. Raises ControlError for what is no IP address."""
    if client.user:
        mailbox = rules.mailboxes.get(client.user.lower())
        if mailbox is None or not mailbox.enabled:
            return Trust(False, f"user {client.user} cannot log in: {'disabled' if mailbox else 'no such user'}")
    if client.address:
        try:
            ipaddress.ip_address(client.address)
        except ValueError:
            raise invalid("client_address", "is not an IP address") from None
    return trust_of(rules, client, _by_settings(settings, client))


def _by_settings(settings: Settings, client: Client) -> Trust:
    if client.user:
        return Trust(True, f"logged in as {client.user}")
    if not client.address:
        return Trust(False, "no user and no client address: a stranger")
    if client.address in _networks(tuple(settings.trust.networks)):
        return Trust(True, f"{client.address} is in a trusted network (trust.networks)")
    return Trust(False, f"{client.address} is in no trusted network (trust.networks)")


@lru_cache(maxsize=4)
def _networks(texts: tuple[str, ...]) -> TrustedNetworks:
    return TrustedNetworks(texts)


def _recipient(settings: Settings, rules: RuleSet, text: str) -> str:
    if text.lower() == "postmaster":  # RFC 5321 4.1.1.3
        return f"{text}@{postmaster_domain(rules, settings.hostname)}"
    return str(address_from_text("recipient", text))
