"""The rule set and the decision it leads to. Built by directory/, read by decide(), encoded into the journal by Route.encode()."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gatepost.message.address import AddressError, parse_address
from gatepost.message.reply import Reply


class RuleKind(StrEnum):
    """What happens to mail for a domain."""

    HOSTED = "hosted"
    GATEWAY = "gateway"
    MX = "mx"
    REJECT = "reject"
    DISCARD = "discard"
    HOLD = "hold"


class HandlerKind(StrEnum):
    """What happens to one address or pattern within a domain."""

    MAILBOX = "mailbox"
    FORWARD = "forward"
    COPY = "copy"
    REJECT = "reject"
    DISCARD = "discard"


class TlsPolicy(StrEnum):
    """none: never; opportunistic: if offered, unverified; required: encrypted, unverified; verified: certificate must match the host."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class AddressHandler:
    """pattern: local part ('alice'), 'prefix*', '*suffix' or '*', lower-case. targets: addresses (forward, copy), or at most one user's
    address (mailbox; none is the address's own mailbox). text: for reject. policy: the attachment policy of its mail, '' for the rule's.
    """

    pattern: str
    kind: HandlerKind
    targets: tuple[str, ...] = ()
    text: str = ""
    policy: str = ""


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


class RouteKind(StrEnum):
    """How a route is carried out; the name of the transport, or a terminal decision."""

    LOCAL = "local"
    SMTP = "smtp"
    LMTP = "lmtp"
    DISCARD = "discard"


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one final recipient. For smtp: host '' means look up the MX of the domain of `address`.

    `hold` says the message enters the queue held. `destination` is the key that retry, concurrency and back-off are kept per.
    """

    kind: RouteKind
    address: str
    mailbox_id: bytes = b""
    volume: str = ""
    folder: str = "INBOX"
    host: str = ""
    port: int = 25
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    implicit_tls: bool = False
    username: str = ""
    password_ref: str = ""
    hold: bool = False

    @property
    def destination(self) -> str:
        """'local:VOLUME', 'smtp:DOMAIN:TLS' (by MX), 'smtp:[HOST]:PORT:TLS' (given host), 'lmtp:[HOST]:PORT'; '' for discard."""
        if self.kind is RouteKind.LOCAL:
            return f"local:{self.volume}"
        if self.kind is RouteKind.DISCARD:
            return ""
        if not self.host:
            return f"smtp:{self.address.rpartition('@')[2].lower()}:{self.tls}"
        tls = f"{self.tls}{'-implicit' if self.implicit_tls else ''}"
        user = f":{self.username}" if self.username else ""
        return f"{self.kind}:[{self.host}]:{self.port}:{tls}{user}"

    def encode(self) -> bytes:
        """Compact JSON for the journal; secrets are never in it, only `password_ref`."""
        return json.dumps(
            [
                self.kind,
                self.address,
                self.mailbox_id.hex(),
                self.volume,
                self.folder,
                self.host,
                self.port,
                self.tls,
                self.implicit_tls,
                self.username,
                self.password_ref,
                self.hold,
            ],
            separators=(",", ":"),
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Route":
        """Inverse of `encode`. Raises ValueError."""
        kind, address, mailbox, volume, folder, host, port, tls, *rest = json.loads(data)
        try:
            return cls(RouteKind(kind), address, bytes.fromhex(mailbox), volume, folder, host, port, TlsPolicy(tls), *rest)
        except TypeError as error:
            raise ValueError(f"not a route: {error}") from None


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One line of `explain`: what was looked at and what came of it."""

    step: str
    detail: str


@dataclass(frozen=True, slots=True)
class Question:
    """What decide() needs to know about one recipient of one message."""

    reverse_path: str
    recipient: str
    trusted: bool
    size: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """Either `reply` (refused, with the SMTP reply) or routes (at least one). `policy` is the attachment policy that the address's own
    handler or rule names, '' when neither does.
    """

    routes: tuple[Route, ...] = ()
    reply: Reply | None = None
    trace: tuple[TraceStep, ...] = field(default=())
    policy: str = ""
