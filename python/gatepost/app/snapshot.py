"""The rule set a worker decides with: read from the directory, swapped as a whole when anyone changed it.

Used by worker and supervisor. The supervisor asks for `refresh` after each change; a poll each second is the safety net, so a
change made by any other process is seen too. A snapshot that cannot be read keeps the old one in force and is logged. Of a large rule set
the supervisor has a new index file built when too much has changed since the last; every process goes over to it at its next look.
"""

import asyncio
from collections.abc import Callable

import structlog

from gatepost.directory import Directory, DirectoryError
from gatepost.queue.list_store import ListStore
from gatepost.routing.members import LiveBook
from gatepost.routing.model import RuleSet

POLL_SECONDS = 1.0
BUILD_SECONDS = 60.0
"""Between two beginnings of building an index file."""

log = structlog.get_logger()


class LiveRules:
    """Holds the current RuleSet; `on_change` hooks run after each swap. `lists`: what members of lists asked for."""

    def __init__(self, directory: Directory, lists: ListStore | None = None) -> None:
        self._directory = directory
        self._lists = lists
        self._book = LiveBook()
        self._read_book()
        self._seen = directory.data_version()
        self.current: RuleSet = self._snapshot()
        self._hooks: list[Callable[[], None]] = []
        self._preparations: list[Callable[[RuleSet], None]] = []
        self._lock = asyncio.Lock()

    def __call__(self) -> RuleSet:
        """The snapshot in force."""
        return self.current

    def on_change(self, hook: Callable[[], None]) -> None:
        """Run `hook` in the event loop after each swap."""
        self._hooks.append(hook)

    def before_change(self, prepare: Callable[[RuleSet], None]) -> None:
        """Run `prepare` in a thread with each new snapshot, before it is in force."""
        self._preparations.append(prepare)

    def _next(self) -> RuleSet:
        """*blocking* The newest snapshot, ready to be used."""
        found = self._snapshot()
        for prepare in self._preparations:
            prepare(found)
        return found

    def _snapshot(self) -> RuleSet:
        """*blocking* The rules; every rule set, old or new, sees the members' newest wishes."""
        return self._directory.snapshot(self._book)

    def _read_book(self) -> None:
        """*blocking* Look for members' newer wishes. Raises OSError."""
        if self._lists is not None and self._lists.revision() != self._book.revision:
            self._book.revision, self._book.entries = self._lists.book()

    async def refresh(self) -> int:
        """Look for a newer version now. Returns the version in force."""
        async with self._lock:
            await asyncio.to_thread(self._read_book)
            seen, newer = await asyncio.to_thread(self._look)
            if seen != self._seen or newer:
                self.current = await asyncio.to_thread(self._next)
                for hook in self._hooks:
                    hook()
                self._seen = seen  # last: a hook that failed is run again at the next look
        return self.current.version

    def _look(self) -> tuple[int, bool]:
        """*blocking* Whether anything changed, and whether there is a new index file for what did not."""
        return self._directory.data_version(), self._directory.has_newer_index()

    async def poll(self) -> None:
        """Run until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self.refresh()
            except Exception as error:
                log.error("rules could not be read; the ones in force stay", error=str(error))

    async def keep_index(self) -> None:
        """Run until cancelled, in one process: have the index file built when it is due."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if not self._directory.index_is_due() or self._directory.has_newer_index():
                continue
            try:
                await asyncio.to_thread(self._directory.build_index)
            except DirectoryError as error:
                log.error("the index of the rules is not built anew; what changed is held in memory", error=str(error))
            await asyncio.sleep(BUILD_SECONDS)
