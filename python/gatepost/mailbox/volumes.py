"""The volumes of this process by name, and which of them holds whose mailbox. Built by app/, used by server/, delivery/ and control/.

Invariants: a volume that is no longer listed is found no more from that moment on, and is closed when the deliveries handed in are done;
later ones get an error that means "not now", so that their messages stay in the queue.
A volume that cannot be opened does not keep the others from working: its error is raised to whoever uses it, and the next use tries again.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self

import structlog

from gatepost.mailbox.store import AsyncStore
from gatepost.native import CoreError, NotFoundError

log = structlog.get_logger(__name__)

THREADS = 8
"""Threads for blocking store calls of one process; more calls than that wait their turn."""


class VolumePlace(Protocol):
    """A volume as the directory lists it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def path(self) -> str:
        """Its directory, absolute."""
        ...


class MailboxPlace(Protocol):
    """A mailbox as the rule set lists it."""

    @property
    def mailbox_id(self) -> bytes:
        """Its id."""
        ...

    @property
    def volume(self) -> str:
        """Name of the volume that holds it."""
        ...


class Volumes:
    """All volumes. `mailboxes` gives the present mailboxes by lower-case address."""

    def __init__(self, *, stream: str, mailboxes: Callable[[], Mapping[str, MailboxPlace]] | None = None, min_free_bytes: int = 0) -> None:
        self._stream = stream
        self._mailboxes = mailboxes
        self._min_free_bytes = min_free_bytes
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        self._stores: dict[str, AsyncStore] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        volumes: Iterable[VolumePlace],
        *,
        stream: str,
        mailboxes: Callable[[], Mapping[str, MailboxPlace]] | None = None,
        min_free_bytes: int = 0,
    ) -> Self:
        """Open all; raises the first error only when none can be opened."""
        self = cls(stream=stream, mailboxes=mailboxes, min_free_bytes=min_free_bytes)
        self.update(volumes)
        names = list(self._stores)
        results = await asyncio.gather(*(self._stores[name].open() for name in names), return_exceptions=True)
        errors = [(name, result) for name, result in zip(names, results, strict=True) if isinstance(result, BaseException)]
        for name, error in errors:
            log.error("volume cannot be opened", volume=name, error=str(error))
            if not isinstance(error, CoreError | OSError) or len(errors) == len(names):
                await self.close()
                raise error
        return self

    def update(self, volumes: Iterable[VolumePlace]) -> None:
        """Add volumes that are new; they are opened when first used. Close those not listed, or listed elsewhere. For the event loop."""
        listed = {volume.name: volume for volume in volumes}
        for name, store in list(self._stores.items()):
            if name not in listed or listed[name].path != store.path:
                self._retire(name, self._stores.pop(name))
        for volume in listed.values():
            if volume.name not in self._stores:
                self._stores[volume.name] = AsyncStore(
                    volume.path, self._executor, stream=self._stream, min_free_bytes=self._min_free_bytes
                )

    def _retire(self, name: str, store: AsyncStore) -> None:
        """Close a volume in the background; `close` waits for it."""
        log.info("volume is no longer used", volume=name, path=store.path)
        task = asyncio.get_running_loop().create_task(self._close_stores({name: store}), name=f"close volume {name}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def by_name(self, name: str) -> AsyncStore:
        """A volume. Raises NotFoundError."""
        store = self._stores.get(name)
        if store is None:
            raise NotFoundError(f"no volume {name}")
        return store

    def failed(self) -> dict[Path, str]:
        """Own log directory → error of each volume that is closed after a failed sync."""
        return {store.place: str(store.fatal) for store in self._stores.values() if store.fatal is not None}

    def mailbox_for(self, mailbox: MailboxPlace) -> tuple[AsyncStore, bytes]:
        """Where a mailbox is. Raises NotFoundError when its volume is not known here."""
        return self.by_name(mailbox.volume), mailbox.mailbox_id

    def mailbox(self, address: str) -> tuple[AsyncStore, bytes]:
        """Where the mailbox of an address is. Raises NotFoundError."""
        found = self._mailboxes().get(address.lower()) if self._mailboxes is not None else None
        if found is None:
            raise NotFoundError(f"no mailbox {address}")
        return self.mailbox_for(found)

    async def close(self) -> None:
        """Close all volumes; deliveries handed in are finished first."""
        await asyncio.gather(self._close_stores(self._stores), *self._closing)
        await asyncio.to_thread(self._executor.shutdown)

    async def _close_stores(self, stores: Mapping[str, AsyncStore]) -> None:
        results = await asyncio.gather(*(store.close() for store in stores.values()), return_exceptions=True)
        for name, result in zip(stores, results, strict=True):
            if isinstance(result, BaseException):
                log.error("volume did not close cleanly", volume=name, error=str(result))
