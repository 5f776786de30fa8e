"""Sender rules: what holds for mail because of who sends it, by user, network and sender domain: the way out, addresses, limits.

Asked by the SMTP and LMTP sessions at MAIL, by decide() for the way out, by `explain`. Pure. Invariants: a rule fits when each kind of
thing it names fits; each setting is taken from the first rule that fits and has it, limits from all that fit. Validation is directory/'s.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from gatepost.message.reply import Reply
from gatepost.routing.route import DeliveryOptions, Route, RouteKind, TlsPolicy
from gatepost.routing.trust import NULL_SENDER, Client, address_key, addresses_of, in_networks, networks_of

if TYPE_CHECKING:
    from gatepost.routing.model import RuleSet

HOUR, DAY = 3600, 86_400
NO_LIMIT = 1 << 62
"""Of what is counted only to be known."""
_ATTRIBUTE = "_sender_rules"


class CountBy(StrEnum):
    """Whose messages are counted together."""

    USER = "user"
    CLIENT = "client"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderRule:
    """users, networks: as in the trust list. domains: of the envelope sender, 'example.org' or '*.example.org'. host …: the smart host of
    mail that would go by MX or the default rule. allowed_from: addresses and patterns that envelope sender and From may be. masquerade:
    the domain that envelope sender and From get. Limits 0: none; count_by user counts clients where nobody has logged in.
    """

    comment: str = ""
    name: str
    users: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    host: str = ""
    port: int = 25
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    implicit_tls: bool = False
    username: str = ""
    password_ref: str = ""
    source_address: str = ""
    helo: str = ""
    allowed_from: tuple[str, ...] = ()
    masquerade: str = ""
    messages_per_hour: int = 0
    messages_per_day: int = 0
    recipients_per_hour: int = 0
    recipients_per_day: int = 0
    count_by: CountBy = CountBy.USER

    @property
    def leads_out(self) -> bool:
        """Whether it says how mail leaves."""
        return bool(self.host or self.source_address or self.helo)

    @property
    def limits(self) -> tuple[tuple[str, int, int], ...]:
        """(what is counted, seconds, how many), as far as there are any."""
        given = (
            ("messages", HOUR, self.messages_per_hour),
            ("messages", DAY, self.messages_per_day),
            ("recipients", HOUR, self.recipients_per_hour),
            ("recipients", DAY, self.recipients_per_day),
        )
        return tuple(one for one in given if one[2])


@dataclass(frozen=True, slots=True)
class Want:
    """So many more of what is counted under `key` in `seconds`, of which there may be `most`."""

    key: str
    seconds: int
    most: int
    amount: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What holds for one sender."""

    leaving: SenderRule | None = None
    allowed: SenderRule | None = None
    masquerade: SenderRule | None = None
    limited: tuple[tuple[SenderRule, str], ...] = ()
    """Rules with limits, each with whom it counts."""

    def refusal(self, address: str, what: str = "sender") -> Reply | None:
        """Why an address may not be used; the null sender may."""
        if self.allowed is None or address_key(address) == NULL_SENDER or addresses_of(self.allowed.allowed_from)(address):
            return None
        return Reply(550, "5.7.1", f"you may not use the {what} address {address[:200]}")

    def wants(self, messages: int, recipients: int) -> list[Want]:
        """What a message counts as."""
        amounts = {"messages": messages, "recipients": recipients}
        return [
            Want(f"{rule.name}\0{whom}\0{what}", seconds, most, amounts[what])
            for rule, whom in self.limited
            for what, seconds, most in rule.limits
            if amounts[what]
        ]

    def masked(self, address: str) -> str:
        """The address that is used instead."""
        if self.masquerade is None or "@" not in address:
            return address
        return f"{address.rpartition('@')[0]}@{self.masquerade.masquerade}"

    def routed(self, route: Route) -> Route:
        """A route by MX or the default rule, as the sender's rule has it."""
        rule = self.leaving
        if rule is None or route.kind is not RouteKind.SMTP:
            return route
        options = route.options
        if rule.source_address or rule.helo:
            known = options or DeliveryOptions()
            options = replace(known, source_address=rule.source_address or known.source_address, helo=rule.helo or known.helo)
        if not rule.host:
            return replace(route, options=options)
        return replace(
            route,
            options=options,
            host=rule.host,
            port=rule.port,
            tls=rule.tls,
            implicit_tls=rule.implicit_tls,
            username=rule.username,
            password_ref=rule.password_ref,
            next_hops=(),
        )


NO_CHOICE = Choice()


class SenderRules:
    """The rules made ready for questions."""

    def __init__(self, rules: Iterable[SenderRule]) -> None:
        self._rules = [(rule, _Matcher(rule)) for rule in rules]

    def choice(self, client: Client) -> Choice:
        """What holds for a client and its sender."""
        fitting = [rule for rule, matcher in self._rules if matcher.may_fit_client(client) and matcher.may_fit_sender(client.sender or "")]
        if not fitting:
            return NO_CHOICE
        return Choice(
            next((one for one in fitting if one.leads_out), None),
            next((one for one in fitting if one.allowed_from), None),
            next((one for one in fitting if one.masquerade), None),
            tuple((one, _whom(one, client)) for one in fitting if one.limits),
        )

    def of_client(self, client: Client) -> list[bool]:
        """Which rules may fit a client, whatever the sender."""
        return [matcher.may_fit_client(client) for _, matcher in self._rules]

    def of_sender(self, sender: str) -> list[bool]:
        """Which rules may fit a sender, whatever the client."""
        return [matcher.may_fit_sender(sender) for _, matcher in self._rules]


class _Matcher:
    def __init__(self, rule: SenderRule) -> None:
        self._rule = rule
        self._networks = networks_of(rule.networks)
        self._users = addresses_of(rule.users)

    def may_fit_client(self, client: Client) -> bool:
        rule = self._rule
        return (not rule.networks or in_networks(client.address, self._networks)) and (
            not rule.users or (bool(client.user) and self._users(client.user))
        )

    def may_fit_sender(self, sender: str) -> bool:
        wanted = self._rule.domains
        return not wanted or fits_domain(address_key(sender).rpartition("@")[2], wanted)


def fits_domain(domain: str, wanted: Iterable[str]) -> bool:
    """Whether a domain is one of 'example.org' and '*.example.org'."""
    return any(domain == one or (one.startswith("*.") and domain.endswith(one[1:])) for one in wanted)


def _whom(rule: SenderRule, client: Client) -> str:
    if rule.count_by is CountBy.DOMAIN:
        return f"domain {address_key(client.sender or '').rpartition('@')[2]}"
    if rule.count_by is CountBy.USER and client.user:
        return f"user {client.user.lower()}"
    return f"client {client.address}"


def sender_rules(rule_set: "RuleSet") -> SenderRules | None:
    """The rule set's sender rules, made at the first call; None when there are none."""
    if not rule_set.sender_rules:
        return None
    found: SenderRules | None = rule_set.__dict__.get(_ATTRIBUTE)
    if found is None:
        found = rule_set.__dict__[_ATTRIBUTE] = SenderRules(rule_set.sender_rules)
    return found


def choice_of(rule_set: "RuleSet", client: Client) -> Choice:
    """What holds for a client and its sender."""
    rules = sender_rules(rule_set)
    return rules.choice(client) if rules is not None else NO_CHOICE
