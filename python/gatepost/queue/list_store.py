"""What mailing lists remember besides their settings: members' wishes and bounces, posts that wait for an owner, digests in the making.

One SQLite file (DIR/lists.db) for all processes, made at its first use. Called in threads by delivery/list_service (workers), by
control/lists (supervisor) and by app/snapshot, which gives routing the members' wishes. Invariants: each method that changes something is
one durable transaction; what concerns a member counts up `revision`, so that every process sees it within a second; a bounce, a post of a
digest and a held post are there once, however often their message is delivered. Bounded by MAX_MEMBERS, MAX_HELD and MAX_DIGEST_OCTETS.
Fails with OSError naming the file.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from gatepost.routing.members import ListBook, Member, MemberState, address_key

FILE = "lists.db"
WAIT_SECONDS = 5.0
MAX_MEMBERS = 200_000
MAX_HELD = 20_000
MAX_DIGEST_OCTETS = 256 << 20
DAY = 86_400
_TABLES = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO state VALUES ('format', 1), ('revision', 1);
CREATE TABLE IF NOT EXISTS members (list TEXT NOT NULL, member TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL,
 digest INTEGER NOT NULL, changed_at INTEGER NOT NULL, bounces INTEGER NOT NULL DEFAULT 0, bounced_at INTEGER NOT NULL DEFAULT 0,
 bounce BLOB, PRIMARY KEY (list, member)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS held (list TEXT NOT NULL, message BLOB NOT NULL, sender TEXT NOT NULL, author TEXT NOT NULL,
 subject TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (message, list)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS digest (id INTEGER PRIMARY KEY, list TEXT NOT NULL, message BLOB NOT NULL, octets BLOB NOT NULL,
 at INTEGER NOT NULL, issue INTEGER NOT NULL DEFAULT 0, UNIQUE (list, message));
CREATE TABLE IF NOT EXISTS issues (list TEXT PRIMARY KEY, issue INTEGER NOT NULL, after TEXT NOT NULL, open INTEGER NOT NULL) WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO members (list, member, address, state, digest, changed_at) VALUES (?, ?, ?, ?, ?, ?)
 ON CONFLICT (list, member) DO UPDATE SET state = excluded.state, digest = excluded.digest, changed_at = excluded.changed_at,
 bounces = 0, bounced_at = 0, bounce = NULL
"""


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A member whose wishes or bounces are known. Times are Unix seconds, 0 is never."""

    member: Member
    changed_at: int
    bounces: int
    bounced_at: int


@dataclass(frozen=True, slots=True)
class HeldPost:
    """A post that waits for an owner. `author`: its header From."""

    list: str
    message_id: bytes
    sender: str
    author: str
    subject: str
    at: int


@dataclass(frozen=True, slots=True)
class Issue:
    """A digest that is due or being sent: `after` is the key of the member that got it last, '' for none yet."""

    list: str
    number: int
    after: str
    posts: tuple[tuple[bytes, int], ...]
    """Each post's octets and when it came (Unix seconds)."""


class ListStore:
    """`clock` gives Unix seconds."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = directory / FILE
        self._clock = clock
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # ---- members -----------------------------------------------------------------------------------------------------

    def revision(self) -> int:
        """Changes with the members' wishes; 0 while there is no file."""
        if not self._path.exists():
            return 0
        with self._transaction() as database:
            return int(database.execute("SELECT value FROM state WHERE key = 'revision'").fetchone()[0])

    def book(self) -> tuple[int, ListBook]:
        """What members asked for, and the revision it is of."""
        if not self._path.exists():
            return 0, {}
        with self._transaction() as database:
            (revision,) = database.execute("SELECT value FROM state WHERE key = 'revision'").fetchone()
            made: dict[str, dict[str, Member]] = {}
            for address, key, *rest in database.execute("SELECT list, member, address, state, digest FROM members"):
                made.setdefault(address, {})[key] = _member(*rest)
        return int(revision), made

    def put_member(self, address: str, member: Member) -> None:
        """Remember what a member, or an owner for it, asked for; its bounces are forgotten."""
        with self._transaction(write=True) as database:
            (count,) = database.execute("SELECT count(*) FROM members").fetchone()
            if count >= MAX_MEMBERS:
                raise OSError(f"{self._path}: there are {MAX_MEMBERS:,} members with wishes of their own already")
            given = (address_key(address), address_key(member.address), member.address, member.state, member.digest, int(self._clock()))
            database.execute(_UPSERT, given)
            _count_up(database)

    def forget_member(self, address: str, member: str) -> bool:
        """The member is again what the handler makes of it. Whether anything was known of it."""
        with self._transaction(write=True) as database:
            gone = database.execute(
                "DELETE FROM members WHERE list = ? AND member = ?", (address_key(address), address_key(member))
            ).rowcount
            _count_up(database)
            return gone > 0

    def records(self, address: str) -> dict[str, MemberRecord]:
        """All that is known of a list's members, by Address.key."""
        if not self._path.exists():
            return {}
        query = "SELECT member, address, state, digest, changed_at, bounces, bounced_at FROM members WHERE list = ?"
        with self._transaction() as database:
            return {
                key: MemberRecord(_member(name, state, digest), changed, bounces, bounced)
                for key, name, state, digest, changed, bounces, bounced in database.execute(query, (address_key(address),))
            }

    def bounced(self, address: str, member: str, bounce: bytes, limit: int, days: int) -> bool:
        """Count a bounce (`bounce` is the id of its message). True when it was the one too many: the member is disabled now."""
        now, place = int(self._clock()), (address_key(address), address_key(member))
        with self._transaction(write=True) as database:
            database.execute(
                "INSERT OR IGNORE INTO members (list, member, address, state, digest, changed_at) VALUES (?, ?, ?, 'subscribed', 0, ?)",
                (*place, member, now),
            )
            row = database.execute("SELECT state, bounces, bounced_at, bounce FROM members WHERE list = ? AND member = ?", place).fetchone()
            state, bounces, bounced_at, last = row
            if last == bounce or state != MemberState.SUBSCRIBED:
                return False
            bounces = bounces + 1 if now - bounced_at <= days * DAY else 1
            disabled = bounces >= limit
            database.execute(
                "UPDATE members SET bounces = ?, bounced_at = ?, bounce = ?, state = ? WHERE list = ? AND member = ?",
                (bounces, now, bounce, MemberState.DISABLED if disabled else state, *place),
            )
            if disabled:
                _count_up(database)
            return disabled

    # ---- posts that wait ---------------------------------------------------------------------------------------------

    def hold(self, post: HeldPost) -> bool:
        """Whether it is new; the oldest is forgotten when there are too many (the message itself stays in the queue, held)."""
        with self._transaction(write=True) as database:
            given = (address_key(post.list), post.message_id, post.sender[:320], post.author[:320], post.subject[:200], post.at)
            new = database.execute("INSERT OR IGNORE INTO held VALUES (?, ?, ?, ?, ?, ?)", given).rowcount > 0
            (count,) = database.execute("SELECT count(*) FROM held").fetchone()
            if count > MAX_HELD:
                database.execute(
                    "DELETE FROM held WHERE (message, list) IN (SELECT message, list FROM held ORDER BY at LIMIT ?)", (count - MAX_HELD,)
                )
            return new

    def held(self, address: str = "", limit: int = 500) -> list[HeldPost]:
        """Oldest first; of one list, or all."""
        if not self._path.exists():
            return []
        query = "SELECT list, message, sender, author, subject, at FROM held WHERE ? IN ('', list) ORDER BY at, message LIMIT ?"
        with self._transaction() as database:
            return [HeldPost(*row) for row in database.execute(query, (address_key(address) if address else "", limit))]

    def held_post(self, address: str, message_id: bytes) -> HeldPost | None:
        """One that waits."""
        return next((one for one in self.held(address, MAX_HELD) if one.message_id == message_id), None)

    def settle(self, address: str, message_id: bytes) -> None:
        """It waits no longer."""
        with self._transaction(write=True) as database:
            database.execute("DELETE FROM held WHERE message = ? AND list = ?", (message_id, address_key(address)))

    # ---- digests -----------------------------------------------------------------------------------------------------

    def collect(self, address: str, message_id: bytes, octets: bytes) -> bool:
        """Keep a post for the next digest. False: it is there already. Raises OSError when too much waits."""
        with self._transaction(write=True) as database:
            (size,) = database.execute("SELECT coalesce(sum(length(octets)), 0) FROM digest").fetchone()
            if size + len(octets) > MAX_DIGEST_OCTETS:
                raise OSError(f"{self._path}: digests of {MAX_DIGEST_OCTETS >> 20} MiB wait to be sent")
            given = (address_key(address), message_id, octets, int(self._clock()))
            return database.execute("INSERT OR IGNORE INTO digest (list, message, octets, at) VALUES (?, ?, ?, ?)", given).rowcount > 0

    def waiting(self) -> dict[str, tuple[int, int]]:
        """By list: octets that wait, and when the first post came; octets -1 when an issue is being sent."""
        if not self._path.exists():
            return {}
        with self._transaction() as database:
            found = {
                name: (size, first)
                for name, size, first in database.execute("SELECT list, sum(length(octets)), min(at) FROM digest GROUP BY list")
            }
            for (name,) in database.execute("SELECT list FROM issues WHERE open = 1"):
                found[name] = (-1, 0)
            return found

    def begin_issue(self, address: str) -> Issue:
        """The issue that was begun, or a new one of all that waits now."""
        with self._transaction(write=True) as database:
            row = database.execute("SELECT issue, after, open FROM issues WHERE list = ?", (address,)).fetchone()
            number, after, under_way = row or (0, "", 0)
            if not under_way:
                number, after = number + 1, ""
                database.execute("INSERT OR REPLACE INTO issues VALUES (?, ?, '', 1)", (address, number))
                database.execute("UPDATE digest SET issue = ? WHERE list = ? AND issue = 0", (number, address))
            query = "SELECT octets, at FROM digest WHERE list = ? AND issue = ? ORDER BY id"
            return Issue(address, number, after, tuple(database.execute(query, (address, number)).fetchall()))

    def sent(self, issue: Issue, member: str) -> None:
        """`member` (a key) has got it; a crash before this note sends this one member its digest again."""
        with self._transaction(write=True) as database:
            database.execute("UPDATE issues SET after = ? WHERE list = ? AND issue = ?", (member, issue.list, issue.number))

    def end_issue(self, issue: Issue) -> None:
        """All have got it."""
        with self._transaction(write=True) as database:
            database.execute("DELETE FROM digest WHERE list = ? AND issue = ?", (issue.list, issue.number))
            database.execute("UPDATE issues SET after = '', open = 0 WHERE list = ? AND issue = ?", (issue.list, issue.number))

    # ---- inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock:
                database = self._open()
                database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield database
                except BaseException:
                    database.execute("ROLLBACK")
                    raise
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            database = sqlite3.connect(self._path, timeout=WAIT_SECONDS, check_same_thread=False, isolation_level=None)
            self._path.chmod(0o600)
            database.execute("PRAGMA synchronous=FULL")
            self._check_format(database)
            database.executescript(_TABLES)
            self._connection = database
        return self._connection

    def _check_format(self, database: sqlite3.Connection) -> None:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'state'").fetchone() is None:
            return
        (found,) = database.execute("SELECT value FROM state WHERE key = 'format'").fetchone() or (1,)
        if found != 1:
            database.close()
            raise OSError(f"{self._path}: written by a newer Gatepost (format {found}); nothing was changed")


def _member(address: str, state: str, digest: int) -> Member:
    return Member(address, MemberState(state), bool(digest))


def _count_up(database: sqlite3.Connection) -> None:
    database.execute("UPDATE state SET value = value + 1 WHERE key = 'revision'")
