"""`gatepost stage`: policies at the stages of a message: a condition, and what is done when it holds."""

from typing import TYPE_CHECKING, Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import FAILED, CommandError, Session, command, group, saved

if TYPE_CHECKING:
    from gatepost.client.flow import StagePolicy

stage_app = group("Policies at the stages of a message: conditions in CEL, and what is done when they hold.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the policy is known by")]
Etag = Annotated[str, typer.Option("--etag", help="Only if the list is still this version, as `list --json` gave it")]
At = Annotated[str, typer.Option("--at", help="connect, helo, mail, rcpt, route, data or deliver")]
When = Annotated[str, typer.Option("--when", metavar="CONDITION", help="In CEL: client.within('10.0.0.0/8') && sender.domain == 'a.test'")]


@command(stage_app, "list")
async def stage_list(session: Session) -> None:
    """List policies in their order."""
    from gatepost.client.flow import StagePolicy

    async with session.client() as client:
        policies, etag = await client.flow.list(StagePolicy)
    if session.json:
        print_json({"entries": policies, "etag": etag})
        return
    rows = (
        (str(n), one.name, one.stage if one.enabled else f"{one.stage} (off)", clean(_does(one)), clean(one.when))
        for n, one in enumerate(policies, 1)
    )
    print_table([">#", "!NAME", "AT", "DOES", "WHEN"], rows, empty="no policies")


@command(stage_app, "check")
async def stage_check(session: Session, when: When, at: At = "data") -> None:
    """Say whether the server would take a condition. Exit status 1: it would not."""
    from gatepost.client.flow import StagePolicy

    async with session.client() as client:
        _, fault = await client.flow.check(StagePolicy(name="x", stage=at, when=when, action="accept"))
    if fault:
        raise CommandError(fault, FAILED)
    session.done({"when": when, "fault": ""}, "the condition is understood")


@command(stage_app, "add")
async def stage_add(
    session: Session,
    name: Name,
    at: At,
    when: When,
    do: Annotated[
        str,
        typer.Option(
            "--do",
            metavar="ACTION",
            help="accept, reject, defer, hold, quarantine, tag, add-header, remove-header, reroute, copy, notify or limit",
        ),
    ],
    code: Annotated[int, typer.Option("--code", help="Of reject and defer [550, 451]")] = 0,
    text: Annotated[str, typer.Option("--text", help="Of the reply; what tag puts before the subject; the value of add-header")] = "",
    header: Annotated[str, typer.Option("--header", help="Name of the field to add or remove")] = "",
    address: Annotated[str, typer.Option("--address", help="Who gets a copy")] = "",
    host: Annotated[str, typer.Option("--host", help="Where reroute leads")] = "",
    port: Annotated[int, typer.Option("--port", help="Of that host")] = 25,
    tls: Annotated[str, typer.Option("--tls", help="none, opportunistic, required or verified")] = "opportunistic",
    most: Annotated[int, typer.Option("--most", min=0, help="How many limit takes …")] = 0,
    seconds: Annotated[int, typer.Option("--seconds", min=1, help="… in so many seconds …")] = 3600,
    by: Annotated[
        str, typer.Option("--by", help="… of each client, user, sender, recipient, sender-domain, recipient-domain or all")
    ] = "client",
    off: Annotated[bool, typer.Option("--off", help="Kept, but not asked")] = False,
    comment: Annotated[str, typer.Option("--comment", help="A line for people")] = "",
    position: Annotated[int, typer.Option("--position", min=0, help="Place in the list, from 1 [the end, or where it is]")] = 0,
    etag: Etag = "",
) -> None:
    """Add a policy, or replace the one of this name."""
    from gatepost.client.flow import StagePolicy

    policy = StagePolicy(
        comment=comment,
        name=name,
        stage=at,
        when=when,
        action=do,
        enabled=not off,
        code=code,
        text=text,
        header=header,
        address=address,
        host=host,
        port=port,
        tls=tls,
        most=most,
        seconds=seconds,
        by=by,
    )
    async with session.client() as client:
        made = await client.flow.put(policy, position=position, etag=etag)
    saved(session, made)
    session.done({"name": name, "etag": made.etag, "warnings": made.warnings}, f"policy {name} at {at}: {_does(policy)} when {when}")


@command(stage_app, "remove")
async def stage_remove(session: Session, name: Name, etag: Etag = "") -> None:
    """Remove a policy."""
    from gatepost.client.flow import StagePolicy

    async with session.client() as client:
        await client.flow.delete(StagePolicy, name, etag=etag)
    session.done({"name": name, "removed": True}, f"policy {name} removed")


def _does(policy: "StagePolicy") -> str:
    more = {
        "limit": f" {policy.most} in {policy.seconds} s by {policy.by}",
        "reroute": f" to {policy.host}:{policy.port}",
        "copy": f" to {policy.address}",
        "add-header": f" {policy.header}: {policy.text}",
        "remove-header": f" {policy.header}",
    }.get(policy.action, f" {policy.text!r}" if policy.text else "")
    return f"{policy.action}{more}"
