"""Changes of a message's header that come from sender rules, stage policies and verification, carried out together with the gate's. Used
by data.py.

Invariant: offsets are those of the header as it was received; of changes of the same octets the gate's holds, else the first.
"""

import re
from collections.abc import Sequence
from typing import Any

from gatepost.message.fields import HeaderView
from gatepost.native import Incoming

Edit = tuple[int, int, bytes]
_AUTHORS = ("from", "sender")


class Pending:
    """A received message whose edits wait until all are known: everything but `edit` is the message's own. The gate is given this one."""

    def __init__(self, incoming: Incoming, edits: Sequence[Edit] = ()) -> None:
        self._incoming = incoming
        self.edits = list(edits)
        self.front = b""
        self._gate: tuple[bytes, bytes, Sequence[Edit]] = (b"", b"", ())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._incoming, name)

    def edit(self, front: bytes, forged: bytes, edits: Sequence[Edit] = ()) -> None:
        """What the gate wants changed."""
        self._gate = (front, forged, edits)

    def finish(self) -> None:
        """Change the message. Raises CoreError."""
        front, forged, edits = self._gate
        mine: list[Edit] = []
        for one in self.edits:
            if one not in mine and not any(_overlap(one, other) for other in (*edits, *mine)):
                mine.append(one)
        self._incoming.edit(front + self.front, forged, [*edits, *mine])


def _overlap(one: Edit, other: Edit) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def masqueraded(header: bytes, before: str, after: str) -> list[Edit]:
    """From and Sender with the domain `after` in place of `before`, which may stand in any case."""
    made: list[Edit] = []
    fits = re.compile(rb"@" + re.escape(before.encode()) + rb"(?=[\s>,;)]|$)", re.IGNORECASE)
    view = HeaderView(header)
    for place in view.places:
        if place.name in _AUTHORS:
            found = fits.finditer(header[place.value : place.end])
            made += [(place.value + one.start(), place.value + one.end(), b"@" + after.encode()) for one in found]
    return made
