"""Route: the decision for one final recipient, as delivery carries it out and the journal remembers it.

Made by decide(), encoded into the spool's records, read back by queue/ and delivery/. Invariants: a route of today's plain form encodes as
it did before the later fields existed; secrets are never in it, only `password_ref`; two routes with one destination have the same next
hops and options. `decode` raises ValueError.
"""

import hashlib
import json
from enum import StrEnum
from functools import lru_cache
from typing import Any

from gatepost.message.plain import from_plain, to_plain
from gatepost.message.value import value

STAGE_EDIT = "stage"
"""Edit of one attempt: the header as the stage policy of this name has it."""
DELIVER_EDIT = "deliver"
"""A mark, no edit: the stage policy of this name has moved the recipient before; 'NAME#N': it has told of attempt N, or counted it."""


class RouteKind(StrEnum):
    """How a route is carried out; the name of the transport, or a terminal decision."""

    LOCAL = "local"
    SMTP = "smtp"
    LMTP = "lmtp"
    DISCARD = "discard"
    PIPE = "pipe"
    AUTO_REPLY = "auto-reply"
    LIST = "list"


class TlsPolicy(StrEnum):
    """none: never; opportunistic: if offered, unverified; required: encrypted, unverified; verified: certificate must match the host;
    pinned: encrypted, and the certificate's public key must be one of those named.
    """

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    VERIFIED = "verified"
    PINNED = "pinned"


@value(frozen=True, slots=True)
class NextHop:
    """A host to send to. The lowest priority is tried first; among equals chance decides, in proportion to the weight (RFC 2782's
    words).
    """

    host: str
    port: int = 25
    priority: int = 0
    weight: int = 1


@value(frozen=True, slots=True)
class DeliveryOptions:
    """How mail of a destination is sent; 0, '' and () are what the settings say. Times are seconds.

    pins: SHA-256 of the public keys (SubjectPublicKeyInfo, lower-case hex) that TLS policy pinned takes. retry_intervals: waits one after
    another, the last repeats; else the exponential ones. delay_notice -1: never. Concurrency and rate hold per worker. priority: mail of a
    higher one is delivered first, -100 to 100.
    """

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


@value(frozen=True, slots=True)
class Program:
    """What a pipe runs: the command and its arguments (no shell), and the limits it is killed at: seconds, octets of memory and of
    output.
    """

    argv: tuple[str, ...]
    seconds: int = 60
    memory_octets: int = 268_435_456
    output_octets: int = 65_536


@value(frozen=True, slots=True)
class Route:
    """The decision for one final recipient. For smtp: host '' means look up the MX of the domain of `address`.

    `hold` says the message enters the queue held. `destination` is the key that retry, concurrency and back-off are kept per. next_hops:
    all of them, best first, where there are several; host and port are those of the first. return_path: '' the envelope's; '<>' null;
    'srs:DOMAIN' the envelope's, rewritten under DOMAIN; 'verp:LIST@DOMAIN' one of its own for `address`; else the address to use. edits:
    what is put into the message for this route, as ('list' | 'disclaimer' | 'auto-reply', reference into the rule set at delivery), or as
    ('scan', what X-Gatepost-Scan says now); ('member', address): who a list knows the recipient as; STAGE_EDIT and
    DELIVER_EDIT. A route of kind list has one: what
    mail about the list is, and the list.
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
    next_hops: tuple[NextHop, ...] = ()
    options: DeliveryOptions | None = None
    return_path: str = ""
    edits: tuple[tuple[str, str], ...] = ()
    program: Program | None = None

    @property
    def member(self) -> str:
        """Who a list knows the recipient as."""
        return next((ref for kind, ref in self.edits if kind == "member"), self.address)

    @property
    def list_address(self) -> str:
        """The list that the recipient is a member of; of lists in lists the inner one. '' for what is no list mail."""
        return next((ref for kind, ref in self.edits if kind == "list"), "")

    @property
    def destination(self) -> str:
        """'local:VOLUME', 'smtp:DOMAIN:TLS' (by MX), 'smtp:[HOST]:PORT:TLS' (given host), 'lmtp:[HOST]:PORT', 'pipe:PROGRAM',
        'auto-reply:', 'list:WORD'; '' for discard. Several next hops, options and a login's secret add ':~DIGEST': nothing is sent over
        a session that another secret has logged in.
        """
        match self.kind:
            case RouteKind.LOCAL:
                return f"local:{self.volume}"
            case RouteKind.DISCARD:
                return ""
            case RouteKind.AUTO_REPLY:
                return "auto-reply:"
            case RouteKind.LIST:
                return f"list:{self.edits[0][0] if self.edits else ''}"
            case RouteKind.PIPE:
                name = self.program.argv[0].rpartition("/")[2] if self.program else ""
                return f"pipe:{name}{self._digest()}"
        if not self.host:
            return f"smtp:{self.address.rpartition('@')[2].lower()}:{self.tls}{self._digest()}"
        tls = f"{self.tls}{'-implicit' if self.implicit_tls else ''}"
        user = f":{self.username}" if self.username else ""
        return f"{self.kind}:[{self.host}]:{self.port}:{tls}{user}{self._digest()}"

    def _digest(self) -> str:
        if not self.next_hops and self.options is None and self.program is None and not self.password_ref:
            return ""
        return _digest(self.next_hops, self.options, self.program, self.password_ref)

    def encode(self) -> bytes:
        """Compact JSON for the journal: a list of the plain fields, and behind them an object of the others when there are any."""
        values: list[Any] = [
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
        ]
        if self.next_hops or self.options is not None or self.return_path or self.edits or self.program is not None:
            values.append(self._others())
        return json.dumps(values, separators=(",", ":")).encode()

    def _others(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if self.next_hops:
            made["hops"] = [[hop.host, hop.port, hop.priority, hop.weight] for hop in self.next_hops]
        if self.options is not None:
            made["options"] = to_plain(self.options)
        if self.return_path:
            made["from"] = self.return_path
        if self.edits:
            made["edits"] = self.edits
        if self.program is not None:
            made["program"] = to_plain(self.program)
        return made

    @classmethod
    def decode(cls, data: bytes) -> "Route":
        """Inverse of `encode`. Raises ValueError."""
        kind, address, mailbox, volume, folder, host, port, tls, *rest = json.loads(data)
        others = rest.pop() if rest and isinstance(rest[-1], dict) else None
        try:
            given = _others_of(others) if others else {}
            return cls(RouteKind(kind), address, bytes.fromhex(mailbox), volume, folder, host, port, TlsPolicy(tls), *rest, **given)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a route: {error}") from None


def _others_of(plain: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "next_hops": tuple(NextHop(*hop) for hop in plain.get("hops", ())),
        "return_path": plain.get("from", ""),
        "edits": tuple((kind, ref) for kind, ref in plain.get("edits", ())),
    }
    if "options" in plain:
        made["options"] = from_plain(DeliveryOptions, plain["options"])
    if "program" in plain:
        made["program"] = from_plain(Program, plain["program"])
    return made


@lru_cache(maxsize=1024)
def _digest(next_hops: tuple[NextHop, ...], options: DeliveryOptions | None, program: Program | None, secret: str) -> str:
    plain: list[Any] = [[to_plain(hop) for hop in next_hops], options and to_plain(options), program and to_plain(program)]
    plain += [secret] if secret else []
    return ":~" + hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
