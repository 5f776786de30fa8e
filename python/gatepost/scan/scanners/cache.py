"""Answers remembered by content, for one signature version at a time. Used by `entry`, one per scanner and worker.

Bounded by number: the least recently used goes first. An answer is given again for `seconds`, and only under the signatures it was
made with; a new version forgets everything. `error` is never remembered.
"""

from collections import OrderedDict

from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.plugin import Outcome, ScanAnswer

Key = tuple[str, str, str]


def key_of(content: PartBlob) -> Key:
    """Digest, and what else of the content a scanner may look at: its claimed type and name."""
    return content.sha256, content.media_type, content.name


class AnswerCache:
    """Times are of one monotonic clock, in seconds."""

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._kept: OrderedDict[Key, tuple[float, ScanAnswer]] = OrderedDict()
        self.signatures = ""
        """The version that answers belong to; '' is unknown."""

    def __len__(self) -> int:
        """Answers remembered."""
        return len(self._kept)

    def renew(self, signatures: str) -> None:
        """Signatures are of this version from now on."""
        if signatures != self.signatures:
            self.signatures = signatures
            self._kept.clear()

    def clear(self) -> None:
        """Forget everything: nobody knows what the scanner is now."""
        self._kept.clear()

    def get(self, key: Key, now: float) -> ScanAnswer | None:
        """The answer to the same content, if it still counts."""
        found = self._kept.get(key)
        if found is None:
            return None
        if found[0] <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return found[1]

    def put(self, key: Key, answer: ScanAnswer, began_with: str, now: float) -> None:
        """Remember it, unless it is an error or the signatures changed while it was made."""
        if answer.outcome == Outcome.ERROR or began_with != self.signatures:
            return
        self._kept[key] = now + self._seconds, answer
        self._kept.move_to_end(key)
        if len(self._kept) > self._entries:
            self._kept.popitem(last=False)
