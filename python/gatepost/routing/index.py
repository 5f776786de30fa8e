"""Look-up tables of one RuleSet, made once and kept with it, so that a decision costs a few dictionary look-ups.

Called by decide(); directory/ calls `prepare` in its thread so that live mail never pays for building. Invariants: derived from the
rule set alone, never changed after building except for lazily added per-rule tables (idempotent, so safe from several threads).
Does not fail: a handler whose pattern is not valid matches nothing.
"""

from collections.abc import Iterable

from gatepost.routing.model import AddressHandler, Decision, DomainRule, Mailbox, RuleKind, RuleSet

_ATTRIBUTE = "_routing_index"
_NO_HANDLERS: tuple[AddressHandler, ...] = ()


class HandlerIndex:
    """The handlers of one rule: by exact local part, by prefix, by suffix, and the one for '*'."""

    __slots__ = ("any", "exact", "prefix", "prefix_lengths", "suffix", "suffix_lengths")

    def __init__(self, handlers: Iterable[AddressHandler]) -> None:
        self.exact: dict[str, AddressHandler] = {}
        self.prefix: dict[str, AddressHandler] = {}
        self.suffix: dict[str, AddressHandler] = {}
        self.any: AddressHandler | None = None
        for handler in handlers:
            self._add(handler, handler.pattern.lower())
        self.prefix_lengths = sorted({len(text) for text in self.prefix}, reverse=True)
        self.suffix_lengths = sorted({len(text) for text in self.suffix}, reverse=True)

    def _add(self, handler: AddressHandler, pattern: str) -> None:
        if pattern == "*":
            self.any = handler
        elif pattern.endswith("*"):
            self.prefix[pattern[:-1]] = handler
        elif pattern.startswith("*"):
            self.suffix[pattern[1:]] = handler
        else:
            self.exact[pattern] = handler

    def by_pattern(self, local: str) -> AddressHandler | None:
        """The handler with the longest fixed text that `local` (lower-case) begins or ends with; on a tie the prefix."""
        prefix = next((self.prefix[local[:n]] for n in self.prefix_lengths if local[:n] in self.prefix), None)
        suffix = next((self.suffix[local[-n:]] for n in self.suffix_lengths if local[-n:] in self.suffix), None)
        if prefix is None or suffix is None:
            return prefix or suffix
        return prefix if len(prefix.pattern) >= len(suffix.pattern) else suffix


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
