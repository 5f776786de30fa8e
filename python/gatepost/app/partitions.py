"""The partition directories `DIR/spool/pN` as the supervisor sees them: which are surplus, which pauses hold, how an empty one is removed.

Used by the supervisor (before workers start, and when a drain worker has ended) and by workers for the path. Invariants: a directory is
removed only while its lock is held, and under another name first, so that a crash in the middle leaves either the partition or a
tombstone that the next start deletes; damaged stretches that recovery set aside are kept. Fails with OSError, or PartitionInUse.
"""

import contextlib
import fcntl
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from gatepost.config.files import sync_directory
from gatepost.queue.paused import PausedDestinations

TOMBSTONE = re.compile(r"removed-p[0-9]+-[0-9]+")
_PARTITION = re.compile(r"p(0|[1-9][0-9]*)")

log = structlog.get_logger()


class PartitionInUse(Exception):
    """Another process holds the partition's lock."""


def path_of(spool: Path, index: int) -> Path:
    """Directory of a worker's partition."""
    return spool / f"p{index}"


def surplus(spool: Path, workers: int) -> list[int]:
    """Partitions that an earlier start with more workers left behind, ascending."""
    numbers = (int(found[1]) for one in spool.iterdir() if one.is_dir() and (found := _PARTITION.fullmatch(one.name)))
    return sorted(number for number in numbers if number >= workers)


def delete_tombstones(spool: Path) -> None:
    """*blocking* Finish removals that a crash interrupted. What cannot be deleted stays and is logged."""
    for path in [one for one in spool.iterdir() if TOMBSTONE.fullmatch(one.name)]:
        try:
            shutil.rmtree(path)
        except OSError as error:
            log.warning("what is left of a removed partition cannot be deleted", path=str(path), error=str(error))


def remove(spool: Path, index: int) -> None:
    """*blocking* Remove an empty partition whose worker has closed it. Raises PartitionInUse, OSError; then the partition is still there,
    or a tombstone is.
    """
    path = path_of(spool, index)
    stamp = time.time_ns() // 1000
    with _held(path):
        damaged = path / "damaged"
        if damaged.is_dir() and any(damaged.iterdir()):
            damaged.rename(spool / f"damaged-p{index}-{stamp}")
        tombstone = path.rename(spool / f"removed-p{index}-{stamp}")
        sync_directory(spool)
    shutil.rmtree(tombstone)


def spread_pauses(spool: Path, workers: int) -> None:
    """*blocking* A destination that is paused in one partition is paused in all: the number of workers may have changed, or a call that
    paused it may have reached some only. Raises OSError, ValueError for a file that cannot be read.
    """
    places = [path_of(spool, index) for index in range(workers)] + [path_of(spool, index) for index in surplus(spool, workers)]
    files = [PausedDestinations(place / "paused.json") for place in places]
    everywhere = {name for file in files for name in file.names()}
    for place, file in zip(places, files, strict=True):
        missing = everywhere - set(file.names())
        if missing:
            place.mkdir(mode=0o700, exist_ok=True)
            file.add_all(missing)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """The partition's own lock, which its worker holds while it is open."""
    with (path / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PartitionInUse(f"{path} is open in another process") from None
        yield
