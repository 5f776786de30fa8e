"""Commands about the selected folder as a whole (RFC 3501 6.3.1-2, 6.4.1-3; IDLE RFC 2177; UNSELECT RFC 3691; UIDPLUS RFC 4315)."""

from typing import TYPE_CHECKING

from gatepost.mailbox import FolderInfo
from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap.responses import SYSTEM_FLAGS, flag_list
from gatepost.protocol.imap.view import FolderView
from gatepost.server.imap.outcome import Refused

if TYPE_CHECKING:
    from gatepost.server.imap.connection import ImapConnection


async def select(session: "ImapConnection", command: c.FolderCommand) -> str:
    """SELECT and EXAMINE. The folder selected before is left even if this one cannot be opened (RFC 3501 6.3.1)."""
    session.close_view()
    store = session.store
    read_only = command.name == "EXAMINE"
    info = await store.folder(command.folder)
    # The uids are read after the modseq: what arrives in between is told twice rather than never.
    uids = await store.uids(info[0])
    recent_from = info[10] if read_only else await store.claim_recent(info[0])
    view = FolderView(info[0], info[1], info[4], info[9], uids, read_only=read_only, recent_from=recent_from)
    view.learn_keywords(await store.keywords(info[0]))
    first_unseen = await store.first_unseen(info[0]) if info[7] else 0
    session.open_view(view)
    session.write(_opening(view, info, view.number_of(first_unseen)))
    return f"[READ-ONLY] {command.name} completed" if read_only else f"[READ-WRITE] {command.name} completed"


def _opening(view: FolderView, info: FolderInfo, first_unseen: int) -> bytes:
    permanent = b"()" if view.read_only else flag_list([*SYSTEM_FLAGS, "\\*"])
    lines = [
        view.flags_line(),
        b"* OK [PERMANENTFLAGS %b] Flags that are kept\r\n" % permanent,
        b"* %d EXISTS\r\n" % len(view.uids),
        b"* %d RECENT\r\n" % view.recent,
        b"* OK [UNSEEN %d] First unseen message\r\n" % first_unseen if first_unseen else b"",
        b"* OK [UIDVALIDITY %d] UIDs are valid\r\n" % view.uid_validity,
        b"* OK [UIDNEXT %d] Predicted next UID\r\n" % max(info[5], view.newest + 1),
    ]
    return b"".join(lines)


async def idle(session: "ImapConnection", command: c.Command) -> None:
    """IDLE: from here on changes are pushed; DONE comes as a line."""
    session.idle_tag = command.tag
    session.receiver.expect_line()
    session.dirty = True
    session.write(b"+ idling\r\n")


async def check(_session: "ImapConnection", _command: c.Command) -> str:
    """CHECK: everything is on disk at all times."""
    return "CHECK completed"


async def close(session: "ImapConnection", _command: c.Command) -> str:
    """CLOSE: expunge without telling, unless the folder was opened read-only."""
    view = session.view
    session.close_view()
    if not view.read_only:
        await session.store.expunge(view.folder_id, None)
    return "CLOSE completed"


async def unselect(session: "ImapConnection", _command: c.Command) -> str:
    """UNSELECT: CLOSE that removes nothing."""
    session.close_view()
    return "UNSELECT completed"


def writable(session: "ImapConnection") -> FolderView:
    """The selected folder, if it was not opened with EXAMINE."""
    if session.view.read_only:
        raise Refused("[READ-ONLY] The folder was opened read-only")
    return session.view


async def expunge(session: "ImapConnection", _command: c.Command) -> str:
    """EXPUNGE. The responses come with the view's update, before the tagged one."""
    view = writable(session)
    await session.store.expunge(view.folder_id, None)
    session.dirty = True
    return "EXPUNGE completed"


async def uid_expunge(session: "ImapConnection", command: c.UidExpunge) -> str:
    """UID EXPUNGE."""
    view = writable(session)
    uids = [uid for _, uid in view.targets(command.ranges, uid=True)]
    if uids:
        await session.store.expunge(view.folder_id, uids)
        session.dirty = True
    return "UID EXPUNGE completed"
