"""The native store driven without an event loop: messages into a spool, from there into mailboxes, and back out."""

import select
import time
from collections.abc import Sequence
from pathlib import Path

from gatepost.native import CoreError, Spool, Store

MAILBOX = b"mailbox-of-alice"
OTHER = b"mailbox-of-bob--"


def mail(subject: str, body: bytes = b"hello\r\n") -> bytes:
    """A small message."""
    return f"Subject: {subject}\r\nFrom: sender@example.test\r\n\r\n".encode() + body


def spooled(spool: Spool, *messages: bytes) -> list[bytes]:
    """Commit messages to the spool; their ids."""
    ids = []
    for ticket, message in enumerate(messages, 1):
        incoming = spool.receive(prefix=b"", max_bytes=1 << 30)
        for at in range(0, len(message), 65_536):
            incoming.feed_raw(message[at : at + 65_536])
        incoming.finish()
        spool.commit(ticket, incoming, "s@example.test", [("alice@example.test", "", "local:main", 0, b"", 0, False)], b"")
        ids.append(incoming.message_id)
    waiting = len(messages)
    deadline = time.monotonic() + 60
    while waiting:
        select.select([spool.event_fd], [], [], 1)
        for _ticket, error in spool.completions()[0]:
            assert error is None
            waiting -= 1
        assert time.monotonic() < deadline, "the spool does not answer"
    return ids


def deliver(store: Store, spool: Spool, ids: Sequence[bytes], mailbox: bytes = MAILBOX, folder: str = "INBOX") -> list[CoreError | None]:
    """Deliver spooled messages and wait; one result each."""
    store.deliver(1, spool, [(message_id, 0, mailbox, folder, b"Delivered-To: x\r\n", ()) for message_id in ids])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        select.select([store.event_fd], [], [], 1)
        for _ticket, error, each in store.completions():
            return each if each is not None else [error] * len(ids)
    raise AssertionError("the store does not answer")


def octets(store: Store, folder_id: bytes, uid: int) -> bytes:
    """All octets of a message."""
    message = store.message(folder_id, uid)
    return b"".join(iter(lambda: message.read(65_536), b""))


def responses(store: Store, folder_id: bytes, targets: Sequence[tuple[int, int]], items: Sequence[str], *, set_seen: bool = False) -> bytes:
    """FETCH responses in one piece."""
    stream = store.fetch(folder_id, targets, items, set_seen=set_seen)
    return b"".join(iter(lambda: stream.read(65_536), b""))


def contents(store: Store, mailbox: bytes = MAILBOX) -> dict[str, list[tuple[list[str], bytes]]]:
    """Flags and octets of all messages by folder, in an order that does not depend on UIDs."""
    found = {}
    for info in store.folders(mailbox):
        found[info[1]] = sorted((m[4], octets(store, info[0], m[0])) for m in store.messages(info[0]))
    return found


def drop_index(volume: Path) -> None:
    """What a lost index looks like."""
    for path in volume.glob("index.db*"):
        path.unlink()
