"""`gatepost quarantine …`: list, show, cat, release, allow, delete, rescan; allowed senders; digest."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.output import age, clean, human_size, local_time, print_fields, print_json, print_table, shown_ids, to_json
from gatepost.cli.queue import print_journal, span_of
from gatepost.cli.queue_actions import All, DryRun, Ids, Limit, Yes, count_of, report
from gatepost.cli.session import USAGE, CommandError, Options, Session, command, confirm, group, warn

if TYPE_CHECKING:
    from gatepost.client import GatepostClient, QuarantineFilter
    from gatepost.client.quarantine import QuarantineDetails, QuarantinedMessage, Released, Scan, ScannerAnswer, Selection

app = group("Look at mail that scanning withheld, release or delete it.")

Id = Annotated[str, typer.Argument(metavar="ID")]
To = Annotated[list[str] | None, typer.Option("--only", metavar="ADDRESS", help="Only this recipient; may be repeated")]

FILTER: Options = {
    "sender": (Annotated[str, typer.Option("--sender", metavar="GLOB", help="Envelope sender; <> is the null sender")], ""),
    "recipient": (Annotated[str, typer.Option("--recipient", metavar="GLOB", help="A recipient")], ""),
    "domain": (Annotated[str, typer.Option("--domain", help="Domain of a recipient")], ""),
    "older_than": (Annotated[str, typer.Option("--older-than", metavar="SPAN", help="Received longer ago: 90s, 10m, 2h, 3d")], ""),
    "newer_than": (Annotated[str, typer.Option("--newer-than", metavar="SPAN", help="Received since")], ""),
    "text": (Annotated[str, typer.Option("--text", help="In the verdict: policy, rule, reason, finding, virus name")], ""),
    "state": (Annotated[str, typer.Option("--state", help="quarantined, or waiting (for a scanner); both if not given")], ""),
}
SELECTION: Options = {"ids": (Ids, None), **FILTER, "all_": (All, False), "dry_run": (DryRun, False)}


def _filter(values: dict[str, Any]) -> "QuarantineFilter | None":
    from gatepost.client import QuarantineFilter

    texts = {name: values[name] for name in ("sender", "recipient", "domain", "text", "state")}
    made = QuarantineFilter(**texts, older_than=span_of(values["older_than"]), newer_than=span_of(values["newer_than"]))
    return None if made == QuarantineFilter() else made


def _selection(values: dict[str, Any], word: str) -> "Selection":
    from gatepost.client import ALL

    ids, wanted = values["ids"] or [], _filter(values)
    if sum((bool(ids), wanted is not None, values["all_"])) != 1:
        raise CommandError(f"give ids, or filter options, or --all: which messages are to be {word}?", USAGE)
    return ids or wanted or ALL


@command(app, "list", options=FILTER)
async def list_(session: Session, options: dict[str, Any], limit: Limit = 100) -> None:
    """List messages, oldest first."""
    async with session.client() as client:
        found = [
            one
            async for one in client.quarantine.list(_filter(options), limit=limit or None, page_size=min(limit or 1000, 1000), warn=warn)
        ]
    if session.json:
        print_json(found)
        return
    ids = shown_ids([one.message.message_id for one in found])
    rows = (_row(shown, one) for shown, one in zip(ids, found, strict=True))
    print_table(["!ID", ">AGE", ">SIZE", "SENDER", "RECIPIENT", "SUBJECT", "VERDICT"], rows, empty="nothing is in quarantine")


def _row(shown: str, one: "QuarantinedMessage") -> list[str]:
    message = one.message
    kept = ("quarantine", "scan-wait")
    first = next((rcpt.address for rcpt in message.recipients if rcpt.state == "PENDING" and rcpt.destination in kept), "")
    more = f" +{one.withheld_count - 1}" if one.withheld_count > 1 else ""
    verdict = one.verdict.text if one.verdict is not None else ""
    why = f"waits for a scanner ({verdict})" if one.state == "waiting" else verdict
    return [shown, age(message.received), human_size(message.size), message.sender or "<>", first + more, one.subject[:40], why]


@command(app, "show")
async def show(session: Session, id_: Id) -> None:
    """Show a message: envelope, verdicts with findings, history, header."""
    async with session.client() as client:
        details = await client.quarantine.get(id_)
    if session.json:
        print_json({**to_json(details.found), "scans": details.scans, "history": details.history, "headers": details.headers})
        return
    _details(details)


def _details(details: "QuarantineDetails") -> None:
    found, message = details.found, details.found.message
    print_fields(
        [
            ("id", message.message_id),
            ("state", "waits for a scanner" if found.state == "waiting" else "in quarantine"),
            ("sender", message.sender or "<>"),
            ("from", found.header_from),
            ("subject", found.subject),
            ("size", f"{human_size(message.size)} ({message.size} octets)"),
            ("received", f"{local_time(message.received)} ({age(message.received)} ago) from {message.origin.client_address or 'here'}"),
            ("deleted", local_time(found.expires) if found.expires is not None else ""),
        ]
    )
    print("\nRECIPIENTS")
    for one in message.recipients:
        print(f"  {clean(one.address)}  {one.destination if one.state == 'PENDING' else one.state.lower()}")
    for scan in details.scans:
        _scan(scan)
    print_journal(details.history, details.headers)


def _scan(scan: "Scan") -> None:
    verdict = scan.verdict
    print(f"\nSCANNED {local_time(scan.time)}" + (f" for {clean(scan.by)}" if scan.by else ""))
    print(f"  {clean(verdict.text)}")
    print_fields([("  reason", verdict.reason)])
    for finding in verdict.findings:
        print(
            f"  {finding.action}: {clean(finding.what)}: {clean(finding.path)}" + (f"  sha256 {finding.sha256}" if finding.sha256 else "")
        )
    if verdict.omitted:
        print(f"  … and {verdict.omitted} more findings")
    for answer in verdict.answers:
        print(f"  {clean(answer.scanner)}: {clean(_said(answer))}")


def _said(answer: "ScannerAnswer") -> str:
    """'suspicious GTUBE (reject, 15)'."""
    action = answer.action if answer.action != answer.name else ""  # rspamd without a symbol has nothing else to say
    opinion = ", ".join(part for part in (action, f"{answer.score:g}" if answer.score else "") if part)
    return " ".join(part for part in (answer.outcome, answer.name, f"({opinion})" if opinion else "") if part)


@command(app, "cat")
async def cat(session: Session, id_: Id) -> None:
    """Write the message to standard output. It is most likely harmful. Needs the role admin."""
    async with session.client() as client:
        async for chunk in client.quarantine.content(id_):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@command(app, "release", options=SELECTION)
async def release(session: Session, options: dict[str, Any], only: To = None, yes: Yes = False) -> None:
    """Deliver messages by the rules as they are now."""
    selection = _selection(options, "released")
    async with session.client() as client:
        await _ask(client, session, selection, options, "released", yes=yes)
        done = await client.quarantine.release(selection, recipients=only or (), dry_run=options["dry_run"])
    _released(session, done, dry_run=options["dry_run"])


@command(app, "allow")
async def allow(
    session: Session,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, or beginnings that fit one message")],
    for_recipients_only: Annotated[bool, typer.Option("--for-recipients-only", help="Allow them to these recipients, not to all")] = False,
) -> None:
    """Release messages, and let mail of their senders pass policy from now on (not what a scanner finds infected)."""
    async with session.client() as client:
        done = await client.quarantine.allow(ids, for_recipients_only=for_recipients_only)
    if not session.json:
        for one in done.allowed:
            print(f"{clean(one.sender)} is allowed" + (f" for {clean(one.recipient)}" if one.recipient else ""))
    _released(session, done, dry_run=False)


def _released(session: Session, done: "Released", *, dry_run: bool) -> None:
    if session.json:
        print_json(done)
        return
    report(session, "released", done.result, dry_run=dry_run)
    if done.refused:
        warn(f"{count_of(done.refused)} not released, or not to all: {done.first_refusal}")


@command(app, "delete", options=SELECTION)
async def delete(session: Session, options: dict[str, Any], only: To = None, yes: Yes = False) -> None:
    """Take messages out of the queue. For a while `queue undo` brings them back."""
    selection = _selection(options, "deleted")
    async with session.client() as client:
        await _ask(client, session, selection, options, "deleted", yes=yes)
        result = await client.quarantine.delete(selection, recipients=only or (), dry_run=options["dry_run"])
    report(session, "deleted", result, dry_run=options["dry_run"])


async def _ask(
    client: "GatepostClient", session: Session, selection: "Selection", options: dict[str, Any], word: str, *, yes: bool
) -> None:
    """Before many messages are changed: how many, and whether that is meant."""
    if options["dry_run"] or options["ids"] or yes:
        return
    found = await client.quarantine.delete(selection, dry_run=True)
    if found.matched:
        confirm(f"{count_of(found.matched)} will be {word}.", yes=False)


@command(app, "rescan")
async def rescan(
    session: Session,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, or beginnings that fit one message")],
    release_if_clean: Annotated[bool, typer.Option("--release-if-clean", help="Deliver what is found clean now")] = False,
) -> None:
    """Scan messages again by today's policy and signatures. They stay where they are unless told otherwise."""
    async with session.client() as client:
        done = [(one, await client.quarantine.rescan(one, release_if_clean=release_if_clean)) for one in ids]
    if session.json:
        print_json([{"message_id": one, **to_json(found)} for one, found in done])
        return
    for one, found in done:
        end = ", released" if found.released else f", not released: {found.refusal}" if found.refusal else ""
        print(clean(f"{one}  {found.verdict.text}{end}"))


@command(app, "allowed")
async def allowed(session: Session) -> None:
    """Senders whose mail passes policy."""
    async with session.client() as client:
        found = [one async for one in client.quarantine.allowed_senders()]
    if session.json:
        print_json(found)
        return
    rows = ((one.sender, one.recipient or "everybody", one.author, age(one.created)) for one in found)
    print_table(["SENDER", "FOR", "BY", ">AGE"], rows, empty="no sender is allowed")


@command(app, "allow-sender")
async def allow_sender(
    session: Session, sender: str, recipient: Annotated[str, typer.Option("--recipient", help="Only to this address")] = ""
) -> None:
    """Let a sender's mail pass policy."""
    async with session.client() as client:
        made = await client.quarantine.allow_sender(sender, recipient)
    session.done(made, f"{clean(made.sender)} is allowed" + (f" for {clean(made.recipient)}" if made.recipient else ""))


@command(app, "disallow")
async def disallow(
    session: Session, sender: str, recipient: Annotated[str, typer.Option("--recipient", help="As it was allowed")] = ""
) -> None:
    """Take back that a sender is allowed."""
    async with session.client() as client:
        await client.quarantine.disallow_sender(sender, recipient)
    session.done({"sender": sender, "recipient": recipient}, f"{clean(sender)} is not allowed any more")


@command(app, "digest")
async def digest(
    session: Session,
    mailbox: Annotated[str, typer.Option("--mailbox", metavar="ADDRESS", help="Whose digest")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print it; the only thing this does")] = False,
) -> None:
    """Print the digest of a mailbox as it would be sent now. Its links work: keep it to yourself."""
    if not dry_run:
        raise CommandError("digests are sent by the server (quarantine.digest); give --dry-run to see one", USAGE)
    async with session.client() as client:
        found = await client.quarantine.digest(mailbox)
    if session.json:
        print_json({"message": found.message.decode("utf-8", "replace"), "listed": found.listed, "omitted": found.omitted})
        return
    print(
        found.message.decode("utf-8", "replace") or f"nothing is in quarantine for {clean(mailbox)}", end="\n" if not found.message else ""
    )


@command(app, "resolve")
async def resolve(
    session: Session,
    link: Annotated[str, typer.Argument(metavar="TOKEN", help="What stands in a digest's link behind quarantine.link_base")],
    dry_run: DryRun = False,
) -> None:
    """Do what a link of a digest stands for, in place of the web page."""
    async with session.client() as client:
        done = await client.quarantine.resolve_link(link, dry_run=dry_run)
    would = "" if done.done else "would "
    session.done(done, clean(f"{would}{done.action} {done.message_id} for {done.recipient}"))
