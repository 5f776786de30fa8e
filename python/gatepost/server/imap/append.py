"""APPEND (RFC 3501 6.3.11, UIDPLUS RFC 4315): the message streams into the store while it arrives.

Memory: what the receiver has not handed over yet, and at most BATCH octets here. Nothing is in the folder before `commit`; a
connection that ends before drops the native Appender, which leaves nothing.
"""

import time
from typing import TYPE_CHECKING

from gatepost.native import Appender, CoreError
from gatepost.protocol.imap.commands import Append, State
from gatepost.protocol.imap.responses import normal_flags
from gatepost.server.access.mailstore import MailStore
from gatepost.server.imap.auth import append_limit
from gatepost.server.imap.outcome import NO_SPACE, Refused, Rejected, refusal

if TYPE_CHECKING:
    from gatepost.server.imap.connection import ImapConnection

BATCH = 131_072


class Appending:
    """One APPEND under way. A fault of the store is kept for the end: the client's octets come in any case."""

    __slots__ = ("_appender", "_octets", "_parts", "_store", "command", "fault", "folder_id")

    def __init__(self, command: Append, store: MailStore, folder_id: bytes, appender: Appender) -> None:
        self.command = command
        self.folder_id = folder_id
        self.fault: CoreError | None = None
        self._store = store
        self._appender = appender
        self._parts: list[bytes] = []
        self._octets = 0

    async def feed(self, data: bytes) -> None:
        """Take octets of the message; one hop to the store for each BATCH."""
        self._parts.append(data)
        self._octets += len(data)
        if self._octets >= BATCH:
            await self._flush()

    async def _flush(self) -> None:
        data = b"".join(self._parts)
        self._parts.clear()
        self._octets = 0
        if self.fault is not None:
            return
        try:
            await self._store.call(self._appender.feed, data)
        except CoreError as error:
            self.fault = error

    async def commit(self) -> tuple[int, int]:
        """(uid validity, uid), once the message is on disk."""
        await self._flush()
        if self.fault is not None:
            raise self.fault
        return await self._store.call(self._appender.commit)


async def append_start(session: "ImapConnection", command: Append) -> None:
    """The literal is announced: let it in, or refuse before it is sent."""
    try:
        session.appending = await _begin(session, command)
    except (Refused, Rejected):
        session.receiver.refuse_append()
        raise
    except CoreError as error:
        session.receiver.refuse_append()
        raise Refused(refusal(error, try_create=True)) from error
    session.receiver.accept_append()
    if command.waits:
        session.write(b"+ Ready for the message\r\n")


async def _begin(session: "ImapConnection", command: Append) -> Appending:
    if session.state is State.NOT_AUTHENTICATED:
        raise Rejected("APPEND is not allowed when not authenticated")
    if command.size > append_limit(session):
        raise Refused(f"[TOOBIG] Messages may have {append_limit(session)} octets at most")
    if not command.size:
        raise Refused("[CANNOT] The message is empty")
    if session.server.context.spool.low_space:  # the volume itself takes mail longer than we do, so that deliveries can go on
        raise Refused(NO_SPACE)
    store = session.store
    info = await store.folder(command.folder)
    moment = time.time_ns() // 1000 if command.internal_date is None else command.internal_date
    appender = await store.append(info[0], normal_flags(command.flags), moment)
    return Appending(command, store, info[0], appender)


async def append_end(session: "ImapConnection") -> str:
    """The command is whole: commit."""
    appending, session.appending = session.appending, None
    assert appending is not None
    try:
        uid_validity, uid = await appending.commit()
    except CoreError as error:
        raise Refused(refusal(error, try_create=True)) from error
    view = session.view_or_none
    if view is not None and view.folder_id == appending.folder_id:
        session.dirty = True
    return f"[APPENDUID {uid_validity} {uid}] APPEND completed"
