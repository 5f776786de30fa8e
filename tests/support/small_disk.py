"""A real file system of a few megabytes, a tmpfs of its own, that a test can fill and empty. Needs root and the right to mount."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes import need, need_root

BALLAST = "ballast"
BLOCK = 1 << 20


class SmallDisk:
    """A mounted directory. `leave` fills it until so much is free, `empty` takes the filling away."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Free octets."""
        return shutil.disk_usage(self.path).free

    def leave(self, octets: int) -> None:
        """Fill the disk until about so many octets are free."""
        with (self.path / BALLAST).open("ab", buffering=0) as file:
            while self.free > octets:
                file.write(b"\0" * min(BLOCK, self.free - octets))

    def empty(self) -> None:
        """Remove the filling."""
        (self.path / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mounted at `path`, which is made; unmounted at the end. Skips, visibly, where nothing can be mounted."""
    need_root()
    need("mount", "umount")
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False)
