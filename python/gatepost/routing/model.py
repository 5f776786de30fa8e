"""The rule set and the decision it leads to. Built by directory/, read by decide(), encoded into the journal by Route.encode()."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gatepost.message.address import AddressError, parse_address
from gatepost.message.reply import Reply
from gatepost.message.value import value
from gatepost.routing.members import ListBook
from gatepost.routing.route import DeliveryOptions, NextHop, Program, Route, RouteKind, TlsPolicy
from gatepost.routing.senders import SenderRule
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS, AutoReply, Disclaimer, HandlerOptions, ListSettings, RuleSettings, Verify
from gatepost.routing.stages import StagePolicy
from gatepost.routing.trust import TrustEntry

__all__ = [
    "AddressHandler",
    "AuthorCheck",
    "Check",
    "Decision",
    "DeliveryOptions",
    "DomainRule",
    "HandlerKind",
    "HandlerOptions",
    "Mailbox",
    "NextHop",
    "Program",
    "Question",
    "Route",
    "RouteKind",
    "RuleKind",
    "RuleSet",
    "RuleSettings",
    "TlsPolicy",
    "TraceStep",
]


class RuleKind(StrEnum):
    """What happens to mail for a domain."""

    HOSTED = "hosted"
    GATEWAY = "gateway"
    MX = "mx"
    REJECT = "reject"
    DISCARD = "discard"
    HOLD = "hold"
    ALIAS = "alias"


class HandlerKind(StrEnum):
    """What happens to one address or pattern within a domain."""

    MAILBOX = "mailbox"
    FORWARD = "forward"
    COPY = "copy"
    REJECT = "reject"
    DISCARD = "discard"
    LIST = "list"
    TRANSPORT = "transport"
    AUTO_REPLY = "auto-reply"
    HOLD = "hold"


@value(frozen=True, slots=True)
class AddressHandler:
    """pattern: local part ('alice'), 'prefix*', '*suffix' or '*', lower-case. targets: addresses (forward, copy), or at most one user's
    address (mailbox; none is the address's own mailbox). text: for reject. policy: the attachment policy of its mail, '' for the rule's.
    """

    pattern: str
    kind: HandlerKind
    targets: tuple[str, ...] = ()
    text: str = ""
    policy: str = ""
    options: HandlerOptions = NO_OPTIONS


@value(frozen=True, slots=True)
class DomainRule:
    """domain: 'example.org', '*.example.org' or '*' (default), in A-labels. host, port, tls, username, password_ref are for gateway and
    hold; accept_untrusted is for mx, gateway and hold; text for reject. policy: the attachment policy of its mail, '' for the settings'.
    """

    domain: str
    kind: RuleKind
    host: str = ""
    port: int = 25
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    implicit_tls: bool = False
    lmtp: bool = False
    username: str = ""
    password_ref: str = ""
    text: str = ""
    accept_untrusted: bool = False
    handlers: tuple[AddressHandler, ...] = ()
    policy: str = ""
    settings: RuleSettings = NO_SETTINGS


@value(frozen=True, slots=True)
class Mailbox:
    """A local user's store: address, 16-byte id, name of the volume."""

    address: str
    mailbox_id: bytes
    volume: str
    enabled: bool = True


@dataclass(frozen=True)
class RuleSet:
    """Immutable snapshot. rules by their `domain`; mailboxes by address, both lower-case with A-label domains (Address.key). policies:
    attachment policies by name, as TOML text.

    routing.index keeps its look-up tables in the instance's __dict__, which is why this one has no slots.
    """

    version: int
    rules: Mapping[str, DomainRule]
    mailboxes: Mapping[str, Mailbox]
    etag: str = ""
    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Senders whose mail passes policy, each with the recipients it holds for ('' is every recipient); all as Address.key."""
    policies: Mapping[str, str] = field(default_factory=dict)
    trust: tuple[TrustEntry, ...] = ()
    """The trust list, in its order (routing.trust)."""
    sender_rules: tuple[SenderRule, ...] = ()
    """In their order (routing.senders)."""
    stage_policies: tuple[StagePolicy, ...] = ()
    """In their order (routing.stages)."""
    srs_key: bytes = b""
    """Keys the addresses that forwards are rewritten to (SRS); not part of versions. Empty: none is taken back."""
    lists: ListBook = field(default_factory=dict)
    """What members of lists asked for themselves; not part of versions."""

    def list_settings(self, ref: str) -> ListSettings | None:
        """Of the list of this address; None when it is no longer there."""
        handler = self.list_handler(ref)
        return None if handler is None else handler.options.list

    def list_handler(self, address: str) -> AddressHandler | None:
        """The handler that makes this address a list; None when it is none."""
        from gatepost.routing.index import index_of  # the index is made of rule sets

        pattern, _, domain = address.lower().rpartition("@")
        rule = index_of(self).rule_for(domain)
        handler = index_of(self).handlers(rule).named(pattern) if rule is not None else None
        return handler if handler is not None and (handler.kind is HandlerKind.LIST or handler.options.list) else None

    def auto_reply(self, ref: str) -> AutoReply | None:
        """What an edit 'auto-reply' refers to ('PATTERN@DOMAIN')."""
        handler = self._handler(ref)
        return None if handler is None else handler.options.reply

    def disclaimer(self, ref: str) -> Disclaimer | None:
        """What an edit 'disclaimer' refers to (the rule's domain)."""
        rule = self.rules.get(ref)
        return None if rule is None else rule.settings.disclaimer

    def _handler(self, ref: str) -> AddressHandler | None:
        from gatepost.routing.index import index_of  # the index is made of rule sets

        pattern, _, domain = ref.rpartition("@")
        rule = self.rules.get(domain)
        return index_of(self).handlers(rule).named(pattern) if rule is not None else None

    def allows(self, sender: str, recipient: str) -> bool:
        """Whether policy lets this sender's mail to this recipient pass. Never for the null reverse-path."""
        if not self.allowed or not sender:
            return False
        recipients = self.allowed.get(_key(sender))
        return recipients is not None and ("" in recipients or _key(recipient) in recipients)


def _key(address: str) -> str:
    try:
        return parse_address(address).key
    except AddressError:
        return address.lower()


@value(frozen=True, slots=True)
class TraceStep:
    """One line of `explain`: what was looked at and what came of it."""

    step: str
    detail: str


Note = tuple[str, str, tuple[Any, ...]]
"""A TraceStep before it is put into words, which only explain and rehearsals ask for: step, text, what str.format puts into the text (the
text stays as it is when that is nothing).
"""


@value(frozen=True, slots=True)
class Question:
    """What decide() needs to know about one recipient of one message. size in octets, 0 when not said; tls: the session is encrypted; now:
    Unix seconds, 0 when time does not matter; client: the address of the client, '' when there is none;
    user: who has logged in.
    """

    reverse_path: str
    recipient: str
    trusted: bool
    size: int = 0
    tls: bool = False
    now: int = 0
    client: str = ""
    user: str = ""


@value(frozen=True, slots=True)
class AuthorCheck:
    """Who may be the author (header From) of a post to `address`, as mailbox keys; a post of others waits for the owners' word."""

    address: str
    allowed: frozenset[str]


@value(frozen=True, slots=True)
class Check:
    """The next hop of this route is to be asked whether it takes the recipient; answers hold so many seconds."""

    route: Route
    when_down: Verify
    positive: int
    negative: int


@value(frozen=True, slots=True)
class Decision:
    """Either `reply` (refused, with the SMTP reply) or routes (at least one). `policy` is the attachment policy that the address's own
    handler or rule names, '' when neither does. size_limit: octets that the address takes, 0 without a limit of its own. fixed: the answer
    holds for every question with the same recipient, trust and delimiter, so it may be remembered.
    """

    routes: tuple[Route, ...] = ()
    reply: Reply | None = None
    notes: tuple[Note, ...] = ()
    policy: str = ""
    size_limit: int = 0
    fixed: bool = True
    authors: AuthorCheck | None = None
    verify: Check | None = None

    @property
    def trace(self) -> tuple[TraceStep, ...]:
        """Why, step by step."""
        return tuple(TraceStep(step, text.format(*of) if of else text) for step, text, of in self.notes)
