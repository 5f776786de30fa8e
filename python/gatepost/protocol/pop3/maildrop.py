"""The maildrop of one POP3 session (RFC 1939 section 5): numbers, sizes, unique ids, and marks for deletion.

Owned by Pop3Machine. Message numbers never change during a session. Memory: 12 octets for each message.
"""

from array import array
from collections.abc import Iterable, Iterator


class Maildrop:
    """Snapshot of INBOX taken when the lock was taken."""

    __slots__ = ("_deleted", "_octets", "_uid_validity", "_uids")

    def __init__(self, uid_validity: int, messages: Iterable[tuple[int, int]]) -> None:
        self._uid_validity = uid_validity
        self._uids = array("I")
        self._octets = array("Q")
        self._deleted: set[int] = set()
        for uid, octets in messages:
            self._uids.append(uid)
            self._octets.append(octets)

    def totals(self) -> tuple[int, int]:
        """(messages, octets) without those marked deleted."""
        gone = sum(self._octets[number - 1] for number in self._deleted)
        return len(self._uids) - len(self._deleted), sum(self._octets) - gone

    def holds(self, number: int) -> bool:
        """Whether `number` names a message that is not marked deleted."""
        return 1 <= number <= len(self._uids) and number not in self._deleted

    def numbers(self) -> Iterator[int]:
        """Message numbers in order, without those marked deleted."""
        return (number for number in range(1, len(self._uids) + 1) if number not in self._deleted)

    def octets(self, number: int) -> int:
        """Size of a message."""
        return self._octets[number - 1]

    def uid(self, number: int) -> int:
        """The store's uid of a message."""
        return self._uids[number - 1]

    def unique_id(self, number: int) -> str:
        """UIDL (RFC 1939 section 7): stays with the message as long as the folder keeps its uid validity."""
        return f"{self._uid_validity:08x}{self._uids[number - 1]:08x}"

    def mark(self, number: int) -> None:
        """DELE: mark for removal at QUIT."""
        self._deleted.add(number)

    def reset(self) -> None:
        """RSET: unmark everything."""
        self._deleted.clear()

    def marked_uids(self) -> list[int]:
        """Uids to remove in the UPDATE state, ascending."""
        return [self._uids[number - 1] for number in sorted(self._deleted)]
