"""The rules and mailboxes of a large rule set: a mapped index file (rust_core/rules), and over it what has changed since that was built.

Made by live.py, looked into by decide(). Invariants: a MappedRules or MappedMailboxes never changes, so mail in flight keeps its version;
rows are read from the file when they are asked for, and remembered within bounds, for all versions over one file together. `Changes` is
never changed once it is part of a state: the next one is a copy. Does not fail: what the file holds was proved when it was opened.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar, overload

from gatepost.directory.rows import RULE, Body, body_of, handler_of, mailbox_of, rule_of
from gatepost.native import HandlerRow, RuleIndex, RuleRow
from gatepost.routing.index import HandlerIndex, HandlerTable, MailboxTable, RuleTable, better
from gatepost.routing.model import AddressHandler, DomainRule, Mailbox, RuleKind
from gatepost.routing.patterns import RegexSet

MAX_REMEMBERED = 256
"""Rules read from the file that are kept, about 1 KiB each: few enough to stay in the processor's caches."""
MAX_BODIES = 1024
"""What rules have in common besides their domains and handlers: most share it with thousands."""
MAX_EXPRESSIONS = 64
"""Rules whose regular expressions are kept compiled; most are a few KiB, and each is bounded by RegexSet."""
_CHUNK = 256
_FITTING, _EXPRESSIONS, _ANY = 1, 2, 4
_PATTERNS = _FITTING | _EXPRESSIONS
"""As in RuleRow."""

_NOT_ASKED: Any = object()

T = TypeVar("T")


@dataclass
class Changes:
    """What differs from the file, None being what is gone: rules, which then hold all their handlers; handlers of the file's rules by
    pattern; mailboxes. weight: how many rules, handlers and mailboxes that is.
    """

    rules: dict[str, DomainRule | None] = field(default_factory=dict)
    handlers: dict[str, dict[str, AddressHandler | None]] = field(default_factory=dict)
    mailboxes: dict[str, Mailbox | None] = field(default_factory=dict)
    weight: int = 0

    def copy(self) -> "Changes":
        """One to be changed."""
        return Changes(dict(self.rules), {key: dict(one) for key, one in self.handlers.items()}, dict(self.mailboxes), self.weight)


class MappedFile:
    """An open index, and what was read from it lately."""

    def __init__(self, index: RuleIndex) -> None:
        self.index = index
        self.ask = index.ask
        self.remembered: dict[str, DomainRule | None] = {}
        """By the domains they were asked for."""
        self._bodies: dict[bytes, Body] = {}
        self._expressions: dict[str, RegexSet] = {}

    def deciding(self, domain: str, local: str) -> DomainRule | None:
        """The rule of the file that decides a domain, remembered; its handler of `local`, which is asked for next, is read with it."""
        known, row = self.remembered, self.ask(domain, local)
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        if row is None:
            known[domain] = None
            return None
        place, count, patterns, name, body, handler = row
        before, behind = self._bodies.get(body) or self._body(name, body)
        handlers = MappedHandlers(self, name, place, count, patterns, local, handler) if count else ()
        rule = known[domain] = RULE(name, *before, handlers, *behind)
        return rule

    def _body(self, domain: str, octets: bytes) -> Body:
        row = self.index.rule(domain)
        assert row is not None  # it was read a moment ago, and the file never changes
        if len(self._bodies) >= MAX_BODIES:
            self._bodies.clear()
        found = self._bodies[octets] = body_of(*row[3:6])
        return found

    def rule(self, row: RuleRow, patch: Mapping[str, AddressHandler | None] | None = None) -> DomainRule:
        """A rule whose handlers are read when they are asked for."""
        place, count, patterns, texts, port, flags, _ = row
        if not count and not patch:
            return rule_of(texts, port, flags)
        handlers = MappedHandlers(self, texts[0], place, count, patterns)
        if patch:
            handlers = PatchedHandlers(handlers, patch)
        return rule_of(texts, port, flags, handlers)  # type: ignore[arg-type]  # a sequence, as lazy as the tuple is not

    def expressions(self, domain: str, place: int) -> RegexSet:
        """The regular expressions of a rule, compiled."""
        found = self._expressions.get(domain)
        if found is None:
            if len(self._expressions) >= MAX_EXPRESSIONS:
                self._expressions.clear()
            found = self._expressions[domain] = RegexSet([handler_of(row) for row in self.index.expressions(place)])
        return found


class MappedHandlers(Sequence[AddressHandler]):
    """The handlers of one rule of the file: a sequence by pattern, which reads them all, and a HandlerIndex, which reads those it is asked
    for. `near`: a local part whose handler's row, or None for none, was read with the rule.
    """

    __slots__ = ("_count", "_domain", "_file", "_near", "_patterns", "_place", "_row", "has_patterns")

    def __init__(
        self, file: MappedFile, domain: str, place: int, count: int, patterns: int, near: str = "", row: HandlerRow | None = None
    ) -> None:
        self._file = file
        self._domain = domain
        self._place = place
        self._count = count
        self._patterns = patterns
        self._near = near
        self._row = row
        self.has_patterns = patterns & _PATTERNS != 0

    # ---- as a HandlerIndex -----------------------------------------------------------------------------------------

    @property
    def any(self) -> AddressHandler | None:
        """See HandlerIndex."""
        return self.named("*") if self._patterns & _ANY else None

    def get(self, local: str) -> AddressHandler | None:
        """See HandlerIndex."""
        row = self._row if local and local == self._near else self._file.index.exact(self._place, local)
        return None if row is None else handler_of(row)

    def named(self, pattern: str) -> AddressHandler | None:
        """See HandlerIndex."""
        row = self._file.index.named(self._place, pattern)
        return None if row is None else handler_of(row)

    def fitting(self, local: str) -> list[AddressHandler]:
        """Prefixes and suffixes alone, best first."""
        return [handler_of(row) for row in self._file.index.fitting(self._place, local)] if self._patterns & _FITTING else []

    def by_pattern(self, local: str) -> Iterable[AddressHandler]:
        """See HandlerIndex."""
        found = self.fitting(local)
        return chain(found, self.by_expression(local)) if self._patterns & _EXPRESSIONS else found

    def by_expression(self, local: str) -> Iterator[AddressHandler]:
        """The regular expressions that fit, in the order of their text; compiled when the first is asked for."""
        if self._patterns & _EXPRESSIONS:
            yield from self._file.expressions(self._domain, self._place).matching(local)

    # ---- as a sequence ---------------------------------------------------------------------------------------------

    def by_name(self) -> dict[str, AddressHandler]:
        """All, by pattern."""
        return {row[0]: handler_of(row) for row in self._file.index.handlers(self._place, 0, self._count)}

    def _all(self) -> tuple[AddressHandler, ...]:
        found = self.by_name()
        return tuple(found[pattern] for pattern in sorted(found))

    def __iter__(self) -> Iterator[AddressHandler]:
        return iter(self._all())

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> AddressHandler: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[AddressHandler]: ...
    def __getitem__(self, at: int | slice) -> AddressHandler | Sequence[AddressHandler]:
        return self._all()[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._all())


class PatchedHandlers(MappedHandlers):
    """The same with changes: handlers by pattern, None for what is gone."""

    __slots__ = ("_added", "_patch")

    def __init__(self, of: MappedHandlers, patch: Mapping[str, AddressHandler | None]) -> None:
        super().__init__(of._file, of._domain, of._place, of._count, of._patterns)
        self._patch = patch
        self._added = HandlerTable(one for one in patch.values() if one is not None)
        self.has_patterns = self.has_patterns or self._added.has_patterns

    @property
    def any(self) -> AddressHandler | None:
        """See HandlerIndex."""
        return self.named("*")

    def get(self, local: str) -> AddressHandler | None:
        """See HandlerIndex."""
        return self._patch[local] if local in self._patch else super().get(local)

    def named(self, pattern: str) -> AddressHandler | None:
        """See HandlerIndex."""
        return self._patch[pattern] if pattern in self._patch else super().named(pattern)

    def by_pattern(self, local: str) -> Iterator[AddressHandler]:
        """See HandlerIndex."""
        kept = [one for one in super().fitting(local) if one.pattern not in self._patch]
        yield from sorted((*kept, *self._added.fitting(local)), key=better)
        matching = [one for one in super().by_expression(local) if one.pattern not in self._patch]
        added = self._added.regex.matching(local) if self._added.regex is not None else ()
        yield from sorted((*matching, *added), key=lambda one: one.pattern)

    def by_name(self) -> dict[str, AddressHandler]:
        """See MappedHandlers."""
        found: dict[str, AddressHandler | None] = {**super().by_name(), **self._patch}
        return {pattern: one for pattern, one in found.items() if one is not None}

    def __len__(self) -> int:
        known = sum(super(PatchedHandlers, self).named(pattern) is not None for pattern in self._patch)
        return self._count - known + sum(one is not None for one in self._patch.values())


class MappedRules(RuleTable):
    """Domain rules by domain."""

    def __init__(self, file: MappedFile, changes: Changes) -> None:
        self._file = file
        self._index = file.index
        self._remembered = file.remembered
        self._changes = changes
        self._is_as_built = not changes.rules and not changes.handlers
        self._patched: dict[str, DomainRule] = {}
        self._tables: dict[str, HandlerTable] = {}

    def deciding(self, domain: str, local: str = "") -> DomainRule | None:
        """See RuleTable."""
        rule = self._remembered.get(domain, _NOT_ASKED)
        if rule is _NOT_ASKED:
            rule = self._file.deciding(domain, local)
        return rule if self._is_as_built else self._changed(domain, rule)

    def _changed(self, domain: str, rule: DomainRule | None) -> DomainRule | None:
        """The rule that decides a domain, given the one that does in the file."""
        changed = self._changes.rules
        if changed and _is_among(domain, changed):
            return next((rule for name in _candidates(domain) if (rule := self.get(name)) is not None), None)
        if rule is not None and rule.domain in self._changes.handlers:
            return self._patch(rule.domain)
        return rule

    def _patch(self, domain: str) -> DomainRule | None:
        """A rule of the file with changed handlers; there are no more of them than there are changes."""
        made = self._patched.get(domain)
        row = None if made else self._index.rule(domain)
        if row is not None:
            made = self._patched[domain] = self._file.rule(row, self._changes.handlers[domain])
        return made

    def get(self, domain: str, default: Any = None) -> Any:
        """Of exactly this domain."""
        if domain in self._changes.rules:
            return self._changes.rules[domain] or default
        if domain in self._changes.handlers:
            return self._patch(domain) or default
        row = self._index.rule(domain)
        return default if row is None else self._file.rule(row)

    def __getitem__(self, domain: str) -> DomainRule:
        found: DomainRule | None = self.get(domain)
        if found is None:
            raise KeyError(domain)
        return found

    def __contains__(self, domain: object) -> bool:
        return self.get(str(domain)) is not None

    def handlers(self, rule: DomainRule) -> HandlerIndex | None:
        """See RuleTable."""
        held: Sequence[AddressHandler] = rule.handlers
        if isinstance(held, MappedHandlers):
            return held
        if not held:
            return None
        found = self._tables.get(rule.domain)
        if found is None:
            found = self._tables[rule.domain] = HandlerTable(held)
        return found

    def first_hosted(self) -> str | None:
        """See RuleTable."""
        changed = self._changes.rules
        ours = [name for name, rule in changed.items() if rule is not None and rule.kind is RuleKind.HOSTED and "*" not in name]
        place, found = 0, self._index.next_of_kind(RuleKind.HOSTED, 0)
        while found is not None and found in changed:
            place = (self._index.find_rule(found) or place) + 1
            found = self._index.next_of_kind(RuleKind.HOSTED, place)
        return min([*ours, *([found] if found is not None else [])], default=None)

    def __iter__(self) -> Iterator[str]:
        rows = _pages(lambda start: self._index.rules(start, _CHUNK))
        yield from _merged((row[3][0] for row in rows), self._changes.rules)

    def __len__(self) -> int:
        changed = self._changes.rules
        gone = sum(self._index.find_rule(name) is not None for name in changed)
        return self._index.rule_count - gone + sum(rule is not None for rule in changed.values())


class MappedMailboxes(MailboxTable):
    """Mailboxes by address."""

    def __init__(self, file: MappedFile, changes: Changes) -> None:
        self._index = file.index
        self._changed = changes.mailboxes
        self._postmaster: Mailbox | bool | None = False

    def get(self, address: str, default: Any = None) -> Any:
        """Of an address in stored form."""
        if address in self._changed:
            return self._changed[address] or default
        row = self._index.mailbox(address)
        return default if row is None else mailbox_of(row)

    def __getitem__(self, address: str) -> Mailbox:
        found: Mailbox | None = self.get(address)
        if found is None:
            raise KeyError(address)
        return found

    def __contains__(self, address: object) -> bool:
        return self.get(str(address)) is not None

    def first_user(self, domain: str) -> Mailbox | None:
        """See MailboxTable."""
        ours = [one for one in self._enabled() if one.address.rpartition("@")[2] == domain]
        theirs = self._first(self._index.mailboxes, self._index.first_mailbox(domain))
        if theirs is not None and theirs.address.rpartition("@")[2] == domain:
            ours.append(theirs)
        return min(ours, key=lambda one: one.address, default=None)

    def any_postmaster(self) -> Mailbox | None:
        """See MailboxTable."""
        if isinstance(self._postmaster, bool):
            ours = [one for one in self._enabled() if one.address.startswith("postmaster@")]
            theirs = self._first(self._index.postmasters, 0)
            self._postmaster = min([*ours, *([theirs] if theirs else [])], key=lambda one: one.address, default=None)
        return self._postmaster

    def first_domain(self) -> str | None:
        """See MailboxTable."""
        theirs = self._first(self._index.mailboxes, 0)
        found = [*self._enabled(), *([theirs] if theirs else [])]
        return min((one.address.rpartition("@")[2] for one in found), default=None)

    def _enabled(self) -> Iterator[Mailbox]:
        return (one for one in self._changed.values() if one is not None and one.enabled)

    def _first(self, rows: Callable[[int, int], list[Any]], start: int) -> Mailbox | None:
        """The first from a place on that is enabled and was not changed."""
        some = _pages(lambda at: rows(at, 16), start)
        return next((mailbox_of(row) for row in some if row[3] and row[0] not in self._changed), None)

    def __iter__(self) -> Iterator[str]:
        yield from _merged((row[0] for row in _pages(lambda start: self._index.mailboxes(start, _CHUNK))), self._changed)

    def __len__(self) -> int:
        gone = sum(self._index.mailbox(address) is not None for address in self._changed)
        return self._index.mailbox_count - gone + sum(one is not None for one in self._changed.values())


def _candidates(domain: str) -> Iterator[str]:
    """The names that a rule deciding it may have, best first."""
    yield domain
    dot = domain.find(".")
    while dot >= 0:
        yield "*" + domain[dot:]
        dot = domain.find(".", dot + 1)
    yield "*"


def _is_among(domain: str, changed: Mapping[str, object]) -> bool:
    """Whether a rule that may decide the domain is one of these. Asked for each address: no generator."""
    if domain in changed or "*" in changed:
        return True
    dot = domain.find(".")
    while dot >= 0:
        if "*" + domain[dot:] in changed:
            return True
        dot = domain.find(".", dot + 1)
    return False


def _pages(read: Callable[[int], list[T]], start: int = 0) -> Iterator[T]:
    """All rows of a section from a place on, some at a time."""
    while rows := read(start):
        yield from rows
        start += len(rows)


def _merged(keys: Iterator[str], changed: Mapping[str, object]) -> Iterator[str]:
    yield from (key for key in keys if key not in changed)
    yield from (key for key, value in changed.items() if value is not None)


def with_handler(rule: DomainRule, pattern: str, handler: AddressHandler | None) -> DomainRule:
    """A rule in memory with one of its handlers other than it was."""
    kept = [one for one in rule.handlers if one.pattern != pattern]
    if handler is not None:
        kept.append(handler)
    return dataclasses.replace(rule, handlers=tuple(sorted(kept, key=lambda one: one.pattern)))
