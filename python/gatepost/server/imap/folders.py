"""Commands about folders (RFC 3501 6.3): CREATE, DELETE, RENAME, SUBSCRIBE, LIST, LSUB, STATUS, NAMESPACE."""

import asyncio
from typing import TYPE_CHECKING

from gatepost.mailbox import FolderInfo
from gatepost.native import NotFoundError
from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap.listing import Entry, listed
from gatepost.protocol.imap.names import SEPARATOR, name_problem
from gatepost.protocol.imap.parse_list import SPECIAL_USES
from gatepost.protocol.imap.responses import folder, untagged
from gatepost.server.imap.auth import append_limit
from gatepost.server.imap.outcome import Refused

if TYPE_CHECKING:
    from gatepost.server.imap.connection import ImapConnection

LINES_PER_WRITE = 200
MATCHES_ON_LOOP = 500
"""Folders times patterns above which a LIST is worked out in a thread: a third of a millisecond each at worst."""


def _new_name(name: str) -> str:
    """A name that may be given to a folder. A separator at the end only announces children (RFC 3501 6.3.3)."""
    name = name.removesuffix(SEPARATOR)
    problem = name_problem(name)
    if problem:
        raise Refused(f"[CANNOT] {problem}")
    if name == "INBOX":
        raise Refused("[ALREADYEXISTS] INBOX always exists")
    return name


async def create(session: "ImapConnection", command: c.Create) -> str:
    """CREATE."""
    name = _new_name(command.folder)
    if command.special_use and command.special_use.upper() not in SPECIAL_USES:
        raise Refused("[USEATTR] Special use not supported")
    await session.store.create(name, command.special_use)
    return "CREATE completed"


async def delete(session: "ImapConnection", command: c.FolderCommand) -> str:
    """DELETE. Children stay."""
    if command.folder == "INBOX":
        raise Refused("[CANNOT] INBOX cannot be deleted")
    await session.store.delete(command.folder)
    view = session.view_or_none
    if view is not None and view.name == command.folder:
        session.close_view()
    return "DELETE completed"


async def rename(session: "ImapConnection", command: c.Rename) -> str:
    """RENAME, of INBOX too: its messages move (RFC 3501 6.3.5)."""
    new_name = _new_name(command.new_name)
    await session.store.rename(command.folder, new_name)
    view = session.view_or_none
    if view is not None and command.folder != "INBOX" and f"{view.name}/".startswith(f"{command.folder}/"):
        view.name = new_name + view.name[len(command.folder) :]
    return "RENAME completed"


async def subscribe(session: "ImapConnection", command: c.FolderCommand) -> str:
    """SUBSCRIBE and UNSUBSCRIBE."""
    await session.store.subscribe(command.folder, subscribed=command.name == "SUBSCRIBE")
    return f"{command.name} completed"


async def list_folders(session: "ImapConnection", command: c.ListFolders) -> str:
    """LIST and LSUB."""
    if command.patterns == ("",) and not command.extended:
        # RFC 3501 6.3.8: an empty name asks for the separator and the root of the reference.
        session.write(b'* %b (\\Noselect) "/" ""\r\n' % command.name.encode())
        return f"{command.name} completed"
    infos = await session.store.folders()
    by_name = {info[1]: info for info in infos}
    lines: list[bytes] = []
    entries = [Entry(info[1], info[2], info[3]) for info in infos]
    many = len(entries) * len(command.patterns) > MATCHES_ON_LOOP
    for item in await asyncio.to_thread(listed, command, entries) if many else listed(command, entries):
        lines.append(item.encode(command.name))
        if command.status_items and item.exists:
            lines.append(await _status_line(session, by_name[item.name], command.status_items))
        if len(lines) >= LINES_PER_WRITE:
            session.write(b"".join(lines))
            lines.clear()
            await session.drain()
    session.write(b"".join(lines))
    return f"{command.name} completed"


async def namespace(session: "ImapConnection", _command: c.Command) -> str:
    """NAMESPACE (RFC 2342): personal folders only."""
    session.write(untagged('NAMESPACE (("" "/")) NIL NIL'))
    return "NAMESPACE completed"


async def status(session: "ImapConnection", command: c.Status) -> str:
    """STATUS."""
    session.write(await _status_line(session, await session.store.folder(command.folder), command.items))
    return "STATUS completed"


async def _status_line(session: "ImapConnection", info: FolderInfo, items: tuple[str, ...]) -> bytes:
    values = {
        "MESSAGES": info[6],
        "UIDNEXT": info[5],
        "UIDVALIDITY": info[4],
        "UNSEEN": info[7],
        "SIZE": info[8],
        "APPENDLIMIT": append_limit(session),
    }
    if "RECENT" in items:
        values["RECENT"] = await _recent(session, info)
    pairs = " ".join(f"{item} {values[item]}" for item in items)
    return b"* STATUS %b (%b)\r\n" % (folder(info[1]), pairs.encode())


async def _recent(session: "ImapConnection", info: FolderInfo) -> int:
    """Messages that no session has claimed. Mostly there are none that could be, and the uids need not be read."""
    if info[10] >= info[5]:
        return 0
    try:
        return sum(uid >= info[10] for uid in await session.store.uids(info[0]))
    except NotFoundError:
        return 0
