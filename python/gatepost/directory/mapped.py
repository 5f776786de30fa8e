"""The rules and mailboxes of a large rule set: a mapped index file (rust_core/rules), and over it what has changed since that was built.

Made by live.py, looked into by decide(). Invariants: a MappedRules or MappedMailboxes never changes, so mail in flight keeps its version;
rows are read from the file when they are asked for, and remembered within bounds, for all versions over one file together. `Changes` is
never changed once it is part of a state: the next one is a copy. Does not fail: what the file holds was proved when it was opened.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from gatepost.directory.rows import handler_of, mailbox_of, rule_of
from gatepost.native import RuleIndex, RuleRow
from gatepost.routing.index import HandlerIndex, HandlerTable, MailboxTable, RuleTable, better
from gatepost.routing.model import AddressHandler, DomainRule, Mailbox, RuleKind
from gatepost.routing.patterns import RegexSet

MAX_REMEMBERED = 256
"""Rules read from the file that are kept, about 1 KiB each: few enough to stay in the processor's caches."""
MAX_EXPRESSIONS = 64
"""Rules whose regular expressions are kept compiled; most are a few KiB, and each is bounded by RegexSet."""
_CHUNK = 256
_FITTING, _EXPRESSIONS, _ANY = 1, 2, 4
"""As in RuleRow."""

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
        self.remembered: dict[str, DomainRule | None] = {}
        """By the domains they were asked for."""
        self._expressions: dict[str, RegexSet] = {}

    def deciding(self, domain: str) -> DomainRule | None:
        """The rule of the file that decides a domain."""
        known = self.remembered
        rule = known.get(domain)
        if rule is not None or domain in known:
            return rule
        row = self.index.rule_for(domain)
        if len(known) >= MAX_REMEMBERED:
            known.clear()
        rule = known[domain] = self.rule(row) if row is not None else None
        return rule

    def rule(self, row: RuleRow, patch: Mapping[str, AddressHandler | None] | None = None) -> DomainRule:
        """A rule whose handlers are read when they are asked for."""
        place, count, patterns, texts, port, flags, _ = row
        if not count and not patch:
            return rule_of(texts, port, flags)
        handlers = MappedHandlers(self, texts[0], place, count, patterns, patch or {})
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
    """The handlers of one rule: a sequence by pattern, which reads them all, and a HandlerIndex, which reads those it is asked for."""

    __slots__ = ("_added", "_count", "_domain", "_file", "_index", "_patch", "_patterns", "_place")

    def __init__(
        self, file: MappedFile, domain: str, place: int, count: int, patterns: int, patch: Mapping[str, AddressHandler | None]
    ) -> None:
        self._file = file
        self._index = file.index
        self._domain = domain
        self._place = place
        self._count = count
        self._patterns = patterns
        self._patch = patch
        self._added = HandlerTable(one for one in patch.values() if one is not None) if patch else None

    # ---- as a HandlerIndex -----------------------------------------------------------------------------------------

    @property
    def has_patterns(self) -> bool:
        """See HandlerIndex."""
        return self._patterns & (_FITTING | _EXPRESSIONS) != 0 or (self._added is not None and self._added.has_patterns)

    @property
    def any(self) -> AddressHandler | None:
        """See HandlerIndex."""
        return self.named("*") if self._patterns & _ANY or self._patch else None

    def get(self, local: str) -> AddressHandler | None:
        """See HandlerIndex."""
        if local in self._patch:
            return self._patch[local]
        row = self._index.exact(self._place, local)
        return None if row is None else handler_of(row)

    def named(self, pattern: str) -> AddressHandler | None:
        """See HandlerIndex."""
        if pattern in self._patch:
            return self._patch[pattern]
        row = self._index.named(self._place, pattern)
        return None if row is None else handler_of(row)

    def by_pattern(self, local: str) -> Iterator[AddressHandler]:
        """See HandlerIndex."""
        rows = self._index.fitting(self._place, local) if self._patterns & _FITTING else ()
        found = [handler_of(row) for row in rows if row[0] not in self._patch]
        if self._added is not None:
            found = sorted((*found, *self._added.fitting(local)), key=better)
        yield from found
        if self._patterns & _EXPRESSIONS or self._added is not None:
            yield from self._by_expression(local)

    def _by_expression(self, local: str) -> Iterator[AddressHandler]:
        matching: list[AddressHandler] = []
        if self._patterns & _EXPRESSIONS:
            compiled = self._file.expressions(self._domain, self._place)
            matching = [one for one in compiled.matching(local) if one.pattern not in self._patch]
        if self._added is not None and self._added.regex is not None:
            matching = sorted((*matching, *self._added.regex.matching(local)), key=lambda one: one.pattern)
        return iter(matching)

    # ---- as a sequence ---------------------------------------------------------------------------------------------

    def _all(self) -> tuple[AddressHandler, ...]:
        found = {row[0]: handler_of(row) for row in self._index.handlers(self._place, 0, self._count) if row[0] not in self._patch}
        found.update((pattern, one) for pattern, one in self._patch.items() if one is not None)
        return tuple(found[pattern] for pattern in sorted(found))

    def __iter__(self) -> Iterator[AddressHandler]:
        return iter(self._all())

    def __len__(self) -> int:
        known = sum(self._index.named(self._place, pattern) is not None for pattern in self._patch)
        return self._count - known + sum(one is not None for one in self._patch.values())

    def __bool__(self) -> bool:
        return not self._patch or len(self) > 0

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


class MappedRules(RuleTable):
    """Domain rules by domain."""

    def __init__(self, file: MappedFile, changes: Changes) -> None:
        self._file = file
        self._index = file.index
        self._remembered = file.remembered
        self._changes = changes
        self._patched: dict[str, DomainRule] = {}
        self._tables: dict[str, HandlerTable] = {}

    def deciding(self, domain: str) -> DomainRule | None:
        """See RuleTable."""
        changed = self._changes.rules
        if not changed and not self._changes.handlers:
            return self._remembered.get(domain) or self._file.deciding(domain)
        if changed and _is_among(domain, changed):
            return next((rule for name in _candidates(domain) if (rule := self.get(name)) is not None), None)
        rule = self._file.deciding(domain)
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
