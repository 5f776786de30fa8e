"""Acting on many messages, in the SDK: previews, operations and their undo, causes. Values, and protos → values. Used by queue.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gatepost.api.queue.v1 import queue_pb2 as api
from gatepost.client.values import BulkResult, QueueMessage, Reply, Route, reply_or_none, time_or_none, time_value, word


@dataclass(frozen=True, slots=True)
class Frozen:
    """The messages of a preview, and no others, as a selection."""

    token: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A frozen selection in figures, with its oldest messages. octets are those of the messages; recipients are pending ones."""

    token: str
    expires: datetime
    messages: int
    recipients: int
    held: int
    octets: int
    selected_at: datetime
    sample: tuple[QueueMessage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UndoResult:
    """Messages by what became of them; recipients are those put back."""

    undone: int
    partly: int
    finished: int
    changed_later: int
    untouched: int
    already_undone: int
    unreadable: int
    recipients: int


@dataclass(frozen=True, slots=True)
class Operation:
    """kind: hold, release, retry, remove, reroute; state: running, done, interrupted, undone. undo_until None: `reason` says why not."""

    operation_id: str
    kind: str
    state: str
    actor: str
    started: datetime
    matched: int
    changed: int
    undo_until: datetime | None
    reason: str
    selection: str
    undone_by: str
    undo_time: datetime | None
    undo: UndoResult | None


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did. partial: a worker was away; call again."""

    operation: Operation
    result: UndoResult
    partial: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """Recipients that wait for the same reason; `example` fields are of the oldest message."""

    kind: str
    enhanced: str
    code: int
    host: str
    text: str
    recipients: int
    messages: int
    held: int
    oldest: datetime
    next_attempt: datetime | None
    example_message_id: str
    example_recipient: str
    example_reason: str
    example_reply: Reply | None


@dataclass(frozen=True, slots=True)
class Causes:
    """The largest causes, and figures of all of them."""

    causes: tuple[Cause, ...]
    recipients: int
    messages: int
    partial: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rerouted:
    """What a reroute of many did; `refused` messages could not go that way, the first for the reason given."""

    result: BulkResult
    refused: int
    first_refusal: str


@dataclass(frozen=True, slots=True)
class RerouteTarget:
    """Where to: a route, another address, or (neither given) a new decision by the rules."""

    route: Route | None = None
    new_address: str = ""


def undo_value(result: api.UndoResult) -> UndoResult:
    """Proto → UndoResult."""
    counts: Mapping[str, int] = {field.name: getattr(result, field.name) for field in api.UndoResult.DESCRIPTOR.fields}
    return UndoResult(**counts)


def operation_value(one: api.Operation) -> Operation:
    """Proto → Operation."""
    return Operation(
        one.operation_id,
        word(api.OperationKind, one.kind, "OPERATION_KIND_"),
        word(api.OperationState, one.state, "OPERATION_STATE_"),
        one.actor,
        time_value(one.start_time),
        one.matched,
        one.changed,
        time_or_none(one, "undo_until"),
        one.reason,
        one.selection,
        one.undone_by,
        time_or_none(one, "undo_time"),
        undo_value(one.undo) if one.HasField("undo") else None,
    )


def cause_value(one: api.Cause) -> Cause:
    """Proto → Cause."""
    return Cause(
        getattr(one, "class"),
        one.enhanced,
        one.code,
        one.host,
        one.text,
        one.recipients,
        one.messages,
        one.held,
        time_value(one.oldest),
        time_or_none(one, "next_attempt_time"),
        one.example_message_id,
        one.example_recipient,
        one.example_reason,
        reply_or_none(one, "example_reply"),
    )
