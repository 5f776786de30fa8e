"""The audit log: one JSON line for each change asked for over the control plane, in DIR/audit.log. Written by the guard.

A line is on disk before the change begins, with the outcome STARTED; the outcome is then written over it in place (its room is
kept free). So a change without a line cannot happen, and a line that says STARTED means that the server died in between.
Invariants: one process writes; times are unique and rising, so they name a record; lines are whole (a torn one is ended at open,
and readers skip it). The log is rotated by size: audit.log.1 is the newest old one.
Fails with AuditError when a line cannot be put on disk; the guard then refuses the change.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_BYTES = 16 << 20
KEEP = 5
MAX_LINE = 32 << 10  # 2,000 characters of request, escaped twice at worst, and the rest
_STARTED = '"STARTED"}'
_ROOM = 32  # octets kept for '"OUTCOME"}'; the longest status name has 19
_BLOCK = 64 << 10


class AuditError(Exception):
    """The record could not be written; the text says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record whose outcome is still open: where to write it."""

    fd: int
    offset: int


class AuditLog:
    """Appends and reads records. Every method that touches the disk runs in a thread."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._lock = threading.Lock()
        self._last = 0
        self._fd = -1
        self._open()

    async def begin(self, record: Mapping[str, Any]) -> Entry:
        """Put a record on disk. Raises AuditError."""
        return await asyncio.to_thread(self._begin, record)

    async def finish(self, entry: Entry, outcome: str) -> None:
        """Write the outcome. Raises AuditError (the change was made nevertheless)."""
        await asyncio.to_thread(self._finish, entry, outcome)

    async def read(self, limit: int, before: str, rpc_prefix: str = "") -> list[dict[str, Any]]:
        """At most `limit` records, newest first, older than the time text `before` ('' = from the newest)."""
        return await asyncio.to_thread(self._read, limit, before, rpc_prefix)

    def close(self) -> None:
        """Close the file; open entries keep their own descriptors."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _open(self) -> None:
        try:
            # Not O_APPEND: on Linux that would make pwrite ignore its offset.
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            end = os.lseek(self._fd, 0, os.SEEK_END)
            if end and os.pread(self._fd, 1, end - 1) != b"\n":
                os.pwrite(self._fd, b"\n", end)
        except OSError as error:
            raise AuditError(f"{self._path}: {error.strerror}") from error

    def _begin(self, record: Mapping[str, Any]) -> Entry:
        with self._lock:
            if self._fd < 0:
                raise AuditError(f"{self._path}: closed")
            try:
                self._rotate_if_full()
                return self._append(record)
            except OSError as error:
                raise AuditError(f"{self._path}: {error.strerror}") from error

    def _append(self, record: Mapping[str, Any]) -> Entry:
        head = json.dumps({"time": self._time(), **record}, ensure_ascii=False, separators=(",", ":"))[:-1] + ',"outcome":'
        line = f"{head}{_STARTED.ljust(_ROOM)}\n".encode("utf-8", "backslashreplace")
        if len(line) > MAX_LINE:
            raise AuditError(f"{self._path}: a record of {len(line)} octets is too long")
        start = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            if os.pwrite(self._fd, line, start) != len(line):
                raise OSError(28, "no space left")
            os.fdatasync(self._fd)
            return Entry(os.dup(self._fd), start + len(line) - _ROOM - 1)
        except OSError:
            os.ftruncate(self._fd, start)
            raise

    def _finish(self, entry: Entry, outcome: str) -> None:
        try:
            os.pwrite(entry.fd, (json.dumps(outcome) + "}").ljust(_ROOM).encode()[:_ROOM], entry.offset)
            os.fdatasync(entry.fd)
        except OSError as error:
            raise AuditError(f"{self._path}: {error.strerror}") from error
        finally:
            os.close(entry.fd)

    def _time(self) -> str:
        self._last = max(time.time_ns() // 1000, self._last + 1)
        return datetime.fromtimestamp(self._last / 1e6, UTC).isoformat(timespec="microseconds")

    def _rotate_if_full(self) -> None:
        if os.lseek(self._fd, 0, os.SEEK_END) < self._max_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self._path.replace(self._numbered(1))
        os.close(self._fd)
        self._fd = -1
        self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _read(self, limit: int, before: str, rpc_prefix: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for line in self._lines_backwards():
            record = _decode(line)
            if record is None or (before and record["time"] >= before) or not record["rpc"].startswith(rpc_prefix):
                continue
            found.append(record)
            if len(found) == limit:
                break
        return found

    def _lines_backwards(self) -> Iterator[bytes]:
        for path in [self._path, *(self._numbered(n) for n in range(1, self._keep + 1))]:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            try:
                yield from _reverse_lines(fd)
            finally:
                os.close(fd)


def _reverse_lines(fd: int) -> Iterator[bytes]:
    """Lines of a file from its end, read block by block; lines longer than any record are dropped."""
    position = os.fstat(fd).st_size
    rest = b""
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        first, *lines = (os.pread(fd, size, position) + rest).split(b"\n")
        yield from reversed(lines)
        rest = first if len(first) <= MAX_LINE else b""
    yield rest


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    usable = isinstance(record, dict) and isinstance(record.get("time"), str) and isinstance(record.get("rpc"), str)
    return record if usable else None
