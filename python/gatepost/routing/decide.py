"""decide(): one recipient of one message → routes, or the reply that refuses it, with the trace of why.

Called by server/smtp and server/lmtp (RCPT), queue/plan (Submit, DSN), and by `explain`: live mail and rehearsal are this one function.
Invariants: pure — no I/O, no clock, the rule set is not changed; it never raises, whatever the text; a question that is not
trusted leads to a remote destination only if a rule or a handler of the administrator names it; every forward chain ends.
The precedence of rules and handlers is the table in docs/rules.md, and tests/corpus/routing holds its cases. What a rule does is in
by_rule.py, what a handler does in by_handler.py and lists.py; here is which of them it is.
"""

from dataclasses import replace
from typing import Any

from gatepost.message.address import Address, AddressError, parse_address, parse_parts
from gatepost.message.reply import Reply
from gatepost.message.srs import DAY_SECONDS, Srs, SrsError, is_srs
from gatepost.routing.by_handler import by_handler
from gatepost.routing.by_rule import by_default, carry_out
from gatepost.routing.index import HandlerIndex, RoutingIndex, index_of
from gatepost.routing.lists import Service, service_of
from gatepost.routing.model import (
    AddressHandler,
    Decision,
    DomainRule,
    HandlerKind,
    Mailbox,
    Note,
    Question,
    Route,
    RouteKind,
    RuleKind,
    RuleSet,
)
from gatepost.routing.replies import BAD_ADDRESS, LOOP, NEEDS_TLS, RELAY_DENIED, TOO_BIG, TOO_MANY, UNKNOWN_USER
from gatepost.routing.run import MAX_TRACE, Here, Run
from gatepost.routing.senders import Choice, choice_of
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS
from gatepost.routing.trust import Client

__all__ = ["LOOP", "MAX_DEPTH", "MAX_EXPANSION", "MAX_REMEMBERED", "MAX_TRACE", "decide"]

MAX_DEPTH = 10
MAX_EXPANSION = 1000
"""Addresses one recipient may expand to, over all forwards, copies and lists."""
MAX_REMEMBERED = 64
"""Decisions kept per rule set, a few KiB each: a message and its rehearsal ask the same more than once. What live mail asks again is in the
Planner's memory; a larger one here would only push what each decision uses out of the processor's caches.
"""
MAX_WAYS = 2048
"""Clients with their senders of whom it is remembered how their mail leaves: it is the same for each recipient. Some 300 octets each."""
_NOT_ASKED: Any = object()
_REPLY = "{} {} {}"
_HOSTED, _HOLD, _ALIAS = RuleKind.HOSTED, RuleKind.HOLD, RuleKind.ALIAS
NO_ATTACHMENTS = "no-attachments"
"""The attachment policy of handlers that block attachments."""

_TRUSTED: Note = ("trust", "the sender is trusted: it may relay", ())
_UNTRUSTED: Note = ("trust", "the sender is not trusted: only what a rule accepts from anyone", ())


def decide(rule_set: RuleSet, question: Question, *, delimiter: str = "+") -> Decision:
    """Routes (at least one) or a refusal for one recipient. `delimiter` splits user+detail; '' turns that off."""
    index = index_of(rule_set)
    key = (question.recipient, question.trusted, delimiter)  # all that a fixed answer depends on
    leaving = way_out(rule_set, question) if rule_set.sender_rules else None
    known = index.decisions.get(key) if leaving is None else None
    if known is None:
        known = _decide(index, question, delimiter, leaving)
        if known.fixed:
            if len(index.decisions) >= MAX_REMEMBERED:
                index.decisions.clear()
            index.decisions[key] = known
    if known.size_limit and question.size > known.size_limit and known.reply is None:
        return _too_big(known, question.size)
    return known


def way_out(rule_set: RuleSet, question: Question) -> Choice | None:
    """The sender rule that says how this mail leaves, if one does."""
    if not rule_set.sender_rules:
        return None
    ways = index_of(rule_set).ways
    key = (question.client, question.user, question.reverse_path)
    way: Choice | None = ways.get(key, _NOT_ASKED)
    if way is _NOT_ASKED:
        if len(ways) >= MAX_WAYS:
            ways.clear()
        found = choice_of(rule_set, Client(question.client, question.user, sender=question.reverse_path))
        way = ways[key] = found if found.leaving is not None else None
    return way


def _decide(index: RoutingIndex, question: Question, delimiter: str, leaving: Choice | None = None) -> Decision:
    run = Walk(index, question, delimiter)
    if leaving is not None:
        run.leaving, run.fixed = leaving, False
    run.notes.append(_TRUSTED if question.trusted else _UNTRUSTED)
    reply = run.address(question.recipient, question.trusted, ())
    if reply is None and not run.routes:  # everything it leads to was reached before
        reply = LOOP
    if reply is not None:
        run.note("reply", _REPLY, reply.code, reply.enhanced, reply.text)
        return Decision((), reply, tuple(run.notes), run.policy, fixed=run.fixed)
    return Decision(run.merged(), None, tuple(run.notes), run.policy, run.size_limit, run.fixed, run.authors, run.verify)


def _too_big(known: Decision, size: int) -> Decision:
    """RFC 1870 6.1: refused as soon as the size is known."""
    steps: tuple[Note, ...] = (
        ("size", "{} octets are more than the {} it takes", (size, known.size_limit)),
        ("reply", _REPLY, (TOO_BIG.code, TOO_BIG.enhanced, TOO_BIG.text)),
    )
    return replace(known, routes=(), reply=TOO_BIG, notes=(*known.notes, *steps))


class Walk(Run):
    """From an address to the rule and the handler that decide it."""

    __slots__ = ()

    # ---- one address ---------------------------------------------------------------------------------------------

    def address(self, text: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """Decide one address; `chain` holds the addresses that led here."""
        if "@" not in text and text.lower() == "postmaster":
            return self.bare_postmaster(trusted, chain)
        try:
            local, domain, key = parse_parts(text)
        except AddressError as error:
            self.note("address", f"not an address: {error}")
            return BAD_ADDRESS
        if domain[0] == "[":
            return self.literal(Address(local, domain), trusted)
        if key in chain or len(chain) >= MAX_DEPTH:
            self.note("loop", " → ".join((*chain, key)))
            return LOOP
        if key in self.done:
            return None
        self.visits += 1
        if self.visits > MAX_EXPANSION:
            return TOO_MANY
        reply = self.by_rule(local, domain, key, trusted, (*chain, key))
        if reply is None:
            self.done.add(key)  # a refusal may depend on the way here, success does not: only that is not worked out twice
        return reply

    def bare_postmaster(self, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """RFC 5321 4.5.1: 'postmaster' without a domain is accepted."""
        domain = self.index.postmaster_domain()
        if domain is None:
            self.note("address", "postmaster without a domain, and no domain is hosted here")
            return UNKNOWN_USER
        self.note("address", f"postmaster without a domain is taken as postmaster@{domain}")
        return self.address(f"postmaster@{domain}", trusted, chain)

    def literal(self, address: Address, trusted: bool) -> Reply | None:
        """An address literal (RFC 5321 4.1.3) is never hosted here; a trusted sender may send to it, by the default rule or directly."""
        self.note("address", f"{address.domain} is an address literal, which no rule names and nobody is hosted at")
        if not trusted:
            return RELAY_DENIED
        default = self.index.default
        if default is not None and default.kind is not RuleKind.HOSTED:
            return carry_out(self, default, str(address))
        self.to_mx(str(address))
        return None

    def by_rule(self, written: str, shown: str, key: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """`written`, `shown`: the local part as it came, the domain in U-labels; `key` has the forms that are looked up."""
        local, _, domain = key.rpartition("@")
        index = self.index
        rule = index.rule_for(domain, local)
        if rule is None:
            return self.no_rule(written, domain, trusted)
        kind = rule.kind
        self.note("rule", "{} is decided by the {} rule {!r}", domain, kind, rule.domain)
        held: Any = rule.handlers
        handlers: HandlerIndex = index.handlers(rule) if type(held) is tuple else held  # those of a mapped rule find themselves
        base = self.base_name(local, domain, handlers) if self.delimiter and self.delimiter in local else local
        keeps_mail = kind is _HOSTED or (kind is _HOLD and index.first_user(domain) is not None)
        mailbox = index.mailboxes.get(f"{base}@{domain}") if keeps_mail else None
        handler = self.find_handler(local, base, handlers)
        here = Here(rule, written, domain, mailbox, keeps_mail, local[len(base) :])
        if handler is None and mailbox is None and is_srs(written):
            origin = self.origin(written)
            if isinstance(origin, str):
                return self.address(origin, True, chain)
            if keeps_mail and origin is not None:
                return origin
        if handler is None and rule.handlers:
            service = service_of(local, domain, handlers) if mailbox is None else None
            if service is not None:
                return self.about_list(service, str(Address(written, shown)), trusted, chain)
            handler = self.catch_all(handlers, mailbox)
        reply = None if self.limited else self.take_limits(rule, handler)
        if reply is None and handler is not None:
            reply = by_handler(self, handler, here, trusted, chain)
        elif reply is None:
            reply = self.without_handler(here, trusted, chain)
        if reply is None and rule.settings.journal:
            self.journal(rule.settings.journal, key, chain)
        return reply

    def without_handler(self, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        if here.rule.handlers:
            self.note("handler", "no handler of {!r} is for {!r}", here.rule.domain, here.local)
        return by_default(self, here, trusted, chain)

    def origin(self, local: str) -> str | Reply | None:
        """Whom mail to a rewritten return path is for; the refusal of one that was not made here, None when there is no key to tell."""
        key = self.index.rule_set.srs_key
        if not key:
            return None
        self.fixed = False  # it has its time
        try:
            origin = Srs(key).decode(local, self.question.now // DAY_SECONDS)
        except SrsError as error:
            self.note("srs", f"{local!r} has the form of a rewritten return path: {error}")
            return error.reply
        self.note("srs", f"a return path that a forward of ours made: it leads back to {origin}")
        return origin

    def about_list(self, service: Service, address: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """The mail of a list's owners, its bounces, its commands. Owners are named by the administrator, the postmaster is not."""
        if service.word:
            self.note("list", f"{service.address} is told: {service.word}")
            self.routes.append(Route(RouteKind.LIST, address, edits=((service.word, service.address),)))
        if service.keepers is None:
            return None
        owners = service.keepers
        for target in owners or (f"postmaster@{service.address.rpartition('@')[2]}",):
            self.note("list", f"mail about the list goes to {target}")
            reply = self.address(target, trusted or bool(owners), chain)
            if reply is not None:
                return reply
        return None

    def journal(self, target: str, key: str, chain: tuple[str, ...]) -> None:
        """A copy of what the rule decided."""
        if parse_address(target, lenient_dot=True).key not in (key, *chain):
            self.beside("journal", target, chain)

    def take_limits(self, rule: DomainRule, handler: AddressHandler | None) -> Reply | None:
        """Policy, size and encryption that the address written to asks for; where a forward or an alias leads has no say in it."""
        self.limited = rule.kind is not _ALIAS or handler is not None
        options = NO_OPTIONS if handler is None else handler.options
        self.policy = (handler.policy if handler is not None else "") or rule.policy
        if rule.settings is NO_SETTINGS and options is NO_OPTIONS and not self.policy:
            return None
        if options.block_attachments:
            self.policy = NO_ATTACHMENTS
        if self.policy:
            self.note("policy", "attachments are judged by the policy {!r}", self.policy)
        if rule.settings is NO_SETTINGS and options is NO_OPTIONS:
            return None
        self.size_limit = options.size_limit or rule.settings.size_limit
        if self.size_limit:
            self.note("size", "messages of at most {} octets are taken", self.size_limit)
        if options.require_tls:
            self.fixed = False
            self.note("tls", "the handler wants an encrypted session, and this one is" + ("" if self.question.tls else " not"))
            return None if self.question.tls else NEEDS_TLS
        return None

    def no_rule(self, written: str, domain: str, trusted: bool) -> Reply | None:
        if not trusted:
            self.note("rule", "no rule names {}, and the sender may not relay", domain)
            return RELAY_DENIED
        self.note("rule", "no rule names {}; mail of trusted senders goes to its mail exchangers", domain)
        self.to_mx(f"{written}@{domain}" if written.isalnum() else str(Address(written, domain)))
        return None

    # ---- which handler -------------------------------------------------------------------------------------------

    def base_name(self, local: str, domain: str, handlers: HandlerIndex) -> str:
        """'user' of 'user+detail' unless the full local part is known; otherwise `local` itself."""
        cut = local.find(self.delimiter, 1)
        if cut < 0 or handlers.get(local) is not None or f"{local}@{domain}" in self.index.mailboxes:
            return local
        self.note("detail", "{!r} is not known in full: {!r} is looked up", local, local[:cut])
        return local[:cut]

    def find_handler(self, local: str, base: str, handlers: HandlerIndex) -> AddressHandler | None:
        """Exact, then the longest prefix or suffix, then the first regular expression; '*' is the caller's matter."""
        handler = handlers.get(base)
        if handler is not None and handler.options is not NO_OPTIONS and not self.in_force(handler):
            handler = None
        if handler is None and handlers.has_patterns:
            handler = self.by_pattern(local, handlers) or (self.by_pattern(base, handlers) if base != local else None)
        if handler is not None:
            self.note("handler", "{!r} has the {} handler {!r}", base, handler.kind, handler.pattern)
        return handler

    def by_pattern(self, local: str, handlers: HandlerIndex) -> AddressHandler | None:
        for one in handlers.by_pattern(local):
            if self.in_force(one):
                return one
        return None

    def catch_all(self, handlers: HandlerIndex, mailbox: Mailbox | None) -> AddressHandler | None:
        """'*' is for addresses nobody has; only what leaves the mailbox its mail is also for those somebody has."""
        handler = handlers.any
        if handler is None or not self.in_force(handler):
            return None
        if mailbox is not None and handler.kind not in (HandlerKind.COPY, HandlerKind.AUTO_REPLY):
            self.note("handler", f"the {handler.kind} handler '*' is for unknown addresses, and {mailbox.address} is known")
            return None
        self.note("handler", "the {} handler '*' takes it", handler.kind)
        return handler
