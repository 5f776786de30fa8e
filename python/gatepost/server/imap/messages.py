"""Commands about messages of the selected folder (RFC 3501 6.4.4-8; ESEARCH RFC 4731; MOVE RFC 6851): SEARCH, FETCH, STORE, COPY, MOVE."""

from typing import TYPE_CHECKING

from gatepost.mailbox import MessageInfo
from gatepost.native import CoreError
from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap import responses
from gatepost.protocol.imap.search import CHARSETS
from gatepost.server.imap.outcome import Refused, refusal
from gatepost.server.imap.selected import writable

if TYPE_CHECKING:
    from gatepost.server.imap.connection import ImapConnection

FLAGS_PER_WRITE = 1000
UIDS_PER_SEARCH = 2000


def _completed(session: "ImapConnection", command: c.Command) -> str:
    """The final text; it says so when messages named may be gone (RFC 5530)."""
    code = "[EXPUNGEISSUED] " if session.view.has_gone else ""
    return f"{code}{command.name} completed"


async def search(session: "ImapConnection", command: c.Search) -> str:
    """SEARCH."""
    if not command.charset_known:
        raise Refused(f"[BADCHARSET ({' '.join(CHARSETS)})] Charset not supported")
    view = session.view
    uids = await _search(session, view.bind_search(command.key))
    numbers = uids if command.uid else [view.number_of(uid) for uid in uids]
    if command.returns is None:
        session.write(responses.search(numbers))
    else:
        session.write(responses.esearch(command.tag, numbers, command.returns, uid=command.uid))
    return _completed(session, command)


async def _search(session: "ImapConnection", query: list[object]) -> list[int]:
    """In parts: a search through the text of a large folder takes its turn with others', and ends when its client is gone."""
    view = session.view
    found: list[int] = []
    for first in range(0, len(view.uids), UIDS_PER_SEARCH):
        if session.closed:
            raise ConnectionResetError
        part = view.uids[first : first + UIDS_PER_SEARCH].tolist()
        async with session.server.searches:
            found += await session.store.search(view.folder_id, part, query)
    return found


async def fetch(session: "ImapConnection", command: c.Fetch) -> str:
    """FETCH: the responses are built by the store and only passed on here."""
    view = session.view
    targets = view.targets(command.ranges, uid=command.uid)
    if not targets:
        return _completed(session, command)
    set_seen = command.marks_seen and not view.read_only
    stream, blocks = await session.store.fetch(view.folder_id, targets, command.items, set_seen=set_seen, recent_from=view.recent_from)
    session.write(b"".join(blocks.parts))
    while not blocks.done:
        await session.drain()
        blocks = await session.store.read_some(stream.read)
        session.write(b"".join(blocks.parts))
    if set_seen:
        session.told.update((message[0], message[3]) for message in stream.seen())
        session.dirty = True
    if blocks.fault is not None:
        # The store gives it behind the last response: what it could not read is missing from its message's.
        session.server.log.error("message damaged", user=session.user, folder=view.name, error=str(blocks.fault))
        raise Refused(refusal(blocks.fault))
    return _completed(session, command)


async def store(session: "ImapConnection", command: c.Store) -> str:
    """STORE."""
    view = writable(session)
    uids = [uid for _, uid in view.targets(command.ranges, uid=command.uid)]
    flags = responses.normal_flags(command.flags)
    if not uids:
        return _completed(session, command)
    after = await session.store.store_flags(view.folder_id, uids, command.mode, flags)
    if view.learn_keywords(flags):
        session.write(view.flags_line())
    if not command.silent:
        await _tell_flags(session, after, with_uid=command.uid)
    session.told.update((message[0], message[3]) for message in after)
    session.dirty = True
    return _completed(session, command)


async def _tell_flags(session: "ImapConnection", after: list[MessageInfo], *, with_uid: bool) -> None:
    view = session.view
    for first in range(0, len(after), FLAGS_PER_WRITE):
        part = after[first : first + FLAGS_PER_WRITE]
        session.write(b"".join(view.fetch_flags(message, with_uid=with_uid) for message in part))
        await session.drain()


async def copy(session: "ImapConnection", command: c.Copy) -> str:
    """COPY, all or nothing."""
    code = await _transfer(session, command, move=False)
    return f"{code} COPY completed".lstrip()


async def move(session: "ImapConnection", command: c.Copy) -> str:
    """MOVE: COPYUID comes untagged, in front of the EXPUNGE responses (RFC 6851 4.3)."""
    writable(session)
    code = await _transfer(session, command, move=True)
    if code:
        session.write(responses.untagged(f"OK {code} Moved"))
    return "MOVE completed"


async def _transfer(session: "ImapConnection", command: c.Copy, *, move: bool) -> str:
    """Copy or move; returns the COPYUID code."""
    view = session.view
    uids = [uid for _, uid in view.targets(command.ranges, uid=command.uid)]
    try:
        target = await session.store.folder(command.folder)
        if not uids:
            return ""
        uid_validity, pairs = await session.store.copy(view.folder_id, uids, target[0], move=move)
    except CoreError as error:
        raise Refused(refusal(error, try_create=True)) from error
    if move or target[0] == view.folder_id:
        session.dirty = True
    return responses.copyuid(uid_validity, pairs)
