"""The frozen values that the SDK hands out and takes, and how the common ones are made from protos.

Times are aware datetimes in UTC, ages are timedeltas, sizes are octets. Kinds and roles are lower-case words ('hosted', 'admin');
recipient states are 'PENDING', 'DELIVERED', 'FAILED', 'EXPIRED', 'REMOVED'. docs/cli.md shows the same shapes as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.client.rule_values import HandlerOptions, RuleSettings


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply. `host` is set for a remote server's."""

    code: int
    enhanced: str
    text: str
    host: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipient that was not taken, and why."""

    address: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Route:
    """Where mail for one final recipient goes. kind: 'local', 'smtp', 'lmtp', 'discard', 'pipe', 'auto-reply', 'list'."""

    kind: str
    address: str = ""
    volume: str = ""
    folder: str = ""
    host: str = ""
    port: int = 0
    tls: str = ""
    implicit_tls: bool = False
    username: str = ""
    hold: bool = False
    destination: str = ""
    next_hops: tuple[str, ...] = ()
    return_path: str = ""
    edits: tuple[str, ...] = ()
    program: str = ""


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One line of an explanation."""

    step: str
    detail: str


# ---- queue ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """Which messages; everything given must match. sender, recipient, destination are globs; sender '<>' is the null reverse-path."""

    sender: str = ""
    recipient: str = ""
    domain: str = ""
    destination: str = ""
    state: str = ""
    held: bool | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    min_size: int | None = None
    max_size: int | None = None
    reply_contains: str = ""
    received_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """How a message came in."""

    protocol: str
    client_address: str
    client_port: int
    helo: str
    user: str
    tls: str
    listener: str


@dataclass(frozen=True, slots=True)
class QueueRecipient:
    """One recipient of a queued message."""

    index: int
    address: str
    original_recipient: str
    destination: str
    state: str
    held: bool
    next_attempt: datetime | None
    attempts: int
    last_reply: Reply | None
    last_reason: str
    route: Route
    notify: tuple[str, ...]
    removed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class QueueMessage:
    """A queued message. In lists `recipients` has at most 20; `recipient_count` counts all."""

    message_id: str
    sender: str
    size: int
    received: datetime
    origin: Origin
    envelope_id: str
    return_content: str
    body: str
    smtputf8: bool
    rule_version: int
    in_flight: bool
    held: bool
    worker: int
    recipient_count: int
    recipients: tuple[QueueRecipient, ...]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One journal entry; recipient -1 is the whole message."""

    time: datetime
    kind: str
    recipient: int
    text: str
    reply: Reply | None


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """A message with its history and header fields."""

    message: QueueMessage
    history: tuple[HistoryEntry, ...]
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a bulk call did. `message_ids` has the first 1,000; `partial`: a worker was away, `warnings` say which. `gone` messages of a
    frozen selection had left the queue. operation_id is for `Queue.undo`, until undo_until (None: it cannot be undone). `withheld` messages
    in quarantine were left out.
    """

    matched: int
    changed: int
    message_ids: tuple[str, ...]
    selected_at: datetime
    partial: bool
    warnings: tuple[str, ...]
    operation_id: str = ""
    undo_until: datetime | None = None
    gone: int = 0
    withheld: int = 0


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """Something happened to a message. recipient_index -1 is the whole message."""

    time: datetime
    kind: str
    message_id: str
    recipient_index: int
    sender: str
    recipient: str
    destination: str
    text: str
    reply: Reply | None
    worker: int


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Totals; accepted (messages), delivered, deferred and failed (recipients) count since the workers started."""

    messages: int
    recipients: int
    held: int
    in_flight: int
    message_octets: int
    disk_octets: int
    free_octets: int
    accepted: int
    delivered: int
    deferred: int
    failed: int
    removed: int = 0
    removed_octets: int = 0


@dataclass(frozen=True, slots=True)
class QueueTotals:
    """Stats of the whole and of each worker."""

    total: QueueStats
    workers: Mapping[int, QueueStats]
    partial: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination and its load."""

    name: str
    pending: int
    ready: int
    in_flight: int
    paused: bool
    backoff_until: datetime | None
    last_error: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """A message that is in the queue, on disk."""

    message_id: str
    size: int
    refused: tuple[Refused, ...]


# ---- rules ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handler:
    """pattern: local part, 'prefix*', '*suffix', '*' or '/regular expression/'. kind: 'mailbox', 'forward', 'copy', 'reject', 'discard',
    'list', 'transport', 'auto-reply', 'hold'.
    """

    pattern: str
    kind: str
    targets: tuple[str, ...] = ()
    text: str = ""
    policy: str = ""
    options: HandlerOptions = field(default_factory=HandlerOptions)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What is odd about it, as the call that saved it told."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The next hop of a gateway rule. tls: 'none', 'opportunistic', 'required', 'verified', 'pinned'. port 0 = the default."""

    host: str
    port: int = 0
    tls: str = "opportunistic"
    implicit_tls: bool = False
    lmtp: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    has_password: bool = False


@dataclass(frozen=True, slots=True)
class DomainRule:
    """kind: 'hosted', 'gateway', 'mx', 'reject', 'discard', 'hold', 'alias'."""

    domain: str
    kind: str
    gateway: Gateway | None = None
    text: str = ""
    accept_untrusted: bool = False
    handlers: tuple[Handler, ...] = ()
    etag: str = ""
    policy: str = ""
    settings: RuleSettings = field(default_factory=RuleSettings)
    warnings: tuple[str, ...] = field(default=(), compare=False)
    """What is odd about it, as the call that saved it told."""


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """One version of the rule set."""

    version: int
    author: str
    time: datetime
    comment: str


@dataclass(frozen=True, slots=True)
class Policy:
    """An attachment policy. `text` is TOML, '' in lists; `used_by` names rules by domain and handlers as 'pattern@domain'."""

    name: str
    text: str = ""
    description: str = ""
    rule_count: int = 0
    used_by: tuple[str, ...] = ()
    etag: str = ""


@dataclass(frozen=True, slots=True)
class PolicyFinding:
    """A rule that matched something; `why` has its conditions and what met each."""

    path: str
    rule: str
    action: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class RecipientFate:
    """What becomes of a message for one recipient: 'deliver', 'quarantine', 'hold', 'wait', 'defer', 'reject'."""

    address: str
    policy: str
    fate: str


@dataclass(frozen=True, slots=True)
class PolicyTrial:
    """What policies would do to a message."""

    action: str
    policy: str
    rule: str
    reason: str
    findings: tuple[PolicyFinding, ...]
    omitted: int
    recipients: tuple[RecipientFate, ...]
    stripped: tuple[str, ...]
    subject: str
    copies: tuple[str, ...]
    inspection: str
    entry_count: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the server would do: refuse with `reply`, or use the routes; `trace` says why."""

    trusted: bool
    reply: Reply | None
    routes: tuple[Route, ...]
    trace: tuple[TraceStep, ...]
    rule_version: int


# ---- directory, mailboxes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class User:
    """A user and the mailbox of the same address."""

    address: str
    volume: str
    enabled: bool
    has_password: bool
    created: datetime
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory that holds mailboxes."""

    name: str
    path: str
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """An API token without its secret; `domains` are those of a domain admin."""

    name: str
    role: str
    created: datetime
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A user's store."""

    address: str
    volume: str
    enabled: bool
    used_octets: int
    messages: int
    mailbox_id: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a mailbox."""

    name: str
    special_use: str
    subscribed: bool
    messages: int
    unseen: int
    used_octets: int
    uid_validity: int
    uid_next: int
    highest_modseq: int


# ---- server --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process. state: 'starting', 'running', 'failed', 'restarting', 'draining'."""

    index: int
    pid: int
    state: str
    detail: str
    partition: str
    uptime: timedelta
    restarts: int
    sessions: int
    rss_octets: int
    rule_version: int


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening address."""

    service: str
    address: str
    implicit_tls: bool


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system the server writes to."""

    path: str
    total_octets: int
    free_octets: int


@dataclass(frozen=True, slots=True)
class Scanner:
    """A scanner as one worker sees it; state is 'in_service', 'out_of_service' or 'trying'. Counters are since the worker's start."""

    worker: int
    name: str
    kind: str
    state: str
    signatures: str
    fault: str
    asked: int
    remembered: int
    errors: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """The server as a whole."""

    version: str
    hostname: str
    uptime: timedelta
    pid: int
    data_directory: str
    workers: tuple[Worker, ...]
    listeners: tuple[Listener, ...]
    queue: QueueStats
    disks: tuple[Disk, ...]
    rule_version: int
    domains: int
    users: int
    partial: bool
    warnings: tuple[str, ...]
    scanners: tuple[Scanner, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit record."""

    time: datetime
    actor: str
    role: str
    peer: str
    rpc: str
    request: str
    outcome: str


# ---- making the common ones ----------------------------------------------------------------------------------------


def time_value(stamp: Timestamp) -> datetime:
    """Timestamp → aware datetime."""
    return datetime.fromtimestamp(stamp.seconds, UTC) + timedelta(microseconds=stamp.nanos // 1000)


def time_or_none(message: Any, name: str) -> datetime | None:
    """An optional Timestamp field."""
    return time_value(getattr(message, name)) if message.HasField(name) else None


def word(enum: Any, number: int, prefix: str) -> str:
    """Enum number → lower-case word without its prefix; '' for UNSPECIFIED; the number itself for one of a newer server."""
    if number == 0:
        return ""
    try:
        return str(enum.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return str(number)


def number(enum: Any, text: str, prefix: str, what: str) -> Any:
    """Inverse of `word`; '' is UNSPECIFIED. Raises ValueError that lists the words."""
    if not text:
        return 0
    known = {name.removeprefix(prefix).lower(): value for name, value in enum.items() if value}
    if text.lower() not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)} (got {text!r})")
    return known[text.lower()]


def reply_value(reply: common.SmtpReply) -> Reply:
    """SmtpReply → Reply."""
    return Reply(reply.code, reply.enhanced, reply.text, reply.host, reply.command)


def reply_or_none(message: Any, name: str) -> Reply | None:
    """An optional SmtpReply field."""
    return reply_value(getattr(message, name)) if message.HasField(name) else None


def route_value(route: common.Route) -> Route:
    """Route of the API → Route."""
    return Route(
        word(common.RouteKind, route.kind, "ROUTE_KIND_").replace("_", "-"),
        route.address,
        route.volume,
        route.folder,
        route.host,
        route.port,
        word(common.TlsPolicy, route.tls, "TLS_POLICY_"),
        route.implicit_tls,
        route.username,
        route.hold,
        route.destination,
        tuple(route.next_hops),
        route.return_path,
        tuple(route.edits),
        route.program,
    )
