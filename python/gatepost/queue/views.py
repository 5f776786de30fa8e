"""What the queue shows of itself: messages, recipients, history, destinations, and the filter over them. Pure values; made by service."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatepost.message.envelope import Meta, Notify, Origin
from gatepost.native import NativeFilter, RecipientState, Summary
from gatepost.queue.attempt import decode_detail
from gatepost.queue.changes import KIND_NAMES
from gatepost.queue.jobs import decode_meta, decode_notify, decode_route
from gatepost.queue.retry import MICROSECONDS
from gatepost.routing.model import Route, RouteKind


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """One recipient: state is PENDING, DELIVERED, FAILED, EXPIRED or REMOVED; `last` the decoded detail of the last attempt or action."""

    address: str
    orcpt: str
    destination: str
    notify: Notify
    route: Route
    state: str
    held: bool
    next_attempt: int
    attempts: int
    last: Mapping[str, object]

    @property
    def pending(self) -> bool:
        """True until the recipient is delivered, failed, expired or removed."""
        return self.state == "PENDING"


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A live message. Times are Unix microseconds; size is in octets with our trace header."""

    message_id: bytes
    size: int
    received_at: int
    reverse_path: str
    meta: Meta
    in_flight: bool
    recipients: tuple[RecipientStatus, ...]


@dataclass(frozen=True, slots=True)
class RecipientOutline:
    """What a new route is decided by."""

    address: str
    destination: str
    pending: bool
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Outline:
    """A live message as far as new routes are decided by it: of very many, a quarter of the time that all of it takes."""

    size: int
    reverse_path: str
    recipients: tuple[RecipientOutline, ...]
    encoded_meta: bytes = b""

    @property
    def meta(self) -> Meta:
        """Read when it is asked for: who sent it has a say in a new route."""
        return _meta(self.encoded_meta)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One journal record of a message; recipient_index -1 is the message as a whole."""

    time: int
    kind: str
    recipient_index: int
    detail: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination and its load. backoff_until (Unix µs) is 0 while it does not back off."""

    name: str
    pending: int
    ready: int
    in_flight: int
    paused: bool
    backoff_until: int = 0
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; next_page_token is '' on the last one. A page may be short, even empty, and still have a next one. `partial`: the
    queue is still being read after a start, there are more messages than can be seen.
    """

    messages: tuple[QueuedMessage, ...]
    next_page_token: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Everything given must hold; recipient conditions must hold together for one recipient.

    sender, recipient, destination are globs (* and ?), case ignored; sender '<>' is the null reverse-path. domain is exact. older_than
    and newer_than are seconds of age; sizes inclusive octets; received_before Unix µs inclusive; id_prefix hex digits of the message id.
    """

    sender: str = ""
    recipient: str = ""
    domain: str = ""
    destination: str = ""
    state: str = ""
    held: bool | None = None
    older_than: float | None = None
    newer_than: float | None = None
    min_size: int | None = None
    max_size: int | None = None
    reply: str = ""
    id_prefix: str = ""
    received_before: int | None = None

    def native(self, now: int) -> NativeFilter:
        """The same for the spool; `now` (Unix µs) turns ages into times."""
        wanted: NativeFilter = {
            "sender": self.sender,
            "recipient": self.recipient,
            "domain": self.domain,
            "destination": self.destination,
            "state": self.state,
            "reply": self.reply,
            "id_prefix": self.id_prefix,
        }
        if self.held is not None:
            wanted["held"] = self.held
        if self.min_size is not None:
            wanted["min_size"] = self.min_size
        if self.max_size is not None:
            wanted["max_size"] = self.max_size
        if self.newer_than is not None:
            wanted["received_from"] = max(0, math.ceil(now - self.newer_than * MICROSECONDS))
        latest = [] if self.older_than is None else [math.floor(now - self.older_than * MICROSECONDS)]
        latest += [] if self.received_before is None else [self.received_before]
        if latest:
            wanted["received_to"] = max(0, min(latest))
        return wanted


def decode_summary(raw: Summary) -> QueuedMessage:
    """A message as the native spool's `get` gives it."""
    message_id, size, received_at, reverse_path, meta, in_flight, recipients = raw
    statuses = tuple(_recipient_status(one) for one in recipients)
    return QueuedMessage(message_id, size, received_at, reverse_path, _meta(meta), in_flight, statuses)


def decode_outline(raw: Summary) -> Outline:
    """The same, in outline."""
    _, size, _, reverse_path, meta, _, recipients = raw
    return Outline(size, reverse_path, tuple([RecipientOutline(one[0], one[2], one[5] == "PENDING", one[1]) for one in recipients]), meta)


def _meta(data: bytes) -> Meta:
    """A record that this version cannot read is shown all the same, or nobody could remove it."""
    try:
        return decode_meta(data)
    except (ValueError, TypeError):
        return Meta(Origin(""))


def _route(data: bytes, address: str) -> Route:
    try:
        return decode_route(data)
    except (ValueError, TypeError):
        return Route(RouteKind.DISCARD, address)


def _recipient_status(raw: RecipientState) -> RecipientStatus:
    address, orcpt, destination, notify, route, state, held, next_attempt, attempts, last = raw
    return RecipientStatus(
        address,
        orcpt,
        destination,
        decode_notify(notify),
        _route(route, address),
        state,
        held,
        next_attempt,
        attempts,
        decode_detail(last),
    )


def decode_history(raw: Sequence[tuple[int, int, int, bytes]]) -> list[HistoryEntry]:
    """Journal records as the native spool's `history` gives them."""
    return [HistoryEntry(time, KIND_NAMES.get(kind, "note"), index, decode_detail(detail)) for time, kind, index, detail in raw]
