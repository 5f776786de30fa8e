"""How often a login failed from where. Used by auth.Authenticator only.

Invariants: an attempt counts as failed from its beginning, so that parallel guesses count too; the memory is bounded. When there is
no room, logins that may still be tried are forgotten before those that are put off: somebody who fails with thousands of made-up
names does not get his tries at a real one back. Pure: the clock is the caller's.
"""

from collections import OrderedDict

Key = tuple[str, str]
"""(network, login)"""


class FailureCounts:
    """Times of recent failures by network and login; the least recently used first."""

    def __init__(self) -> None:
        self._open: OrderedDict[Key, list[float]] = OrderedDict()
        self._full: OrderedDict[Key, list[float]] = OrderedDict()

    def __len__(self) -> int:
        """Logins with failures."""
        return len(self._open) + len(self._full)

    def begin(self, key: Key, now: float, *, window: float, most: int, room: int) -> bool:
        """Count an attempt. False: there were `most` within `window` seconds already; it is put off and not counted."""
        recent = [at for at in self._full.get(key) or self._open.get(key) or () if now - at < window]
        if len(recent) >= most:
            return False
        self.drop(key)
        recent.append(now)
        counts = self._full if len(recent) >= most else self._open
        counts[key] = recent
        if len(counts) > room:
            counts.popitem(last=False)
        return True

    def undo(self, key: Key) -> None:
        """The last attempt does not count, those before it do."""
        recent = self._full.pop(key, None) or self._open.pop(key, [])
        if recent[:-1]:
            self._open[key] = recent[:-1]

    def drop(self, key: Key) -> None:
        """Forget a login's failures."""
        self._full.pop(key, None)
        self._open.pop(key, None)
