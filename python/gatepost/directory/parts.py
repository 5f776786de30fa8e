"""The small ordered lists of the rule set (routing.parts) in the table: a row per list, its entries as JSON. Used by store.py and
documents.py inside their transactions.

Invariants: a stored list is checked and its names are unique; a change of one entry is one version that holds the whole list before and
after. Fails with the errors of errors.py.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from gatepost.directory import part_checks, versions
from gatepost.directory.database import revision
from gatepost.directory.errors import EtagMismatch, InvalidValue, NotFound
from gatepost.directory.schema import rule_parts
from gatepost.message.nearest import nearest
from gatepost.message.plain import from_plain, to_plain
from gatepost.routing.parts import MAX_ENTRIES, PARTS

Entries = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A list as it is stored. etag '' : it was never written."""

    entries: Entries = ()
    etag: str = ""


def read_all(connection: Connection) -> dict[str, Entries]:
    """Every list, for the rule set and for documents."""
    stored = {row.name: row.content for row in connection.execute(select(rule_parts.c.name, rule_parts.c.content))}
    return {name: decoded(name, json.loads(stored[name])) if name in stored else () for name in PARTS}


def get(connection: Connection, name: str) -> StoredPart:
    """One list."""
    row = connection.execute(select(rule_parts).where(rule_parts.c.name == name)).first()
    return StoredPart(decoded(name, json.loads(row.content)), _etag(row.revision)) if row is not None else StoredPart()


def decoded(name: str, plain: Iterable[Any]) -> Entries:
    """Entries as a version or the table holds them."""
    return tuple(from_plain(PARTS[name], one) for one in plain)


def put_entry(connection: Connection, name: str, entry: Any, *, position: int, etag: str | None, author: str) -> str:
    """Add or replace an entry; `position` from 1, 0 is where it is or the end. Returns the list's new etag."""
    entry = part_checks.entry(name, entry)
    before = _checked(connection, name, etag)
    at = next((n for n, one in enumerate(before.entries) if one.name == entry.name), None)
    rest = [one for one in before.entries if one.name != entry.name]
    place = position - 1 if position else len(rest) if at is None else at
    rest.insert(max(0, min(place, len(rest))), entry)
    verb = "add" if at is None else "change"
    return write(connection, name, tuple(rest), author=author, comment=f"{verb} {title(name)} {entry.name}")


def delete_entry(connection: Connection, name: str, entry: str, *, etag: str | None, author: str) -> str:
    """Remove an entry. Raises NotFound with the closest name."""
    before = _checked(connection, name, etag)
    known = [one.name for one in before.entries]
    if entry not in known:
        raise NotFound(f"no {title(name)} {entry!r}{nearest(entry, known)}")
    rest = tuple(one for one in before.entries if one.name != entry)
    return write(connection, name, rest, author=author, comment=f"remove {title(name)} {entry}")


def write(connection: Connection, name: str, entries: Entries, *, author: str, comment: str) -> str:
    """Make checked entries the list; its new etag."""
    if len(entries) > MAX_ENTRIES:
        raise InvalidValue(name, f"has {len(entries)} entries; {MAX_ENTRIES} are possible")
    before = get(connection, name)
    new = revision(connection)
    content = _encoded(entries)
    connection.execute(delete(rule_parts).where(rule_parts.c.name == name))
    connection.execute(insert(rule_parts).values(name=name, content=json.dumps(content), revision=new))
    versions.record(connection, author, comment, "part", name, {"entries": _encoded(before.entries)}, {"entries": content})
    return _etag(new)


def title(name: str) -> str:
    """A list's entry in words."""
    return {"trust": "trust entry", "sender_rules": "sender rule", "stage_policies": "stage policy"}[name]


def _checked(connection: Connection, name: str, etag: str | None) -> StoredPart:
    before = get(connection, name)
    if etag and etag != before.etag:
        raise EtagMismatch(f"the list was changed by someone else since it was read ({title(name)})", before.etag)
    return before


def _encoded(entries: Entries) -> list[dict[str, Any]]:
    return [to_plain(one) for one in entries]


def _etag(part_revision: int) -> str:
    return f"f{part_revision:x}"
