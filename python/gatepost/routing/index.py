"""What decide() looks things up in: the rule that decides a domain, the handlers of a rule, mailboxes, and who gets mail for postmaster.

Called by decide(); made by `index_of`. The rules of a RuleSet are either plain dicts, of which tables are made here, or tables that answer
themselves (RuleTable, MailboxTable: those of directory/, over the mapped file of a large rule set). Invariants: derived from the rule set
alone, never changed after building except for lazily added parts (idempotent, so safe from several threads). Does not fail: a handler
whose pattern is not valid matches nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from gatepost.routing.model import AddressHandler, Decision, DomainRule, Mailbox, RuleKind, RuleSet
from gatepost.routing.patterns import RegexSet, is_regex
from gatepost.routing.senders import Choice

_ATTRIBUTE = "_routing_index"


class HandlerIndex(Protocol):
    """The handlers of one rule, to be asked for a local part (lower-case)."""

    @property
    def any(self) -> AddressHandler | None:
        """The one for '*'."""

    @property
    def has_patterns(self) -> bool:
        """Whether `by_pattern` can find anything."""

    def get(self, local: str) -> AddressHandler | None:
        """The handler of exactly this local part."""

    def named(self, pattern: str) -> AddressHandler | None:
        """The handler of exactly that pattern."""

    def by_pattern(self, local: str) -> Iterable[AddressHandler]:
        """Those that fit, best first: the longest fixed text it begins or ends with, on a tie the prefix; then the regular expressions
        in the order of their text.
        """


class HandlerTable:
    """HandlerIndex of handlers in memory: by exact local part, by prefix, by suffix, by regular expression, and the one for '*'."""

    __slots__ = ("any", "exact", "get", "has_patterns", "prefix", "prefix_lengths", "regex", "suffix", "suffix_lengths")

    def __init__(self, handlers: Iterable[AddressHandler]) -> None:
        self.exact: dict[str, AddressHandler] = {}
        self.prefix: dict[str, AddressHandler] = {}
        self.suffix: dict[str, AddressHandler] = {}
        self.any: AddressHandler | None = None
        expressions: list[AddressHandler] = []
        for handler in handlers:
            if is_regex(handler.pattern):
                expressions.append(handler)
            else:
                self._add(handler, handler.pattern.lower())
        self.get = self.exact.get
        self.regex = RegexSet(expressions) if expressions else None
        self.prefix_lengths = sorted({len(text) for text in self.prefix}, reverse=True)
        self.suffix_lengths = sorted({len(text) for text in self.suffix}, reverse=True)
        self.has_patterns = bool(self.prefix or self.suffix or expressions)

    def _add(self, handler: AddressHandler, pattern: str) -> None:
        if pattern == "*":
            self.any = handler
        elif pattern.endswith("*"):
            self.prefix[pattern[:-1]] = handler
        elif pattern.startswith("*"):
            self.suffix[pattern[1:]] = handler
        else:
            self.exact[pattern] = handler

    def named(self, pattern: str) -> AddressHandler | None:
        """See HandlerIndex."""
        if pattern == "*":
            return self.any
        if is_regex(pattern):
            return self.regex.named(pattern) if self.regex is not None else None
        if pattern.endswith("*"):
            return self.prefix.get(pattern[:-1])
        if pattern.startswith("*"):
            return self.suffix.get(pattern[1:])
        return self.exact.get(pattern)

    def fitting(self, local: str) -> list[AddressHandler]:
        """Prefixes and suffixes alone, best first."""
        found = [self.prefix[local[:n]] for n in self.prefix_lengths if local[:n] in self.prefix]
        found += [self.suffix[local[-n:]] for n in self.suffix_lengths if local[-n:] in self.suffix]
        return sorted(found, key=better) if len(found) > 1 else found

    def by_pattern(self, local: str) -> Iterator[AddressHandler]:
        """See HandlerIndex."""
        yield from self.fitting(local)
        if self.regex is not None:
            yield from self.regex.matching(local)


def better(handler: AddressHandler) -> tuple[int, bool]:
    """The order of prefixes and suffixes that fit alike: most characters first, on a tie the prefix."""
    return -len(handler.pattern), handler.pattern.startswith("*")


_EMPTY = HandlerTable(())


class RuleTable(Mapping[str, DomainRule], ABC):
    """Rules that look themselves up."""

    @abstractmethod
    def deciding(self, domain: str, local: str = "") -> DomainRule | None:
        """Exact rule, else the longest '*.suffix', else '*'. `domain` is lower-case in A-label form. `local`: the local part whose handler
        will be asked for next; a table may look it up on the way.
        """

    @abstractmethod
    def handlers(self, rule: DomainRule) -> HandlerIndex | None:
        """The handlers of a rule of this table; None when it has none."""

    @abstractmethod
    def first_hosted(self) -> str | None:
        """The first domain with a hosted rule of its own."""


class MailboxTable(Mapping[str, Mailbox], ABC):
    """Mailboxes that know their order."""

    @abstractmethod
    def first_user(self, domain: str) -> Mailbox | None:
        """The first enabled user of a domain in the order of addresses."""

    @abstractmethod
    def any_postmaster(self) -> Mailbox | None:
        """The first enabled mailbox named postmaster in the order of addresses."""

    @abstractmethod
    def first_domain(self) -> str | None:
        """The first domain that has an enabled user."""


class _Rules(RuleTable):
    """A plain dict of rules as a table."""

    def __init__(self, rules: Mapping[str, DomainRule]) -> None:
        self._rules = rules
        self._handlers: dict[str, HandlerTable] = {}

    def __getitem__(self, domain: str) -> DomainRule:
        return self._rules[domain]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def deciding(self, domain: str, local: str = "") -> DomainRule | None:
        get = self._rules.get
        rule = get(domain)
        if rule is not None:
            return rule
        dot = domain.find(".")
        while dot >= 0:
            rule = get("*" + domain[dot:])
            if rule is not None:
                return rule
            dot = domain.find(".", dot + 1)
        return get("*")

    def handlers(self, rule: DomainRule) -> HandlerIndex | None:
        if not rule.handlers:
            return None
        found = self._handlers.get(rule.domain)
        if found is None:
            found = self._handlers[rule.domain] = HandlerTable(rule.handlers)
        return found

    def first_hosted(self) -> str | None:
        hosted = (domain for domain, rule in self._rules.items() if rule.kind is RuleKind.HOSTED and "*" not in domain)
        return min(hosted, default=None)


class _Mailboxes(MailboxTable):
    """A plain dict of mailboxes as a table; looked through once, at the first question that needs it."""

    def __init__(self, mailboxes: Mapping[str, Mailbox]) -> None:
        self._mailboxes = mailboxes
        self._first: dict[str, Mailbox] | None = None
        self._postmaster: Mailbox | None = None

    def __getitem__(self, address: str) -> Mailbox:
        return self._mailboxes[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mailboxes)

    def __len__(self) -> int:
        return len(self._mailboxes)

    def first_user(self, domain: str) -> Mailbox | None:
        return self._survey().get(domain)

    def any_postmaster(self) -> Mailbox | None:
        self._survey()
        return self._postmaster

    def first_domain(self) -> str | None:
        return min(self._survey(), default=None)

    def _survey(self) -> dict[str, Mailbox]:
        if self._first is None:
            first: dict[str, Mailbox] = {}
            for mailbox in sorted((one for one in self._mailboxes.values() if one.enabled), key=lambda one: one.address):
                local, _, domain = mailbox.address.rpartition("@")
                first.setdefault(domain, mailbox)
                if local == "postmaster" and self._postmaster is None:
                    self._postmaster = mailbox
            self._first = first
        return self._first


class RoutingIndex:
    """Everything decide() looks up in one rule set."""

    __slots__ = ("_handlers", "_mailboxes", "_rules", "decisions", "default", "first_user", "mailboxes", "rule_for", "rule_set", "ways")

    def __init__(self, rule_set: RuleSet) -> None:
        rules, mailboxes = rule_set.rules, rule_set.mailboxes
        self.rule_set = rule_set
        self.mailboxes = mailboxes
        self.default = rules.get("*")
        self.decisions: dict[tuple[str, bool, str], Decision] = {}
        self.ways: dict[tuple[str, str, str], Choice | None] = {}
        """By client, user and sender: the sender rule that says how mail leaves."""
        self._rules = rules if isinstance(rules, RuleTable) else _Rules(rules)
        self._mailboxes = mailboxes if isinstance(mailboxes, MailboxTable) else _Mailboxes(mailboxes)
        self.rule_for = self._rules.deciding
        self._handlers = self._rules.handlers
        self.first_user = self._mailboxes.first_user

    def handlers(self, rule: DomainRule) -> HandlerIndex:
        """The rule's handlers as tables; built at the first question for it."""
        found = self._handlers(rule)
        return _EMPTY if found is None else found

    def any_postmaster(self) -> Mailbox | None:
        """The enabled mailbox named postmaster in the first domain that has one."""
        return self._mailboxes.any_postmaster()

    def first_hosted(self) -> str | None:
        """The first domain with a hosted rule of its own."""
        return self._rules.first_hosted()

    def postmaster_domain(self) -> str | None:
        """Where a bare 'postmaster' belongs: the domain with that mailbox, else the first with users, else the first hosted one."""
        mailbox = self.any_postmaster()
        if mailbox is not None:
            return mailbox.address.rpartition("@")[2]
        return self._mailboxes.first_domain() or self.first_hosted()


def index_of(rule_set: RuleSet) -> RoutingIndex:
    """The rule set's index, made at the first call and kept on the rule set itself, so both are freed together."""
    index: RoutingIndex | None = rule_set.__dict__.get(_ATTRIBUTE)
    if index is None:
        index = RoutingIndex(rule_set)
        rule_set.__dict__[_ATTRIBUTE] = index  # a cache beside the frozen fields; equality and repr do not see it
    return index
