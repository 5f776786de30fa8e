"""`gatepost trust`: who may relay, and who may not; in order, the first entry that fits decides."""

from typing import Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import USAGE, CommandError, Session, command, group, saved

trust_app = group("Who may relay: entries in order, the first that fits decides.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="What the entry is known by")]
Etag = Annotated[str, typer.Option("--etag", help="Only if the list is still this version, as `list --json` gave it")]


@command(trust_app, "list")
async def trust_list(session: Session) -> None:
    """List entries in their order."""
    from gatepost.client.flow import TrustEntry

    async with session.client() as client:
        entries, etag = await client.flow.list(TrustEntry)
    if session.json:
        print_json({"entries": entries, "etag": etag})
        return
    rows = ((str(n), one.name, one.action, clean(_fits(one)), clean(one.comment)) for n, one in enumerate(entries, 1))
    print_table([">#", "!NAME", "ACTION", "FITS", "COMMENT"], rows, empty="no entries: logins and trust.networks decide")


@command(trust_app, "add")
async def trust_add(
    session: Session,
    name: Name,
    distrust: Annotated[bool, typer.Option("--distrust", help="Those it fits may not relay")] = False,
    network: Annotated[list[str] | None, typer.Option("--network", metavar="NETWORK", help="192.0.2.0/24; may be repeated")] = None,
    user: Annotated[list[str] | None, typer.Option("--user", help="Who has logged in: an address, *@DOMAIN or *")] = None,
    certificate: Annotated[list[str] | None, typer.Option("--certificate", help="sha256:HEX or subject:PATTERN")] = None,
    sender: Annotated[list[str] | None, typer.Option("--sender", help="Envelope sender: an address, a pattern, or <>")] = None,
    comment: Annotated[str, typer.Option("--comment", help="A line for people")] = "",
    position: Annotated[int, typer.Option("--position", min=0, help="Place in the list, from 1 [the end, or where it is]")] = 0,
    etag: Etag = "",
) -> None:
    """Add an entry, or replace the one of this name. It fits when each kind of thing it names fits."""
    from gatepost.client.flow import TrustEntry

    if not (network or user or certificate or sender):
        raise CommandError("say whom it fits: --network, --user, --certificate, --sender", USAGE)
    entry = TrustEntry(
        "distrust" if distrust else "trust",
        name,
        tuple(network or ()),
        tuple(user or ()),
        tuple(certificate or ()),
        tuple(sender or ()),
        comment,
    )
    async with session.client() as client:
        made = await client.flow.put(entry, position=position, etag=etag)
    saved(session, made)
    session.done({"name": name, "etag": made.etag, "warnings": made.warnings}, f"trust entry {name}: {entry.action} {_fits(entry)}")


@command(trust_app, "remove")
async def trust_remove(session: Session, name: Name, etag: Etag = "") -> None:
    """Remove an entry."""
    from gatepost.client.flow import TrustEntry

    async with session.client() as client:
        await client.flow.delete(TrustEntry, name, etag=etag)
    session.done({"name": name, "removed": True}, f"trust entry {name} removed")


def _fits(entry: object) -> str:
    parts = [f"{kind} {', '.join(found)}" for kind in ("networks", "users", "certificates", "senders") if (found := getattr(entry, kind))]
    return "; ".join(parts)
