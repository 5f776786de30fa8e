"""`gatepost policy`: attachment policies of a server. What one would do to a file or a queued message is `gatepost scan`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gatepost.cli.output import clean, print_fields, print_json, print_table
from gatepost.cli.session import FAILED, USAGE, CommandError, Session, command, group

policy_app = group("Attachment policies: what becomes of mail because of what is in it.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="shipped, none, or one of your own")]
File = Annotated[str, typer.Argument(metavar="FILE", help="TOML; - is standard input")]
Etag = Annotated[str, typer.Option("--etag", help="Only if it is still this version, as `show --json` gave it")]

MAX_TEXT = 1 << 20


@command(policy_app, "list")
async def policy_list(session: Session) -> None:
    """List policies."""
    async with session.client() as client:
        found = [one async for one in client.policies.list()]
    if session.json:
        print_json(found)
        return
    rows = ((one.name, str(one.rule_count), ", ".join(one.used_by[:5]), clean(one.description)) for one in found)
    print_table(["!NAME", ">RULES", "USED BY", "WHAT"], rows, empty="no policies")


@command(policy_app, "show")
async def policy_show(session: Session, name: Name) -> None:
    """Show a policy's text."""
    async with session.client() as client:
        one = await client.policies.get(name)
    if session.json:
        print_json(one)
        return
    print_fields([("name", one.name), ("rules", str(one.rule_count)), ("used by", ", ".join(one.used_by)), ("etag", one.etag)])
    print("\n" + ("\n".join(clean(line) for line in one.text.splitlines()) if one.text else clean(one.description)))


@command(policy_app, "check")
async def policy_check(session: Session, file: File) -> None:
    """Say whether the server would take a policy. Exit status 1: it would not."""
    text = read_text(file)
    async with session.client() as client:
        fault = await client.policies.check(text)
    if fault:
        raise CommandError(f"{file}: {fault}", FAILED)
    session.done({"file": file, "fault": ""}, f"{file} is a policy")


@command(policy_app, "apply")
async def policy_apply(session: Session, name: Name, file: File, etag: Etag = "") -> None:
    """Add a policy or replace it by what a file says."""
    text = read_text(file)
    async with session.client() as client:
        made = await client.policies.apply(name, text, etag=etag)
    session.done(made, f"policy {made.name}: {made.rule_count} rules" + (f", used by {', '.join(made.used_by)}" if made.used_by else ""))


@command(policy_app, "remove")
async def policy_remove(session: Session, name: Name, etag: Etag = "") -> None:
    """Remove a policy that no rule and no handler names."""
    async with session.client() as client:
        await client.policies.delete(name, etag=etag)
    session.done({"name": name, "removed": True}, f"policy {name} removed")


def read_text(file: str) -> str:
    """A file or standard input. Raises CommandError when it is no text or too long."""
    data = sys.stdin.buffer.read(MAX_TEXT + 1) if file == "-" else Path(file).read_bytes()
    if len(data) > MAX_TEXT:
        raise CommandError(f"{file}: longer than {MAX_TEXT:,} octets", USAGE)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise CommandError(f"{file}: not UTF-8 (octet {fault.start})", USAGE) from fault
