"""`gatepost queue …`: list, look, watch, statistics, destinations. What acts on messages is in queue_actions.py, on the same group."""

import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import age, clean, human_size, local_time, print_fields, print_json, print_table, shown_ids, to_json, until
from gatepost.cli.session import Options, Session, command, group, warn
from gatepost.cli.spans import parse_size, parse_span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gatepost.client import QueueFilter
    from gatepost.client.values import HistoryEntry, MessageDetails, QueueEvent, QueueMessage

app = group("Look at the queue and act on it.")

Dest = Annotated[str, typer.Option("--destination", metavar="GLOB", help="Destination as `queue destinations` shows it")]
Rcpt = Annotated[str, typer.Option("--recipient", metavar="GLOB", help="A recipient")]
Domain = Annotated[str, typer.Option("--domain", help="Domain of a recipient")]
Sender = Annotated[str, typer.Option("--sender", metavar="GLOB", help="Envelope sender; <> is the null sender")]

FILTER: Options = {
    "sender": (Sender, ""),
    "recipient": (Rcpt, ""),
    "domain": (Domain, ""),
    "destination": (Dest, ""),
    "state": (Annotated[str, typer.Option("--state", help="pending, delivered, failed, expired or removed")], ""),
    "held": (Annotated[bool | None, typer.Option("--held/--not-held", help="Only held ones / only others")], None),
    "older_than": (Annotated[str, typer.Option("--older-than", metavar="SPAN", help="Received longer ago: 90s, 10m, 2h, 3d")], ""),
    "newer_than": (Annotated[str, typer.Option("--newer-than", metavar="SPAN", help="Received since")], ""),
    "min_size": (Annotated[str, typer.Option("--min-size", metavar="SIZE", help="At least: 500, 10K, 5M")], ""),
    "max_size": (Annotated[str, typer.Option("--max-size", metavar="SIZE", help="At most")], ""),
    "reply": (Annotated[str, typer.Option("--reply", metavar="TEXT", help="Text in the last reply or reason")], ""),
}


def filter_of(values: dict[str, Any]) -> "QueueFilter | None":
    """The filter options as a filter, None when there are none. Raises ValueError."""
    from gatepost.client import QueueFilter

    made = QueueFilter(
        sender=values["sender"],
        recipient=values["recipient"],
        domain=values["domain"],
        destination=values["destination"],
        state=values["state"],
        held=values["held"],
        older_than=span_of(values["older_than"]),
        newer_than=span_of(values["newer_than"]),
        min_size=parse_size(values["min_size"]) if values["min_size"] else None,
        max_size=parse_size(values["max_size"]) if values["max_size"] else None,
        reply_contains=values["reply"],
    )
    return None if made == QueueFilter() else made


def span_of(text: str) -> timedelta | None:
    """A span of time, None for ''. Raises ValueError."""
    return parse_span(text) if text else None


@command(app, "list", options=FILTER)
async def list_(
    session: Session,
    options: dict[str, Any],
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many, 0 = all")] = 0,
) -> None:
    """List messages, oldest first."""
    wanted = filter_of(options)
    async with session.client() as client:
        messages = [message async for message in client.queue.list(wanted, limit=limit or None, page_size=1000, warn=warn)]
    if session.json:
        print_json(messages)
        return
    message_table(messages)


def message_table(messages: "list[QueueMessage]") -> None:
    """Print messages, one a line."""
    ids = shown_ids([message.message_id for message in messages])
    wide = not sys.stdout.isatty()
    columns = ["!ID", ">AGE", ">SIZE", "STATE", "SENDER", "RECIPIENT", *(["NEXT", "LAST"] if wide else [])]
    rows = []
    for shown, message in zip(ids, messages, strict=True):
        first = next((one for one in message.recipients if one.state == "PENDING"), message.recipients[0] if message.recipients else None)
        more = f" +{message.recipient_count - 1}" if message.recipient_count > 1 else ""
        row = [shown, age(message.received), human_size(message.size), _state(message), message.sender or "<>"]
        row.append(f"{first.address}{more}" if first else "")
        if wide:
            row += [until(first.next_attempt), first.last_reason] if first else ["", ""]
        rows.append(row)
    print_table(columns, rows, empty="no messages")


def _state(message: "QueueMessage") -> str:
    waits = {one.destination for one in message.recipients if one.state == "PENDING"}
    if "quarantine" in waits:
        return "quarantined"
    if "scan-wait" in waits:
        return "scan-wait"
    if message.held:
        return "held"
    if message.in_flight:
        return "sending"
    states = {one.state for one in message.recipients}
    if "PENDING" not in states:
        return "done"
    return "deferred" if any(one.attempts and one.state == "PENDING" for one in message.recipients) else "pending"


@command(app, "show")
async def show(session: Session, id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Show a message: envelope, recipients, history, header."""
    async with session.client() as client:
        details = await client.queue.get(id_)
    if session.json:
        print_json({**to_json(details.message), "history": details.history, "headers": details.headers})
        return
    _details(details)


def _details(details: "MessageDetails") -> None:
    message, origin = details.message, details.message.origin
    came = [
        origin.protocol,
        origin.client_address,
        f"HELO {origin.helo}" if origin.helo else "",
        f"user {origin.user}" if origin.user else "",
        origin.tls,
    ]
    print_fields(
        [
            ("id", message.message_id),
            ("sender", message.sender or "<>"),
            ("size", f"{human_size(message.size)} ({message.size} octets)"),
            ("received", f"{local_time(message.received)} ({age(message.received)} ago)"),
            ("by", ", ".join(part for part in came if part)),
            ("envelope id", message.envelope_id),
            ("held", "yes" if message.held else ""),
            ("worker", str(message.worker)),
        ]
    )
    print("\nRECIPIENTS")
    for one in message.recipients:
        held = ", held" if one.held and one.state == "PENDING" else ""
        print(f"  {clean(one.address)}  {one.state.lower()}{held}, {one.attempts} attempts{_next(until(one.next_attempt))}")
        print_fields([("    to", one.destination), ("    last", one.last_reason), ("    reply", reply_text(one.last_reply))])
    print_journal(details.history, details.headers)


def print_journal(history: "Iterable[HistoryEntry]", headers: "Iterable[tuple[str, str]]") -> None:
    """Print the history of a message and its header."""
    print("\nHISTORY")
    for entry in history:
        who = "" if entry.recipient < 0 else f" #{entry.recipient}"
        text = " ".join(part for part in (entry.text, reply_text(entry.reply)) if part)
        print(f"  {local_time(entry.time)}  {entry.kind}{who}  {clean(text)}".rstrip())
    print("\nHEADER")
    for name, value in headers:
        print(f"  {clean(name)}: {clean(value)}")


def _next(text: str) -> str:
    return f", next {text}" if text else ""


def reply_text(reply: Any) -> str:
    """A reply in a line, '' for none."""
    if reply is None:
        return ""
    host = f" from {reply.host}" if reply.host else ""
    return " ".join(part for part in (str(reply.code), reply.enhanced, reply.text) if part) + host


@command(app, "cat")
async def cat(session: Session, id_: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Write the message as it is stored to standard output."""
    async with session.client() as client:
        async for chunk in client.queue.download(id_):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@command(app, "watch")
async def watch(
    session: Session,
    sender: Sender = "",
    recipient: Rcpt = "",
    domain: Domain = "",
    destination: Dest = "",
    count: Annotated[int, typer.Option("--count", min=0, help="End after this many events, 0 = never")] = 0,
) -> None:
    """Show what happens, as it happens. With --json a line of JSON for each event."""
    from gatepost.client import QueueFilter

    wanted = QueueFilter(sender=sender, recipient=recipient, domain=domain, destination=destination)

    def started() -> None:
        print("watching; end with Ctrl-C", file=sys.stderr, flush=True)

    seen = 0
    async with session.client() as client:
        async for event in client.queue.watch(wanted, started=started):
            print_json(event, line=True) if session.json else print(_event_line(event), flush=True)
            seen += 1
            if seen == count:
                break


def _event_line(event: "QueueEvent") -> str:
    where = event.recipient or event.destination
    text = " ".join(part for part in (event.text, reply_text(event.reply)) if part)
    return clean(f"{local_time(event.time)}  {event.kind:<9}  {event.message_id}  {where}  {text}").rstrip()


@command(app, "stats")
async def stats(session: Session) -> None:
    """Totals of the queue, and of each worker."""
    async with session.client() as client:
        totals = await client.queue.stats()
    if session.json:
        print_json(totals)
        return
    rows = [(str(index), one) for index, one in totals.workers.items()] + [("all", totals.total)]
    columns = ["WORKER", ">MESSAGES", ">RCPTS", ">HELD", ">SENDING", ">SIZE", ">TAKEN", ">SENT", ">DEFERRED", ">FAILED"]
    numbers = (
        (
            name,
            *map(str, (s.messages, s.recipients, s.held, s.in_flight)),
            human_size(s.message_octets),
            *map(str, (s.accepted, s.delivered, s.deferred, s.failed)),
        )
        for name, s in rows
    )
    print_table(columns, numbers)
    for warning in totals.warnings:
        warn(warning)


@command(app, "destinations")
async def destinations(session: Session) -> None:
    """Where mail waits to go: load, pauses, back-off."""
    async with session.client() as client:
        found = [one async for one in client.queue.destinations(warn=warn)]
    if session.json:
        print_json(found)
        return
    rows = (
        (d.name, str(d.pending), str(d.ready), str(d.in_flight), "paused" if d.paused else _backoff(d.backoff_until), d.last_error)
        for d in found
    )
    print_table(["DESTINATION", ">PENDING", ">DUE", ">SENDING", "STATE", "LAST ERROR"], rows, empty="no destinations")


def _backoff(moment: Any) -> str:
    return f"retry {until(moment)}" if moment else "active"


@command(app, "pause")
async def pause(session: Session, destination: str) -> None:
    """Start no deliveries to a destination until it is resumed."""
    async with session.client() as client:
        state = await client.queue.pause(destination)
    session.done(state, f"{state.name} paused, {state.pending} recipients wait")


@command(app, "resume")
async def resume(session: Session, destination: str) -> None:
    """End the pause of a destination."""
    async with session.client() as client:
        state = await client.queue.resume(destination)
    session.done(state, f"{state.name} resumed")
