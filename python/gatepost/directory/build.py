"""Has the index file of a large rule set built, by one process at a time.

Called by live.py, in a thread. Invariants: whoever holds `rules.lock` builds; who waited for it and finds a new file is content with
that. The file appears whole or not at all (rust_core/rules); what a builder that was killed left beside it is removed by the next one.
Fails with DirectoryError, the file then being what it was. Waits at most MAX_SECONDS.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from gatepost.directory.errors import DirectoryError

MAX_SECONDS = 120.0
_WAIT = 0.05


def run(database: Path, target: Path, *, unless: tuple[int, int, int] | None, niceness: int = 0) -> None:
    """Build `target` from `database`, unless there is another file by now than the one `unless` tells (inode, mtime in ns, size)."""
    with _alone(target.with_suffix(".lock")):
        with contextlib.suppress(OSError):
            found = os.stat(target)
            if (found.st_ino, found.st_mtime_ns, found.st_size) != unless:
                return
        for left in target.parent.glob(f"{target.stem}.tmp-*"):
            left.unlink(missing_ok=True)
        command = [sys.executable, "-m", "gatepost.native.build_rules", str(database), str(target), str(niceness)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=MAX_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DirectoryError(f"{target}: building it failed: {error}") from error
        if done.returncode:
            why = done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
            raise DirectoryError(f"building the index of the rules failed: {why}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DirectoryError(f"{path}: {error.strerror}") from error
    try:
        ends = time.monotonic() + MAX_SECONDS
        while not _locked(handle):
            if time.monotonic() > ends:
                raise DirectoryError(f"{path}: another process has been building for {MAX_SECONDS:.0f} s")
            time.sleep(_WAIT)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
