"""Rule documents against the tables: the one in force, the one of an earlier version, and making another one the one in force.

Used by store.py. Invariants: applying is one transaction and one version, whatever it changes, and checks the rules together after the
last change, so that their order in the document does not matter; going back to a version is applying its document. Fails with the errors
of errors.py; InvalidValue then names the field as it stands in a document.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from gatepost.directory import part_checks, parts, policies, rules, validation, versions
from gatepost.directory.errors import DirectoryError, EtagMismatch, InvalidValue, NotFound
from gatepost.message.nearest import nearest
from gatepost.routing.changes import Change, differences
from gatepost.routing.document import MAX_FAULTS, Document, dotted
from gatepost.routing.lints import is_open
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind
from gatepost.routing.parts import MAX_ENTRIES, PARTS
from gatepost.routing.tree import Fault, Path, decode

T = TypeVar("T")

MAX_ROWS = 200_000
"""Rules and handlers of a document; as text that is more than `document.MAX_OCTETS`."""
MAX_SINGLE = 200
"""Handlers of one rule that are changed one by one; beyond, the rule is written as a whole."""
_INDEXED = re.compile(r"([^.\[\]]+)(?:\[(\d+)\])?")
_RELAYING = (RuleKind.MX, RuleKind.GATEWAY, RuleKind.HOLD)


# ---- reading ---------------------------------------------------------------------------------------------------------


def _refuse_too_many(connection: Connection) -> None:
    """What no file can hold is not read into memory to find that out."""
    rows = rules.count(connection)
    if rows > MAX_ROWS:
        problem = f"{rows:,} rules and handlers are more than one file can hold ({MAX_ROWS:,}); list and change them one by one"
        raise InvalidValue("source", problem)


def read(connection: Connection) -> Document:
    """The document in force."""
    _refuse_too_many(connection)
    return _document(rules.read_all(connection), policies.texts(connection), parts.read_all(connection))


def read_version(connection: Connection, version: int) -> Document:
    """The document as it was when `version` was the newest. Raises NotFound when that is not kept any more, or not yet there."""
    newest, oldest = versions.current(connection), versions.oldest(connection)
    if not oldest <= version <= newest:
        kept = f"; versions {oldest} to {newest} can be told" if newest else ""
        raise NotFound(f"no version {version} of the rules{kept}")
    _refuse_too_many(connection)
    by_domain, texts, lists = rules.read_all(connection), policies.texts(connection), parts.read_all(connection)
    for change in versions.changes_after(connection, version):
        match change.subject:
            case "rule":
                _set(by_domain, change.key, _value(DomainRule, change.before))
            case "handler":
                _step_back(by_domain, change.key, _value(AddressHandler, change.before))
            case "policy":
                _set(texts, change.key, change.before["text"] if change.before else None)
            case "part":
                lists[change.key] = parts.decoded(change.key, change.before["entries"] if change.before else ())
    return _document(by_domain, texts, lists)


def _document(by_domain: Mapping[str, DomainRule], texts: Mapping[str, str], lists: Mapping[str, parts.Entries]) -> Document:
    return Document(tuple(by_domain[name] for name in sorted(by_domain)), {name: texts[name] for name in sorted(texts)}, **lists)


def _set(found: dict[str, T], key: str, value: T | None) -> None:
    if value is None:
        found.pop(key, None)
    else:
        found[key] = value


def _step_back(by_domain: dict[str, DomainRule], key: str, before: AddressHandler | None) -> None:
    domain, _, pattern = key.partition(" ")
    rule = by_domain.get(domain)
    if rule is None:
        return
    kept = {one.pattern: one for one in rule.handlers if one.pattern != pattern}
    _set(kept, pattern, before)
    by_domain[domain] = dataclasses.replace(rule, handlers=tuple(kept[name] for name in sorted(kept)))


def _value(kind: type[T], content: Mapping[str, Any] | None) -> T | None:
    """What a version recorded. Fields that this Gatepost does not know any more are left out."""
    if content is None:
        return None
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # both kinds are dataclasses
    faults: list[Fault] = []
    made: T | None = decode(kind, {key: item for key, item in content.items() if key in names}, (), faults)
    if made is None:
        raise DirectoryError(f"a recorded change is not understood: {'.'.join(faults[0].path)}: {faults[0].problem}")
    return made


# ---- checking --------------------------------------------------------------------------------------------------------


def normalised(document: Document, users: Callable[[str], bool]) -> tuple[Document | None, list[Fault]]:
    """The document as it would be stored, or every fault in it. `users`: whether an address (stored form) is a user's."""
    faults: list[Fault] = []
    known = [*document.policies, *validation.RESERVED_POLICIES]
    for name in document.policies:
        _tried(partial(validation.policy_name, name, ""), partial(_at, ("policies", name)), faults)
    made = [_rule(rule, known, users, faults) for rule in document.rules]
    kept: dict[str, DomainRule] = {}
    for rule, written in zip(made, document.rules, strict=True):
        if rule is not None and rule.domain in kept:
            faults.append(Fault(("rules", written.domain), f"{rule.domain} is there already, in another spelling"))
        elif rule is not None:
            kept[rule.domain] = rule
        if len(faults) >= MAX_FAULTS:
            break
    lists = {name: _list(name, getattr(document, name), faults) for name in PARTS}
    return (None if faults else _document(kept, document.policies, lists)), faults


def _list(name: str, entries: parts.Entries, faults: list[Fault]) -> parts.Entries:
    """The entries of one list in stored form; each is looked at by itself, so that all their faults are told."""
    made: list[Any] = []
    for n, one in enumerate(entries):
        checked = _tried(partial(part_checks.entry, name, one), partial(_at, (name, str(n))), faults)
        if checked is not None and any(checked.name == other.name for other in made):
            faults.append(Fault((name, str(n), "name"), f"{checked.name} is there already"))
        elif checked is not None:
            made.append(checked)
    if len(made) > MAX_ENTRIES:
        faults.append(Fault((name,), f"has {len(made)} entries; {MAX_ENTRIES} are possible"))
    return tuple(made)


def _rule(rule: DomainRule, known: list[str], users: Callable[[str], bool], faults: list[Fault]) -> DomainRule | None:
    """One rule in stored form; each handler is looked at by itself, so that all their faults are told."""
    before, path = len(faults), ("rules", rule.domain)
    handlers: dict[str, AddressHandler] = {}
    for one in rule.handlers:
        here = (*path, "handlers", one.pattern)
        made = _tried(partial(validation.handler, one), partial(_at, here), faults)
        if made is not None and made.pattern in handlers:
            faults.append(Fault(here, f"{made.pattern} is there already, in another spelling"))
        elif made is not None:
            handlers[made.pattern] = made
            faults += _references(made, known, users, here)
    faults += _unknown_policy(rule.policy, known, path)
    relays = rule.accept_untrusted and rule.kind in _RELAYING and is_open(rule.domain)  # left to the lint, which can be forced
    bare = dataclasses.replace(rule, handlers=(), accept_untrusted=rule.accept_untrusted and not relays)
    found = _tried(partial(validation.domain_rule, bare), partial(_at, path), faults)
    if found is None or len(faults) > before:
        return None
    ordered = tuple(handlers[name] for name in sorted(handlers))
    return dataclasses.replace(found, handlers=ordered, accept_untrusted=rule.accept_untrusted)


def _references(handler: AddressHandler, known: list[str], users: Callable[[str], bool], path: Path) -> Iterator[Fault]:
    yield from _unknown_policy(handler.policy, known, path)
    for target in handler.targets if handler.kind is HandlerKind.MAILBOX else ():
        if not users(target):
            yield Fault((*path, "targets"), f"{target} is not a user")


def _unknown_policy(name: str, known: list[str], path: Path) -> Iterator[Fault]:
    if name and name not in known:
        yield Fault((*path, "policy"), f"there is no policy {name!r}{nearest(name, known)}")


def _tried(make: Callable[[], T], where: Callable[[str], Path], faults: list[Fault]) -> T | None:
    try:
        return make()
    except InvalidValue as error:
        faults.append(Fault(where(error.field), error.problem))
        return None


def _at(path: Path, field: str) -> Path:
    return (*path, *field_path(field))


def field_path(field: str) -> Path:
    """'next_hops[1].host' as the keys of a document."""
    return tuple(part for match in _INDEXED.finditer(field) for part in match.groups() if part is not None)


# ---- applying --------------------------------------------------------------------------------------------------------


def apply(
    connection: Connection, document: Document, *, base: int | None, author: str, comment: str, world: rules.World
) -> tuple[int, list[Change]]:
    """Make a normalised document the one in force: (version, what was changed). `base`: the version it was planned for, None for any.

    Raises EtagMismatch (the version in force is another), ConflictInUse (a rule with users goes), InvalidValue. No difference: no version.
    """
    newest = versions.current(connection)
    if base is not None and base != newest:
        raise EtagMismatch(
            f"the rules are at version {newest} now, and this was planned for version {base}; plan again, or force", str(newest)
        )
    before = read(connection)
    changes = differences(before, document)
    if not changes:
        return newest, []
    with versions.one_version(connection, author, comment or _summary(changes)) as version:
        _write(connection, before, document, author, world)
    return version, changes


def _summary(changes: list[Change]) -> str:
    return "; ".join(map(str, changes[:5])) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")


def _write(connection: Connection, before: Document, document: Document, author: str, world: rules.World) -> None:
    """What is named comes before what names it, and goes after it."""
    old, new = {rule.domain: rule for rule in before.rules}, {rule.domain: rule for rule in document.rules}
    for name in PARTS:
        if getattr(before, name) != getattr(document, name):
            parts.write(connection, name, getattr(document, name), author=author, comment=f"change {name}")
    for name, text in document.policies.items():
        if before.policies.get(name) != text:
            policies.put_policy(connection, name, text, etag=None, author=author)
    changed: list[tuple[DomainRule, tuple[AddressHandler, ...]]] = []
    for domain, rule in new.items():
        if old.get(domain) != rule:
            changed.append((rule, _write_rule(connection, old.get(domain), rule, author)))
    for domain in old.keys() - new.keys():
        rules.delete_rule(connection, domain, etag=None, force=False, author=author)
    after = world(connection)
    for rule, some in changed:
        _check(connection, lambda _: after, rule, some)
    for name in before.policies.keys() - document.policies.keys():
        policies.delete_policy(connection, name, etag=None, author=author)


def _write_rule(connection: Connection, old: DomainRule | None, new: DomainRule, author: str) -> tuple[AddressHandler, ...]:
    """Write what differs; the handlers that are new or other ones."""
    known = {one.pattern: one for one in old.handlers} if old else {}
    differ = tuple(one for one in new.handlers if known.get(one.pattern) != one)
    gone = known.keys() - {one.pattern for one in new.handlers}
    same = old is not None and dataclasses.replace(old, handlers=()) == dataclasses.replace(new, handlers=())
    if not same or len(differ) + len(gone) > MAX_SINGLE:
        rules.put_rule(connection, new, etag=None, create=old is None, author=author, world=None)
        return differ
    for one in differ:
        create = one.pattern not in known
        rules.put_handler(connection, new.domain, one, etag=None, create=create, author=author, world=None)
    for pattern in sorted(gone):
        rules.delete_handler(connection, new.domain, pattern, etag=None, author=author)
    return differ


def _check(connection: Connection, world: rules.World, rule: DomainRule, handlers: tuple[AddressHandler, ...]) -> None:
    try:
        rules.check_handlers(connection, world, rule, handlers, "handlers[{}].")
        rules.check_settings(connection, world, rule)
    except InvalidValue as error:
        path = list(field_path(error.field))
        if path[0] == "handlers" and len(path) > 1:
            path[1] = handlers[int(path[1])].pattern
        raise InvalidValue(dotted(("rules", rule.domain, *path)), error.problem) from error
