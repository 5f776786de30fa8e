"""The rules and mailboxes in force, followed change by change: the state of one process.

Used by store.py for each snapshot and for the checks of a change. A small rule set is in memory as a whole; a large one is a mapped file
(`rules.index` beside the database, made by build.py) and what changed since. The log of changes (versions.py) names what to read again.
Invariants: a state belongs to one committed version; what a transaction has changed but not committed is seen by `within` alone. A file
that is missing, torn, of another format or directory, or of a version that the log does not reach back to, is built anew; if that fails
too, everything is read into memory, slowly, and logged: mail goes on. Safe from any thread.
"""

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import Connection, func, select

from gatepost.directory import build, rules, users, versions
from gatepost.directory.database import pepper
from gatepost.directory.errors import DirectoryError
from gatepost.directory.mapped import Changes, MappedFile, MappedMailboxes, MappedRules, with_handler
from gatepost.directory.rows import HANDLER_COLUMNS, handler_of, mailbox_of
from gatepost.directory.schema import rule_changes, rule_versions
from gatepost.directory.schema import users as users_table
from gatepost.directory.standing import REVISION
from gatepost.native import CoreError, RuleIndex
from gatepost.routing.model import DomainRule, Mailbox

MAX_CHANGES = 10_000
"""Rules, handlers and mailboxes held in memory beside the file before a new file is due; sets smaller than this have no file."""
MAX_VERSIONS = versions.KEEP // 2
"""How far the file may fall behind, so that a process that starts can still follow the log from it."""
_HANDLER = f"SELECT {HANDLER_COLUMNS} FROM handlers WHERE pattern = ? AND rule_id = (SELECT id FROM domain_rules WHERE domain = ?)"
_MAILBOX = "SELECT address, mailbox_id, volume, enabled FROM users WHERE address = ?"

log = structlog.get_logger()
Stamp = tuple[int, int, int]
Tables = tuple[Mapping[str, DomainRule], Mapping[str, Mailbox]]


@dataclass(frozen=True)
class _State:
    """The rules as of `version`: those of the file, if there is one, with the changes. stamp: which file that is."""

    version: int
    changes: Changes
    file: MappedFile | None = None
    stamp: Stamp | None = None

    @property
    def is_large(self) -> bool:
        behind = self.version - self.file.index.version if self.file else 0
        return self.changes.weight > MAX_CHANGES or behind > MAX_VERSIONS

    def tables(self) -> Tables:
        if self.file is not None:
            return MappedRules(self.file, self.changes), MappedMailboxes(self.file, self.changes)
        found = {name: rule for name, rule in self.changes.rules.items() if rule is not None}
        return found, {address: one for address, one in self.changes.mailboxes.items() if one is not None}


class Live:
    """Of the directory whose database is at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = path.with_name("rules.index")
        self._state: _State | None = None
        self._refused: Stamp | None = None
        self._lock = threading.Lock()

    def current(self, connection: Connection) -> Tables:
        """As the connection sees them, which has changed nothing."""
        with self._lock:
            self._state = self._follow(connection)
            return self._state.tables()

    def within(self, connection: Connection) -> Tables:
        """As the connection sees them, its own changes included."""
        with self._lock:
            if self._state is None:
                self._state = self._open(connection)  # a file holds what is committed
            return self._follow(connection).tables()

    @property
    def is_due(self) -> bool:
        """Whether a new file should be built: too much is held in memory, or the file falls behind."""
        state = self._state
        return state is not None and state.is_large

    @property
    def has_newer_file(self) -> bool:
        """Whether a large state could be made smaller by a file that somebody has built."""
        state = self._state
        return state is not None and state.is_large and self._stamp() not in (state.stamp, self._refused, None)

    def build(self) -> None:
        """Have a new file built, in a process of its own that yields to others. Raises DirectoryError."""
        build.run(self._path, self._index, unless=self._stamp(), niceness=10)

    # ---- following -------------------------------------------------------------------------------------------------

    def _follow(self, connection: Connection) -> _State:
        newest = versions.current(connection)
        state = self._state
        if state is None or not versions.oldest(connection) <= state.version <= newest:
            state = self._first(connection)
        elif self.has_newer_file:
            state = self._open(connection) or state
        if state.version == newest:
            return state
        return _State(newest, _changed(connection, state), state.file, state.stamp)

    def _first(self, connection: Connection) -> _State:
        found = self._open(connection)
        if found is None and _is_many(connection):
            try:
                build.run(self._path, self._index, unless=self._stamp())
            except DirectoryError as error:
                log.error("the index of the rules cannot be built; they are read into memory instead", error=str(error))
            found = self._open(connection)
        return found or _in_memory(connection)

    def _stamp(self) -> Stamp | None:
        try:
            found = os.stat(self._index)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _open(self, connection: Connection) -> _State | None:
        """The state of the file alone; None when there is none that fits."""
        stamp = self._stamp()
        if stamp is None:
            return None
        try:
            index = RuleIndex(str(self._index))
        except CoreError as error:
            log.warning("the index of the rules is not used and is built anew", error=str(error))
            index = None
        if index is not None and _fits(connection, index):
            return _State(index.version, Changes(), MappedFile(index), stamp)
        self._refused = stamp
        return None


def _fits(connection: Connection, index: RuleIndex) -> bool:
    """Whether the log leads from the index's version to now."""
    if not index.fits(f"{REVISION} {pepper(connection).hex()}"):
        return False
    if index.version == 0:
        return versions.oldest(connection) == 0
    known = connection.execute(select(rule_versions.c.created_at).where(rule_versions.c.version == index.version)).scalar()
    return known == index.stamp


def _is_many(connection: Connection) -> bool:
    mailboxes = int(connection.execute(select(func.count()).select_from(users_table)).scalar_one())
    return rules.count(connection) + mailboxes > MAX_CHANGES


def _in_memory(connection: Connection) -> _State:
    found, mailboxes = rules.read_all(connection), users.mailboxes(connection)
    return _State(versions.current(connection), Changes({**found}, {}, {**mailboxes}, _weight(found, mailboxes)))


def _weight(found: Mapping[str, DomainRule | None], mailboxes: Mapping[str, Mailbox | None]) -> int:
    return len(found) + sum(len(rule.handlers) for rule in found.values() if rule) + len(mailboxes)


def _changed(connection: Connection, state: _State) -> Changes:
    """The state's changes and those since."""
    query = select(rule_changes.c.subject, rule_changes.c.key).where(rule_changes.c.version > state.version).distinct()
    keys = connection.execute(query).all()
    made = state.changes.copy()
    for domain in {key for subject, key in keys if subject == "rule"}:
        made.rules[domain] = rule = rules.read_one(connection, domain)
        made.handlers.pop(domain, None)
        made.weight += 1 + (len(rule.handlers) if rule else 0)
    if state.file is None and made.weight > MAX_CHANGES:  # counted twice what was changed twice
        made.weight = _weight(made.rules, made.mailboxes)
    _follow_handlers(connection, made, {key for subject, key in keys if subject == "handler"}, state.file is not None)
    for address in {key for subject, key in keys if subject == "user"}:
        row = connection.exec_driver_sql(_MAILBOX, (address,)).first()
        made.mailboxes[address] = mailbox_of(tuple(row)) if row else None
        made.weight += 1
    return made


def _follow_handlers(connection: Connection, made: Changes, keys: Iterable[str], has_file: bool) -> None:
    by_domain: dict[str, list[str]] = {}
    for key in keys:
        domain, _, pattern = key.partition(" ")
        by_domain.setdefault(domain, []).append(pattern)
    cursor = connection.connection.cursor()  # 100,000 at once are possible: what SQLAlchemy adds to each would be seconds
    for domain, patterns in by_domain.items():
        held = domain in made.rules or not has_file
        if held and len(patterns) > 20:
            made.rules[domain] = rules.read_one(connection, domain)
        for pattern in () if held and len(patterns) > 20 else patterns:
            row = cursor.execute(_HANDLER, (pattern, domain)).fetchone()
            handler = handler_of(row) if row else None
            rule = made.rules.get(domain)
            if not held:
                made.handlers.setdefault(domain, {})[pattern] = handler
            elif rule is not None:
                made.rules[domain] = with_handler(rule, pattern, handler)
        made.weight += len(patterns)
    cursor.close()
