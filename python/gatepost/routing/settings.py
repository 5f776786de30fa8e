"""What a domain rule or an address handler may be told besides its kind. Values only: stored by directory/, obeyed by decide and delivery.

Invariants: everything has a default, which is what a rule of the plain kind does; equal settings of many handlers are one object in a
rule set. Times are seconds, points in time Unix seconds, sizes octets; 0 is "no limit" or "no such time". Nothing here is checked:
validation is directory/'s.
"""

from dataclasses import dataclass
from enum import StrEnum

from gatepost.routing.route import DeliveryOptions, NextHop, Program, TlsPolicy


class UnknownRecipients(StrEnum):
    """Mail for an address of a hosted domain that nobody has: refused; to a mailbox or an address (`unknown_target`); to the rule's next
    hop (split domain); or taken and dropped.
    """

    REJECT = "reject"
    MAILBOX = "mailbox"
    FORWARD = "forward"
    RELAY = "relay"
    ACCEPT = "accept"


class Verify(StrEnum):
    """Whether the next hop is asked if it takes a recipient, before we do; and what when it does not answer: the client comes back, or
    what was known of the recipient still holds.
    """

    OFF = "off"
    DEFER = "defer"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Disclaimer:
    """Text put before and behind the text of a message, plain and HTML; where there is no HTML, it is made from the plain text. Mail with a
    DKIM signature is left as it is unless on_signed: the text would break the signature.
    """

    header_text: str = ""
    header_html: str = ""
    footer_text: str = ""
    footer_html: str = ""
    on_signed: bool = False


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """Of a domain rule. next_hops: all of them where there are several (the rule's host and port are the first). journal: an address that
    gets a copy of everything the rule decides. alias_of: the domain that an alias rule stands for. verify_positive, verify_negative: how
    long the next hop's yes and no hold, 0 for a day and an hour.
    """

    next_hops: tuple[NextHop, ...] = ()
    delivery: DeliveryOptions | None = None
    size_limit: int = 0
    unknown: UnknownRecipients = UnknownRecipients.REJECT
    unknown_target: str = ""
    disclaimer: Disclaimer | None = None
    journal: str = ""
    alias_of: str = ""
    verify: Verify = Verify.OFF
    verify_positive: int = 0
    verify_negative: int = 0


class Posters(StrEnum):
    """Who may write to a list, by envelope sender: its members (its owners too), its owners, anyone, or those listed and its owners."""

    MEMBERS = "members"
    OWNER = "owner"
    ANYONE = "anyone"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class ListSettings:
    """Of a mailing list; its members are the handler's targets. moderated: posts wait, held, for release, but for its owners'. errors_to:
    who gets its bounces, '' the owners. reply_to: '' is left as it is, 'list', or an address. verp: a return path for each member, and a
    member is disabled after bounce_limit bounces (negative: never), none of them more than bounce_days after the one before.

    any_author: the header's From has no say in who may post. self_subscribe: who asks and confirms becomes a member. digest_octets: a
    digest is sent when so much waits, and a day after the first post in it.
    """

    name: str = ""
    owners: tuple[str, ...] = ()
    may_post: Posters = Posters.MEMBERS
    posters: tuple[str, ...] = ()
    moderated: bool = False
    errors_to: str = ""
    reply_to: str = ""
    subject_tag: str = ""
    footer_text: str = ""
    footer_html: str = ""
    verp: bool = False
    any_author: bool = False
    self_subscribe: bool = False
    bounce_limit: int = 5
    bounce_days: int = 14
    digest_octets: int = 262_144


@dataclass(frozen=True, slots=True)
class AutoReply:
    """RFC 3834. interval_days: a sender gets one answer in that time. subject '': 'Auto: ' and the subject of the message."""

    text: str = ""
    html: str = ""
    subject: str = ""
    from_name: str = ""
    interval_days: int = 7


class TransportKind(StrEnum):
    """How a transport handler hands mail over."""

    SMTP = "smtp"
    LMTP = "lmtp"
    PIPE = "pipe"


@dataclass(frozen=True, slots=True)
class Transport:
    """Of a transport handler: another next hop than the rule's, or a program."""

    kind: TransportKind
    host: str = ""
    port: int = 25
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    implicit_tls: bool = False
    username: str = ""
    password_ref: str = ""
    next_hops: tuple[NextHop, ...] = ()
    delivery: DeliveryOptions | None = None
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """Of an address handler. Outside valid_from … valid_until the handler is as if it were not there. require_tls: taken over an encrypted
    session only, and sent on encrypted. srs: a forward rewrites the return path under its own domain.
    """

    size_limit: int = 0
    block_attachments: bool = False
    require_tls: bool = False
    valid_from: int = 0
    valid_until: int = 0
    srs: bool = False
    list: ListSettings | None = None
    transport: Transport | None = None
    reply: AutoReply | None = None


NO_SETTINGS = RuleSettings()
NO_OPTIONS = HandlerOptions()
