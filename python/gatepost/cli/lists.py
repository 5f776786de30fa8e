"""`gatepost list`: members of mailing lists, and posts that wait for an owner. Lists themselves are handlers: `gatepost handler add`."""

from typing import Annotated

import typer

from gatepost.cli.output import clean, print_json, print_table
from gatepost.cli.session import USAGE, CommandError, Session, command, group

list_app = group("Mailing lists: members, and posts that wait. A list is made by: gatepost handler add DOMAIN NAME --kind list")

Address = Annotated[str, typer.Argument(metavar="LIST", help="The list's address")]
Member = Annotated[str, typer.Argument(metavar="ADDRESS", help="The member's address")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `list held` shows it, or its first 8 characters and more")]

STATES = ("subscribed", "unsubscribed", "disabled")
ACTIONS = ("options", "subscribe", "unsubscribe", "digest", "each")


@command(list_app, "list")
async def list_list(session: Session) -> None:
    """List the mailing lists."""
    async with session.client() as client:
        found = [one async for one in client.lists.list()]
    if session.json:
        print_json(found)
        return
    rows = ((one.address, str(one.members), str(one.held), clean(one.name)) for one in found)
    print_table(["!LIST", ">MEMBERS", ">WAITING", "NAME"], rows, empty="no mailing lists")


@command(list_app, "members")
async def list_members(session: Session, address: Address) -> None:
    """List the members of a list, and who signed off."""
    async with session.client() as client:
        found = [one async for one in client.lists.members(address)]
    if session.json:
        print_json(found)
        return
    rows = (
        (clean(one.address), one.state, "digest" if one.digest else "each post", str(one.bounces or ""), "" if one.in_handler else "self")
        for one in found
    )
    print_table(["!MEMBER", "STATE", "GETS", ">BOUNCES", "ADDED BY"], rows, empty="no members")


@command(list_app, "set")
async def list_set(
    session: Session,
    address: Address,
    member: Member,
    state: Annotated[str, typer.Option("--state", help="subscribed, unsubscribed or disabled [subscribed for a new one]")] = "",
    digest: Annotated[bool | None, typer.Option("--digest/--no-digest", help="Posts of a day as one mail")] = None,
) -> None:
    """Add a member beside the handler's targets, or change one; its bounces are forgotten."""
    if state and state not in STATES:
        raise CommandError(f"--state: must be {', '.join(STATES)} (got {state!r})", USAGE)
    async with session.client() as client:
        one = await client.lists.set_member(address, member, state=state, digest=digest)
    session.done(one, f"{one.address} is {one.state}{', by digest' if one.digest else ''}")


@command(list_app, "forget")
async def list_forget(session: Session, address: Address, member: Member) -> None:
    """Forget what a member asked for: the handler alone counts again."""
    async with session.client() as client:
        await client.lists.forget_member(address, member)
    session.done({"list": address, "address": member, "forgotten": True}, f"what {member} asked for is forgotten")


@command(list_app, "held")
async def list_held(session: Session, address: Annotated[str, typer.Argument(metavar="[LIST]", help="Default: of all lists")] = "") -> None:
    """List posts that wait for an owner."""
    async with session.client() as client:
        found = await client.lists.held(address)
    if session.json:
        print_json(found)
        return
    rows = ((one.message_id, one.list, clean(one.author or one.sender), clean(one.subject)) for one in found)
    print_table(["!ID", "LIST", "FROM", "SUBJECT"], rows, empty="no post waits")


@command(list_app, "approve")
async def list_approve(session: Session, address: Address, post: Id) -> None:
    """Let a post go to the members."""
    async with session.client() as client:
        one = await client.lists.approve(address, post)
    session.done(one, f"{one.message_id} goes to the members of {one.list}")


@command(list_app, "reject")
async def list_reject(
    session: Session, address: Address, post: Id, dsn: Annotated[bool, typer.Option("--dsn", help="Tell its sender")] = False
) -> None:
    """Remove a post; `gatepost queue undo` takes it back for a while."""
    async with session.client() as client:
        one = await client.lists.reject(address, post, send_dsn=dsn)
    session.done(one, f"{one.message_id} is removed")


@command(list_app, "link")
async def list_link(
    session: Session,
    address: Address,
    member: Member,
    action: Annotated[str, typer.Option("--action", help="options, subscribe, unsubscribe, digest or each")] = "options",
) -> None:
    """Sign a link for a member; it does not expire."""
    if action not in ACTIONS:
        raise CommandError(f"--action: must be {', '.join(ACTIONS)} (got {action!r})", USAGE)
    async with session.client() as client:
        token, url = await client.lists.link(address, member, action)
    session.done({"token": token, "url": url}, url or token)


@command(list_app, "follow")
async def list_follow(
    session: Session,
    link: Annotated[str, typer.Argument(metavar="TOKEN", help="What stands behind lists.link_base in a link")],
    choice: Annotated[str, typer.Option("--choice", help="For a link to options: subscribe, unsubscribe, digest or each")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would do")] = False,
) -> None:
    """Do what a signed link stands for, as the page behind it does."""
    if choice and choice not in ACTIONS[1:]:
        raise CommandError(f"--choice: must be {', '.join(ACTIONS[1:])} (got {choice!r})", USAGE)
    async with session.client() as client:
        one = await client.lists.resolve(link, dry_run=dry_run, choice=choice)
    about = one.member.address if one.member else f"the post {one.post.message_id}" if one.post else ""
    session.done(one, one.text or f"{one.action}: {about}, {one.list}")
