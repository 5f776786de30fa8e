"""The log of changes: a version row per change, what it changed before and after, the last KEEP of them. Used inside write transactions.

Invariants: versions only grow, one per transaction that changed what a RuleSet holds; rows older than the last KEEP go, the number stays.
"""

import json
from collections.abc import Mapping

from sqlalchemy import Connection, delete, func, insert, select

from gatepost.directory.clock import now_us
from gatepost.directory.schema import rule_changes, rule_versions
from gatepost.directory.values import RuleVersion

KEEP = 200
MAX_AUTHOR = 200
MAX_COMMENT = 500

Content = Mapping[str, object] | None


def record(connection: Connection, author: str, comment: str, subject: str, key: str, before: Content, after: Content) -> int:
    """Write one version with one change; returns its number. subject: 'rule', 'handler', 'policy', 'user' or 'volume'."""
    result = connection.execute(
        insert(rule_versions).values(author=author[:MAX_AUTHOR], created_at=now_us(), comment=comment[:MAX_COMMENT])
    )
    assert result.inserted_primary_key is not None  # SQLite always tells it
    version = int(result.inserted_primary_key[0])
    connection.execute(insert(rule_changes).values(version=version, subject=subject, key=key, before=_encode(before), after=_encode(after)))
    connection.execute(delete(rule_versions).where(rule_versions.c.version <= version - KEEP))
    return version


def current(connection: Connection) -> int:
    """The newest version; 0 before the first change."""
    return int(connection.execute(select(func.max(rule_versions.c.version))).scalar() or 0)


def listed(connection: Connection) -> list[RuleVersion]:
    """Kept versions, newest first."""
    rows = connection.execute(select(rule_versions).order_by(rule_versions.c.version.desc()))
    return [RuleVersion(row.version, row.author, row.created_at, row.comment) for row in rows]


def _encode(content: Content) -> str | None:
    return None if content is None else json.dumps(content, separators=(",", ":"), sort_keys=True)
