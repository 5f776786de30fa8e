"""Recipients that nothing may deliver: mail in quarantine and mail that waits for a scanner (destinations in message.verdict.WITHHELD).

Used by actions, quarantine and control/queue_bulk, so that what an operator does to the queue leaves them where they are. Everything here
*blocks*: call it in a thread. Memory: 16 octets for each message, and a set of those withheld.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gatepost.message.verdict import WITHHELD
from gatepost.native import NotFoundError
from gatepost.queue.views import Filter, Outline, QueuedMessage, RecipientStatus, decode_summary
from gatepost.spool import AsyncSpool

ID = 16
EVERYTHING = 1 << 40
FEW = 1000
"""Messages that are rather looked at one by one."""


@dataclass(frozen=True, slots=True)
class Some:
    """Messages (packed ids) of which all pending recipients are meant, and single recipients of others."""

    whole: bytes
    single: Sequence[tuple[bytes, int]] = ()

    @property
    def ids(self) -> bytes:
        """Packed ids of all these messages."""
        return self.whole + b"".join(dict.fromkeys(message_id for message_id, _ in self.single))


def ids_of(spool: AsyncSpool, destination: str, limit: int = EVERYTHING) -> bytes:
    """Packed ids of messages with a pending recipient for this destination, oldest first."""
    return spool.select(Filter(destination=destination, state="PENDING").native(0), limit)


def page_of(spool: AsyncSpool, destination: str, after: bytes | None, limit: int) -> tuple[list[QueuedMessage], bytes | None]:
    """Messages with a pending recipient for this destination, in id order after `after`, and where to go on (None: that was all)."""
    rows, following = spool.page(Filter(destination=destination, state="PENDING").native(0), after, limit)
    return [decode_summary(row) for row in rows], following


def present(spool: AsyncSpool, ids: bytes) -> frozenset[bytes]:
    """Ids of those of these messages of which a pending recipient is withheld."""
    names = {row[0] for row in spool.destinations()} & WITHHELD
    if not names:
        return frozenset()
    if len(ids) <= FEW * ID:
        return frozenset(one for one in split(ids) if is_withheld(read(spool, one)))
    return frozenset(one for name in names for one in split(ids_of(spool, name)))


def is_withheld(message: QueuedMessage | Outline | None) -> bool:
    """A pending recipient of it is withheld."""
    return message is not None and any(one.pending and one.destination in WITHHELD for one in message.recipients)


def without(spool: AsyncSpool, ids: bytes) -> tuple[bytes, int]:
    """Those of the messages (packed ids) of which nothing is withheld, and how many others there were."""
    kept = present(spool, ids)
    if not kept:
        return ids, 0
    others = b"".join(one for one in split(ids) if one not in kept)
    return others, (len(ids) - len(others)) // ID


def others(spool: AsyncSpool, ids: bytes) -> Some:
    """The held recipients of these messages that are not withheld."""
    return _apart(spool, ids, present(spool, ids), lambda one: one.held and one.destination not in WITHHELD)


def those(spool: AsyncSpool, ids: bytes, chosen: Callable[[RecipientStatus], bool] = lambda _: True) -> Some:
    """The withheld recipients of these messages that are chosen."""
    return _apart(spool, ids, frozenset(split(ids)), lambda one: one.destination in WITHHELD and chosen(one))


def _apart(spool: AsyncSpool, ids: bytes, mixed: frozenset[bytes], wanted: Callable[[RecipientStatus], bool]) -> Some:
    """All recipients of messages that are not `mixed`; of the mixed ones those wanted."""
    whole, single = [], list[tuple[bytes, int]]()
    for message_id in split(ids):
        message = read(spool, message_id) if message_id in mixed else None
        if message_id not in mixed:
            whole.append(message_id)
        elif message is not None:
            pending = [(index, one) for index, one in enumerate(message.recipients) if one.pending]
            chosen = [(message_id, index) for index, one in pending if wanted(one)]
            if len(chosen) == len(pending):
                whole.append(message_id)
            else:
                single += chosen
    return Some(b"".join(whole), single)


def chooser(recipients: Collection[str]) -> Callable[[str], bool]:
    """Whether an address is among these, where `@example.org` stands for all of that domain; all are when there are none."""
    wanted = frozenset(one.lower() for one in recipients)

    def chosen(address: str) -> bool:
        lower = address.lower()
        return not wanted or lower in wanted or "@" + lower.rpartition("@")[2] in wanted

    return chosen


def read(spool: AsyncSpool, message_id: bytes) -> QueuedMessage | None:
    """A message, None when it has left the queue."""
    try:
        return decode_summary(spool.get(message_id))
    except NotFoundError:
        return None


def split(ids: bytes) -> Sequence[bytes]:
    """Packed ids one by one."""
    return [ids[at : at + ID] for at in range(0, len(ids), ID)]
