"""Domain rules and address handlers in the tables: read, change, and what a RuleSet is made of. Used by store.py inside its transactions.

Invariants: what is stored passed validation.py; a change of a rule or of one of its handlers gives the rule a new etag; a change
that would make a forward loop is refused with the loop in words. Fails with the errors of errors.py.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from gatepost.directory import policies, validation, versions
from gatepost.directory.database import revision
from gatepost.directory.errors import AlreadyExists, ConflictInUse, EtagMismatch, InvalidValue, NotFound
from gatepost.directory.rows import HANDLER_COLUMNS, RULE_KINDS, TLS, handler_of, settings_of
from gatepost.directory.schema import domain_rules, handlers, users
from gatepost.directory.values import StoredHandler, StoredRule
from gatepost.message.plain import to_plain
from gatepost.routing.decide import LOOP, decide
from gatepost.routing.model import (
    AddressHandler,
    DomainRule,
    HandlerKind,
    HandlerOptions,
    Question,
    RuleKind,
    RuleSet,
    RuleSettings,
)
from gatepost.routing.settings import NO_SETTINGS, UnknownRecipients

World = Callable[[Connection], RuleSet]
"""The rules and mailboxes as a connection sees them, with what it has changed itself (live.py)."""
MAX_TARGET_CHECKS = 2000
"""Handlers of one rule whose targets are looked at when it is saved; what slips past that decide() still refuses when mail comes."""


# ---- reading ---------------------------------------------------------------------------------------------------------


def get_rule(connection: Connection, domain: str) -> StoredRule:
    """One rule with its handlers."""
    row = _row(connection, validation.rule_domain(domain))
    return StoredRule(_rule(row, tuple(_handlers(connection, row.id))), _etag(row.revision))


def list_rules(connection: Connection, after: str = "", limit: int | None = None, kind: RuleKind | None = None) -> list[StoredRule]:
    """Rules by domain, their handlers by pattern: those behind a domain, at most so many, of one kind or all."""
    query = select(domain_rules).where(domain_rules.c.domain > after).order_by(domain_rules.c.domain).limit(limit)
    if kind is not None:
        query = query.where(domain_rules.c.kind == str(kind))
    rows = connection.execute(query).all()
    return [StoredRule(_rule(row, tuple(_handlers(connection, row.id))), _etag(row.revision)) for row in rows]


def get_handler(connection: Connection, domain: str, pattern: str) -> StoredHandler:
    """One handler."""
    row = _row(connection, validation.rule_domain(domain))
    found = _handler_row(connection, row.id, validation.stored_pattern(pattern))
    if found is None:
        raise NotFound(f"{domain} has no handler {pattern!r}")
    return StoredHandler(_handler(found), _etag(row.revision))


def list_handlers(connection: Connection, domain: str, after: str = "", limit: int = -1) -> tuple[list[AddressHandler], str]:
    """The handlers of one rule by pattern, those behind a pattern, at most so many; and the rule's etag."""
    row = _row(connection, validation.rule_domain(domain))
    return list(_handlers(connection, row.id, after, limit)), _etag(row.revision)


def find_rule(connection: Connection, domain: str) -> DomainRule | None:
    """The rule that decides `domain` (stored form), without handlers: exact, else longest '*.suffix', else '*'."""
    names = [domain, *("*" + domain[n:] for n, c in enumerate(domain) if c == "."), "*"]
    rows = connection.execute(select(domain_rules).where(domain_rules.c.domain.in_(names)))
    found = {row.domain: row for row in rows}
    return next((_rule(found[name], ()) for name in names if name in found), None)


def read_all(connection: Connection) -> dict[str, DomainRule]:
    """Every rule by its domain. Plain tuples and no ORM: 100,000 handlers must load well within a second."""
    grouped = _grouped_handlers(connection)
    return {row.domain: _rule(row, grouped.get(row.id, ())) for row in connection.execute(select(domain_rules))}


def count(connection: Connection) -> int:
    """How many rules and handlers there are."""
    counts = (select(func.count()).select_from(table) for table in (domain_rules, handlers))
    return sum(int(connection.execute(one).scalar_one()) for one in counts)


def lists(connection: Connection) -> list[tuple[str, AddressHandler]]:
    """Every handler that is a mailing list, with the domain of its rule; by domain and pattern."""
    columns = ", ".join(f"handlers.{name}" for name in HANDLER_COLUMNS.split(", "))
    of_rule = "handlers JOIN domain_rules ON domain_rules.id = rule_id"
    query = f"SELECT domain, {columns} FROM {of_rule} WHERE handlers.kind = 'list' ORDER BY domain, pattern"
    return [(row[0], handler_of(tuple(row[1:]))) for row in connection.exec_driver_sql(query)]


def read_one(connection: Connection, domain: str) -> DomainRule | None:
    """One rule (stored form) with its handlers; None when there is none."""
    row = connection.execute(select(domain_rules).where(domain_rules.c.domain == domain)).first()
    return _rule(row, tuple(_handlers(connection, row.id))) if row else None


def _grouped_handlers(connection: Connection) -> dict[int, tuple[AddressHandler, ...]]:
    rows = connection.exec_driver_sql(f"SELECT rule_id, {HANDLER_COLUMNS} FROM handlers ORDER BY rule_id, pattern")
    grouped: dict[int, list[AddressHandler]] = {}
    for rule_id, *row in rows:
        grouped.setdefault(rule_id, []).append(handler_of(tuple(row)))
    return {rule_id: tuple(made) for rule_id, made in grouped.items()}


def _row(connection: Connection, domain: str) -> Row[Any]:
    row = connection.execute(select(domain_rules).where(domain_rules.c.domain == domain)).first()
    if row is None:
        raise NotFound(f"no rule for {domain}")
    return row


def _handler_row(connection: Connection, rule_id: int, pattern: str) -> Row[Any] | None:
    return connection.execute(select(handlers).where(handlers.c.rule_id == rule_id, handlers.c.pattern == pattern)).first()


def _handlers(connection: Connection, rule_id: int, after: str = "", limit: int = -1) -> Iterator[AddressHandler]:
    query = f"SELECT {HANDLER_COLUMNS} FROM handlers WHERE rule_id = ? AND pattern > ? ORDER BY pattern LIMIT ?"
    for row in connection.exec_driver_sql(query, (rule_id, after, limit)):
        yield handler_of(tuple(row))


def _handler(row: Row[Any]) -> AddressHandler:
    return handler_of((row.pattern, row.kind, row.targets, row.text, row.policy, row.options))


def _as_json(value: HandlerOptions | RuleSettings) -> str:
    plain = to_plain(value)
    return json.dumps(plain, separators=(",", ":"), sort_keys=True) if plain else ""


def _rule(row: Row[Any], its_handlers: tuple[AddressHandler, ...]) -> DomainRule:
    return DomainRule(
        row.domain,
        RULE_KINDS[row.kind],
        row.host,
        row.port,
        TLS[row.tls],
        row.implicit_tls,
        row.lmtp,
        row.username,
        row.password_ref,
        row.text,
        row.accept_untrusted,
        its_handlers,
        row.policy,
        settings_of(row.settings),
    )


def _etag(rule_revision: int) -> str:
    """Strong: revisions are never used twice, not even for a rule that was removed and made again."""
    return f"r{rule_revision:x}"


def _check_etag(row: Row[Any], etag: str | None) -> None:
    if etag and etag != _etag(row.revision):
        raise EtagMismatch(f"{row.domain} was changed by someone else since it was read", _etag(row.revision))


# ---- changing --------------------------------------------------------------------------------------------------------


def put_rule(connection: Connection, rule: DomainRule, *, etag: str | None, create: bool, author: str, world: World | None) -> StoredRule:
    """Add (create=True) or replace a rule and all its handlers. `rule` has passed validation.domain_rule: with many handlers that takes
    seconds, in which nobody else should wait for the lock. world: what it is checked against afterwards; None: who makes several changes
    calls `check_handlers` after the last.
    """
    row = connection.execute(select(domain_rules).where(domain_rules.c.domain == rule.domain)).first()
    if create and row is not None:
        raise AlreadyExists(f"{rule.domain} has a rule already")
    if not create and row is None:
        raise NotFound(f"no rule for {rule.domain}")
    before = None
    new = revision(connection)
    columns = _columns(rule) | {"revision": new}
    if row is None:
        key = connection.execute(insert(domain_rules).values(columns)).inserted_primary_key
        assert key is not None  # SQLite always tells it
        rule_id = int(key[0])
    else:
        _check_etag(row, etag)
        rule_id = row.id
        before = _content(_rule(row, tuple(_handlers(connection, rule_id))))
        connection.execute(update(domain_rules).where(domain_rules.c.id == rule_id).values(columns))
        connection.execute(delete(handlers).where(handlers.c.rule_id == rule_id))
    if rule.handlers:
        connection.execute(insert(handlers), [_handler_columns(rule_id, each) for each in rule.handlers])
    verb = "add" if create else "change"
    versions.record(connection, author, f"{verb} rule {rule.domain} ({rule.kind})", "rule", rule.domain, before, _content(rule))
    if world is not None:
        check_handlers(connection, world, rule, rule.handlers, "handlers[{}].")
        check_settings(connection, world, rule)
    return StoredRule(rule, _etag(new))


def delete_rule(connection: Connection, domain: str, *, etag: str | None, force: bool, author: str) -> None:
    """Remove a rule and its handlers. Users of its domains are in the way; with `force` they go too (their mail stays in the volume)."""
    row = _row(connection, validation.rule_domain(domain))
    _check_etag(row, etag)
    stored = _rule(row, tuple(_handlers(connection, row.id)))
    decided = _domains_decided_by(connection, row.domain)
    connection.execute(delete(domain_rules).where(domain_rules.c.id == row.id))
    orphans = [domain for domain in decided if not _is_hosted(connection, domain)]
    count = _count_users(connection, orphans)
    if count and not force:
        raise ConflictInUse(f"{row.domain} has {count} user{'s' if count > 1 else ''}; remove them first, or force")
    note = f" and {count} users" if count else ""
    with versions.within_one(connection, author, f"remove rule {row.domain}{note}"):
        for domain in orphans if count else ():
            _remove_users(connection, domain, author)
        versions.record(connection, author, "", "rule", row.domain, _content(stored), None)


def _remove_users(connection: Connection, domain: str, author: str) -> None:
    """Each is recorded, so that who follows the log knows whose mailbox is gone."""
    query = select(users.c.address, users.c.volume, users.c.enabled, users.c.mailbox_id).where(users.c.domain == domain)
    for address, volume, enabled, mailbox_id in connection.execute(query).all():
        before = {"volume": volume, "enabled": enabled, "mailbox_id": mailbox_id.hex()}
        versions.record(connection, author, "", "user", address, before, None)
    connection.execute(delete(users).where(users.c.domain == domain))


def put_handler(
    connection: Connection, domain: str, value: AddressHandler, *, etag: str | None, create: bool, author: str, world: World | None
) -> StoredHandler:
    """Add (create=True) or replace one handler. world: as for put_rule."""
    row = _row(connection, validation.rule_domain(domain))
    _check_etag(row, etag)
    value = validation.handler(value)
    known = _handler_row(connection, row.id, value.pattern)
    if create and known is not None:
        raise AlreadyExists(f"{row.domain} has a handler {value.pattern!r} already")
    if not create and known is None:
        raise NotFound(f"{row.domain} has no handler {value.pattern!r}")
    columns = _handler_columns(row.id, value)
    if known is None:
        connection.execute(insert(handlers).values(columns))
    else:
        connection.execute(update(handlers).where(handlers.c.id == known.id).values(columns))
    new_etag = _touch(connection, row.id)
    verb = "add" if create else "change"
    key = f"{row.domain} {value.pattern}"
    before = _handler_content(_handler(known)) if known else None
    versions.record(connection, author, f"{verb} handler {value.pattern} of {row.domain}", "handler", key, before, _handler_content(value))
    if world is not None:
        check_handlers(connection, world, _rule(row, ()), (value,), "")
    return StoredHandler(value, new_etag)


def add_mailbox_handlers(connection: Connection, domain: str, source: str, *, etag: str | None, author: str) -> tuple[str, list[str], int]:
    """A mailbox handler for each mailbox of `source`: (the rule's new etag, local parts added, how many had a handler already)."""
    row = _row(connection, validation.rule_domain(domain))
    _check_etag(row, etag)
    source = validation.domain_name(source, "source_domain")
    addresses = connection.execute(select(users.c.address).where(users.c.domain == source).order_by(users.c.address)).scalars().all()
    if not addresses:
        raise InvalidValue("source_domain", f"{source} has no mailboxes here")
    known = set(connection.execute(select(handlers.c.pattern).where(handlers.c.rule_id == row.id)).scalars())
    wanted = {address.rpartition("@")[0]: address for address in addresses}
    new = [AddressHandler(name, HandlerKind.MAILBOX, (address,)) for name, address in wanted.items() if name not in known]
    if not new:
        return _etag(row.revision), [], len(wanted)
    connection.execute(insert(handlers), [_handler_columns(row.id, each) for each in new])
    with versions.one_version(connection, author, f"add {len(new)} mailbox handlers of {source} to {row.domain}"):
        for each in new:
            key = f"{row.domain} {each.pattern}"
            versions.record(connection, author, "", "handler", key, None, _handler_content(each))
    return _touch(connection, row.id), [each.pattern for each in new], len(wanted) - len(new)


def delete_handler(connection: Connection, domain: str, pattern: str, *, etag: str | None, author: str) -> str:
    """Remove one handler; returns the rule's new etag."""
    row = _row(connection, validation.rule_domain(domain))
    _check_etag(row, etag)
    known = _handler_row(connection, row.id, validation.stored_pattern(pattern))
    if known is None:
        raise NotFound(f"{row.domain} has no handler {pattern!r}")
    connection.execute(delete(handlers).where(handlers.c.id == known.id))
    content = _handler_content(_handler(known))
    key = f"{row.domain} {known.pattern}"
    versions.record(connection, author, f"remove handler {known.pattern} of {row.domain}", "handler", key, content, None)
    return _touch(connection, row.id)


def _touch(connection: Connection, rule_id: int) -> str:
    new = revision(connection)
    connection.execute(update(domain_rules).where(domain_rules.c.id == rule_id).values(revision=new))
    return _etag(new)


def _columns(rule: DomainRule) -> dict[str, Any]:
    values = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.name != "handlers"}
    return values | {"kind": str(rule.kind), "tls": str(rule.tls), "settings": _as_json(rule.settings)}


def _handler_columns(rule_id: int, value: AddressHandler) -> dict[str, Any]:
    columns = {"rule_id": rule_id, "pattern": value.pattern, "kind": str(value.kind), "targets": "\n".join(value.targets)}
    return columns | {"text": value.text, "policy": value.policy, "options": _as_json(value.options)}


def _handler_content(value: AddressHandler) -> dict[str, object]:
    shown: dict[str, object] = {"pattern": value.pattern, "kind": str(value.kind), "targets": list(value.targets), "text": value.text}
    options = to_plain(value.options)
    return shown | ({"policy": value.policy} if value.policy else {}) | ({"options": options} if options else {})


def _content(rule: DomainRule) -> dict[str, object]:
    shown = _columns(rule)
    del shown["settings"]
    settings = to_plain(rule.settings)
    return shown | ({"settings": settings} if settings else {}) | {"handlers": [_handler_content(each) for each in rule.handlers]}


def _domains_decided_by(connection: Connection, rule_domain: str) -> list[str]:
    """Domains that have users and that this rule decides."""
    own = users.c.domain == rule_domain if "*" not in rule_domain else users.c.domain.endswith(rule_domain[1:], autoescape=True)
    decided = []
    for domain in connection.execute(select(users.c.domain).where(own).distinct()).scalars().all():
        rule = find_rule(connection, domain)
        if rule is not None and rule.domain == rule_domain:
            decided.append(domain)
    return decided


def _is_hosted(connection: Connection, domain: str) -> bool:
    rule = find_rule(connection, domain)
    return rule is not None and rule.kind is RuleKind.HOSTED


def _count_users(connection: Connection, domains: list[str]) -> int:
    counted = 0
    for start in range(0, len(domains), 500):
        query = select(func.count()).select_from(users).where(users.c.domain.in_(domains[start : start + 500]))
        counted += int(connection.execute(query).scalar_one())
    return counted


# ---- checks that need the tables ---------------------------------------------------------------------------------------


def check_handlers(connection: Connection, world: World, rule: DomainRule, new: tuple[AddressHandler, ...], prefix: str) -> None:
    """Mailbox handlers must name a user; forwards must end; policies must be there. Runs after the change was made and recorded, inside its
    transaction, so that a refusal undoes it.
    """
    policies.check_all_named(
        connection, [(rule.policy, "policy"), *((one.policy, f"{prefix.format(n)}policy") for n, one in enumerate(new))]
    )
    after = world(connection)
    for n, value in enumerate(new[:MAX_TARGET_CHECKS]):
        field = f"{prefix.format(n)}targets"
        if value.kind is HandlerKind.MAILBOX:
            unknown = next((target for target in value.targets if target not in after.mailboxes), None)
            if unknown is not None:
                raise InvalidValue(field, f"{unknown} is not a user")
        if value.kind in (HandlerKind.FORWARD, HandlerKind.COPY):
            _check_targets(after, rule.domain, value, field)


def check_settings(connection: Connection, world: World, rule: DomainRule) -> None:
    """Where the settings of a rule lead: each address must be deliverable now, an alias must stand for something."""
    settings = rule.settings
    if settings is NO_SETTINGS:
        return
    after = world(connection)
    if settings.alias_of:
        if find_rule(connection, settings.alias_of) is None:
            raise InvalidValue("alias_of", f"there is no rule for {settings.alias_of}")
        _ask(after, f"postmaster@{settings.alias_of}", "alias_of", loops_only=True)
    if settings.unknown is UnknownRecipients.MAILBOX and settings.unknown_target.lower() not in after.mailboxes:
        raise InvalidValue("unknown_target", f"{settings.unknown_target} is not a user")
    if settings.unknown is UnknownRecipients.FORWARD:
        _ask(after, settings.unknown_target, "unknown_target")
    if settings.journal:
        _ask(after, settings.journal, "journal")


def _ask(world: RuleSet, address: str, field: str, *, loops_only: bool = False) -> None:
    """Ask decide() itself whether `address` takes mail."""
    decision = decide(world, Question("", address, True))
    if decision.reply == LOOP:
        path = next((step.detail for step in decision.trace if step.step == "loop"), address)
        raise InvalidValue(field, f"leads in a loop: {path}")
    if decision.reply is not None and not loops_only:
        raise InvalidValue(field, f"mail to {address} would be refused: {decision.reply.text}")


def _check_targets(world: RuleSet, domain: str, value: AddressHandler, field: str) -> None:
    """Ask decide() itself: each target must be deliverable now, and a forward must not come back to where it began."""
    origin = f"{value.pattern}@{domain}"
    asked = (*value.targets, origin) if "*" not in origin and value.kind is HandlerKind.FORWARD else value.targets
    for address in asked:
        decision = decide(world, Question("", address, True))
        if decision.reply == LOOP:
            path = next((step.detail for step in decision.trace if step.step == "loop"), address)
            raise InvalidValue(field, f"forwards in a loop: {path}; to keep mail and pass it on, use a copy handler")
        if decision.reply is not None:
            raise InvalidValue(field, f"mail to {address} would be refused: {decision.reply.text}")
