"""Spools for tests: committing with few words, and waiting natively without an event loop."""

import select
import time

from gatepost.message.envelope import Envelope, Origin, Recipient
from gatepost.native import CoreError, Incoming, Spool
from gatepost.spool import AsyncSpool, PlannedRecipient

ENVELOPE = Envelope("sender@example.org", (Recipient("alice@example.test"),), Origin("ESMTP", "127.0.0.1", 25, "client"))


def planned(address: str = "alice@example.test", destination: str = "local:main", held: bool = False) -> PlannedRecipient:
    """A recipient with a recognisable route."""
    return PlannedRecipient(address, "", 0, destination, f"route:{address}".encode(), held)


def filled(spool: AsyncSpool | Spool, body: bytes, message_id: bytes | None = None) -> Incoming:
    """A received message, whole and ready to commit."""
    incoming = spool.receive(prefix=b"Received: test\r\n", max_bytes=0, message_id=message_id)
    incoming.feed_raw(body)
    incoming.finish()
    return incoming


async def commit(spool: AsyncSpool, body: bytes = b"Subject: x\r\n\r\nbody\r\n", *recipients: PlannedRecipient) -> bytes:
    """Commit a message; its id once it is on disk."""
    incoming = filled(spool, body)
    await spool.commit(incoming, ENVELOPE, recipients or (planned(),), 1)
    return incoming.message_id


def wait_native(spool: Spool, ticket: int, seconds: float = 10) -> tuple[CoreError | None, list[str]]:
    """Wait for one ticket of a native spool: (its error, destinations that became ready meanwhile)."""
    names: list[str] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        select.select([spool.event_fd], [], [], 0.1)
        tickets, ready, _ = spool.completions()
        names += ready
        for number, error in tickets:
            if number == ticket:
                return error, names
    raise TimeoutError(f"ticket {ticket} did not come back")
