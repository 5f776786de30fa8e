"""`gatepost trace` and `gatepost queue diff`: what became of messages, the queue of a past moment, and what changed between two."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli import queue
from gatepost.cli.output import clean, human_size, local_time, print_fields, print_json, print_table, shown_ids, until
from gatepost.cli.session import USAGE, CommandError, Options, Session, command, warn
from gatepost.cli.spans import parse_span

if TYPE_CHECKING:
    from gatepost.client.history import Difference, Trace, TraceFilter, TraceRecipient

TIME = "2026-11-22, '2026-11-22 10:15:30' (local), 2026-11-22T10:15:30Z, or a span: 2h ago"
FILTER: Options = {
    "sender": (Annotated[str, typer.Option("--sender", metavar="ADDRESS", help="Envelope sender, its domain, or a glob; <> is null")], ""),
    "recipient": (Annotated[str, typer.Option("--recipient", metavar="ADDRESS", help="A recipient, its domain, or a glob")], ""),
    "subject": (Annotated[str, typer.Option("--subject", metavar="WORDS", help="Words that all occur in the subject")], ""),
    "header_id": (Annotated[str, typer.Option("--message-id", metavar="ID", help="Message-ID field")], ""),
    "host": (Annotated[str, typer.Option("--host", help="Client address, HELO name, or remote host of an attempt")], ""),
    "outcome": (Annotated[str, typer.Option("--outcome", help="pending, delivered, failed, expired or removed")], ""),
    "held": (Annotated[bool | None, typer.Option("--held/--not-held", help="A pending recipient is held / is not")], None),
    "since": (Annotated[str, typer.Option("--since", metavar="TIME", help=f"Accepted then or later: {TIME}")], ""),
    "until": (Annotated[str, typer.Option("--until", metavar="TIME", help="Accepted then or earlier")], ""),
}


_ID = re.compile(r"[0-9a-fA-F-]+")


def parse_time(text: str, now: datetime | None = None) -> datetime:
    """A moment as people type it. Raises ValueError."""
    if text == "now":
        return now or datetime.now(UTC)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        pass
    try:
        return (now or datetime.now(UTC)) - parse_span(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write {TIME}") from None


def _filter(values: dict[str, Any]) -> "TraceFilter":
    from gatepost.client.history import TraceFilter

    return TraceFilter(
        sender=values["sender"],
        recipient=values["recipient"],
        subject=values["subject"],
        header_message_id=values["header_id"],
        host=values["host"],
        outcome=values["outcome"],
        held=values["held"],
        since=parse_time(values["since"]) if values["since"] else None,
        until=parse_time(values["until"]) if values["until"] else None,
    )


async def trace(
    session: Session,
    options: dict[str, Any],
    message: Annotated[str, typer.Argument(metavar="[ID]", help="Message id or its beginning: shows all that happened to it")] = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="The queue as it was then, oldest first")] = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many, 0 = all")] = 100,
) -> None:
    """Find messages, finished ones too, newest first; or show what happened to one."""
    wanted = _filter(options)
    if message and (at or any(value not in ("", None) for value in options.values())):
        raise CommandError("give an id, or conditions, not both", USAGE)
    if message and not _ID.fullmatch(message):
        raise CommandError(
            f"{message!r} is not a message id; by whom it is for: --recipient {message}; by who sent it: --sender {message}", USAGE
        )
    moment = parse_time(at) if at else None
    async with session.client() as client:
        if message:
            _show(session, await client.history.get(message, warn=warn))
            return
        # One page is one question: a rare match must not make the server look for thousands that nobody asked for.
        size = min(limit or 1000, 1000)
        if moment:
            found = client.history.queue_at(moment, wanted, limit=limit or None, page_size=size, warn=warn)
        else:
            found = client.history.search(wanted, limit=limit or None, page_size=size, warn=warn)
        traces = [one async for one in found]
    if session.json:
        print_json(traces)
        return
    _table(traces, moment)


def _table(traces: "list[Trace]", moment: datetime | None) -> None:
    ids = shown_ids([one.message_id for one in traces])
    rows = []
    for shown, one in zip(ids, traces, strict=True):
        more = f" +{one.recipient_count - 1}" if one.recipient_count > 1 else ""
        first = one.recipients[0] if one.recipients else None
        recipient = f"{first.address}{more}" if first else ""
        rows.append(
            [shown, local_time(one.received), _outcome(one.recipients, unsure=bool(one.gaps)), one.sender or "<>", recipient, one.subject]
        )
    print_table(
        ["!ID", "!RECEIVED", "OUTCOME", "SENDER", "RECIPIENT", "SUBJECT"],
        rows,
        empty="no messages were queued then" if moment else "no messages",
    )


def _outcome(recipients: "tuple[TraceRecipient, ...]", *, unsure: bool = False) -> str:
    """'delivered', or all that there is: 'delivered, failed'. `unsure`: what is pending may have ended, without a record of it."""
    names = {_state(one) + ("?" if unsure and one.state == "PENDING" else "") for one in recipients}
    return ", ".join(sorted(names))


def _gaps(one: "Trace") -> str:
    """What is not known of a message, in words."""
    spans = [f"between {local_time(start)} and {local_time(end)}" if start else f"before {local_time(end)}" for start, end in one.gaps]
    return f"history incomplete {', '.join(spans)}" if spans else ""


def _state(one: "TraceRecipient") -> str:
    if one.state != "PENDING":
        return one.state.lower()
    return "held" if one.held else "deferred" if one.attempts else "pending"


def _show(session: Session, one: "Trace") -> None:
    if session.json:
        print_json(one)
        return
    origin = one.origin
    print_fields(
        [
            ("Id", one.message_id),
            ("Message-ID", one.header_message_id),
            ("Sender", one.sender or "<>"),
            ("Subject", one.subject),
            ("Size", human_size(one.size)),
            ("Received", local_time(one.received)),
            ("Finished", local_time(one.finished) if one.finished else "not known" if one.gaps else "in the queue"),
            ("Missing", _gaps(one)),
            ("From", f"{origin.protocol} {origin.client_address} {origin.helo} {origin.user}".strip()),
        ]
    )
    print()
    rows = [
        [
            str(r.index),
            r.address,
            _state(r),
            str(r.attempts),
            local_time(r.finished) if r.finished else until(r.next_attempt),
            r.last_reason,
        ]
        for r in one.recipients
    ]
    print_table([">#", "RECIPIENT", "STATE", ">TRIES", "WHEN", "LAST"], rows)
    print()
    for event in one.events:
        who = f"[{event.recipient}] " if event.recipient >= 0 else ""
        reply = event.reply
        said = f"{reply.host} {reply.code} {reply.enhanced} {reply.text}".strip() if reply else ""
        words = ": ".join(part for part in (said, "" if event.text == (reply.text if reply else None) else event.text) if part)
        print(f"{local_time(event.time)}  {who}{event.kind:<9} {clean(words)}".rstrip())


@command(queue.app, "diff", options=FILTER)
async def diff(
    session: Session,
    options: dict[str, Any],
    start: Annotated[str, typer.Argument(metavar="TIME1", help=TIME)],
    end: Annotated[str, typer.Argument(metavar="[TIME2]", help="By default now")] = "now",
    passed: Annotated[bool, typer.Option("--passed", help="Also messages that came and left in between")] = False,
) -> None:
    """What differs between the queue at two moments: arrived, left and how, changed."""
    wanted, first, second = _filter(options), parse_time(start), parse_time(end)
    async with session.client() as client:
        found = [one async for one in client.history.diff(first, second, wanted, passed=passed, warn=warn)]
    if session.json:
        print_json(found)
        return
    ids = shown_ids([one.trace.message_id for one in found])
    rows = [
        [shown, one.kind, _change(one), one.trace.sender or "<>", _first(one), one.trace.subject]
        for shown, one in zip(ids, found, strict=True)
    ]
    print_table(["!ID", "WHAT", "HOW", "SENDER", "RECIPIENT", "SUBJECT"], rows, empty="no difference")


def _change(one: "Difference") -> str:
    now = _outcome(one.trace.recipients, unsure=bool(one.trace.gaps))
    return f"{_outcome(one.before)} → {now}" if one.kind == "changed" else now


def _first(one: "Difference") -> str:
    recipients = one.trace.recipients
    more = f" +{one.trace.recipient_count - 1}" if one.trace.recipient_count > 1 else ""
    return f"{recipients[0].address}{more}" if recipients else ""
