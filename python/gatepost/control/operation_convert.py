"""Operations, undo results and causes ↔ protos. Pure; used by queue_bulk.py and merge_bulk.py."""

from collections.abc import Mapping

from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.control.convert import timestamp
from gatepost.control.queue_convert import detail_reply, detail_text
from gatepost.message.ids import format_message_id
from gatepost.native import Cause
from gatepost.queue.attempt import decode_detail
from gatepost.queue.operations import Operation

MAX_WORDS = 300

_KINDS = {
    "hold": api.OPERATION_KIND_HOLD,
    "release": api.OPERATION_KIND_RELEASE,
    "retry": api.OPERATION_KIND_RETRY,
    "remove": api.OPERATION_KIND_REMOVE,
    "reroute": api.OPERATION_KIND_REROUTE,
    "quarantine release": api.OPERATION_KIND_QUARANTINE_RELEASE,
    "quarantine delete": api.OPERATION_KIND_QUARANTINE_DELETE,
    "quarantine expire": api.OPERATION_KIND_QUARANTINE_EXPIRE,
    "quarantine confine": api.OPERATION_KIND_QUARANTINE_CONFINE,
}
_STATES = {
    "running": api.OPERATION_STATE_RUNNING,
    "done": api.OPERATION_STATE_DONE,
    "interrupted": api.OPERATION_STATE_INTERRUPTED,
    "undone": api.OPERATION_STATE_UNDONE,
}
_COUNTS = {
    "undone": "undone",
    "partly": "partly",
    "finished": "finished",
    "changed": "changed_later",
    "untouched": "untouched",
    "already": "already_undone",
    "unreadable": "unreadable",
    "recipients": "recipients",
}


def operation_proto(operation: Operation, now: int) -> api.Operation:
    """One operation of a worker; `now` is Unix µs."""
    reason = operation.why_not(now)
    made = api.Operation(
        operation_id=operation.operation_id,
        kind=_KINDS.get(operation.kind, api.OPERATION_KIND_UNSPECIFIED),
        state=_STATES.get(operation.state, api.OPERATION_STATE_UNSPECIFIED),
        actor=operation.actor,
        start_time=timestamp(operation.started),
        matched=operation.matched,
        changed=operation.changed,
        reason=reason,
        selection=operation.selection,
        undone_by=operation.undone_by,
    )
    if not reason:
        made.undo_until.CopyFrom(timestamp(operation.until))
    if operation.undone_at:
        made.undo_time.CopyFrom(timestamp(operation.undone_at))
        made.undo.CopyFrom(undo_proto(operation.undo))
    return made


def undo_proto(counts: Mapping[str, int]) -> api.UndoResult:
    """Counts as the spool names them."""
    return api.UndoResult(**{_COUNTS[name]: number for name, number in counts.items() if name in _COUNTS})


def selection_words(selection: api.MessageSelection) -> str:
    """A selection as an operator would say it."""
    if selection.message_ids:
        count = len(selection.message_ids)
        return f"message {selection.message_ids[0]}" if count == 1 else f"{count} messages by id"
    if selection.all:
        return "every message"
    words = []
    for field, value in selection.filter.ListFields():
        if field.name == "state":
            value = api.RecipientState.Name(value).removeprefix("RECIPIENT_STATE_").lower()
        text = str(value.ToJsonString()) if hasattr(value, "ToJsonString") else str(value)
        words.append(f"{field.name} {text}")
    return ", ".join(words)[:MAX_WORDS]


def cause_proto(cause: Cause) -> api.Cause:
    """One group of waiting recipients."""
    (kind, enhanced, code, host, text), (recipients, held, messages, next_attempt), (oldest, address, last) = cause
    detail = decode_detail(last)
    made = api.Cause(
        enhanced=enhanced,
        code=code,
        host=host,
        text=text,
        recipients=recipients,
        messages=messages,
        held=held,
        oldest=timestamp(int.from_bytes(oldest[:6], "big") * 1000),
        example_message_id=format_message_id(oldest),
        example_recipient=address,
        example_reason=detail_text(detail),
        example_reply=detail_reply(detail),
    )
    setattr(made, "class", kind)
    if next_attempt:
        made.next_attempt_time.CopyFrom(timestamp(next_attempt))
    return made
