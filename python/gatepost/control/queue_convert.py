"""Queue values ↔ protos: filters, messages, history, events. Pure; a bad filter is a ControlError that names the field."""

import re
import time
from collections.abc import Callable, Mapping, Sequence

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.control.convert import micros, route_proto, seconds, timestamp
from gatepost.control.errors import invalid
from gatepost.message.envelope import Notify
from gatepost.message.ids import format_message_id
from gatepost.message.verdict import Verdict
from gatepost.queue.events import QueueEvent
from gatepost.queue.views import Destination, Filter, HistoryEntry, QueuedMessage, RecipientStatus

LIST_RECIPIENTS = 20
MIN_PREFIX = 8
MAX_IDS = 10_000
_MAX_TEXT = 500

_STATE_NAMES = {
    api.RECIPIENT_STATE_UNSPECIFIED: "",
    api.RECIPIENT_STATE_PENDING: "PENDING",
    api.RECIPIENT_STATE_DELIVERED: "DELIVERED",
    api.RECIPIENT_STATE_FAILED: "FAILED",
    api.RECIPIENT_STATE_EXPIRED: "EXPIRED",
    api.RECIPIENT_STATE_REMOVED: "REMOVED",
}
_STATES = {name: number for number, name in _STATE_NAMES.items()}

_KINDS: Mapping[str, api.QueueEventKind.ValueType] = {
    "accepted": api.QUEUE_EVENT_KIND_ACCEPTED,
    "delivered": api.QUEUE_EVENT_KIND_DELIVERED,
    "deferred": api.QUEUE_EVENT_KIND_DEFERRED,
    "failed": api.QUEUE_EVENT_KIND_FAILED,
    "expired": api.QUEUE_EVENT_KIND_EXPIRED,
    "removed": api.QUEUE_EVENT_KIND_REMOVED,
    "held": api.QUEUE_EVENT_KIND_HELD,
    "released": api.QUEUE_EVENT_KIND_RELEASED,
    "retried": api.QUEUE_EVENT_KIND_RETRIED,
    "rerouted": api.QUEUE_EVENT_KIND_REROUTED,
    "note": api.QUEUE_EVENT_KIND_NOTE,
    "restored": api.QUEUE_EVENT_KIND_RESTORED,
    "purged": api.QUEUE_EVENT_KIND_PURGED,
    "overflow": api.QUEUE_EVENT_KIND_OVERFLOW,
    "paused": api.QUEUE_EVENT_KIND_DESTINATION_PAUSED,
    "resumed": api.QUEUE_EVENT_KIND_DESTINATION_RESUMED,
}

_NOTIFY = (Notify.NEVER, Notify.SUCCESS, Notify.FAILURE, Notify.DELAY)


def filter_from_proto(proto: api.QueueFilter) -> Filter:
    """A filter. Raises ControlError."""
    for field in ("sender", "recipient", "domain", "destination", "reply_contains"):
        if len(getattr(proto, field)) > _MAX_TEXT:
            raise invalid(f"filter.{field}", f"must be at most {_MAX_TEXT} characters")
    if proto.state not in _STATE_NAMES:
        raise invalid("filter.state", f"unknown state {proto.state}")
    return Filter(
        sender=proto.sender,
        recipient=proto.recipient,
        domain=proto.domain,
        destination=proto.destination,
        state=_STATE_NAMES[proto.state],
        held=proto.held if proto.HasField("held") else None,
        older_than=_age(proto, "older_than"),
        newer_than=_age(proto, "newer_than"),
        min_size=proto.min_size if proto.HasField("min_size") else None,
        max_size=proto.max_size if proto.HasField("max_size") else None,
        reply=proto.reply_contains,
        received_before=micros(proto.received_before) if proto.HasField("received_before") else None,
    )


def _age(proto: api.QueueFilter, field: str) -> float | None:
    if not proto.HasField(field):  # type: ignore[arg-type]  # the stub wants literals
        return None
    value = seconds(getattr(proto, field))
    if value < 0:
        raise invalid(f"filter.{field}", "must not be negative")
    return value


def is_empty(proto: api.QueueFilter) -> bool:
    """True when nothing that narrows a selection is set; `received_before` alone does not count."""
    return not any(field.name != "received_before" for field, _ in proto.ListFields())


def id_prefix(text: str, field: str = "message_id") -> str:
    """Hexadecimal digits of an id or its beginning. Raises ControlError."""
    digits = text.strip().replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        raise invalid(field, f"{text!r} is not a message id")
    if len(digits) < MIN_PREFIX:
        raise invalid(field, f"{text!r} is too short: give at least {MIN_PREFIX} digits")
    return digits


def check_selection(selection: api.MessageSelection) -> None:
    """Exactly one of ids, filter (not empty), all, token. Raises ControlError."""
    filtered = selection.HasField("filter") and not is_empty(selection.filter)
    if sum((bool(selection.message_ids), filtered, selection.all, bool(selection.token))) != 1:
        raise invalid("selection", "must have exactly one of message_ids, filter (with at least one field), all and token")
    if len(selection.message_ids) > MAX_IDS:
        raise invalid("selection.message_ids", f"must be at most {MAX_IDS}")


def message_proto(
    message: QueuedMessage,
    worker: int,
    limit: int | None = LIST_RECIPIENTS,
    wanted: Callable[[RecipientStatus], bool] = lambda one: one.pending,
) -> api.QueueMessage:
    """A message with at most `limit` recipients (None = all), those wanted first in line for a place."""
    meta, origin = message.meta, message.meta.origin
    chosen = list(enumerate(message.recipients))
    if limit is not None and len(chosen) > limit:
        chosen = sorted(sorted(chosen, key=lambda item: not wanted(item[1]))[:limit])
    made = api.QueueMessage(
        message_id=format_message_id(message.message_id),
        sender=message.reverse_path,
        size=message.size,
        received_time=timestamp(message.received_at),
        envelope_id=meta.envid,
        return_content=meta.ret,
        body=meta.body,
        smtputf8=meta.smtputf8,
        rule_version=meta.rule_version,
        in_flight=message.in_flight,
        recipients=(recipient_proto(index, recipient) for index, recipient in chosen),
        recipient_count=len(message.recipients),
        worker=worker,
        held=any(recipient.held and recipient.state == "PENDING" for recipient in message.recipients),
    )
    made.origin.CopyFrom(
        api.Origin(
            protocol=origin.protocol,
            client_address=origin.client_address,
            client_port=origin.client_port,
            helo=origin.helo,
            user=origin.user,
            tls=origin.tls,
            listener=origin.listener,
        )
    )
    return made


def recipient_proto(index: int, recipient: RecipientStatus) -> api.QueueRecipient:
    """One recipient."""
    last = recipient.last or {}
    made = api.QueueRecipient(
        index=index,
        address=recipient.address,
        original_recipient=recipient.orcpt,
        destination=recipient.destination,
        state=_STATES.get(recipient.state, api.RECIPIENT_STATE_UNSPECIFIED),
        held=recipient.held,
        attempts=recipient.attempts,
        last_reply=detail_reply(last),
        last_reason=detail_text(last),
        route=route_proto(recipient.route),
        notify=notify_words(recipient.notify),
    )
    if recipient.state == "PENDING" and recipient.next_attempt:
        made.next_attempt_time.CopyFrom(timestamp(recipient.next_attempt))
    if recipient.state == "REMOVED" and recipient.next_attempt > time.time_ns() // 1000:
        made.removed_until.CopyFrom(timestamp(recipient.next_attempt))
    return made


def notify_words(flags: int) -> list[str]:
    """RFC 3461 keywords of the flags."""
    return [str(flag.name) for flag in _NOTIFY if flags & flag]


def notify_flags(words: list[str]) -> Notify:
    """Inverse of `notify_words`. Raises ControlError."""
    flags = Notify.UNSET
    for word in words:
        if word.upper() not in {str(flag.name) for flag in _NOTIFY}:
            raise invalid("header.recipients.notify", f"{word!r} is not NEVER, SUCCESS, FAILURE or DELAY")
        flags |= Notify[word.upper()]
    if flags & Notify.NEVER and flags != Notify.NEVER:
        raise invalid("header.recipients.notify", "NEVER stands alone (RFC 3461 4.1)")
    return flags


def detail_reply(detail: Mapping[str, object]) -> common.SmtpReply | None:
    """The remote reply in a journal detail, None when it has none."""
    code = detail.get("code")
    if not isinstance(code, int) or not code:
        return None
    return common.SmtpReply(
        code=code,
        enhanced=_text(detail, "enhanced"),
        text=_text(detail, "text"),
        host=_text(detail, "host"),
        command=_text(detail, "command"),
    )


def detail_text(detail: Mapping[str, object]) -> str:
    """A journal detail in words."""
    parts = [_text(detail, key) for key in ("reason", "action")]
    words = next((part for part in parts if part), "") or _text(detail, "text")
    by = _text(detail, "by")
    lost = detail.get("lost")
    if lost:
        words = f"{lost} events were lost"
    return f"{words} (by {by})".strip() if by else words


def _text(detail: Mapping[str, object], key: str) -> str:
    value = detail.get(key, "")
    return value if isinstance(value, str) else str(value)


def history_proto(entry: HistoryEntry) -> api.HistoryEntry:
    """One journal entry."""
    scanned = isinstance(entry.detail.get("verdict"), list)
    return api.HistoryEntry(
        time=timestamp(entry.time),
        kind=api.QUEUE_EVENT_KIND_SCANNED if scanned else _KINDS.get(entry.kind, api.QUEUE_EVENT_KIND_NOTE),
        recipient_index=entry.recipient_index,
        text=detail_text(entry.detail),
        reply=detail_reply(entry.detail),
    )


def journal_proto(message: QueuedMessage, history: Sequence[HistoryEntry]) -> list[api.HistoryEntry]:
    """The journal of a message, with what scanning decided at its reception."""
    entries = [history_proto(entry) for entry in history]
    if message.meta.verdict is not None:
        entries.insert(min(1, len(entries)), scanned_proto(message.meta.verdict, message.received_at))
    return entries


def scanned_proto(verdict: Verdict, time: int) -> api.HistoryEntry:
    """The entry for what scanning decided at reception."""
    kind = api.QUEUE_EVENT_KIND_SCANNED
    return api.HistoryEntry(time=timestamp(time), kind=kind, recipient_index=-1, text=f"scanned: {verdict.story}")


def event_proto(event: QueueEvent, worker: int) -> api.WatchQueueResponse:
    """One event for a watcher."""
    return api.WatchQueueResponse(
        time=timestamp(event.time or time.time_ns() // 1000),
        kind=_KINDS.get(event.kind, api.QUEUE_EVENT_KIND_NOTE),
        message_id=format_message_id(event.message_id) if event.message_id else "",
        recipient_index=event.recipient_index,
        sender=event.sender,
        recipient=event.address,
        destination=event.destination,
        text=detail_text(event.detail),
        reply=detail_reply(event.detail),
        worker=worker,
    )


def destination_proto(destination: Destination) -> api.Destination:
    """One destination."""
    made = api.Destination(
        name=destination.name,
        pending=destination.pending,
        ready=destination.ready,
        in_flight=destination.in_flight,
        paused=destination.paused,
        last_error=destination.last_error,
    )
    if destination.backoff_until:
        made.backoff_until.CopyFrom(timestamp(destination.backoff_until))
    return made


def stats_proto(stats: Mapping[str, int]) -> api.QueueStats:
    """Totals; names the engine does not know are 0."""
    return api.QueueStats(
        messages=stats.get("messages", 0),
        recipients=stats.get("recipients", 0),
        held=stats.get("held", 0),
        in_flight=stats.get("in_flight", 0),
        message_octets=stats.get("bytes", 0),
        disk_octets=stats.get("disk_bytes", 0),
        free_octets=stats.get("free_bytes", 0),
        accepted=stats.get("accepted", 0),
        delivered=stats.get("delivered", 0),
        deferred=stats.get("deferred", 0),
        failed=stats.get("failed", 0),
        removed=stats.get("removed", 0),
        removed_octets=stats.get("removed_bytes", 0),
    )


def header_fields(section: bytes, limit: int = 200) -> list[api.HeaderField]:
    """Fields of a header section, unfolded (RFC 5322 2.2.3). Lines that are no field are left out."""
    text = section.decode("utf-8", "replace").replace("\r\n", "\n")
    unfolded = re.sub(r"\n(?=[ \t])", "", text)
    fields: list[api.HeaderField] = []
    for line in unfolded.split("\n"):
        name, colon, value = line.partition(":")
        if not line or len(fields) == limit:
            break
        if colon and name and not name[0].isspace():
            fields.append(api.HeaderField(name=name.rstrip(), value=value.strip()[:2000]))
    return fields
