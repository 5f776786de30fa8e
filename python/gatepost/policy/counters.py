"""What was sent in the last hour or day, for limits: one SQLite file for all workers, so that counts hold over them and over restarts.

Called by SMTP and LMTP servers for senders that have limits and for conditions that ask for a rate. A look takes some 30 µs of the loop:
the file is not synced, so after a power cut the counts of its last seconds may be gone. What is only noted gathers in memory for LAG, or
until `flush`, and what is `known` may be as old, but for what was noted here. Invariants: `take` is one transaction: all that is wanted is
counted, or nothing; a window begins with what is counted first and ends its length later; at most MAX_ROWS counts are kept, those that are
over go first. Fails with OSError; the file can be deleted at any time.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from gatepost.config.files import mark_database
from gatepost.routing.senders import NO_LIMIT, Want

FORMAT = 1
MAX_ROWS = 100_000
LAG = 0.05
"""Seconds that counts of other workers may be late, and what is noted here for them while mail comes."""
MAX_NOTED = 1_000
"""Counts that gather, and that are remembered."""
WAIT_SECONDS = 0.5
"""For another worker's transaction, which takes far less."""


class Counters:
    """The counts. `clock` gives Unix seconds."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time, most: int = MAX_ROWS) -> None:
        self._path = path
        self._clock = clock
        self._most = most
        self._database: sqlite3.Connection | None = None
        self._noted: dict[tuple[str, int], int] = {}
        self._since = 0.0
        self._read: dict[tuple[str, int], tuple[float, int, int]] = {}
        """When it was read, until when it counts, and the count."""

    def wait(self, wants: Sequence[Want]) -> int:
        """Seconds until all that is wanted would fit; 0: now. Counts nothing. Raises OSError."""
        return self._do(wants, count=False)

    def take(self, wants: Sequence[Want]) -> int:
        """As `wait`, and counts it when it fits now. Raises OSError."""
        return self._do(wants, count=True)

    def note(self, wants: Iterable[Want], times: int = 1) -> None:
        """Count it, whatever there may be: in memory first. Raises OSError; what could not be written is forgotten."""
        if not self._noted:
            self._since = self._clock()
        for one in wants:
            place = one.key, one.seconds
            self._noted[place] = self._noted.get(place, 0) + one.amount * times
        if len(self._noted) > MAX_NOTED or not 0 <= self._clock() - self._since < LAG:
            self.flush()

    def flush(self) -> None:
        """Write what was noted, for all workers to see. Raises OSError."""
        noted, self._noted = self._noted, {}
        self._read.clear()
        self._do([Want(key, seconds, NO_LIMIT, amount) for (key, seconds), amount in noted.items()], count=True)

    def known(self, key: str, seconds: int) -> int:
        """How many are counted under a key now. Raises OSError."""
        place, now = (key, seconds), self._clock()
        found = self._read.get(place)
        if found is None or not 0 <= now - found[0] < LAG:
            if len(self._read) > MAX_NOTED:
                self._read.clear()
            found = self._read[place] = now, *self._look_up(key, seconds)
        _, until, count = found
        return (count if int(now) < until <= int(now) + seconds else 0) + self._noted.get(place, 0)

    def _look_up(self, key: str, seconds: int) -> tuple[int, int]:
        try:
            found = self._open().execute("SELECT until, count FROM counts WHERE key = ?", (_stored(key, seconds),)).fetchone()
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error
        return (int(found[0]), int(found[1])) if found else (0, 0)

    def _do(self, wants: Sequence[Want], *, count: bool) -> int:
        if not wants:
            return 0
        now = int(self._clock())
        try:
            database = self._open()
            database.execute("BEGIN IMMEDIATE" if count else "BEGIN")
            try:
                return self._within(database, wants, now, count=count)
            finally:
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    def _within(self, database: sqlite3.Connection, wants: Sequence[Want], now: int, *, count: bool) -> int:
        longest, rows = 0, []
        for one in wants:
            key = _stored(one.key, one.seconds)
            found = database.execute("SELECT until, count FROM counts WHERE key = ?", (key,)).fetchone()
            # An end that is too far ahead is of a clock that was set back since.
            until, known = found if found and now < found[0] <= now + one.seconds else (now + one.seconds, 0)
            if known + one.amount > one.most:
                longest = max(longest, until - now if known else one.seconds)
            rows.append((key, until, known + one.amount))
        if count and not longest:
            database.executemany("INSERT OR REPLACE INTO counts (key, until, count) VALUES (?, ?, ?)", rows)
            self._make_room(database, now)
        return longest

    def _make_room(self, database: sqlite3.Connection, now: int) -> None:
        (last,) = database.execute("SELECT count(*) FROM counts").fetchone() if now % 16 == 0 else (0,)
        if last > self._most:
            database.execute("DELETE FROM counts WHERE until <= ?", (now,))
            database.execute(
                "DELETE FROM counts WHERE key IN (SELECT key FROM counts ORDER BY until LIMIT max(0, ?))", (last - self._most,)
            )

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            self._path.chmod(0o600)
            mark_database(self._path, database, FORMAT)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=OFF")
            columns = "key BLOB PRIMARY KEY, until INTEGER NOT NULL, count INTEGER NOT NULL"
            database.execute(f"CREATE TABLE IF NOT EXISTS counts ({columns}) WITHOUT ROWID")
            self._database = database
        return self._database

    def close(self) -> None:
        """Write what was noted, if that can be done, and close the file."""
        with suppress(OSError):
            self.flush()
        if self._database is not None:
            self._database.close()
            self._database = None


def _stored(key: str, seconds: int) -> bytes:
    return sha256(f"{seconds}\0{key}".encode("utf-8", "surrogatepass")).digest()[:16]
