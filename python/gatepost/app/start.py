"""The first steps of a start, before anything heavy is imported: data directory and its lock, sockets, worker processes.

Called by app.serve. A worker imports for a good part of a second before it can do anything, and so does the supervisor; so the workers
are executed as early as possible (the first by app.main already) and then wait for the word (`WorkerPool.begin`) that directory and
certificates are ready for them. This module and what it imports must stay light: every millisecond here is one of every start. Fails with
StartError, ListenError or OSError.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from gatepost.app import partitions
from gatepost.app.child import Child
from gatepost.app.listeners import ListenerSet
from gatepost.app.pool import SettingsPlace, WorkerPool
from gatepost.config import Endpoint, Settings, parse_endpoint
from gatepost.config.files import NewerFormatError
from gatepost.queue.paused import PausedFileError

MAIL_LISTENERS = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s", "imap", "imaps")
STOP_SECONDS = 9.0

log = structlog.get_logger()


class StartError(Exception):
    """The server cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Started:
    """What the first steps made: settings as read, the sockets, the workers that wait for the word, surplus partitions among them."""

    settings: Settings
    config: Path | None
    overrides: Mapping[str, object]
    listeners: ListenerSet
    pool: WorkerPool
    surplus: list[int]


@contextlib.asynccontextmanager
async def first_steps(
    settings: Settings, config: Path | None, overrides: Mapping[str, object], early: Child | None
) -> AsyncIterator[Started]:
    """Workers executed, not yet told to begin; at the end of the block they and the sockets are gone. Raises StartError, ListenError."""
    make_layout(settings.data)
    with hold_lock(settings.data):
        left = await asyncio.to_thread(prepare_partitions, settings.data / "spool", settings.workers)
        listeners = ListenerSet.reserve(wanted(settings))
        pool = WorkerPool(settings.workers, listeners, SettingsPlace(settings.data, config, overrides), surplus=left, early=early)
        try:
            await pool.launch()
            yield Started(settings, config, overrides, listeners, pool, left)
        finally:
            await pool.stop(STOP_SECONDS)
            listeners.close()


def wanted(settings: Settings) -> dict[str, list[Endpoint]]:
    """Listener name → endpoints, for the mail protocols."""
    return {name: [parse_endpoint(text) for text in getattr(settings.listen, name)] for name in MAIL_LISTENERS}


def prepare_partitions(spool: Path, workers: int) -> list[int]:
    """*blocking* Finish what an earlier start began, spread the pauses. Returns the surplus partitions. Raises StartError."""
    try:
        partitions.delete_tombstones(spool)
        left = partitions.surplus(spool, workers)
        partitions.spread_pauses(spool, workers)
    except (OSError, PausedFileError, NewerFormatError) as error:
        raise StartError(f"spool directory {spool}: {error}") from error
    if left:
        log.info(
            "partitions from an earlier start are drained and then removed", partitions=[f"p{index}" for index in left], workers=workers
        )
    return left


def make_layout(data: Path) -> None:
    """The data directory and its rooms, private to the owner. Raises StartError."""
    try:
        for room in (data, data / "run", data / "spool", data / "volumes", data / "secrets"):
            room.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"data directory {data}: {error.strerror or error}; give another by --data") from error


@contextlib.contextmanager
def hold_lock(data: Path) -> Iterator[IO[str]]:
    """The lock that keeps a second server off the directory. Raises StartError naming the holder."""
    with open(data / "run" / "supervisor.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise StartError(f"{data} is in use by another gatepost (pid {holder}); stop it, or give another --data") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file
        file.truncate(0)
