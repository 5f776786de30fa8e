"""`gatepost status | reload | stop | audit | send | version`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from gatepost.cli.output import clean, human_size, human_span, local_time, print_fields, print_json, print_table
from gatepost.cli.session import REFUSED, USAGE, CommandError, Session, confirm, warn

if TYPE_CHECKING:
    from gatepost.client.values import ServerStatus

CHUNK = 64 << 10
MAX_BODY = 50 << 20


async def status(session: Session) -> None:
    """Show what runs, where it listens, how it is."""
    async with session.client() as client:
        found = await client.server.status()
    if session.json:
        print_json(found)
        return
    _status(found)


def _status(found: "ServerStatus") -> None:
    print(f"Gatepost {found.version} on {found.hostname}, pid {found.pid}, up {human_span(found.uptime)}")
    queue = found.queue
    print_fields(
        [
            ("data", found.data_directory),
            ("queue", f"{queue.messages} messages, {queue.recipients} recipients, {queue.held} held, {queue.in_flight} being sent"),
            ("mail for", f"{found.domains} domain rules, {found.users} users, rule set version {found.rule_version}"),
            *(("disk", f"{human_size(disk.free_octets)} of {human_size(disk.total_octets)} free at {disk.path}") for disk in found.disks),
        ]
    )
    print()
    listeners = ((one.service, one.address, "from the start" if one.implicit_tls else "") for one in found.listeners)
    print_table(["LISTENER", "!ADDRESS", "TLS"], listeners)
    print()
    columns = ["WORKER", ">PID", "STATE", ">UP", ">RESTARTS", ">SESSIONS", ">MEMORY", "DETAIL"]
    rows = (
        (str(w.index), str(w.pid), w.state, human_span(w.uptime), str(w.restarts), str(w.sessions), human_size(w.rss_octets), w.detail)
        for w in found.workers
    )
    print_table(columns, rows, empty="no workers")
    if found.scanners:
        print()
        columns = ["SCANNER", "WORKER", "STATE", ">ASKED", ">REMEMBERED", ">ERRORS", "SIGNATURES", "FAULT"]
        rows = (
            (s.name, str(s.worker), s.state.replace("_", " "), str(s.asked), str(s.remembered), str(s.errors), s.signatures, s.fault)
            for s in found.scanners
        )
        print_table(columns, rows)
    for warning in found.warnings:
        warn(warning)


async def reload(session: Session) -> None:
    """Have the server read its configuration and certificates anew."""
    async with session.client() as client:
        restart_needed = await client.server.reload()
    text = "reloaded"
    if restart_needed:
        text += f"; these need a restart: {', '.join(restart_needed)}"
    session.done({"reloaded": True, "restart_needed": restart_needed}, text)


async def stop(session: Session, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False) -> None:
    """Stop the server, as SIGTERM does."""
    confirm("The server will stop.", yes=yes)
    async with session.client() as client:
        await client.server.drain()
    session.done({"stopping": True}, "stopping")


async def audit(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", min=1)] = 50,
    rpc: Annotated[str, typer.Option("--rpc", metavar="PREFIX", help="Only these calls: /gatepost.api.queue.v1.")] = "",
) -> None:
    """Show who changed what, newest first."""
    async with session.client() as client:
        records = [one async for one in client.server.audit_log(limit=limit, rpc_prefix=rpc)]
    if session.json:
        print_json(records)
        return
    rows = ((local_time(r.time), r.actor, r.rpc.rpartition("/")[2], r.outcome, r.request) for r in records)
    print_table(["TIME", "ACTOR", "CALL", "OUTCOME", "REQUEST"], rows, empty="no records")


async def send(
    session: Session,
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender and From; <> is the null sender")],
    to: Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="Recipient; may be repeated")],
    raw: Annotated[str, typer.Argument(metavar="[FILE]", help="A whole message to send as it is; - is standard input")] = "",
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="The same as FILE")] = "",
    subject: Annotated[str | None, typer.Option("--subject", help="Write a new message with this subject")] = None,
    body: Annotated[str | None, typer.Option("--body", help="Text of the new message [standard input]")] = None,
    hold: Annotated[bool, typer.Option("--hold", help="Put it into the queue held")] = False,
) -> None:
    """Put a message into the queue: a new one (--subject, --body), or a whole one from a file."""
    source = raw or file
    if (source and (subject is not None or body is not None)) or (raw and file):
        raise CommandError("give either FILE, or --subject and --body", USAGE)
    envelope_sender = "" if sender == "<>" else sender
    message = _file(source) if source else _composed(sender, to, subject or "", body)
    async with session.client() as client:
        done = await client.queue.submit(envelope_sender, to, message, hold=hold)
    for one in done.refused:
        print(f"gatepost: {one.address} refused: {one.reply.code} {one.reply.enhanced} {clean(one.reply.text)}", file=sys.stderr)
    session.done(done, f"queued as {done.message_id}")
    if done.refused:
        raise typer.Exit(REFUSED)


async def _file(name: str) -> AsyncIterator[bytes]:
    """A file's octets, or those of standard input for '-'. Raises OSError."""
    file: BinaryIO = sys.stdin.buffer if name == "-" else await asyncio.to_thread(Path(name).open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
    finally:
        if name != "-":
            file.close()


def _composed(sender: str, to: list[str], subject: str, body: str | None) -> bytes:
    """A plain-text message. Raises CommandError for what cannot stand in a header."""
    if body is None:
        if sys.stdin.isatty():
            print("Type the text, end with Ctrl-D:", file=sys.stderr)
        body = sys.stdin.read(MAX_BODY)
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = sender if sender != "<>" else "MAILER-DAEMON"
        message["To"] = ", ".join(to)
        message["Subject"] = subject
    except ValueError as error:
        raise CommandError(f"this cannot stand in a header: {error}", USAGE) from None
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].strip("<>") or None)
    message.set_content(body if body.endswith("\n") else f"{body}\n")
    return message.as_bytes()


async def version(session: Session) -> None:
    """Show the version of this program (`status` shows the server's)."""
    from gatepost import __version__

    session.done({"version": __version__}, f"gatepost {__version__}")
