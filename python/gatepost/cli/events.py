"""`gatepost events`: notices of policies, and what else the server says to whoever listens."""

from typing import TYPE_CHECKING, Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import Session, warn

if TYPE_CHECKING:
    from gatepost.client.events import Event


async def events(
    session: Session,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for further ones, until interrupted")] = False,
    kind: Annotated[str, typer.Option("--kind", help="policy-notice, policy-fault, rules-changed or worker alone")] = "",
    limit: Annotated[int, typer.Option("--limit", min=0, max=5000, help="So many of the newest")] = 50,
) -> None:
    """Show what policies (action notify) and the server gave notice of, oldest first. Events are kept in memory, until a restart."""
    async with session.client() as client:
        found = await client.events.newest(limit, kind=kind, warn=warn) if limit else []
        if not watch:
            _show(session, found)
            return
        for one in found:
            _line(session, one)
        async for one in client.events.watch(kind=kind):
            _line(session, one)


def _show(session: Session, found: "list[Event]") -> None:
    if session.json:
        print_json(found)
        return
    rows = ((one.time.strftime("%Y-%m-%d %H:%M:%S"), one.kind, clean(one.text), clean(_fields(one))) for one in found)
    print_table(["!TIME", "!KIND", "TEXT", "ABOUT"], rows, empty="no events")


def _line(session: Session, one: "Event") -> None:
    if session.json:
        print_json(one)
    else:
        print(clean(f"{one.time:%Y-%m-%d %H:%M:%S}  {one.kind}  {one.text}  {_fields(one)}".rstrip()), flush=True)


def _fields(one: "Event") -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(one.fields.items()))
