"""`gatepost queue …` that acts on messages: preview, hold, release, retry, remove, reroute, operations, undo; and causes."""

import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import age, clean, human_size, human_span, local_time, print_fields, print_json, print_table, until
from gatepost.cli.queue import FILTER, app, filter_of, message_table
from gatepost.cli.session import USAGE, CommandError, Options, Session, command, confirm, warn

if TYPE_CHECKING:
    from gatepost.client import GatepostClient, Selection
    from gatepost.client.operations import Operation, Preview, UndoResult
    from gatepost.client.values import BulkResult

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, or beginnings that fit one message")]
All = Annotated[bool, typer.Option("--all", help="Every message")]
Selected = Annotated[str, typer.Option("--frozen", metavar="TOKEN", help="The messages that `queue preview` froze")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show how many messages are meant")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="At most this many, 0 = all")]

SAMPLE: Options = {"ids": (Ids, None), **FILTER, "all_": (All, False)}
SELECTION: Options = {**SAMPLE, "frozen": (Selected, ""), "dry_run": (DryRun, False)}

Call = Callable[["GatepostClient", "Selection", bool], "Awaitable[BulkResult]"]


def _selection(values: dict[str, Any], word: str) -> "Selection":
    """Exactly one of ids, filter options, --all and --frozen. Raises CommandError, ValueError."""
    from gatepost.client import ALL, Frozen

    ids, wanted, token = values["ids"] or [], filter_of(values), values.get("frozen", "")
    if sum((bool(ids), wanted is not None, values["all_"], bool(token))) != 1:
        raise CommandError(f"give ids, or filter options, or --all, or --frozen: which messages are to be {word}?", USAGE)
    if token:
        return Frozen(token)
    return ids or wanted or ALL


@command(app, "preview", options=SAMPLE)
async def preview(
    session: Session,
    options: dict[str, Any],
    sample: Annotated[int, typer.Option("--sample", min=1, max=100, help="Messages to show")] = 10,
) -> None:
    """Freeze a selection: show what it means now, and a token for hold, release, retry, remove and reroute."""
    selection = _selection(options, "frozen")
    async with session.client() as client:
        found = await client.queue.preview(selection, sample_size=sample)
    if session.json:
        print_json(found)
        return
    _show_preview(found)
    print(f"\ntoken {found.token}\nvalid until {local_time(found.expires)}, for you, while the server runs")


def _show_preview(found: "Preview") -> None:
    held = f", {found.held} of them held" if found.held else ""
    print(f"{count_of(found.messages)}, {found.recipients} recipients{held}, {human_size(found.octets)}")
    for text in found.warnings:
        warn(text)
    if found.sample:
        print()
        message_table(list(found.sample))
    if found.messages > len(found.sample):
        print(f"… and {found.messages - len(found.sample)} more")


async def _act(session: Session, word: str, values: dict[str, Any], call: Call, *, ask: bool = False) -> None:
    """Do something to the messages meant. A filter or --all is frozen first, so that what is shown is what is changed."""
    from gatepost.client import Frozen

    selection = _selection(values, word)
    at_once = values["dry_run"] or values["ids"] or (isinstance(selection, Frozen) and not ask)
    async with session.client() as client:
        if not at_once:
            found = await client.queue.preview(selection)
            if not session.json:
                print(f"{count_of(found.messages)} selected")
            if ask and found.messages:
                if not session.json:
                    _show_preview(found)
                confirm(f"{count_of(found.messages)} will be {word}.", yes=False)
            selection = Frozen(found.token)
        result = await call(client, selection, values["dry_run"])
    report(session, word, result, dry_run=values["dry_run"])


def report(session: Session, word: str, result: "BulkResult", *, dry_run: bool) -> None:
    """Print what a bulk call did, or would do, and how to undo it."""
    for warning in result.warnings:
        warn(warning)
    if session.json:
        print_json(result)
        return
    if result.withheld:
        warn(f"{count_of(result.withheld)} in quarantine left alone; see `gatepost quarantine`")
    if result.gone:
        print(f"{count_of(result.gone)} left the queue since the preview")
    if dry_run:
        print(f"nothing was changed: {count_of(result.matched)} would be {word}")
    elif result.matched:
        rest = result.matched - result.changed
        print(f"{count_of(result.changed)} {word}" + (f", {rest} unchanged" if rest > 0 else ""))
    if result.undo_until is not None:
        print(f"until {local_time(result.undo_until)}: gatepost queue undo {result.operation_id}", file=sys.stderr)


def count_of(count: int) -> str:
    """A number of messages in words."""
    return "1 message" if count == 1 else f"{count} messages"


@command(app, "hold", options=SELECTION)
async def hold(session: Session, options: dict[str, Any]) -> None:
    """Stop deliveries of messages until they are released."""
    await _act(session, "held", options, lambda client, selection, dry: client.queue.hold(selection, dry_run=dry))


@command(app, "release", options=SELECTION)
async def release(session: Session, options: dict[str, Any]) -> None:
    """Let held messages go on, now."""
    await _act(session, "released", options, lambda client, selection, dry: client.queue.release(selection, dry_run=dry))


@command(app, "retry", options=SELECTION)
async def retry(session: Session, options: dict[str, Any]) -> None:
    """Try messages now, whatever their back-off."""
    await _act(session, "made due now", options, lambda client, selection, dry: client.queue.retry(selection, dry_run=dry))


@command(app, "remove", options=SELECTION)
async def remove(
    session: Session,
    options: dict[str, Any],
    dsn: Annotated[bool, typer.Option("--dsn", help="Tell the senders at once; then it cannot be undone")] = False,
    yes: Yes = False,
) -> None:
    """Take messages out of the queue. For a while `queue undo` brings them back."""

    async def call(client: "GatepostClient", selection: "Selection", dry: bool) -> "BulkResult":
        return await client.queue.remove(selection, send_dsn=dsn, dry_run=dry)

    await _act(session, "removed", options, call, ask=not yes)


@command(app, "reroute", options={name: option for name, option in SELECTION.items() if name != "recipient"})
async def reroute(
    session: Session,
    options: dict[str, Any],
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="ADDRESS", help="With one ID: only this one; may be repeated. Else a glob"),
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Deliver to this address instead")] = "",
    host: Annotated[str, typer.Option("--host", help="Send to this host instead")] = "",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of --host")] = 0,
    tls: Annotated[str, typer.Option("--tls", help="none, opportunistic, required or verified")] = "",
    lmtp: Annotated[bool, typer.Option("--lmtp", help="Speak LMTP to --host")] = False,
    by_rules: Annotated[bool, typer.Option("--by-rules", help="Decide again by the rules as they are now")] = False,
) -> None:
    """Give the pending recipients of messages another way."""
    from gatepost.client import RerouteTarget, Route

    if sum((bool(to), bool(host), by_rules)) != 1:
        raise CommandError("give exactly one of --to, --host and --by-rules", USAGE)
    route = Route("lmtp" if lmtp else "smtp", host=host, port=port, tls=tls) if host else None
    ids = options["ids"] or []
    if len(ids) != 1 or options["dry_run"]:
        if len(recipient or ()) > 1 or (recipient and ids):
            raise CommandError("several --recipient, or one beside ids, need exactly one ID", USAGE)
        await _reroute_many(session, {**options, "recipient": (recipient or [""])[0]}, RerouteTarget(route, to))
        return
    _selection({**options, "recipient": ""}, "rerouted")
    async with session.client() as client:
        routes = await client.queue.reroute(ids[0], recipients=recipient or (), route=route, new_address=to)
    session.done(routes, "\n".join(f"{clean(route.address)} now goes to {route.destination or route.kind}" for route in routes))


async def _reroute_many(session: Session, options: dict[str, Any], target: Any) -> None:
    async def call(client: "GatepostClient", selection: "Selection", dry: bool) -> "BulkResult":
        done = await client.queue.reroute_all(selection, target, dry_run=dry)
        if done.refused:
            warn(f"{count_of(done.refused)} cannot go that way: {done.first_refusal}")
        return done.result

    await _act(session, "rerouted", options, call)


@command(app, "operations")
async def operations(session: Session, limit: Limit = 20) -> None:
    """What was done to messages, newest first, and what of it can be undone."""
    async with session.client() as client:
        found = [one async for one in client.queue.operations(limit=limit or None, warn=warn)]
    if session.json:
        print_json(found)
        return
    rows = ((one.operation_id, age(one.started), one.kind, one.actor, str(one.changed), _undoable(one), one.selection) for one in found)
    print_table(["!OPERATION", ">AGE", "WHAT", "BY", ">MESSAGES", "UNDO", "SELECTION"], rows, empty="no operations")


def _undoable(one: "Operation") -> str:
    if one.undo_time is not None:
        return f"undone {age(one.undo_time)} ago by {one.undone_by}"
    cut = "interrupted, " if one.state == "interrupted" else ""
    if one.undo_until is None:
        return f"{cut}no: {one.reason}"
    return f"{cut}for {human_span(one.undo_until - datetime.now(UTC))}"


@command(app, "undo")
async def undo(
    session: Session,
    id_: Annotated[str, typer.Argument(metavar="[ID]", help="As `queue operations` shows it; without it your newest")] = "",
) -> None:
    """Put back what an operation changed: hold, release, remove or reroute."""
    async with session.client() as client:
        done = await client.queue.undo(id_)
    for warning in done.warnings:
        warn(warning)
    if session.json:
        print_json(done)
        return
    print(f"{done.operation.kind} of {local_time(done.operation.started)} undone: {_undo_text(done.result)}")


def _undo_text(result: "UndoResult") -> str:
    parts = (
        (result.undone, "as before"),
        (result.partly, "in part as before"),
        (result.finished, "not in the queue any more"),
        (result.changed_later, "changed by a later operation, left alone"),
        (result.untouched, "had not been changed"),
        (result.already_undone, "undone before"),
        (result.unreadable, "cannot be read"),
    )
    return ", ".join(f"{count_of(count)} {words}" for count, words in parts if count) or "no messages"


@command(app, "causes")
async def causes(session: Session, limit: Limit = 20) -> None:
    """Why mail waits: recipients whose last attempt failed, grouped by cause."""
    async with session.client() as client:
        found = await client.queue.causes(limit or 1000)
    for warning in found.warnings:
        warn(warning)
    if session.json:
        print_json(found)
        return
    for one in found.causes:
        status = " ".join(part for part in (str(one.code or ""), one.enhanced) if part)
        held = f", {one.held} held" if one.held else ""
        print(clean(f"{one.recipients} recipients in {count_of(one.messages)}{held}: {one.kind} {status} {one.host}").rstrip())
        reply = one.example_reply
        example = f"{reply.code} {reply.enhanced} {reply.text}" if reply is not None else one.example_reason
        print_fields(
            [
                ("  text", one.text),
                ("  oldest", f"{age(one.oldest)} ago"),
                ("  next", until(one.next_attempt)),
                ("  example", f"{one.example_message_id} {one.example_recipient}"),
                ("", example),
            ]
        )
    if not found.causes:
        print("nothing waits after a failed attempt")
    elif found.recipients > sum(one.recipients for one in found.causes):
        print(f"… and {found.recipients - sum(one.recipients for one in found.causes)} recipients with other causes")
