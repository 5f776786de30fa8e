"""What one session believes its selected folder holds (RFC 3501 2.3.1.2, 7.3, 7.4.1; RFC 2180).

Owned by a session of server/imap, fed with the store's change sets. Sequence numbers are places in `uids`; they move only
when an EXPUNGE response goes out, so expunges that arrive at a moment when none may be sent wait in `_gone`. Every
change set yields the untagged responses the client must see, in this order: EXPUNGE, EXISTS, RECENT, FLAGS, FETCH.
Memory: 4 octets for each message.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from gatepost.protocol.imap.responses import SYSTEM_FLAGS, flag_list
from gatepost.protocol.imap.search import Key
from gatepost.protocol.imap.sequence import Ranges, indexes_of_uids, numbers_in, uid_query

Message = tuple[int, int, int, int, list[str], bytes]
"""(uid, octets, internal_date_us, modseq, flags, email_id), as the store gives it."""

MAX_KEYWORDS = 200


class FolderView:
    """The selected folder as this session knows it."""

    __slots__ = ("_gone", "_keywords", "folder_id", "modseq", "name", "read_only", "recent_from", "uid_validity", "uids")

    def __init__(
        self, folder_id: bytes, name: str, uid_validity: int, modseq: int, uids: "array[int]", *, read_only: bool, recent_from: int
    ) -> None:
        self.folder_id = folder_id
        self.name = name
        self.uid_validity = uid_validity
        self.modseq = modseq
        self.uids = uids
        self.read_only = read_only
        self.recent_from = recent_from
        self._gone: set[int] = set()
        self._keywords: dict[str, None] = {}

    @property
    def recent(self) -> int:
        r"""How many messages are \Recent to this session."""
        return len(self.uids) - bisect_left(self.uids, self.recent_from)

    @property
    def newest(self) -> int:
        """Highest uid of the view, 0 when it is empty."""
        return self.uids[-1] if self.uids else 0

    def claimed(self, first: int) -> None:
        r"""The session claimed the \Recent messages from `first` on. One range is kept, so what others claimed in between counts, too."""
        if not self.recent:
            self.recent_from = first

    @property
    def has_gone(self) -> bool:
        """True while expunges wait to be told: answers may then carry [EXPUNGEISSUED] (RFC 5530)."""
        return bool(self._gone)

    def flags_line(self) -> bytes:
        """The FLAGS response: system flags and the keywords met so far."""
        return b"* FLAGS " + flag_list([*SYSTEM_FLAGS, *self._keywords]) + b"\r\n"

    def learn_keywords(self, flags: Iterable[str]) -> bool:
        """Note keywords; True when one was new (then FLAGS is due). Bounded, beyond that they are not announced."""
        known = len(self._keywords)
        for flag in flags:
            if not flag.startswith("\\") and len(self._keywords) < MAX_KEYWORDS:
                self._keywords.setdefault(flag)
        return len(self._keywords) > known

    def targets(self, ranges: Ranges, *, uid: bool) -> list[tuple[int, int]]:
        """(sequence number, uid) of the messages a command names, ascending. Numbers that name nothing are passed over."""
        uids = self.uids
        if uid:
            return [(at + 1, uids[at]) for at in indexes_of_uids(ranges, uids)]
        return [(number, uids[number - 1]) for number in numbers_in(ranges, len(uids))]

    def number_of(self, uid: int) -> int:
        """Sequence number of `uid`; 0 when the view does not hold it."""
        at = bisect_left(self.uids, uid)
        return at + 1 if at < len(self.uids) and self.uids[at] == uid else 0

    def fetch_flags(self, message: Message, *, with_uid: bool) -> bytes:
        """'* n FETCH (FLAGS …)' for a message of the view, b'' for another."""
        number = self.number_of(message[0])
        if not number:
            return b""
        flags = [*message[4], "\\Recent"] if message[0] >= self.recent_from else message[4]
        uid = b"UID %d " % message[0] if with_uid else b""
        return b"* %d FETCH (%bFLAGS %b)\r\n" % (number, uid, flag_list(flags))

    def apply(
        self, modseq: int, changed: Sequence[Message], expunged: Iterable[int], *, may_expunge: bool, told: dict[int, int]
    ) -> list[bytes]:
        """Take a change set in; returns the responses due now. `told`: uid -> modseq of changes the client has had an answer for."""
        self.modseq = max(self.modseq, modseq)
        self._gone.update(uid for uid in expunged if self.number_of(uid))
        out = self.release_expunges() if may_expunge else []
        newest = self.newest
        fresh = [message[0] for message in changed if message[0] > newest]
        if fresh:
            self.uids.extend(sorted(fresh))
            out.append(b"* %d EXISTS\r\n* %d RECENT\r\n" % (len(self.uids), self.recent))
        old = [m for m in changed if m[0] <= newest and m[0] not in self._gone and told.get(m[0], -1) < m[3]]
        if self.learn_keywords(flag for message in changed for flag in message[4]):
            out.append(self.flags_line())
        out += filter(None, (self.fetch_flags(message, with_uid=True) for message in old))
        return out

    def release_expunges(self) -> list[bytes]:
        """EXPUNGE responses for everything that is gone, highest number first so that no number shifts another."""
        if not self._gone:
            return []
        numbers = sorted((self.number_of(uid) for uid in self._gone), reverse=True)
        self.uids = array("I", (uid for uid in self.uids if uid not in self._gone))
        self._gone = set()
        return [b"".join(b"* %d EXPUNGE\r\n" % number for number in numbers)]

    def bind_search(self, key: Key) -> Key:
        """Replace the keys that depend on the view (see search.py) by uids."""
        head = key[0]
        if head in ("SEQ", "UIDS"):
            ranges: Ranges = key[1]  # type: ignore[assignment]
            return uid_query([uid for _, uid in self.targets(ranges, uid=head == "UIDS")])
        if head == "RECENT":
            return ["UID", self.recent_from, 0xFFFFFFFF]
        if head in ("AND", "OR", "NOT"):
            return [head, *(self.bind_search(part) for part in key[1:] if isinstance(part, list))]
        return key
