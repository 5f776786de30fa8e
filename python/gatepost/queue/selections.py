"""Frozen selections: the ids that a preview showed, kept under a token until the caller acts on them. Used by control/ in each worker.

Invariants: a token means exactly the ids frozen under it, for the caller it was given to, for TTL_SECONDS; at most MAX_SELECTIONS
and MAX_OCTETS are kept, the oldest are forgotten first. In memory only: a restart forgets them. Fails with UnknownSelectionError,
which says what to do.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

TTL_SECONDS = 3600.0
MAX_SELECTIONS = 32
MAX_OCTETS = 64 << 20
ID_OCTETS = 16
AGAIN = "preview the selection again"


class UnknownSelectionError(Exception):
    """The token means nothing here (any more); the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Packed ids, whose they are, until when (monotonic seconds), and the selection in words."""

    ids: bytes
    actor: str
    ends: float
    words: str

    def __len__(self) -> int:
        """How many messages."""
        return len(self.ids) // ID_OCTETS


class Selections:
    """`clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[str, Selection] = {}

    def freeze(self, ids: bytes, actor: str, words: str) -> str:
        """Keep a selection; its token. Raises UnknownSelectionError when it is larger than all that may be kept."""
        if len(ids) > MAX_OCTETS:
            raise UnknownSelectionError(f"more than {MAX_OCTETS // ID_OCTETS} messages cannot be frozen; narrow the filter")
        self._forget(room=len(ids))
        token = secrets.token_hex(16)
        self._kept[token] = Selection(ids, actor, self._clock() + TTL_SECONDS, words)
        return token

    def get(self, token: str, actor: str) -> Selection:
        """The selection of a token. Raises UnknownSelectionError."""
        self._forget()
        found = self._kept.get(token)
        if found is None or found.actor != actor:
            raise UnknownSelectionError(f"the token is unknown, expired, or from before a restart; {AGAIN}")
        return found

    def _forget(self, room: int | None = None) -> None:
        """Drop what is over, and with `room` the oldest until a selection of so many octets fits."""
        now = self._clock()
        for token in [token for token, one in self._kept.items() if one.ends <= now]:
            del self._kept[token]
        while room is not None and self._kept and (len(self._kept) >= MAX_SELECTIONS or self._octets() + room > MAX_OCTETS):
            del self._kept[next(iter(self._kept))]

    def _octets(self) -> int:
        return sum(len(one.ids) for one in self._kept.values())
