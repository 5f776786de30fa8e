"""Attachment policies in the table, and what names them. Used by store.py and rules.py inside their transactions.

Invariants: a rule or handler names a policy that is stored or one of validation.RESERVED_POLICIES; a policy that is named stays. The text
is opaque here: `scan` knows what it means, and control/ has it checked before it comes here. Fails with the errors of errors.py.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, func, insert, select, update

from gatepost.directory import validation, versions
from gatepost.directory.database import revision
from gatepost.directory.errors import ConflictInUse, EtagMismatch, InvalidValue, NotFound
from gatepost.directory.schema import domain_rules, handlers, policies
from gatepost.directory.values import StoredPolicy
from gatepost.message.nearest import nearest

MAX_POLICIES = 1_000
USERS_TOLD = 100


def texts(connection: Connection) -> dict[str, str]:
    """Every policy's text by name, for the rule set."""
    return {row.name: row.text for row in connection.execute(select(policies.c.name, policies.c.text))}


def listed(connection: Connection) -> list[StoredPolicy]:
    """Every policy by name."""
    names = connection.execute(select(policies.c.name).order_by(policies.c.name)).scalars().all()
    return [get_policy(connection, name) for name in names]


def get_policy(connection: Connection, name: str) -> StoredPolicy:
    """One policy. Raises NotFound."""
    row = connection.execute(select(policies).where(policies.c.name == name)).first()
    if row is None:
        raise NotFound(f"no policy {name!r}")
    return StoredPolicy(row.name, row.text, _etag(row.revision), _used_by(connection, name))


def put_policy(connection: Connection, name: str, text: str, *, etag: str | None, author: str) -> StoredPolicy:
    """Add or replace. An etag is that of the policy to replace."""
    name, text = validation.policy_name(name, "name"), validation.policy_text(text)
    row = connection.execute(select(policies).where(policies.c.name == name)).first()
    if etag and (row is None or etag != _etag(row.revision)):
        raise EtagMismatch(f"policy {name} was changed by someone else since it was read", _etag(row.revision) if row else "")
    new = revision(connection)
    if row is None:
        if connection.execute(select(func.count()).select_from(policies)).scalar_one() >= MAX_POLICIES:
            raise InvalidValue("name", f"there are {MAX_POLICIES} policies already; remove some")
        connection.execute(insert(policies).values(name=name, text=text, revision=new))
    else:
        connection.execute(update(policies).where(policies.c.name == name).values(text=text, revision=new))
    verb, before = ("add", None) if row is None else ("change", {"text": row.text})
    versions.record(connection, author, f"{verb} policy {name}", "policy", name, before, {"text": text})
    return get_policy(connection, name)


def delete_policy(connection: Connection, name: str, *, etag: str | None, author: str) -> None:
    """Raises ConflictInUse while rules or handlers name it."""
    stored = get_policy(connection, name)
    if etag and etag != stored.etag:
        raise EtagMismatch(f"policy {name} was changed by someone else since it was read", stored.etag)
    if stored.used_by:
        more = " and others" if len(stored.used_by) > 3 else ""
        raise ConflictInUse(f"policy {name} is used by {', '.join(stored.used_by[:3])}{more}")
    connection.execute(delete(policies).where(policies.c.name == name))
    versions.record(connection, author, f"remove policy {name}", "policy", name, {"text": stored.text}, None)


def check_named(connection: Connection, name: str, field: str) -> None:
    """A rule or handler may name it. Raises InvalidValue with the closest name."""
    if not name or name in validation.RESERVED_POLICIES:
        return
    known = connection.execute(select(policies.c.name)).scalars().all()
    if name not in known:
        raise InvalidValue(field, f"there is no policy {name!r}{nearest(name, [*known, *validation.RESERVED_POLICIES])}")


def check_all_named(connection: Connection, named: Iterable[tuple[str, str]]) -> None:
    """`check_named` for (name, field) pairs, each name looked up once."""
    seen: dict[str, str] = {}
    for name, field in named:
        seen.setdefault(name, field)
    for name, field in seen.items():
        check_named(connection, name, field)


def _used_by(connection: Connection, name: str) -> tuple[str, ...]:
    rules = connection.execute(select(domain_rules.c.domain).where(domain_rules.c.policy == name).limit(USERS_TOLD)).scalars()
    joined = select(handlers.c.pattern, domain_rules.c.domain).join(domain_rules).where(handlers.c.policy == name).limit(USERS_TOLD)
    found = [*sorted(rules), *sorted(f"{row.pattern}@{row.domain}" for row in connection.execute(joined))]
    return tuple(found[:USERS_TOLD])


def _etag(policy_revision: int) -> str:
    return f"p{policy_revision:x}"
