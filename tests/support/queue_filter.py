"""What a queue filter means, word by word: the measure for the native one, and the filter of queues that are none."""

import re
from fnmatch import translate

from gatepost.native import RecipientState, Summary
from gatepost.queue.attempt import decode_detail
from gatepost.queue.views import Filter


def matches(wanted: Filter, raw: Summary, now: int) -> bool:
    """Whether a message passes; `now` in Unix microseconds."""
    message_id, size, received_at, reverse_path, _, _, recipients = raw
    age = (now - received_at) / 1_000_000
    return (
        (wanted.min_size is None or size >= wanted.min_size)
        and (wanted.max_size is None or size <= wanted.max_size)
        and (wanted.newer_than is None or age <= wanted.newer_than)
        and (wanted.older_than is None or age >= wanted.older_than)
        and (wanted.received_before is None or received_at <= wanted.received_before)
        and message_id.hex().startswith(wanted.id_prefix.replace("-", "").lower())
        and (not wanted.sender or _fits(wanted.sender, reverse_path or "<>"))
        and any(matches_recipient(wanted, one) for one in recipients)
    )


def matches_recipient(wanted: Filter, raw: RecipientState) -> bool:
    """Whether all conditions on recipients hold for this one."""
    address, _, destination, _, _, state, held, _, _, last = raw
    told = " ".join(str(decode_detail(last).get(key, "")) for key in ("code", "enhanced", "text", "reason", "host"))
    return (
        (not wanted.recipient or _fits(wanted.recipient, address))
        and (not wanted.domain or address.rpartition("@")[2].lower() == wanted.domain.lower())
        and (not wanted.destination or _fits(wanted.destination, destination))
        and (not wanted.state or state == wanted.state.upper())
        and (wanted.held is None or (held == wanted.held and (state == "PENDING" or not wanted.held)))
        and wanted.reply.lower() in told.lower()
    )


def _fits(pattern: str, text: str) -> bool:
    return re.match(translate(pattern.lower().replace("[", "[[]")), text.lower()) is not None
