"""Lists of SHA-256 digests in files, for rules with `sha256_files`: read when a policy is made, read again when the file has changed.

Made and asked in threads, never on an event loop. A look-up sees changes that are LOOK_SECONDS old: what is due is looked at by a thread
of its own, for which it waits no longer than WAIT_SECONDS; until that is done (a disk that hangs) the old list holds. A line is 64 hex
digits, whatever stands behind a blank is a comment, as `sha256sum` writes it. Kept sorted, 32 octets each. Bounds: LINES_MAX lines,
BYTES_MAX octets, and TOTAL_MAX octets in memory for all lists that rules name; what is beyond them, and a file that cannot be read, is
logged, and what was read before stays.
"""

import os
import threading
import time
from bisect import bisect_left
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

LINES_MAX = 100_000
BYTES_MAX = 16 << 20
TOTAL_MAX = 256 << 20
DIGEST = 32
LOOK_SECONDS = 1.0
"""How often a file is looked at for changes, at most."""
WAIT_SECONDS = 0.5

_log = structlog.get_logger(__name__)


class HashFile:
    """One file. Safe from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests = _Sorted(b"")
        self._stamp: tuple[int, int, int] | None = None
        self._due = 0.0
        self._busy = threading.Lock()
        self.refresh()

    @property
    def name(self) -> str:
        """Its path as text."""
        return os.fspath(self.path)

    @property
    def octets(self) -> int:
        """What it takes in memory."""
        return len(self._digests.packed)

    @property
    def known(self) -> bool:
        """Whether it could be read at least once."""
        return self._stamp is not None

    def __contains__(self, digest: str) -> bool:
        """`digest` in hex, or '' for content that was not seen whole."""
        if time.monotonic() >= self._due and self._busy.acquire(blocking=False):
            self._due = time.monotonic() + LOOK_SECONDS
            looking = threading.Thread(target=self._look, name="hash-list", daemon=True)
            looking.start()
            looking.join(WAIT_SECONDS)
        return bool(digest) and bytes.fromhex(digest) in self._digests

    def _look(self) -> None:
        try:
            self._read()
        finally:
            self._busy.release()

    def refresh(self) -> None:
        """Read it now if it has changed."""
        with self._busy:
            self._due = time.monotonic() + LOOK_SECONDS
            self._read()

    def _read(self) -> None:
        try:
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._stamp:
                return
            with self.path.open("rb") as file:
                data = file.read(BYTES_MAX)
        except OSError as fault:
            _log.warning("a list of hashes cannot be read", path=os.fspath(self.path), error=fault.strerror)
            return
        digests = _digests(data)
        if len(digests) > LINES_MAX or found.st_size > BYTES_MAX:
            _log.warning("a list of hashes is too long: only its beginning is used", path=os.fspath(self.path), lines_max=LINES_MAX)
        self._stamp = stamp
        room = TOTAL_MAX - sum(one.octets for one in list(_files.values()) if one is not self)
        if min(len(digests), LINES_MAX) * DIGEST > room:
            _log.error("a list of hashes is not read: all lists together are too long", path=self.name, octets_max=TOTAL_MAX)
            return
        self._digests = _Sorted(b"".join(sorted(set(digests[:LINES_MAX]))))


class _Sorted:
    """Digests behind each other, to be searched by halving."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return len(self.packed) // DIGEST

    def __getitem__(self, index: int) -> bytes:
        return self.packed[index * DIGEST : (index + 1) * DIGEST]

    def __contains__(self, digest: bytes) -> bool:
        at = bisect_left(self, digest)
        return at < len(self) and self[at] == digest


def _digests(data: bytes) -> list[bytes]:
    found = []
    for line in data.splitlines():
        words = line.split(None, 1)
        if words and len(words[0]) == 64:
            try:
                found.append(bytes.fromhex(words[0].decode("ascii")))
            except ValueError:
                continue
    return found


_files: WeakValueDictionary[str, HashFile] = WeakValueDictionary()
_lock = threading.Lock()


def hash_file(path: str) -> HashFile:
    """The one HashFile of a path, as long as somebody holds it; read at the first call."""
    with _lock:
        found = _files.get(path)
    if found is not None:
        return found
    made = HashFile(Path(path))
    with _lock:
        return _files.setdefault(path, made)
