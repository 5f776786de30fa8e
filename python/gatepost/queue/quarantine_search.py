"""Looking through all of the quarantine: a text in its verdicts, and what it holds by recipient. Used by quarantine, on native rows.

A text is looked for in the octets of a message's record first, so that the many that cannot have it are passed without being decoded.
Everything here *blocks*, but each step is one page of the spool: call the steps one by one in a thread. Memory: `Shares` keeps at most
MAX_IDS ids, whatever is in quarantine; more are counted only.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from gatepost.message.verdict import QUARANTINE
from gatepost.native import K_NOTE, Summary
from gatepost.queue.views import Filter
from gatepost.spool import AsyncSpool

PAGE = 1000
MAX_IDS = 100_000
_RUN = re.compile(r"[a-z]{3,}")
_OURS = ("policy", "rule")
"""Words that stand in every verdict's text and not in its record."""


class TextHint:
    """Tells of a native row whether a text may be in the newest verdict; what may is decoded and looked at."""

    def __init__(self, spool: AsyncSpool, text: str) -> None:
        self._spool = spool
        runs = [run for run in _RUN.findall(text.lower()) if not any(run in word for word in _OURS)]
        self._run = max(runs, key=len, default="").encode()

    def may_have(self, row: Summary) -> bool:
        """False only when it is certain: the record has the verdict of the reception in JSON, letters other than ASCII escaped."""
        record = row[4].lower()
        if self._run in record or b"\\u" in record:
            return True
        return any(note[1] == K_NOTE for note in self._spool.native.history(row[0]))


@dataclass(slots=True)
class Share:
    """What is in quarantine for one recipient: how many messages, and the ids of the newest, oldest of them first."""

    count: int = 0
    newest: deque[bytes] = field(default_factory=deque)


class Shares:
    """The quarantine by recipient, received from `since` until `until` (Unix µs); of each the ids of the `keep` newest."""

    def __init__(self, spool: AsyncSpool, since: int, until: int, keep: int) -> None:
        self._spool = spool
        self._times = since, until
        self._keep = keep
        self._filter = Filter(destination=QUARANTINE, state="PENDING").native(0)
        self._ids = 0
        self.by_recipient: dict[str, Share] = {}

    def step(self, after: bytes | None) -> bytes | None:
        """*blocking* Count a page; where to go on, None at the end."""
        rows, following = self._spool.page(self._filter, after, PAGE)
        since, until = self._times
        for row in rows:
            if since <= row[2] < until:
                for address in _withheld_of(row):
                    self._count(address, row[0])
        return following

    def _count(self, address: str, message_id: bytes) -> None:
        share = self.by_recipient.setdefault(address, Share())
        share.count += 1
        if len(share.newest) == self._keep:
            share.newest.popleft()
        elif self._ids == MAX_IDS:
            return
        else:
            self._ids += 1
        share.newest.append(message_id)


def _withheld_of(row: Summary) -> Iterator[str]:
    """Addresses of a native row's recipients that are in quarantine."""
    for address, _, destination, _, _, state, *_ in row[6]:
        if destination == QUARANTINE and state == "PENDING":
            yield address
