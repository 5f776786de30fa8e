"""`gatepost sender`: what holds for mail because of who sends it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import Session, command, group, saved

if TYPE_CHECKING:
    from gatepost.client.flow import SenderRule

sender_app = group("Sender rules: the way out, allowed addresses and limits, by who sends.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the rule is known by")]
Etag = Annotated[str, typer.Option("--etag", help="Only if the list is still this version, as `list --json` gave it")]
_WHOM = ("users", "networks", "domains")


@command(sender_app, "list")
async def sender_list(session: Session) -> None:
    """List sender rules in their order."""
    from gatepost.client.flow import SenderRule

    async with session.client() as client:
        rules, etag = await client.flow.list(SenderRule)
    if session.json:
        print_json({"entries": rules, "etag": etag})
        return
    rows = (
        (str(n), one.name, clean(_said(one, _WHOM)) or "everybody", clean(_does(one)), clean(one.comment)) for n, one in enumerate(rules, 1)
    )
    print_table([">#", "!NAME", "FITS", "DOES", "COMMENT"], rows, empty="no sender rules")


@command(sender_app, "add")
async def sender_add(
    session: Session,
    name: Name,
    user: Annotated[list[str] | None, typer.Option("--user", help="Who has logged in: an address, *@DOMAIN or *")] = None,
    network: Annotated[list[str] | None, typer.Option("--network", metavar="NETWORK", help="192.0.2.0/24")] = None,
    domain: Annotated[list[str] | None, typer.Option("--domain", help="Of the envelope sender: example.org or *.example.org")] = None,
    host: Annotated[str, typer.Option("--host", help="Smart host of mail that would go by MX or the default rule")] = "",
    port: Annotated[int, typer.Option("--port", help="Of the smart host")] = 25,
    tls: Annotated[str, typer.Option("--tls", help="none, opportunistic, required or verified")] = "opportunistic",
    implicit_tls: Annotated[bool, typer.Option("--implicit-tls", help="TLS from the first octet")] = False,
    username: Annotated[str, typer.Option("--username", help="Login at the smart host")] = "",
    password_ref: Annotated[str, typer.Option("--password-ref", help="Name of a secret: gatepost rules secret NAME")] = "",
    source_address: Annotated[str, typer.Option("--source-address", help="Address mail leaves from")] = "",
    helo: Annotated[str, typer.Option("--helo", help="Name in EHLO")] = "",
    allow_from: Annotated[list[str] | None, typer.Option("--allow-from", help="Address or pattern that sender and From may be")] = None,
    masquerade: Annotated[str, typer.Option("--masquerade", metavar="DOMAIN", help="Domain that sender and From get")] = "",
    messages_per_hour: Annotated[int, typer.Option("--messages-per-hour", min=0)] = 0,
    messages_per_day: Annotated[int, typer.Option("--messages-per-day", min=0)] = 0,
    recipients_per_hour: Annotated[int, typer.Option("--recipients-per-hour", min=0)] = 0,
    recipients_per_day: Annotated[int, typer.Option("--recipients-per-day", min=0)] = 0,
    count_by: Annotated[str, typer.Option("--count-by", help="user, client or domain")] = "user",
    comment: Annotated[str, typer.Option("--comment", help="A line for people")] = "",
    position: Annotated[int, typer.Option("--position", min=0, help="Place in the list, from 1 [the end, or where it is]")] = 0,
    etag: Etag = "",
) -> None:
    """Add a sender rule, or replace the one of this name. It fits when each kind of thing it names fits; naming none, everybody."""
    from gatepost.client.flow import SenderRule

    rule = SenderRule(
        comment=comment,
        name=name,
        users=tuple(user or ()),
        networks=tuple(network or ()),
        domains=tuple(domain or ()),
        host=host,
        port=port,
        tls=tls,
        implicit_tls=implicit_tls,
        username=username,
        password_ref=password_ref,
        source_address=source_address,
        helo=helo,
        allowed_from=tuple(allow_from or ()),
        masquerade=masquerade,
        messages_per_hour=messages_per_hour,
        messages_per_day=messages_per_day,
        recipients_per_hour=recipients_per_hour,
        recipients_per_day=recipients_per_day,
        count_by=count_by,
    )
    async with session.client() as client:
        made = await client.flow.put(rule, position=position, etag=etag)
    saved(session, made)
    session.done(
        {"name": name, "etag": made.etag, "warnings": made.warnings},
        f"sender rule {name}: {_said(rule, _WHOM) or 'everybody'}: {_does(rule)}",
    )


@command(sender_app, "remove")
async def sender_remove(session: Session, name: Name, etag: Etag = "") -> None:
    """Remove a sender rule."""
    from gatepost.client.flow import SenderRule

    async with session.client() as client:
        await client.flow.delete(SenderRule, name, etag=etag)
    session.done({"name": name, "removed": True}, f"sender rule {name} removed")


def _said(rule: "SenderRule", names: tuple[str, ...]) -> str:
    values = asdict(rule)
    return "; ".join(f"{name} {', '.join(found)}" for name in names if (found := values[name]))


def _does(rule: "SenderRule") -> str:
    """What differs from a rule that does nothing."""
    usual = asdict(type(rule)(name="x"))
    left = (*_WHOM, "comment", "name")
    shown = {name: value for name, value in asdict(rule).items() if name not in left and value != usual[name]}
    return "; ".join(f"{name} {', '.join(value) if isinstance(value, tuple) else value}" for name, value in shown.items())
