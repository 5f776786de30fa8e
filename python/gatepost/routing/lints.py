"""What a rule set says that its administrator cannot have meant. Pure. Called by control/ when rules are saved, checked or planned.

An error keeps a change from being made; a warning is told. Whether mail reaches a handler and where it leads is asked of decide() itself,
with an address made up for the handler, so that no precedence is written down twice. Looks at MAX_HANDLERS handlers at most.
"""

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gatepost.message.reply import Reply
from gatepost.routing.decide import LOOP, decide
from gatepost.routing.index import index_of
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Question, RuleSet, TlsPolicy
from gatepost.routing.patterns import is_regex
from gatepost.routing.senders import SenderRule
from gatepost.routing.stages import StagePolicy, asks_origin
from gatepost.routing.trust import TrustEntry

OPEN_RELAY = "open-relay"
"""The one error that may be forced, by this word."""
MAX_HANDLERS = 20_000
MAX_LINTS = 200
_FILLER = "gatepost-lint-zq"
_LEADS_ON = (HandlerKind.FORWARD, HandlerKind.COPY, HandlerKind.LIST)
_TRUSTS_NOBODY = (TlsPolicy.NONE, TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED)


@dataclass(frozen=True, slots=True)
class Lint:
    """code: 'open-relay', 'relay-to-self', 'loop', 'leads-nowhere', 'unreachable', 'unverified-login' or 'never-verified'. path: as in a
    document.
    """

    error: bool
    code: str
    path: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rule set cannot know: this server's names (lower-case), its SMTP listeners as (address, port), the detail's delimiter, the
    time in Unix seconds (0: it does not matter), and whether senders are verified at all.
    """

    names: frozenset[str] = frozenset()
    listeners: frozenset[tuple[str, int]] = frozenset()
    delimiter: str = "+"
    now: int = 0
    verifies: bool = True


def lint(rule_set: RuleSet, around: Surroundings, only: Iterable[DomainRule] | None = None) -> list[Lint]:
    """What is odd about all rules, or about some of the set; errors first."""
    found: list[Lint] = []
    left = MAX_HANDLERS
    for rule in rule_set.rules.values() if only is None else only:
        found += rule_lints(rule, around)
        found += _of_alias(rule_set, rule)
        for handler in rule.handlers[:left]:
            found += _of_handler(rule_set, rule, handler, around)
        left = max(0, left - len(rule.handlers))
        if len(found) > 10 * MAX_LINTS:
            break
    if only is None:
        found += entry_lints("sender_rules", rule_set.sender_rules, around)
        found += entry_lints("stage_policies", rule_set.stage_policies, around)
    return sorted(found, key=lambda one: not one.error)[:MAX_LINTS]


def entry_lints(part: str, entries: Iterable[TrustEntry | SenderRule | StagePolicy], around: Surroundings) -> Iterator[Lint]:
    """What is odd about entries of one of the ordered lists."""
    for n, one in enumerate(entries):
        if isinstance(one, StagePolicy) and not around.verifies and asks_origin(one):
            words = f"{one.name}: asks where mail comes from (auth), but authentication.verify is off: that is 'none' or '' for all mail"
            yield Lint(False, "never-verified", (part, str(n), "when"), words)
        if isinstance(one, TrustEntry) or not one.host:
            continue
        path = (part, str(n), "host")
        if _is_here(one.host, one.port, around):
            words = f"{one.name}: {one.host}:{one.port} is this server: its mail would come back and go round"
            yield Lint(True, "relay-to-self", path, words)
        if isinstance(one, SenderRule) and one.username and one.tls in _TRUSTS_NOBODY:
            words = f"{one.name}: sends a password with TLS {one.tls}: a machine in between can read it; use verified"
            yield Lint(False, "unverified-login", (part, str(n), "tls"), words)


# ---- rules -----------------------------------------------------------------------------------------------------------


def rule_lints(rule: DomainRule, around: Surroundings) -> Iterator[Lint]:
    """What is odd about a rule by itself, its handlers aside."""
    path = ("rules", rule.domain)
    if rule.accept_untrusted and is_open(rule.domain):
        yield Lint(
            True,
            OPEN_RELAY,
            (*path, "accept_untrusted"),
            f"makes this server an open relay: it would pass on anybody's mail to {rule.domain}; name the domains",
        )
    for field, host, port in _hops(rule):
        if _is_here(host, port, around):
            yield Lint(True, "relay-to-self", (*path, field), f"{host}:{port} is this server: its mail would come back and go round")
    if rule.username and rule.tls in _TRUSTS_NOBODY:
        yield Lint(
            False,
            "unverified-login",
            (*path, "tls"),
            f"sends a password with TLS {rule.tls}: a machine in between can read it; use verified",
        )


def _of_alias(rule_set: RuleSet, rule: DomainRule) -> Iterator[Lint]:
    """An alias of a domain that nobody has made a rule for."""
    named = rule.settings.alias_of
    found = index_of(rule_set).rule_for(named) if named else None
    if named and (found is None or found.domain == "*"):
        words = f"stands for {named}, which has no rule" + (" of its own: its mail goes by the rule *" if found is not None else "")
        yield Lint(False, "leads-nowhere", ("rules", rule.domain, "settings"), words)


def is_open(domain: str) -> bool:
    """Whether a rule's domain is everybody's: '*', or all of a top level domain."""
    return domain == "*" or (domain.startswith("*.") and "." not in domain[2:])


def _hops(rule: DomainRule) -> Iterator[tuple[str, str, int]]:
    """Each host that a rule names: field, host, port."""
    if rule.host:
        yield "host", rule.host, rule.port
    for hop in rule.settings.next_hops:
        yield "settings", hop.host, hop.port


def _is_here(host: str, port: int, around: Surroundings) -> bool:
    host = host.lower().removesuffix(".")
    own = host == "localhost" or host in around.names or _loopback(host)
    return any(port == there and (host == address or (own and _answers(address, host))) for address, there in around.listeners)


def _answers(address: str, host: str) -> bool:
    """Whether a listener on `address` is reached by a name or loopback address of this machine."""
    try:
        listened = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return address == host
    return listened.is_unspecified or (listened.is_loopback and (host == "localhost" or (_loopback(host) and host == str(listened))))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# ---- handlers --------------------------------------------------------------------------------------------------------


def _of_handler(rule_set: RuleSet, rule: DomainRule, handler: AddressHandler, around: Surroundings) -> Iterator[Lint]:
    path = ("rules", rule.domain, "handlers", handler.pattern)
    address = witness(rule.domain, handler.pattern)
    if address and handler.kind in (*_LEADS_ON, HandlerKind.MAILBOX):
        yield from _targets(rule_set, handler, path, around)
    if around.now and 0 < handler.options.valid_until <= around.now:
        yield Lint(False, "unreachable", (*path, "options"), "no mail comes to it: its time (valid_until) is over")
    elif address and handler.options.valid_from <= around.now:
        decision = decide(rule_set, Question("", address, True, tls=True, now=around.now), delimiter=around.delimiter)
        if decision.reply == LOOP:
            round_ = next((step.detail for step in decision.trace if step.step == "loop"), address)
            yield Lint(True, "loop", (*path, "targets"), f"leads in a loop: {round_}")
        elif not any(step.step == "handler" and repr(handler.pattern) in step.detail for step in decision.trace):
            steps = [step.detail for word in ("handler", "rule") for step in decision.trace if step.step == word]
            taken = steps[0] if steps else "another rule decides"
            yield Lint(False, "unreachable", path, f"no mail comes to it: {taken}")


def _targets(rule_set: RuleSet, handler: AddressHandler, path: tuple[str, ...], around: Surroundings) -> Iterator[Lint]:
    for target in handler.targets:
        decision = decide(rule_set, Question("", target, True, tls=True, now=around.now), delimiter=around.delimiter)
        reply: Reply | None = decision.reply
        if reply is not None and reply != LOOP:
            what = "mail is refused for it" if handler.kind is not HandlerKind.COPY else "no copy is made"
            yield Lint(False, "leads-nowhere", (*path, "targets"), f"{target} is refused ({reply.text}), so {what}")


def witness(domain: str, pattern: str) -> str:
    """An address that the handler is meant for and hardly another; '' when none can be made up."""
    if domain == "*":
        domain = f"{_FILLER}.invalid"
    elif domain.startswith("*."):
        domain = f"{_FILLER}{domain[1:]}"
    if is_regex(pattern) or pattern.count("*") > 1:
        return ""
    return f"{pattern.replace('*', _FILLER)}@{domain}"
