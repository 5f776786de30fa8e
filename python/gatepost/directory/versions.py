"""The log of changes: a version row per change, what it changed before and after, the last KEEP of them. Used inside write transactions.

Invariants: versions only grow, one per transaction that changed what a RuleSet holds; rows older than the last KEEP go, the number stays.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from gatepost.directory.clock import now_us
from gatepost.directory.schema import rule_changes, rule_versions
from gatepost.directory.values import RuleVersion

KEEP = 200
MAX_AUTHOR = 200
MAX_COMMENT = 500

Content = Mapping[str, object] | None
_OPEN = "gatepost_version"
"""Under this key of a connection's info: the version that all changes of its transaction belong to."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One change as it was recorded. before, after: the content as JSON has it; None: was not, is no more."""

    version: int
    subject: str
    key: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@contextlib.contextmanager
def one_version(connection: Connection, author: str, comment: str) -> Iterator[int]:
    """Whatever is recorded inside belongs to one version, whose number this gives."""
    connection.info[_OPEN] = version = _begin(connection, author, comment)
    try:
        yield version
    finally:
        del connection.info[_OPEN]


@contextlib.contextmanager
def within_one(connection: Connection, author: str, comment: str) -> Iterator[None]:
    """As `one_version`, or part of the version that is open already."""
    if _OPEN in connection.info:
        yield
    else:
        with one_version(connection, author, comment):
            yield


def record(connection: Connection, author: str, comment: str, subject: str, key: str, before: Content, after: Content) -> int:
    """Write one version with one change; returns its number. subject: 'rule', 'handler', 'policy', 'user' or 'volume'."""
    version = connection.info.get(_OPEN) or _begin(connection, author, comment)
    connection.execute(insert(rule_changes).values(version=version, subject=subject, key=key, before=_encode(before), after=_encode(after)))
    return int(version)


def _begin(connection: Connection, author: str, comment: str) -> int:
    result = connection.execute(
        insert(rule_versions).values(author=author[:MAX_AUTHOR], created_at=now_us(), comment=comment[:MAX_COMMENT])
    )
    assert result.inserted_primary_key is not None  # SQLite always tells it
    version = int(result.inserted_primary_key[0])
    connection.execute(delete(rule_versions).where(rule_versions.c.version <= version - KEEP))
    return version


def current(connection: Connection) -> int:
    """The newest version; 0 before the first change."""
    return int(connection.execute(select(func.max(rule_versions.c.version))).scalar() or 0)


def listed(connection: Connection) -> list[RuleVersion]:
    """Kept versions, newest first."""
    rows = connection.execute(select(rule_versions).order_by(rule_versions.c.version.desc()))
    return [RuleVersion(row.version, row.author, row.created_at, row.comment) for row in rows]


def changes_after(connection: Connection, version: int) -> Iterator[Recorded]:
    """What was changed after `version`, newest first: walked in this order, each `before` leads one step back."""
    query = select(rule_changes).where(rule_changes.c.version > version).order_by(rule_changes.c.id.desc())
    for row in connection.execute(query):
        yield Recorded(row.version, row.subject, row.key, _decode(row.before), _decode(row.after))


def oldest(connection: Connection) -> int:
    """The oldest version whose rules can still be told: the one before the first that is kept."""
    first = connection.execute(select(func.min(rule_versions.c.version))).scalar()
    return int(first) - 1 if first else 0


def _decode(text: str | None) -> dict[str, Any] | None:
    return None if text is None else json.loads(text)


def _encode(content: Content) -> str | None:
    return None if content is None else json.dumps(content, separators=(",", ":"), sort_keys=True)
