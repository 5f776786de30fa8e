"""Small files of the data directory, replaced as a whole and durably. Used by whoever keeps one (queue, directory, server.tls, app).

Invariants: a crash leaves the old file or the new one, never a part; when `replace_file` returns, the new one and its name are on the disk.
Every function *blocks* on the disk and fails with OSError; then the old file is there as it was, unless only the last sync of the
directory failed. What a newer Gatepost wrote is never read as if it were ours, nor replaced: NewerFormatError.
"""

import os
import secrets
import sqlite3
from pathlib import Path

PRIVATE = 0o600


class NewerFormatError(ValueError):
    """A file of a newer Gatepost; the text names it and says what to do."""


def check_format(path: Path, found: object, known: int) -> None:
    """Refuse a file whose format is newer than what this program knows. Raises NewerFormatError."""
    if isinstance(found, int) and found > known:
        raise NewerFormatError(f"{path}: format version {found}, this program knows up to {known}; run the Gatepost that wrote it")


def mark_database(path: Path, database: sqlite3.Connection, known: int) -> None:
    """A small SQLite file has its format in `user_version`: refuse a newer one, note ours in one that has none. Raises OSError."""
    (found,) = database.execute("PRAGMA user_version").fetchone()
    try:
        check_format(path, found, known)
    except NewerFormatError as error:
        raise OSError(str(error)) from error
    if found < known:
        database.execute(f"PRAGMA user_version = {known}")


def replace_file(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """Write `data` under another name, sync, rename, sync the directory. Several may do so at a time: one of them is last."""
    fresh = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        write_new(fresh, data, mode)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, data: bytes, mode: int = PRIVATE) -> None:
    """A file that is not there yet, its octets durable; its name is when the directory is synced."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Names made, changed or removed in it are durable on return."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
