"""Changes on their way to the journal: all of one turn of the event loop go to the spool as one batch. Owned by the scheduler.

Invariant: changes reach the spool in the order they were put. When the spool takes no more (a failed sync), they are logged as lost: what
they told of is done or tried again after the next start, as after a crash.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import structlog

from gatepost.native import K_DEFERRED, K_RETRY, Change, CoreError
from gatepost.queue.changes import COUNTED
from gatepost.spool import AsyncSpool

log = structlog.get_logger()


class Outbox:
    """`on_later`: called when changes have set a due time, behind them."""

    def __init__(self, spool: AsyncSpool, on_later: Callable[[], None]) -> None:
        self.counters: Counter[str] = Counter()
        self._spool = spool
        self._on_later = on_later
        self._changes: list[Change] = []
        self._flushing: asyncio.Handle | None = None

    def put(self, changes: Sequence[Change]) -> None:
        """With the others of this turn of the loop."""
        if not changes:
            return
        self._changes.extend(changes)
        for change in changes:
            self.counters[COUNTED.get(change[2], "other")] += 1
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        changes, self._changes = self._changes, []
        if not changes:
            return
        try:
            self._spool.change_nowait(changes)
        except CoreError as error:
            log.error("outcomes not journaled", error=str(error), changes=len(changes))
            return
        if any(change[2] in (K_DEFERRED, K_RETRY) for change in changes):
            self._on_later()
