"""Users and their credentials in the tables. Used by store.py inside its transactions.

Invariants: a user's domain has a hosted rule when the user is added; a mailbox id is never used twice; passwords are hashed before
the transaction begins, so that nobody waits for argon2 with the database locked. Fails with the errors of errors.py.
"""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from gatepost.directory import passwords, validation, versions
from gatepost.directory.clock import new_mailbox_id, now_us
from gatepost.directory.errors import AlreadyExists, ConflictInUse, InvalidValue, NotFound
from gatepost.directory.etags import Etags
from gatepost.directory.rules import find_rule
from gatepost.directory.schema import domain_rules, handlers, users, volumes
from gatepost.directory.values import Credentials, ScramKeys, User
from gatepost.routing.model import HandlerKind, Mailbox, RuleKind

Secret = dict[str, Any]
"""The credential columns of a user."""
_KIND = "u"


def hashed(password: str | None) -> Secret:
    """The credential columns for a new password; None is no login. About 40 ms: call it outside a transaction."""
    if password is None:
        return {
            "password_hash": "",
            "scram_salt": b"",
            "scram_iterations": 0,
            "scram_stored_key": b"",
            "scram_server_key": b"",
        }
    passwords.check_policy(password)
    keys = passwords.scram_keys(password)
    return {
        "password_hash": passwords.hash_password(password),
        "scram_salt": keys.salt,
        "scram_iterations": keys.iterations,
        "scram_stored_key": keys.stored_key,
        "scram_server_key": keys.server_key,
    }


def add_user(connection: Connection, address: str, secret: Secret, volume: str, author: str) -> User:
    """Add a user with a new mailbox id."""
    address = validation.user_address(address)
    domain = address.rpartition("@")[2]
    if _row(connection, address) is not None:
        raise AlreadyExists(f"{address} exists already")
    rule = find_rule(connection, domain)
    if rule is None or rule.kind is not RuleKind.HOSTED:
        why = f"its rule {rule.domain!r} is {rule.kind}" if rule else "it has no rule"
        raise InvalidValue("address", f"{domain} is not hosted here: {why}; add a hosted domain first")
    if connection.execute(select(volumes.c.name).where(volumes.c.name == volume)).first() is None:
        raise NotFound(f"no volume {volume!r}")
    values = {
        "address": address,
        "domain": domain,
        "mailbox_id": new_mailbox_id(),
        "volume": volume,
        "enabled": True,
        "created_at": now_us(),
        **secret,
    }
    connection.execute(insert(users).values(values))
    versions.record(connection, author, f"add user {address}", "user", address, None, {"volume": volume, "enabled": True})
    return get_user(connection, address)


def get_user(connection: Connection, address: str) -> User:
    """One user."""
    return _user(_must(connection, address), Etags(connection, _KIND))


def list_users(connection: Connection, domain: str | None) -> list[User]:
    """Users by address; of one domain, or all."""
    query = select(users).order_by(users.c.address)
    if domain:
        query = query.where(users.c.domain == validation.domain_name(domain))
    etags = Etags(connection, _KIND)
    return [_user(row, etags) for row in connection.execute(query)]


def set_password(connection: Connection, address: str, secret: Secret, author: str, etag: str | None) -> User:
    """Replace the credentials; the version it makes tells who did it, never what they are."""
    row = _must(connection, address)
    Etags(connection, _KIND).check(row, etag, row.address)
    connection.execute(update(users).where(users.c.id == row.id).values(**secret))
    versions.record(connection, author, f"set password of {row.address}", "user", row.address, {}, {})
    return get_user(connection, row.address)


def set_enabled(connection: Connection, address: str, enabled: bool, author: str, etag: str | None) -> User:
    """Allow or forbid login and delivery."""
    row = _must(connection, address)
    Etags(connection, _KIND).check(row, etag, row.address)
    if row.enabled != enabled:
        connection.execute(update(users).where(users.c.id == row.id).values(enabled=enabled))
        word = "enable" if enabled else "disable"
        before = {"enabled": row.enabled}
        versions.record(connection, author, f"{word} user {row.address}", "user", row.address, before, {"enabled": enabled})
    return get_user(connection, address)


def remove_user(connection: Connection, address: str, author: str, *, etag: str | None, force: bool) -> User:
    """Remove a user and return what it was: the caller may purge the mailbox, which stays in the volume otherwise."""
    row = _must(connection, address)
    etags = Etags(connection, _KIND)
    etags.check(row, etag, row.address)
    used = connection.execute(
        select(domain_rules.c.domain, handlers.c.pattern)
        .join(domain_rules, domain_rules.c.id == handlers.c.rule_id)
        .where(handlers.c.kind == str(HandlerKind.MAILBOX), handlers.c.targets == row.address)
    ).first()
    if used is not None and not force:
        raise ConflictInUse(f"the mailbox handler {used.pattern!r} of {used.domain} delivers to {row.address}; remove or change it first")
    connection.execute(delete(users).where(users.c.id == row.id))
    before = {"volume": row.volume, "enabled": row.enabled, "mailbox_id": row.mailbox_id.hex()}
    versions.record(connection, author, f"remove user {row.address}", "user", row.address, before, None)
    return _user(row, etags)


def credentials(connection: Connection, address: str) -> Credentials | None:
    """What a login of `address` (stored form) is checked against; None for nobody."""
    row = _row(connection, address)
    if row is None:
        return None
    keys = ScramKeys(row.scram_salt, row.scram_iterations, row.scram_stored_key, row.scram_server_key) if row.scram_iterations else None
    return Credentials(row.address, row.enabled, row.password_hash, keys)


def mailboxes(connection: Connection) -> dict[str, Mailbox]:
    """Every user's mailbox by address."""
    rows = connection.exec_driver_sql("SELECT address, mailbox_id, volume, enabled FROM users")
    return {address: Mailbox(address, mailbox_id, volume, bool(enabled)) for address, mailbox_id, volume, enabled in rows}


def _row(connection: Connection, address: str) -> Row[Any] | None:
    return connection.execute(select(users).where(users.c.address == address)).first()


def _must(connection: Connection, address: str) -> Row[Any]:
    row = _row(connection, validation.user_address(address))
    if row is None:
        raise NotFound(f"no user {address}")
    return row


def _user(row: Row[Any], etags: Etags) -> User:
    return User(row.address, row.mailbox_id, row.volume, row.enabled, bool(row.password_hash), row.created_at, etags.of(row))
