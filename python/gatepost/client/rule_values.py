"""What rules and handlers may be told besides their kind, as the SDK hands it out and takes it. docs/rules.md says what each does.

Frozen values with the field names of the protos; what is left at its default is as the server's settings say. Times are whole seconds,
points in time Unix seconds, sizes octets, kinds lower-case words.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NextHop:
    """A host to send to; the lowest priority first, among equals by weight."""

    host: str
    port: int = 25
    priority: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class DeliveryOptions:
    """How mail of a destination is sent. delay_notice -1: never. pins: SHA-256 of public keys, hex, for TLS policy 'pinned'."""

    source_address: str = ""
    helo: str = ""
    pins: tuple[str, ...] = ()
    retry_intervals: tuple[int, ...] = ()
    retry_initial: int = 0
    retry_factor: float = 0.0
    retry_max: int = 0
    expire: int = 0
    delay_notice: int = 0
    concurrency: int = 0
    rate_per_minute: int = 0
    messages_per_connection: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Disclaimer:
    """Text put before and behind the text of a message; on_signed: also where it breaks a DKIM signature."""

    header_text: str = ""
    header_html: str = ""
    footer_text: str = ""
    footer_html: str = ""
    on_signed: bool = False


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """Of a domain rule. unknown: 'reject', 'mailbox', 'forward', 'relay', 'accept'. verify: 'off', 'defer', 'known'."""

    next_hops: tuple[NextHop, ...] = ()
    delivery: DeliveryOptions | None = None
    size_limit: int = 0
    unknown: str = "reject"
    unknown_target: str = ""
    disclaimer: Disclaimer | None = None
    journal: str = ""
    alias_of: str = ""
    verify: str = "off"
    verify_positive: int = 0
    verify_negative: int = 0


@dataclass(frozen=True, slots=True)
class ListSettings:
    """Of a mailing list; its members are the handler's targets. may_post: 'members', 'owner', 'anyone', 'listed'."""

    name: str = ""
    owners: tuple[str, ...] = ()
    may_post: str = "members"
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
    """An answer to the sender (RFC 3834)."""

    text: str = ""
    html: str = ""
    subject: str = ""
    from_name: str = ""
    interval_days: int = 7


@dataclass(frozen=True, slots=True)
class Program:
    """What a pipe runs: absolute path and arguments; killed beyond the limits."""

    argv: tuple[str, ...]
    seconds: int = 60
    memory_octets: int = 268_435_456
    output_octets: int = 65_536


@dataclass(frozen=True, slots=True)
class Transport:
    """Of a transport handler. kind: 'smtp', 'lmtp', 'pipe'. The password is only ever given, never answered."""

    kind: str
    host: str = ""
    port: int = 25
    tls: str = "opportunistic"
    implicit_tls: bool = False
    username: str = ""
    password: str = ""
    has_password: bool = False
    next_hops: tuple[NextHop, ...] = ()
    delivery: DeliveryOptions | None = None
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class HandlerOptions:
    """Of an address handler."""

    size_limit: int = 0
    block_attachments: bool = False
    require_tls: bool = False
    valid_from: int = 0
    valid_until: int = 0
    srs: bool = False
    list: ListSettings | None = None
    transport: Transport | None = None
    reply: AutoReply | None = None
