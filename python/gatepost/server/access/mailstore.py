"""A logged-in user's mailbox: the native store's calls as coroutines, typed, with the mailbox id filled in.

Used by the sessions of POP3 and IMAP. Each call runs in the facade's threads; CoreError passes through. One hop for each call,
and for streams one hop for several reads (`read_some`), because a hop costs more than a 64 KiB read.
"""

from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from gatepost.mailbox import AsyncStore, FolderInfo, MessageInfo
from gatepost.native import Appender, CoreError, FetchStream, MailboxLock, StoredMessage

READ_SIZE = 65_536
READS_PER_HOP = 4

T = TypeVar("T")


class MailStore:
    """One mailbox on one volume."""

    __slots__ = ("_store", "mailbox_id")

    def __init__(self, store: AsyncStore, mailbox_id: bytes) -> None:
        self._store = store
        self.mailbox_id = mailbox_id

    # ---- folders

    async def ensure(self) -> None:
        """Make INBOX and the special-use folders if the mailbox is new."""
        await self._store.run("ensure_mailbox", self.mailbox_id)

    async def folders(self) -> list[FolderInfo]:
        """All folders."""
        result: list[FolderInfo] = await self._store.run("folders", self.mailbox_id)
        return result

    async def folder(self, name: str) -> FolderInfo:
        """One folder. Raises NotFoundError."""
        result: FolderInfo = await self._store.run("folder", self.mailbox_id, name)
        return result

    async def create(self, name: str, special_use: str) -> bytes:
        """Create a folder, and its parents."""
        result: bytes = await self._store.run("create_folder", self.mailbox_id, name, special_use)
        return result

    async def rename(self, name: str, new_name: str) -> None:
        """Rename a folder with its children."""
        await self._store.run("rename_folder", self.mailbox_id, name, new_name)

    async def delete(self, name: str) -> None:
        """Delete a folder."""
        await self._store.run("delete_folder", self.mailbox_id, name)

    async def subscribe(self, name: str, *, subscribed: bool) -> None:
        """Subscribe or unsubscribe."""
        await self._store.run("subscribe", self.mailbox_id, name, subscribed)

    # ---- messages

    async def messages(self, folder_id: bytes) -> list[MessageInfo]:
        """All messages of a folder."""
        result: list[MessageInfo] = await self._store.run("messages", folder_id)
        return result

    async def uids(self, folder_id: bytes) -> "array[int]":
        """All uids of a folder, ascending."""
        packed: bytes = await self._store.run("uids", folder_id)
        return array("I", packed)

    async def keywords(self, folder_id: bytes) -> list[str]:
        """Keywords in use in a folder."""
        result: list[str] = await self._store.run("keywords", folder_id)
        return result

    async def first_unseen(self, folder_id: bytes) -> int:
        r"""Uid of the first message without \Seen, 0 when there is none."""
        result: int = await self._store.run("first_unseen", folder_id)
        return result

    async def claim_recent(self, folder_id: bytes) -> int:
        r"""First uid that is \Recent to the caller."""
        result: int = await self._store.run("claim_recent", folder_id)
        return result

    async def changes(self, folder_id: bytes, since: int) -> tuple[int, list[MessageInfo], list[int]]:
        """What changed since a modseq."""
        result: tuple[int, list[MessageInfo], list[int]] = await self._store.run("changes", folder_id, since)
        return result

    async def store_flags(self, folder_id: bytes, uids: Sequence[int], mode: str, flags: Sequence[str]) -> list[MessageInfo]:
        """Change flags; returns the messages after it."""
        result: tuple[list[MessageInfo], list[int]] = await self._store.run("store_flags", folder_id, uids, mode, flags)
        return result[0]

    async def expunge(self, folder_id: bytes, uids: Sequence[int] | None) -> list[int]:
        r"""Remove what is \Deleted."""
        result: list[int] = await self._store.run("expunge", folder_id, uids)
        return result

    async def remove(self, folder_id: bytes, uids: Sequence[int]) -> list[int]:
        """Remove whatever the flags."""
        result: list[int] = await self._store.run("remove", folder_id, uids)
        return result

    async def copy(self, folder_id: bytes, uids: Sequence[int], target: bytes, *, move: bool) -> tuple[int, list[tuple[int, int]]]:
        """Copy or move: (uid validity of the target, [(old uid, new uid)])."""
        result: tuple[int, list[tuple[int, int]]] = await self._store.run("copy", folder_id, uids, target, move)
        return result

    async def search(self, folder_id: bytes, uids: Sequence[int], query: Sequence[object]) -> list[int]:
        """Uids that match."""
        result: list[int] = await self._store.run("search", folder_id, uids, query)
        return result

    async def fetch(
        self, folder_id: bytes, targets: Sequence[tuple[int, int]], items: Sequence[str], *, set_seen: bool, recent_from: int
    ) -> tuple[FetchStream, "Blocks"]:
        """FETCH responses as a stream, with its first blocks: most answers are whole after one hop."""
        store = await self._store.open()
        start = partial(store.fetch, folder_id, targets, items, set_seen=set_seen, recent_from_uid=recent_from)
        return await self._store.call(_start_stream, start)

    async def append(self, folder_id: bytes, flags: Sequence[str], internal_date: int) -> Appender:
        """Begin an APPEND."""
        result: Appender = await self._store.run("append", folder_id, flags, internal_date)
        return result

    async def message(self, folder_id: bytes, uid: int) -> StoredMessage:
        """A message as a stream."""
        result: StoredMessage = await self._store.run("message", folder_id, uid)
        return result

    # ---- the rest

    async def lock(self) -> MailboxLock | None:
        """POP3's exclusive lock, or None."""
        result: MailboxLock | None = await self._store.run("lock_mailbox", self.mailbox_id)
        return result

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Any blocking call on an object of the store."""
        return await self._store.call(function, *args)

    async def read_some(self, read: Callable[[int], bytes]) -> "Blocks":
        """Up to READS_PER_HOP blocks of a stream in one hop."""
        return await self._store.call(_read_some, read)

    def watch(self, folder_id: bytes, callback: Callable[[], None]) -> None:
        """Call back on the loop when anything in the folder changes, by whomever."""
        self._store.watch(folder_id, callback)

    def unwatch(self, folder_id: bytes, callback: Callable[[], None]) -> None:
        """Inverse of `watch`."""
        self._store.unwatch(folder_id, callback)


class Blocks:
    """Some blocks of a stream; `done` at its end, and `fault` if it ended so. What was read before a fault is not lost."""

    __slots__ = ("done", "fault", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.done = False
        self.fault: CoreError | None = None


def _start_stream(start: Callable[[], FetchStream]) -> tuple[FetchStream, Blocks]:
    stream = start()
    return stream, _read_some(stream.read)


def _read_some(read: Callable[[int], bytes]) -> Blocks:
    blocks = Blocks()
    try:
        while len(blocks.parts) < READS_PER_HOP and not blocks.done:
            block = read(READ_SIZE)
            blocks.parts.append(block)
            blocks.done = not block
    except CoreError as error:
        blocks.done, blocks.fault = True, error
    return blocks
