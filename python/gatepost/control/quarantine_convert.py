"""Quarantine values ↔ protos: filters, verdicts, messages, allowed senders. Pure; a bad filter is a ControlError that names the field."""

from collections.abc import Sequence

from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.queue.v1 import queue_pb2 as queue_api
from gatepost.control.convert import timestamp
from gatepost.control.errors import invalid
from gatepost.control.queue_convert import LIST_RECIPIENTS, filter_from_proto, message_proto
from gatepost.directory import AllowedSender
from gatepost.message.verdict import WITHHELD, Action, Answer, Finding, Verdict
from gatepost.queue.quarantine_views import Quarantined, QuarantineFilter, Scan
from gatepost.queue.views import RecipientStatus

DAY_US = 86_400_000_000
MAX_IDS = 1000
_MAX_TEXT = 500
_ACTIONS = {
    Action.ACCEPT: api.VERDICT_ACTION_ACCEPT,
    Action.TAG: api.VERDICT_ACTION_TAG,
    Action.COPY: api.VERDICT_ACTION_COPY,
    Action.STRIP: api.VERDICT_ACTION_STRIP,
    Action.QUARANTINE: api.VERDICT_ACTION_QUARANTINE,
    Action.HOLD: api.VERDICT_ACTION_HOLD,
    Action.REJECT: api.VERDICT_ACTION_REJECT,
}
_WAITING = {
    api.QUARANTINE_STATE_UNSPECIFIED: None,
    api.QUARANTINE_STATE_QUARANTINED: False,
    api.QUARANTINE_STATE_WAITING: True,
}


def quarantine_filter(proto: api.QuarantineFilter) -> QuarantineFilter:
    """A filter. Raises ControlError."""
    if len(proto.text) > _MAX_TEXT:
        raise invalid("filter.text", f"must be at most {_MAX_TEXT} characters")
    if proto.state not in _WAITING:
        raise invalid("filter.state", f"unknown state {proto.state}")
    queue = queue_api.QueueFilter(sender=proto.sender, recipient=proto.recipient, domain=proto.domain)
    for field in ("older_than", "newer_than"):
        if proto.HasField(field):
            getattr(queue, field).CopyFrom(getattr(proto, field))
    found = filter_from_proto(queue)
    return QuarantineFilter(found, proto.text, _WAITING[proto.state])


def check_selection(selection: api.QuarantineSelection) -> None:
    """Exactly one of ids, filter (not empty) and all. Raises ControlError."""
    filtered = selection.HasField("filter") and bool(selection.filter.ListFields())
    if sum((bool(selection.message_ids), filtered, selection.all)) != 1:
        raise invalid("selection", "must have exactly one of message_ids, filter (with at least one field) and all")
    if len(selection.message_ids) > MAX_IDS:
        raise invalid("selection.message_ids", f"must be at most {MAX_IDS}")
    quarantine_filter(selection.filter)


def selection_words(selection: api.QuarantineSelection) -> str:
    """A selection for the list of operations."""
    if selection.message_ids:
        first = ", ".join(selection.message_ids[:3])
        return first if len(selection.message_ids) <= 3 else f"{first} and {len(selection.message_ids) - 3} more"
    if selection.all:
        return "all in quarantine"
    fields = (f"{field.name}={_word(value)}" for field, value in selection.filter.ListFields())
    return f"in quarantine: {', '.join(fields)}"[:300]


def _word(value: object) -> str:
    seconds = getattr(value, "seconds", None)
    return f"{seconds} s" if seconds is not None else str(value)


def verdict_proto(verdict: Verdict) -> api.Verdict:
    """One verdict."""
    made = api.Verdict(
        action=_ACTIONS[verdict.action],
        policy=verdict.policy,
        rule=verdict.rule,
        reason=verdict.reason,
        findings=map(_finding, verdict.findings),
        answers=map(_answer, verdict.answers),
        omitted=verdict.omitted,
        text=verdict.text,
    )
    if verdict.at:
        made.time.CopyFrom(timestamp(int(verdict.at * 1_000_000)))
    return made


def _finding(one: Finding) -> api.Finding:
    return api.Finding(path=one.path, what=one.what, action=_ACTIONS[one.action], sha256=one.sha256)


def _answer(one: Answer) -> api.ScannerAnswer:
    return api.ScannerAnswer(scanner=one.scanner, outcome=one.outcome, name=one.name, score=one.score, action=one.action)


def scan_proto(scan: Scan) -> api.Scan:
    """One time it was scanned."""
    return api.Scan(time=timestamp(scan.time), by=scan.by, verdict=verdict_proto(scan.verdict))


def quarantined_proto(found: Quarantined, worker: int, keep_days: float, limit: int | None = LIST_RECIPIENTS) -> api.QuarantinedMessage:
    """A message with at most `limit` recipients (None = all), those it is withheld from first in line for a place."""
    made = api.QuarantinedMessage(
        message=message_proto(found.message, worker, limit, is_kept),
        state=api.QUARANTINE_STATE_WAITING if found.waiting else api.QUARANTINE_STATE_QUARANTINED,
        header_from=found.header_from,
        subject=found.subject,
        infected=found.infected,
        withheld_count=sum(map(is_kept, found.message.recipients)),
    )
    if found.verdict is not None:
        made.verdict.CopyFrom(verdict_proto(found.verdict))
    if keep_days and not found.waiting:
        made.expire_time.CopyFrom(timestamp(found.message.received_at + int(keep_days * DAY_US)))
    return made


def allowed_proto(one: AllowedSender) -> api.AllowedSender:
    """One entry."""
    return api.AllowedSender(sender=one.sender, recipient=one.recipient, author=one.author, create_time=timestamp(one.created_at))


def is_kept(one: RecipientStatus) -> bool:
    """Whether the message is withheld from this recipient."""
    return one.pending and one.destination in WITHHELD


def withheld_addresses(message: queue_api.QueueMessage, names: Sequence[str]) -> list[str]:
    """Addresses of its pending recipients for these destinations."""
    pending = queue_api.RECIPIENT_STATE_PENDING
    return [one.address for one in message.recipients if one.state == pending and one.destination in names]
