"""`gatepost user | volume | token | mailbox`: who has mail here, where it lies, who may call the API."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gatepost.cli.output import human_size, local_time, print_fields, print_json, print_table, to_json
from gatepost.cli.rules import Etag, read_secret
from gatepost.cli.session import USAGE, CommandError, Session, command, confirm, group

if TYPE_CHECKING:
    from gatepost.client.values import Token

user_app = group("Users of hosted domains.")
volume_app = group("Directories that hold mailboxes.")
token_app = group("Tokens for calls over TCP.")
mailbox_app = group("Mailboxes and their folders.")

PASSWORD_BYTES = 12

Address = Annotated[str, typer.Argument(metavar="ADDRESS")]
Stdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from the first line of standard input")]
Generate = Annotated[bool, typer.Option("--generate-password", help="Make a password and print it, this one time")]
NoPassword = Annotated[bool, typer.Option("--no-password", help="Nobody can log in until a password is set")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]


def _password(*, stdin: bool, generate: bool) -> str:
    """From standard input, made, or asked for twice. Raises CommandError."""
    if stdin and generate:
        raise CommandError("give one of --password-stdin and --generate-password", USAGE)
    if stdin:
        return read_secret()
    if generate:
        return secrets.token_urlsafe(PASSWORD_BYTES)
    if not sys.stdin.isatty():
        raise CommandError("no terminal to ask for a password: give --password-stdin, --generate-password or --no-password", USAGE)
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt="Once more"))


@command(user_app, "add")
async def user_add(
    session: Session,
    address: Address,
    password_stdin: Stdin = False,
    generate_password: Generate = False,
    no_password: NoPassword = False,
    volume: Annotated[str, typer.Option("--volume", help="Where the mailbox lies [main]")] = "",
) -> None:
    """Add a user and its mailbox. Without an option the password is asked for."""
    if no_password and (password_stdin or generate_password):
        raise CommandError("--no-password goes with no other password option", USAGE)
    password = "" if no_password else _password(stdin=password_stdin, generate=generate_password)
    async with session.client() as client:
        user = await client.directory.create_user(address, password, volume=volume)
    _made(session, to_json(user), f"{user.address} added", password if generate_password else "")


def _made(session: Session, value: dict[str, object], text: str, password: str) -> None:
    if session.json:
        print_json({**value, "generated_password": password} if password else value)
        return
    print(text)
    if password:
        print(f"password: {password}")


@command(user_app, "list")
async def user_list(session: Session, domain: Annotated[str, typer.Option("--domain", help="Only this domain")] = "") -> None:
    """List users."""
    async with session.client() as client:
        users = [user async for user in client.directory.list_users(domain)]
    if session.json:
        print_json(users)
        return
    rows = ((u.address, u.volume, "yes" if u.enabled else "no", "yes" if u.has_password else "no", local_time(u.created)) for u in users)
    print_table(["!ADDRESS", "VOLUME", "ENABLED", "PASSWORD", "CREATED"], rows, empty="no users")


@command(user_app, "show")
async def user_show(session: Session, address: Address) -> None:
    """Show a user."""
    async with session.client() as client:
        user = await client.directory.get_user(address)
    if session.json:
        print_json(user)
        return
    state = [("enabled", "yes" if user.enabled else "no"), ("password", "yes" if user.has_password else "no")]
    print_fields([("address", user.address), ("volume", user.volume), *state, ("created", local_time(user.created)), ("etag", user.etag)])


@command(user_app, "passwd")
async def user_passwd(
    session: Session, address: Address, password_stdin: Stdin = False, generate_password: Generate = False, etag: Etag = ""
) -> None:
    """Set a new password."""
    password = _password(stdin=password_stdin, generate=generate_password)
    async with session.client() as client:
        user = await client.directory.set_password(address, password, etag=etag)
    value = {**to_json(user), "password_set": True}
    _made(session, value, f"{address} has a new password", password if generate_password else "")


@command(user_app, "enable")
async def user_enable(session: Session, address: Address, etag: Etag = "") -> None:
    """Let a disabled user log in and get mail again."""
    async with session.client() as client:
        session.done(await client.directory.set_enabled(address, True, etag=etag), f"{address} enabled")


@command(user_app, "disable")
async def user_disable(session: Session, address: Address, etag: Etag = "") -> None:
    """Let a user neither log in nor get mail; its mail is kept."""
    async with session.client() as client:
        session.done(await client.directory.set_enabled(address, False, etag=etag), f"{address} disabled")


@command(user_app, "remove")
async def user_remove(
    session: Session,
    address: Address,
    purge_mail: Annotated[bool, typer.Option("--purge-mail", help="Remove the mail, too, for good")] = False,
    etag: Etag = "",
    yes: Yes = False,
) -> None:
    """Remove a user; its mail stays in the volume unless it is purged."""
    if purge_mail:
        confirm(f"{address} and all of its mail will be removed for good.", yes=yes)
    async with session.client() as client:
        await client.directory.delete_user(address, etag=etag, purge_mail=purge_mail)
    session.done({"address": address, "removed": True, "mail_purged": purge_mail}, f"{address} removed")


@command(volume_app, "add")
async def volume_add(session: Session, name: str, path: Annotated[Path, typer.Argument(help="Directory on the server")]) -> None:
    """Add a volume."""
    async with session.client() as client:
        volume = await client.directory.create_volume(name, str(path.absolute()))
    session.done(volume, f"volume {volume.name} at {volume.path}")


@command(volume_app, "list")
async def volume_list(session: Session) -> None:
    """List volumes."""
    async with session.client() as client:
        volumes = [volume async for volume in client.directory.list_volumes()]
    if session.json:
        print_json(volumes)
        return
    print_table(["!NAME", "!PATH"], ((volume.name, volume.path) for volume in volumes))


@command(volume_app, "show")
async def volume_show(session: Session, name: str) -> None:
    """Show a volume."""
    async with session.client() as client:
        volume = await client.directory.get_volume(name)
    if session.json:
        print_json(volume)
        return
    print_fields([("name", volume.name), ("path", volume.path), ("etag", volume.etag)])


@command(volume_app, "remove")
async def volume_remove(session: Session, name: str, etag: Etag = "") -> None:
    """Take a volume without mailboxes out of use; its files stay where they are."""
    async with session.client() as client:
        await client.directory.delete_volume(name, etag=etag)
    session.done({"name": name, "removed": True}, f"volume {name} removed; its files stay")


@command(token_app, "add")
async def token_add(
    session: Session,
    name: str,
    role: Annotated[str, typer.Option("--role", help="viewer, operator, admin, or domain-admin")] = "viewer",
    domain: Annotated[list[str] | None, typer.Option("--domain", help="What a domain admin looks after; may be repeated")] = None,
) -> None:
    """Make a token and print its secret, this one time."""
    async with session.client() as client:
        token, secret = await client.directory.create_token(name, role.replace("-", "_"), domain or ())
    if session.json:
        print_json({**to_json(token), "secret": secret})
        return
    print(f"token {token.name} with role {_role(token)}; its secret, shown this one time:")
    print(secret)


@command(token_app, "list")
async def token_list(session: Session) -> None:
    """List tokens, without their secrets."""
    async with session.client() as client:
        tokens = [token async for token in client.directory.list_tokens()]
    if session.json:
        print_json(tokens)
        return
    print_table(["!NAME", "ROLE", "CREATED"], ((t.name, _role(t), local_time(t.created)) for t in tokens), empty="no tokens")


def _role(token: "Token") -> str:
    """'viewer', 'domain-admin of example.org, example.net'."""
    return token.role.replace("_", "-") + (f" of {', '.join(token.domains)}" if token.domains else "")


@command(token_app, "revoke")
async def token_revoke(session: Session, name: str) -> None:
    """End a token at once."""
    async with session.client() as client:
        await client.directory.revoke_token(name)
    session.done({"name": name, "revoked": True}, f"token {name} revoked")


@command(mailbox_app, "list")
async def mailbox_list(session: Session, domain: Annotated[str, typer.Option("--domain", help="Only this domain")] = "") -> None:
    """List mailboxes with what is in them."""
    async with session.client() as client:
        found = [mailbox async for mailbox in client.mailboxes.list(domain)]
    if session.json:
        print_json(found)
        return
    rows = ((m.address, m.volume, str(m.messages), human_size(m.used_octets), "yes" if m.enabled else "no") for m in found)
    print_table(["!ADDRESS", "VOLUME", ">MESSAGES", ">SIZE", "ENABLED"], rows, empty="no mailboxes")


@command(mailbox_app, "folders")
async def mailbox_folders(session: Session, address: Address) -> None:
    """List the folders of a mailbox."""
    async with session.client() as client:
        folders = [folder async for folder in client.mailboxes.folders(address)]
    if session.json:
        print_json(folders)
        return
    rows = ((f.name, f.special_use, str(f.messages), str(f.unseen), human_size(f.used_octets)) for f in folders)
    print_table(["!FOLDER", "USE", ">MESSAGES", ">UNSEEN", ">SIZE"], rows)
