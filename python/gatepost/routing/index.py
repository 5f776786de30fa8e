"""Look-up tables of one RuleSet, made once and kept with it, so that a decision costs a few dictionary look-ups.

Called by decide(); directory/ calls `prepare` in its thread so that live mail never pays for building. Invariants: derived from the
rule set alone, never changed after building except for lazily added per-rule tables (idempotent, so safe from several threads).
Does not fail: a handler whose pattern is not valid matches nothing.
"""

from collections.abc import Iterable, Iterator

from gatepost.routing.model import AddressHandler, Decision, DomainRule, Mailbox, RuleKind, RuleSet
from gatepost.routing.patterns import RegexSet, is_regex

_ATTRIBUTE = "_routing_index"
_NO_HANDLERS: tuple[AddressHandler, ...] = ()


class HandlerIndex:
    """The handlers of one rule: by exact local part, by prefix, by suffix, by regular expression, and the one for '*'."""

    __slots__ = ("any", "exact", "has_patterns", "prefix", "prefix_lengths", "regex", "suffix", "suffix_lengths")

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
        """The handler of exactly that pattern."""
        if pattern == "*":
            return self.any
        if pattern.endswith("*"):
            return self.prefix.get(pattern[:-1])
        if pattern.startswith("*"):
            return self.suffix.get(pattern[1:])
        return self.exact.get(pattern) or (self.regex.named(pattern) if self.regex is not None else None)

    def by_pattern(self, local: str) -> Iterator[AddressHandler]:
        """Those that fit `local` (lower-case), best first: the longest fixed text it begins or ends with, on a tie the prefix; then the
        regular expressions in the order of their text.
        """
        prefixes = [self.prefix[local[:n]] for n in self.prefix_lengths if local[:n] in self.prefix]
        suffixes = [self.suffix[local[-n:]] for n in self.suffix_lengths if local[-n:] in self.suffix]
        if prefixes and suffixes:
            yield from sorted((*prefixes, *suffixes), key=lambda handler: len(handler.pattern), reverse=True)
        else:
            yield from prefixes or suffixes
        if self.regex is not None:
            yield from self.regex.matching(local)


_EMPTY = HandlerIndex(_NO_HANDLERS)


class RoutingIndex:
    """Everything decide() looks up in one rule set."""

    __slots__ = ("_first_user", "_handlers", "_postmasters", "decisions", "default", "mailboxes", "rule_set", "rules")

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self.rules = rule_set.rules
        self.mailboxes = rule_set.mailboxes
        self.default = rule_set.rules.get("*")
        self.decisions: dict[tuple[str, bool, str], Decision] = {}
        self._handlers: dict[str, HandlerIndex] = {}
        self._first_user: dict[str, Mailbox] | None = None
        self._postmasters: list[Mailbox] | None = None

    def rule_for(self, domain: str) -> DomainRule | None:
        """Exact rule, else the longest '*.suffix', else '*'. `domain` is lower-case in A-label form."""
        rules = self.rules
        rule = rules.get(domain)
        if rule is not None:
            return rule
        dot = domain.find(".")
        while dot >= 0:
            rule = rules.get("*" + domain[dot:])
            if rule is not None:
                return rule
            dot = domain.find(".", dot + 1)
        return self.default

    def handlers(self, rule: DomainRule) -> HandlerIndex:
        """The rule's handlers as tables; built at the first question for it."""
        if not rule.handlers:
            return _EMPTY
        found = self._handlers.get(rule.domain)
        if found is None:
            found = self._handlers[rule.domain] = HandlerIndex(rule.handlers)
        return found

    def first_user(self, domain: str) -> Mailbox | None:
        """The first enabled user of a domain in the order of addresses; None when it has none."""
        if self._first_user is None:
            self._survey_mailboxes()
        return (self._first_user or {}).get(domain)

    def any_postmaster(self) -> Mailbox | None:
        """The enabled mailbox named postmaster in the first domain that has one."""
        if self._postmasters is None:
            self._survey_mailboxes()
        return self._postmasters[0] if self._postmasters else None

    def postmaster_domain(self) -> str | None:
        """Where a bare 'postmaster' belongs: the domain with that mailbox, else the first with users, else the first hosted one."""
        mailbox = self.any_postmaster()
        if mailbox is not None:
            return mailbox.address.rpartition("@")[2]
        hosted = (domain for domain, rule in self.rules.items() if rule.kind is RuleKind.HOSTED and "*" not in domain)
        return min(self._first_user or hosted, default=None)

    def _survey_mailboxes(self) -> None:
        first: dict[str, Mailbox] = {}
        postmasters = []
        for address, mailbox in self.mailboxes.items():
            if not mailbox.enabled:
                continue
            local, _, domain = address.rpartition("@")
            known = first.get(domain)
            if known is None or mailbox.address < known.address:
                first[domain] = mailbox
            if local == "postmaster":
                postmasters.append(mailbox)
        self._postmasters = sorted(postmasters, key=lambda mailbox: mailbox.address)
        self._first_user = first

    def build_all(self) -> None:
        """Build what is otherwise built at first use."""
        for rule in self.rules.values():
            self.handlers(rule)
        self._survey_mailboxes()


def index_of(rule_set: RuleSet) -> RoutingIndex:
    """The rule set's index, made at the first call and kept on the rule set itself, so both are freed together."""
    index: RoutingIndex | None = rule_set.__dict__.get(_ATTRIBUTE)
    if index is None:
        index = RoutingIndex(rule_set)
        rule_set.__dict__[_ATTRIBUTE] = index  # a cache beside the frozen fields; equality and repr do not see it
    return index


def prepare(rule_set: RuleSet) -> RuleSet:
    """Build the whole index now (in the caller's thread) and return the same rule set."""
    index_of(rule_set).build_all()
    return rule_set
