"""The journal detail of an attempt or of an operator's action: compact JSON, at most MAX_DETAIL octets. Pure.

Written by scheduler and service, read back by service and by DSN logic. Keys: t (Unix µs), outcome, host, command, code, enhanced,
text, tls, ms (duration), by (operator), action. Keys with nothing to say are left out.
"""

import json
from collections.abc import Mapping

from gatepost.queue.transport import Deferred, Delivered, Failed, Outcome

MAX_DETAIL = 2048
MAX_TEXT = 900
DELAY_NOTICE = "delay-notice"


def attempt_fields(outcome: Outcome, *, now: int, ms: int, tls: str = "") -> dict[str, object]:
    """What is worth keeping of one attempt at one recipient."""
    fields: dict[str, object] = {"t": now, "outcome": outcome_name(outcome), "ms": ms}
    reply = outcome.reply
    if reply is not None:
        fields |= {"host": reply.host, "code": reply.code, "enhanced": reply.enhanced, "text": reply.text}
        if reply.command:
            fields["command"] = reply.command
    if isinstance(outcome, Deferred | Failed):
        fields["enhanced"] = outcome.enhanced
        fields["reason"] = outcome.reason
    if tls:
        fields["tls"] = tls
    return fields


def outcome_name(outcome: Outcome) -> str:
    """'delivered', 'deferred' or 'failed'."""
    if isinstance(outcome, Delivered):
        return "delivered"
    return "deferred" if isinstance(outcome, Deferred) else "failed"


def encode_detail(fields: Mapping[str, object]) -> bytes:
    """JSON within MAX_DETAIL; long texts are cut."""
    data = _dump(fields)
    if len(data) <= MAX_DETAIL:
        return data
    for limit in (MAX_TEXT, 300, 60):
        data = _dump({key: _cut(value, limit) for key, value in fields.items()})
        if len(data) <= MAX_DETAIL:
            return data
    return _dump({"outcome": fields.get("outcome", ""), "t": fields.get("t", 0)})


def decode_detail(data: bytes) -> dict[str, object]:
    """Inverse of `encode_detail`; what is not such JSON comes back as {'text': …}."""
    if not data:
        return {}
    try:
        fields = json.loads(data)
    except ValueError:
        return {"text": data.decode("utf-8", "replace")}
    return fields if isinstance(fields, dict) else {"text": str(fields)}


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)


def _dump(fields: Mapping[str, object]) -> bytes:
    return _ENCODER.encode(fields).encode("utf-8", "replace")


def _cut(value: object, limit: int) -> object:
    return value[:limit] if isinstance(value, str) else value
