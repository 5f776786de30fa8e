"""Who was answered when: one SQLite file for all workers, so that nobody is answered twice within an interval, restarts included.

Called by delivery/auto_reply, in threads. Invariants: `claim` is one transaction, so two workers cannot both win; at most MAX_ROWS pairs
are kept, those whose time is over go first, then the oldest. A file that cannot be used means: do not answer (OSError); it can be deleted
at any time.
"""

import sqlite3
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from threading import Lock

from gatepost.config.files import mark_database

FORMAT = 1
MAX_ROWS = 100_000
SPARE = 1_000
"""Rows dropped at once when there are too many."""
WAIT_SECONDS = 5.0


class Answered:
    """The memory of answers. `clock` gives Unix seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, most: int = MAX_ROWS) -> None:
        self._path = path
        self._clock = clock
        self._most = most
        self._lock = Lock()
        self._database: sqlite3.Connection | None = None

    def claim(self, address: str, sender: str, seconds: int) -> bool:
        """Whether `address` may answer `sender` now; then not again for so many seconds. Raises OSError."""
        now = int(self._clock())
        try:
            with self._lock, self._open() as database:
                cursor = database.execute(
                    "INSERT INTO answered (pair, until) VALUES (?, ?)"
                    " ON CONFLICT (pair) DO UPDATE SET until = excluded.until WHERE answered.until <= ?",
                    (_pair(address, sender), now + seconds, now),
                )
                won = cursor.rowcount > 0
                if won:
                    self._make_room(database, now)
                return won
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    def release(self, address: str, sender: str) -> None:
        """The answer was not sent after all. Raises OSError."""
        try:
            with self._lock, self._open() as database:
                database.execute("DELETE FROM answered WHERE pair = ?", (_pair(address, sender),))
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=WAIT_SECONDS, check_same_thread=False)
            self._path.chmod(0o600)
            mark_database(self._path, database, FORMAT)
            database.execute("CREATE TABLE IF NOT EXISTS answered (pair BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID")
            self._database = database
        return self._database

    def _make_room(self, database: sqlite3.Connection, now: int) -> None:
        (rows,) = database.execute("SELECT count(*) FROM answered").fetchone()
        if rows <= self._most:
            return
        database.execute("DELETE FROM answered WHERE until <= ?", (now,))
        (rows,) = database.execute("SELECT count(*) FROM answered").fetchone()
        if rows > self._most:
            surplus = rows - self._most + min(SPARE, self._most // 10)
            database.execute("DELETE FROM answered WHERE pair IN (SELECT pair FROM answered ORDER BY until LIMIT ?)", (surplus,))


def _pair(address: str, sender: str) -> bytes:
    return sha256(f"{address.lower()}\0{sender.lower()}".encode("utf-8", "surrogatepass")).digest()[:16]
