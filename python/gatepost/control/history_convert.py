"""History values ↔ protos: filters, traces, differences. Pure; a bad filter is a ControlError that names the field."""

from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.history.v1 import history_pb2 as api
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.control.convert import micros, timestamp
from gatepost.control.errors import invalid
from gatepost.control.queue_convert import LIST_RECIPIENTS, detail_reply, detail_text, history_proto, scanned_proto
from gatepost.message.envelope import Meta, Origin
from gatepost.message.ids import format_message_id
from gatepost.native import HistoryFilter, Trace, TraceRecipient
from gatepost.queue.attempt import decode_detail
from gatepost.queue.history import Found, Gap
from gatepost.queue.jobs import decode_meta
from gatepost.queue.views import decode_history

_MAX_TEXT = 500
_TEXTS = {"sender": "sender", "recipient": "recipient", "subject": "subject", "header_message_id": "header_id", "host": "host"}


def filter_from_proto(proto: api.TraceFilter) -> HistoryFilter:
    """What the native search takes. Raises ControlError."""
    wanted: dict[str, object] = {}
    for name, key in _TEXTS.items():
        text = getattr(proto, name)
        if len(text) > _MAX_TEXT:
            raise invalid(f"filter.{name}", f"must be at most {_MAX_TEXT} characters")
        if text:
            wanted[key] = text
    if proto.outcome:
        if proto.outcome not in queue_api.RecipientState.values():
            raise invalid("filter.outcome", f"unknown state {proto.outcome}")
        wanted["outcome"] = queue_api.RecipientState.Name(proto.outcome).removeprefix("RECIPIENT_STATE_")
    if proto.HasField("held"):
        wanted["held"] = proto.held
    if proto.HasField("since"):
        wanted["since"] = max(0, micros(proto.since))
    if proto.HasField("until"):
        wanted["until"] = max(0, micros(proto.until))
    made: HistoryFilter = wanted  # type: ignore[assignment]  # built key by key from its own names
    return made


def moment(stamp: Timestamp, field: str) -> int:
    """Unix microseconds of a time that must be given. Raises ControlError."""
    value = micros(stamp)
    if value <= 0:
        raise invalid(field, "must be given")
    return value


def trace_proto(trace: Trace, worker: int, found: Found, *, whole: bool = False, later: bool = False) -> api.Trace:
    """A message of a page; `whole` with all recipients and events; `later`: recipients at the second of two moments."""
    message_id, size, received, sender, meta_octets, (subject, header_id, ended), recipients, recipients_later, events = trace
    meta = _meta(meta_octets)
    origin = meta.origin
    made = api.Trace(
        message_id=format_message_id(message_id),
        sender=sender,
        size=size,
        received_time=timestamp(received),
        subject=subject,
        header_message_id=header_id,
        envelope_id=meta.envid,
        recipients=recipients_proto(recipients_later if later else recipients, None if whole else LIST_RECIPIENTS),
        recipient_count=len(recipients),
        worker=worker,
        gaps=map(_gap, found.missing_of(trace)),
    )
    made.origin.CopyFrom(
        queue_api.Origin(
            protocol=origin.protocol,
            client_address=origin.client_address,
            client_port=origin.client_port,
            helo=origin.helo,
            user=origin.user,
            tls=origin.tls,
            listener=origin.listener,
        )
    )
    if later:
        ended = max((one[7] for one in recipients_later), default=0) if all(one[3] != "PENDING" for one in recipients_later) else 0
    if ended:
        made.finished_time.CopyFrom(timestamp(ended))
    if whole:
        accepted = queue_api.HistoryEntry(
            time=timestamp(received), kind=queue_api.QUEUE_EVENT_KIND_ACCEPTED, recipient_index=-1, text=_accepted_text(origin)
        )
        scanned = [] if meta.verdict is None else [scanned_proto(meta.verdict, received)]
        made.events.extend([accepted, *scanned, *map(history_proto, decode_history(events))])
    return made


def recipients_proto(recipients: Sequence[TraceRecipient], limit: int | None) -> list[api.TraceRecipient]:
    """At most `limit` recipients (None = all), those that are not delivered first in line for a place."""
    chosen = list(enumerate(recipients))
    if limit is not None and len(chosen) > limit:
        chosen = sorted(sorted(chosen, key=lambda item: item[1][3] == "DELIVERED")[:limit])
    return [_recipient(index, one) for index, one in chosen]


def difference_proto(trace: Trace, worker: int, found: Found, start: int) -> api.QueueDifference:
    """What differs of one message between two moments, the first of which is `start`."""
    before, after = trace[6], trace[7]
    was = trace[2] <= start and any(one[3] == "PENDING" for one in before)
    there = any(one[3] == "PENDING" for one in after)
    kind = {
        (False, True): api.DIFFERENCE_KIND_ARRIVED,
        (True, False): api.DIFFERENCE_KIND_LEFT,
        (True, True): api.DIFFERENCE_KIND_CHANGED,
        (False, False): api.DIFFERENCE_KIND_PASSED,
    }[was, there]
    made = api.QueueDifference(kind=kind, before=recipients_proto(before, LIST_RECIPIENTS) if was else [])
    made.trace.CopyFrom(trace_proto(trace, worker, found, later=True))
    return made


def _recipient(index: int, one: TraceRecipient) -> api.TraceRecipient:
    address, orcpt, destination, state, held, next_attempt, attempts, ended, last = one
    detail = decode_detail(last)
    made = api.TraceRecipient(
        index=index,
        address=address,
        original_recipient=orcpt,
        destination=destination,
        state=queue_api.RecipientState.Value(f"RECIPIENT_STATE_{state}"),
        held=held,
        attempts=attempts,
        last_reply=detail_reply(detail),
        last_reason=detail_text(detail),
    )
    if state == "PENDING" and next_attempt:
        made.next_attempt_time.CopyFrom(timestamp(next_attempt))
    if ended:
        made.finished_time.CopyFrom(timestamp(ended))
    return made


def _gap(gap: Gap) -> api.HistoryGap:
    made = api.HistoryGap(to=timestamp(gap[1]))
    if gap[0]:
        getattr(made, "from").CopyFrom(timestamp(gap[0]))
    return made


def _meta(data: bytes) -> Meta:
    """A row of another version is shown with what can be read of it."""
    try:
        return decode_meta(data)
    except (ValueError, TypeError):
        return Meta(Origin(""))


def _accepted_text(origin: Origin) -> str:
    client = f" from {origin.client_address}" if origin.client_address else ""
    user = f" by {origin.user}" if origin.user else ""
    return f"accepted over {origin.protocol}{client}{user}" if origin.protocol else "accepted"
