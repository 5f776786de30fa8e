"""Policies at the stages of a message: conditions in CEL over what is known then, and what is done when one holds.

Asked by the SMTP and LMTP sessions at each stage, and by `explain`. Pure. Invariants: at a stage its policies are asked in order; the first
that holds and accepts, rejects or defers ends it; a condition that cannot be worked out defers, so that nothing passes because of a fault.
Programs are made once per rule set. What is not known yet (UNKNOWN) makes a condition unanswerable unless another part decides, which is
also how it is found out whether a client, a sender or a recipient can be concerned at all (`may_hold`). Those of the stage deliver are
asked by the queue (queue.deliver_stage), of what is in force at the attempt.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gatepost.expression import (
    BOOL,
    DOUBLE,
    INT,
    STRING,
    Environment,
    EvaluationError,
    ExpressionError,
    Field,
    ListOf,
    Method,
    Program,
    Record,
    compile_expression,
)
from gatepost.message.reply import Reply
from gatepost.routing.route import Route, RouteKind, TlsPolicy
from gatepost.routing.senders import Want
from gatepost.routing.stage_facts import UNKNOWN, ClientFacts, Facts, MessageFacts, NotKnown, RateFacts, uncounted
from gatepost.routing.trust import networks_of

if TYPE_CHECKING:
    from gatepost.routing.model import RuleSet

_ATTRIBUTE = "_stage_policies"
MANY = 1_000
FEW = 100
TEXT_MAX = 10_000
RATES_MOST = 4
"""Rates that one condition may ask for."""
RATE_SECONDS = 86_400
COST_MOST = 20_000
"""Steps of one evaluation: less than a millisecond, and typically some microseconds."""


class Stage(StrEnum):
    """When a policy is asked. route: after a recipient was routed. data: after the end of data and the scanners. deliver: before each
    attempt to deliver.
    """

    CONNECT = "connect"
    HELO = "helo"
    MAIL = "mail"
    RCPT = "rcpt"
    ROUTE = "route"
    DATA = "data"
    DELIVER = "deliver"


class StageAction(StrEnum):
    """What is done. accept, reject and defer end a stage; the others do not."""

    ACCEPT = "accept"
    REJECT = "reject"
    DEFER = "defer"
    HOLD = "hold"
    QUARANTINE = "quarantine"
    TAG = "tag"
    ADD_HEADER = "add-header"
    REMOVE_HEADER = "remove-header"
    REROUTE = "reroute"
    COPY = "copy"
    NOTIFY = "notify"
    LIMIT = "limit"


class LimitBy(StrEnum):
    """Whose messages a limit counts together."""

    CLIENT = "client"
    USER = "user"
    SENDER = "sender"
    SENDER_DOMAIN = "sender-domain"
    RECIPIENT = "recipient"
    RECIPIENT_DOMAIN = "recipient-domain"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePolicy:
    """when: the condition. code, text: of reject and defer; text is also what tag puts before the subject and the value that add-header
    gives `header`. address: who gets a copy. host, port, tls: where reroute leads. most in seconds, counted `by`: of limit.
    """

    comment: str = ""
    name: str
    stage: Stage
    when: str
    action: StageAction
    enabled: bool = True
    code: int = 0
    text: str = ""
    header: str = ""
    address: str = ""
    host: str = ""
    port: int = 25
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    most: int = 0
    seconds: int = 3600
    by: LimitBy = LimitBy.CLIENT


# ---- what conditions are made of -------------------------------------------------------------------------------------


def _fields(**kinds: Any) -> dict[str, Field]:
    return {name: Field(kind, attrgetter(name)) for name, kind in kinds.items()}


def _within(client: ClientFacts, network: str) -> bool:
    return _in_network(client.address, network)


@lru_cache(maxsize=4096)
def _in_network(address: str, network: str) -> bool:
    found = networks_of((network,))
    if not found:
        raise EvaluationError(f"{network!r:.60} is no network")
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    plain = (known.ipv4_mapped or known) if isinstance(known, ipaddress.IPv6Address) else known
    return plain.version == found[0].version and plain in found[0]


def _header(message: MessageFacts, name: str) -> list[str]:
    return [text[:TEXT_MAX] for text in message.header(name)[:FEW]]


def _rate(by: str, rate: RateFacts, seconds: int) -> int:
    return uncounted(by) if rate is UNKNOWN else rate.count(by, seconds)


CLIENT = Record(
    "client",
    _fields(address=STRING, listener=STRING, user=STRING, tls=BOOL, trusted=BOOL, helo=STRING, certificate=STRING),
    {"within": Method((STRING,), BOOL, _within)},
)
ADDRESS = Record("address", _fields(address=STRING, local=STRING, domain=STRING), {})
ROUTE = Record("route", _fields(kind=STRING, host=STRING, count=INT), {})
MESSAGE = Record(
    "message",
    {**_fields(size=INT), "recipients": Field(ListOf(STRING, MANY), lambda message: list(message.recipients)[:MANY])},
    {"header": Method((STRING,), ListOf(STRING, FEW), _header)},
)
SCAN = Record("scan", _fields(action=STRING, policy=STRING, rule=STRING, score=DOUBLE), {})
CLOCK = Record("time", _fields(now=INT, hour=INT, weekday=INT), {})
RATE = Record(
    "rate",
    _fields(messages=INT, refused=INT),
    {by: Method((INT,), INT, partial(_rate, by), cost=200) for by in ("client", "user", "sender", "sender_domain", "recipient_domain")},
)
ATTEMPT = Record("attempt", _fields(number=INT, age=INT, destination=STRING), {})
AUTH = Record(
    "auth",
    {
        **_fields(spf=STRING, spf_domain=STRING, spf_helo=STRING, dkim=STRING, dmarc=STRING, dmarc_domain=STRING, dmarc_policy=STRING),
        "dkim_domains": Field(ListOf(STRING, FEW), lambda auth: list(auth.dkim_domains)[:FEW]),
    },
    {},
)
ENVIRONMENT = Environment(
    {
        "client": CLIENT,
        "sender": ADDRESS,
        "recipient": ADDRESS,
        "route": ROUTE,
        "message": MESSAGE,
        "scan": SCAN,
        "time": CLOCK,
        "rate": RATE,
        "attempt": ATTEMPT,
        "auth": AUTH,
    }
)
_ALWAYS = frozenset({"client", "time", "rate"})
KNOWN: dict[Stage, frozenset[str]] = {
    Stage.CONNECT: _ALWAYS,
    Stage.HELO: _ALWAYS,
    Stage.MAIL: _ALWAYS | {"sender", "auth"},
    Stage.RCPT: _ALWAYS | {"sender", "recipient", "auth"},
    Stage.ROUTE: _ALWAYS | {"sender", "recipient", "route", "auth"},
    Stage.DATA: _ALWAYS | {"sender", "message", "scan", "auth"},
    Stage.DELIVER: _ALWAYS | {"sender", "recipient", "route", "message", "scan", "attempt", "auth"},
}
"""What a condition may name at a stage."""
_BEFORE_DATA = (Stage.MAIL, Stage.RCPT, Stage.ROUTE)
_BY_SPF = frozenset({"spf", "spf_domain", "spf_helo"})
"""What of `auth` is known before the message is there."""
_NOT_KEPT = {("client", "certificate"), ("rate", "messages"), ("rate", "refused"), ("auth", "spf_helo")}
"""What is of the session, and no longer known when the message is delivered."""
_RATE_OF = {"sender": "sender", "sender_domain": "sender", "recipient_domain": "recipient"}
"""What must be known for a rate."""


def compiled(policy: StagePolicy) -> Program:
    """Its condition, checked for its stage. Raises ExpressionError."""
    program = compile_expression(policy.when, ENVIRONMENT)
    strange = sorted(program.uses - KNOWN[policy.stage])
    if strange:
        at = [str(stage) for stage in Stage if strange[0] in KNOWN[stage]]
        raise ExpressionError(f"{strange[0]!r} is not known at stage {policy.stage}, but at {', '.join(at)}", 1)
    if program.cost > COST_MOST:
        raise ExpressionError(f"might take {program.cost:,} steps, of {COST_MOST:,} allowed", 1)
    gone = sorted(f"{record}.{name}" for record, name, _ in program.touches if (record, name) in _NOT_KEPT)
    if gone and policy.stage is Stage.DELIVER:
        raise ExpressionError(f"{gone[0]} is of the session, and not known any more at stage deliver", 1)
    late = sorted(name for record, name, _ in program.touches if record == "auth" and name not in _BY_SPF)
    if late and policy.stage in _BEFORE_DATA:
        raise ExpressionError(f"auth.{late[0]} is not known at stage {policy.stage}, but at data, deliver", 1)
    _check_rates(policy, program)
    return program


def _check_rates(policy: StagePolicy, program: Program) -> None:
    """What is counted has to be known before it is asked for, and must be little."""
    asked = [(name, given) for record, name, given in program.touches if record == "rate" and name in RATE.methods]
    for name, given in asked:
        needed = _RATE_OF.get(name, "client")
        if needed not in KNOWN[policy.stage]:
            raise ExpressionError(f"rate.{name} needs the {needed}, which is not known at stage {policy.stage}", 1)
        if given is None or not 1 <= given[0] <= RATE_SECONDS:
            raise ExpressionError(f"rate.{name} takes seconds as a plain number, 1 to {RATE_SECONDS}", 1)
    if len(asked) > RATES_MOST:
        raise ExpressionError(f"asks for {len(asked)} rates; {RATES_MOST} are possible", 1)


def _rates(program: Program | None) -> frozenset["Rate"]:
    """What has to be counted for a condition."""
    touches = program.touches if program is not None else ()
    return frozenset((name, given[0]) for record, name, given in touches if record == "rate" and name in RATE.methods and given)


Rate = tuple[str, int]
"""By what messages are counted together (a function of `rate`), and in how many seconds."""


# ---- asking ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one policy: it holds (True), does not (False), or cannot be worked out (None, and why). open: not from what was known
    here, though it may be from more.
    """

    policy: StagePolicy
    holds: bool | None
    why: str = ""
    open: bool = False


class StagePolicies:
    """The policies that are enabled, made ready. `rates`: what has to be counted of every message because a condition asks for it."""

    def __init__(self, policies: Iterable[StagePolicy]) -> None:
        ready = [(one, _program(one)) for one in policies if one.enabled]
        self.by_stage = {stage: [pair for pair in ready if pair[0].stage is stage] for stage in Stage}
        self.rates = frozenset(rate for _, program in ready for rate in _rates(program))
        self.early = [pair for pair in ready if pair[0].stage is not Stage.DELIVER]
        """Those of a session."""
        at_data = (program.touches for _, program in self.by_stage[Stage.DATA] if program is not None)
        self.reads_recipients = any(touch[:2] == ("message", "recipients") for touches in at_data for touch in touches)
        """Whether one at data looks at who the message is for."""

    @property
    def at_reception(self) -> bool:
        """Whether a session has anything to do with them."""
        return bool(self.early or self.rates)

    @property
    def verifies(self) -> bool:
        """Whether a condition asks where a message comes from."""
        return any(self.verifying()) or self.verifies_later

    @property
    def verifies_later(self) -> bool:
        """Whether one does so when the message is delivered."""
        return any(_asks_origin(program) for _, program in self.by_stage[Stage.DELIVER])

    @property
    def reads_header(self) -> bool:
        """Whether a policy at deliver looks into the message."""
        named = (program.touches for _, program in self.by_stage[Stage.DELIVER] if program is not None)
        return any(touch[:2] == ("message", "header") for touches in named for touch in touches)

    def ask(self, stage: Stage, facts: Facts, *, go_on: bool = False) -> list[Finding]:
        """The policies of a stage in order, up to and with the one that ends it. go_on: one that is open does not."""
        values, found = facts.values(), []
        for policy, program in self.by_stage[stage]:
            finding = _found(policy, program, values)
            found.append(finding)
            if (finding.holds is None and not (go_on and finding.open)) or (finding.holds and policy.action in _FINAL):
                break
        return found

    def may_hold(self, facts: Facts) -> list[bool]:
        """Of each policy of a session, whether it may hold where more is known than here."""
        values = facts.values()
        return [may_hold(program, values) for _, program in self.early]

    def may_hold_at_delivery(self, facts: Facts) -> bool:
        """Whether a policy at deliver may hold where more is known than here."""
        values = facts.values()
        return any(may_hold(program, values) for _, program in self.by_stage[Stage.DELIVER])

    def verifying(self) -> list[bool]:
        """Of each policy of a session, whether it asks where a message comes from."""
        return [_asks_origin(program) for _, program in self.early]


def _asks_origin(program: Program | None) -> bool:
    return program is not None and "auth" in program.uses


def asks_origin(policy: StagePolicy) -> bool:
    """Whether its condition asks where a message comes from."""
    return _asks_origin(_program(policy))


_FINAL = frozenset({StageAction.ACCEPT, StageAction.REJECT, StageAction.DEFER})


def _program(policy: StagePolicy) -> Program | None:
    try:
        return compiled(policy)
    except ExpressionError:
        return None  # stored by another version; whoever it concerns is deferred


def _found(policy: StagePolicy, program: Program | None, values: tuple[Any, ...]) -> Finding:
    if program is None:
        return Finding(policy, None, "its condition is not understood")
    try:
        return Finding(policy, program.evaluate(*values))
    except EvaluationError as fault:
        return Finding(policy, None, str(fault), isinstance(fault, NotKnown))


def may_hold(program: Program | None, values: tuple[Any, ...]) -> bool:
    """Whether a condition may hold where more is known than these values (see `Facts.values`)."""
    try:
        return program is None or program.evaluate(*values)
    except EvaluationError:
        return True


def refusal(finding: Finding) -> Reply | None:
    """What a client is told, if anything. Instead of a greeting (RFC 5321 3.1) it is told 554, or 421 to come back."""
    policy = finding.policy
    first = policy.stage is Stage.CONNECT
    if finding.holds is None:
        return Reply(421 if first else 451, "4.7.1", f"policy {policy.name} cannot be worked out now, try again later")
    if not finding.holds:
        return None
    if policy.action is StageAction.REJECT:
        return Reply(policy.code or (554 if first else 550), "5.7.1", policy.text or "refused by policy")
    if policy.action is StageAction.DEFER:
        return Reply(421 if first else policy.code or 451, "4.7.1", policy.text or "not now by policy, try again later")
    return None


def limit_want(policy: StagePolicy, facts: Facts) -> Want:
    """What a limit counts."""
    match policy.by:
        case LimitBy.ALL:
            whom = ""
        case LimitBy.CLIENT:
            whom = facts.client.address
        case LimitBy.USER:
            whom = facts.client.user or facts.client.address
        case LimitBy.SENDER:
            whom = facts.sender.address
        case LimitBy.SENDER_DOMAIN:
            whom = facts.sender.domain
        case LimitBy.RECIPIENT:
            whom = facts.recipient.address
        case LimitBy.RECIPIENT_DOMAIN:
            whom = facts.recipient.domain
    return Want(f"policy\0{policy.name}\0{policy.by}\0{whom}", policy.seconds, policy.most, 1)


_REROUTED = (RouteKind.LOCAL, RouteKind.SMTP, RouteKind.LMTP, RouteKind.PIPE)


def rerouted(route: Route, policy: StagePolicy) -> Route:
    """A route as a policy that reroutes has it: who it is from and what is put into it stay. What ends here goes nowhere else."""
    if route.kind not in _REROUTED:
        return route
    kept = {"hold": route.hold, "return_path": route.return_path, "edits": route.edits}
    return Route(RouteKind.SMTP, route.address, host=policy.host, port=policy.port, tls=policy.tls, **kept)  # type: ignore[arg-type]


def stage_policies(rule_set: "RuleSet") -> StagePolicies | None:
    """The rule set's policies, compiled at the first call; None when there are none."""
    if not rule_set.stage_policies:
        return None
    found: StagePolicies | None = rule_set.__dict__.get(_ATTRIBUTE)
    if found is None:
        found = rule_set.__dict__[_ATTRIBUTE] = StagePolicies(rule_set.stage_policies)
    return found


def verifies(rule_set: "RuleSet", setting: str) -> bool:
    """Whether mail from strangers is verified under these rules; `setting` is `authentication.verify`."""
    policies = stage_policies(rule_set)
    return setting == "always" or (setting == "when needed" and policies is not None and policies.verifies)
