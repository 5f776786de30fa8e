"""After a failed sync: what a log directory remembers of it, and what is done before its files are believed again.

A sync that fails leaves pages that the kernel may count as clean although they never reached the disk: reading them back proves nothing,
and another sync of the same file may succeed and prove nothing either. So the failure is written down in the directory (`sync-failed`),
and whoever opens it next flushes what can be flushed, drops the cached pages of every file, so that recovery reads what is really on the
disk, and lets the disk prove itself with a file that is written and synced. Nothing in the failed batch was acknowledged, so recovery may
cut it.

Called by app (partitions), mailbox (streams of volumes); everything here blocks. Fails with SyncFailedError when the disk still does not
write. The note itself is written as well as a failing disk allows: it has to survive the process, not the machine, whose restart drops
the cache anyway.
"""

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from gatepost.native import SyncFailedError

NOTE = "sync-failed"
PROBE = "sync-probe"
PROBE_OCTETS = 65_536
WINDOW_SECONDS = 3600.0
MAX_TIMES = 20
MAX_REOPENINGS = 3
"""So often within WINDOW_SECONDS a place is opened again without a person; then it stays closed until the server is started anew."""
REMEMBERED_SECONDS = 86_400.0


@dataclass(slots=True)
class SyncFailures:
    """What a directory remembers. times: Unix seconds of each failure, oldest first; trusted: it was opened again since."""

    error: str = ""
    times: list[float] = field(default_factory=list)
    trusted: bool = True

    def recent(self, now: float) -> int:
        """Failures within the window."""
        return sum(1 for moment in self.times if now - WINDOW_SECONDS < moment)

    def text(self, now: float) -> str:
        """What an administrator should know for a day; '' when there is nothing."""
        last = self.times[-1] if self.times else 0.0
        if now - last > REMEMBERED_SECONDS:
            return ""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last))
        return f"opened again after a failed sync at {moment} ({self.error}); check the disk"


def read(directory: Path) -> SyncFailures:
    """What is noted; an empty one when nothing is, or when the note cannot be read."""
    try:
        told = json.loads((directory / NOTE).read_bytes())
        return SyncFailures(str(told["error"]), [float(one) for one in told["times"]], bool(told["trusted"]))
    except FileNotFoundError:
        return SyncFailures()
    except (OSError, ValueError, TypeError, KeyError):
        return SyncFailures("unknown", [time.time()], trusted=False)


def note(directory: Path, error: str) -> SyncFailures:
    """Write down one more failure."""
    known = read(directory)
    now = time.time()
    failures = SyncFailures(error, [*(one for one in known.times if now - one < REMEMBERED_SECONDS), now][-MAX_TIMES:], trusted=False)
    with contextlib.suppress(OSError):
        _write(directory, failures)
    return failures


def distrust(directory: Path) -> SyncFailures | None:
    """Before opening: None when nothing is noted. Else see above; `trust` has to follow when opening succeeded. Raises SyncFailedError."""
    failures = read(directory)
    if failures.trusted:
        return None
    try:
        for path in sorted(directory.iterdir()):
            if path.is_file():
                _flush_and_drop(path)
        probe(directory)
    except OSError as error:
        raise SyncFailedError(f"{directory}: the disk still fails ({error}); check it, then start again") from error
    return failures


def trust(directory: Path, failures: SyncFailures) -> None:
    """It was opened from what is on the disk."""
    failures.trusted = True
    with contextlib.suppress(OSError):
        _write(directory, failures)


def probe(directory: Path) -> None:
    """Write a file, sync it, remove it. Raises OSError when the disk does not take it."""
    path = directory / PROBE
    with path.open("wb", buffering=0) as file:
        file.write(b"\xa5" * PROBE_OCTETS)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    path.unlink()


def _flush_and_drop(path: Path) -> None:
    """Write out what is dirty, then let go of the cached pages: only clean ones can be dropped; those of a failed write count as clean."""
    with path.open("rb+", buffering=0) as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _write(directory: Path, failures: SyncFailures) -> None:
    fresh = directory / f"{NOTE}.new"
    fresh.write_text(json.dumps({"error": failures.error, "times": failures.times, "trusted": failures.trusted}))
    fresh.rename(directory / NOTE)
