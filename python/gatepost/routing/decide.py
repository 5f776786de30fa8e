"""decide(): one recipient of one message → routes, or the reply that refuses it, with the trace of why.

Called by server/smtp and server/lmtp (RCPT), queue/plan (Submit, DSN), and by `explain`: live mail and rehearsal are this one function.
Invariants: pure — no I/O, no clock, the rule set is not changed; it never raises, whatever the text; a question that is not
trusted leads to a remote destination only if a rule or a handler of the administrator names it; every forward chain ends.
The precedence of rules and handlers is the table in docs/rules.md, and tests/corpus/routing holds its cases.
"""

from gatepost.message.address import Address, AddressError, parse_address
from gatepost.message.reply import Reply
from gatepost.routing.index import HandlerIndex, RoutingIndex, index_of
from gatepost.routing.model import (
    AddressHandler,
    Decision,
    DomainRule,
    HandlerKind,
    Mailbox,
    Question,
    Route,
    RouteKind,
    RuleKind,
    RuleSet,
    TraceStep,
)

MAX_DEPTH = 10
MAX_EXPANSION = 1000
"""Addresses one recipient may expand to, over all forwards and copies."""
MAX_TRACE = 500
MAX_REMEMBERED = 2048
"""Decisions kept per rule set, a few KiB each; mail comes in runs to the same addresses."""

_TRUSTED = TraceStep("trust", "the sender is trusted: it may relay")
_UNTRUSTED = TraceStep("trust", "the sender is not trusted: only what a rule accepts from anyone")
_ROUTING_CHARACTERS = frozenset("@%!")

UNKNOWN_USER = Reply(550, "5.1.1", "No such user here")
DISABLED_USER = Reply(550, "5.2.1", "Mailbox disabled, not accepting messages")
RELAY_DENIED = Reply(554, "5.7.1", "Relay access denied")
BAD_ADDRESS = Reply(550, "5.1.3", "Bad recipient address syntax")
LOOP = Reply(554, "5.4.6", "Routing loop, or too many forwards in a row")
TOO_MANY = Reply(554, "5.4.6", "The address expands to too many addresses")
BROKEN_HANDLER = Reply(451, "4.3.5", "The handler of this address points to no mailbox")


def decide(rule_set: RuleSet, question: Question, *, delimiter: str = "+") -> Decision:
    """Routes (at least one) or a refusal for one recipient. `delimiter` splits user+detail; '' turns that off."""
    index = index_of(rule_set)
    key = (question.recipient, question.trusted, delimiter)  # all that the answer depends on
    known = index.decisions.get(key)
    if known is None:
        known = _decide(index, *key)
        if len(index.decisions) >= MAX_REMEMBERED:
            index.decisions.clear()
        index.decisions[key] = known
    return known


def _decide(index: RoutingIndex, recipient: str, trusted: bool, delimiter: str) -> Decision:
    run = _Run(index, delimiter)
    run.trace.append(_TRUSTED if trusted else _UNTRUSTED)
    reply = run.address(recipient, trusted, ())
    if reply is not None:
        run.note("reply", f"{reply.code} {reply.enhanced} {reply.text}")
        return Decision((), reply, tuple(run.trace), run.policy)
    return Decision(run.merged(), None, tuple(run.trace), run.policy)


class _Run:
    """One decision being made: the routes and the trace so far. Its methods return the refusing Reply, or None when routes were added."""

    __slots__ = ("delimiter", "done", "index", "policy", "routes", "trace", "visits")

    def __init__(self, index: RoutingIndex, delimiter: str) -> None:
        self.index = index
        self.delimiter = delimiter
        self.trace: list[TraceStep] = []
        self.routes: list[Route] = []
        self.done: set[str] = set()
        self.visits = 0
        self.policy = ""

    def note(self, step: str, detail: str) -> None:
        if len(self.trace) < MAX_TRACE:
            self.trace.append(TraceStep(step, detail))

    def merged(self) -> tuple[Route, ...]:
        """Routes without duplicates; a discard beside a real route says nothing and is left out."""
        if len(self.routes) == 1:
            return (self.routes[0],)
        unique: dict[object, Route] = {}
        for route in self.routes:
            key = (route.mailbox_id, route.folder) if route.kind is RouteKind.LOCAL else (route.address.lower(), route.destination)
            known = unique.setdefault(key, route)
            if known.hold and not route.hold:
                unique[key] = route
        kept = tuple(route for route in unique.values() if route.kind is not RouteKind.DISCARD)
        return kept or (self.routes[0],)

    # ---- one address ---------------------------------------------------------------------------------------------

    def address(self, text: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """Decide one address; `chain` holds the addresses that led here."""
        if text.lower() == "postmaster":
            return self.bare_postmaster(trusted, chain)
        try:
            parsed = parse_address(text, lenient_dot=True)
        except AddressError as error:
            self.note("address", f"not an address: {error}")
            return BAD_ADDRESS
        if parsed.is_literal:
            return self.literal(parsed, trusted)
        key = parsed.key
        if key in chain or len(chain) >= MAX_DEPTH:
            self.note("loop", " → ".join((*chain, key)))
            return LOOP
        if key in self.done:
            return None
        self.visits += 1
        if self.visits > MAX_EXPANSION:
            return TOO_MANY
        reply = self.by_rule(parsed, key, trusted, (*chain, key))
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
            return self.carry_out(default, str(address))
        self.to_mx(str(address), False)
        return None

    def by_rule(self, address: Address, key: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        local, _, domain = key.rpartition("@")
        rule = self.index.rule_for(domain)
        if rule is None:
            return self.no_rule(address, domain, trusted)
        self.note("rule", f"{domain} is decided by the {rule.kind} rule {rule.domain!r}")
        handlers = self.index.handlers(rule)
        base = self.base_name(local, domain, handlers)
        handler = self.find_handler(local, base, handlers)
        keeps_mail = rule.kind is RuleKind.HOSTED or (rule.kind is RuleKind.HOLD and self.index.first_user(domain) is not None)
        mailbox = self.index.mailboxes.get(f"{base}@{domain}") if keeps_mail else None
        if handler is None and handlers.any is not None:
            handler = self.catch_all(handlers.any, mailbox)
        if len(chain) == 1:
            self.take_policy(rule, handler)
        here = _Here(rule, address.local, domain, mailbox, keeps_mail, local[len(base) :])
        if handler is not None:
            return self.by_handler(handler, here, trusted, chain)
        if rule.handlers:
            self.note("handler", f"no handler of {rule.domain!r} is for {local!r}")
        return self.by_default(here, trusted)

    def take_policy(self, rule: DomainRule, handler: AddressHandler | None) -> None:
        """The attachment policy of the address that was written to; where a forward leads has no say in it."""
        self.policy = (handler.policy if handler is not None else "") or rule.policy
        if self.policy:
            self.note("policy", f"attachments are judged by the policy {self.policy!r}")

    def no_rule(self, address: Address, domain: str, trusted: bool) -> Reply | None:
        if not trusted:
            self.note("rule", f"no rule names {domain}, and the sender may not relay")
            return RELAY_DENIED
        self.note("rule", f"no rule names {domain}; mail of trusted senders goes to its mail exchangers")
        self.to_mx(str(Address(address.local, domain)), False)
        return None

    # ---- which handler -------------------------------------------------------------------------------------------

    def base_name(self, local: str, domain: str, handlers: HandlerIndex) -> str:
        """'user' of 'user+detail' unless the full local part is known; otherwise `local` itself."""
        cut = local.find(self.delimiter, 1) if self.delimiter else -1
        if cut < 0 or local in handlers.exact or f"{local}@{domain}" in self.index.mailboxes:
            return local
        self.note("detail", f"{local!r} is not known in full: {local[:cut]!r} is looked up")
        return local[:cut]

    def find_handler(self, local: str, base: str, handlers: HandlerIndex) -> AddressHandler | None:
        """Exact, then the longest prefix or suffix; '*' is the caller's matter."""
        handler = handlers.exact.get(base)
        if handler is None and (handlers.prefix or handlers.suffix):
            handler = handlers.by_pattern(local) or (handlers.by_pattern(base) if base != local else None)
        if handler is not None:
            self.note("handler", f"{base!r} has the {handler.kind} handler {handler.pattern!r}")
        return handler

    def catch_all(self, handler: AddressHandler, mailbox: Mailbox | None) -> AddressHandler | None:
        """'*' is for addresses nobody has; only a copy, which leaves the mailbox its mail, is also for those somebody has."""
        if mailbox is not None and handler.kind is not HandlerKind.COPY:
            self.note("handler", f"the {handler.kind} handler '*' is for unknown addresses, and {mailbox.address} is known")
            return None
        self.note("handler", f"the {handler.kind} handler '*' takes it")
        return handler

    # ---- what a handler does -------------------------------------------------------------------------------------

    def by_handler(self, handler: AddressHandler, here: "_Here", trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        match handler.kind:
            case HandlerKind.MAILBOX:
                return self.to_mailbox_of(handler, here)
            case HandlerKind.FORWARD:
                return self.forward(handler, chain)
            case HandlerKind.COPY:
                return self.copy(handler, here, trusted, chain)
            case HandlerKind.REJECT:
                return Reply(550, "5.7.1", handler.text or "This address does not accept mail")
            case HandlerKind.DISCARD:
                self.discard(here.address)
        return None

    def to_mailbox_of(self, handler: AddressHandler, here: "_Here") -> Reply | None:
        if not handler.targets:
            return self.own_mailbox(here)
        mailbox = self.index.mailboxes.get(_mailbox_key(handler.targets[0]))
        if mailbox is None:
            self.note("mailbox", f"the handler names {handler.targets[0]}, which has no mailbox")
            return BROKEN_HANDLER
        return self.to_mailbox(mailbox, mailbox.address)

    def forward(self, handler: AddressHandler, chain: tuple[str, ...]) -> Reply | None:
        """The administrator's forward is a trusted sender of its own: its targets may lie anywhere."""
        if not handler.targets:
            return BROKEN_HANDLER
        for target in handler.targets:
            self.note("forward", f"to {target}")
            reply = self.address(target, True, chain)
            if reply is not None:
                self.note("forward", f"{target} is refused: {reply.text}")
                return reply if reply.enhanced == "5.4.6" else _refused_target(reply)
        return None

    def copy(self, handler: AddressHandler, here: "_Here", trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """What would happen without the handler, and the targets as well. A target that is refused never costs the recipient its mail."""
        reply = self.by_default(here, trusted)
        if reply is not None:
            return reply
        for target in handler.targets:
            self.note("copy", f"to {target}")
            before = len(self.routes)
            reply = self.address(target, True, chain)
            if reply is not None:
                del self.routes[before:]
                self.note("copy", f"{target} is left out: {reply.text}")
        return None

    # ---- what a rule does ----------------------------------------------------------------------------------------

    def by_default(self, here: "_Here", trusted: bool) -> Reply | None:
        if here.keeps_mail:
            return self.own_mailbox(here)
        rule = here.rule
        if not trusted and not _accepts_anyone(rule):
            self.note("relay", f"the {rule.kind} rule {rule.domain!r} takes mail of trusted senders only")
            return RELAY_DENIED
        leaves = rule.kind in (RuleKind.GATEWAY, RuleKind.MX, RuleKind.HOLD)
        if leaves and not trusted and not _ROUTING_CHARACTERS.isdisjoint(here.local):
            # The next hop may still obey user%other@domain or other!user@domain; passing it on would make the pair of us a relay.
            self.note("relay", "the local part has '@', '%' or '!', which a next hop may take for a route: not from an untrusted sender")
            return RELAY_DENIED
        return self.carry_out(rule, here.address)

    def carry_out(self, rule: DomainRule, address: str) -> Reply | None:
        """The rule's own action for mail that is not kept here."""
        match rule.kind:
            case RuleKind.GATEWAY:
                self.to_gateway(rule, address, False)
            case RuleKind.MX:
                self.to_mx(address, False)
            case RuleKind.HOLD:
                self.hold(rule, address)
            case RuleKind.REJECT:
                return Reply(550, "5.7.1", rule.text or "This domain does not accept mail")
            case RuleKind.DISCARD:
                self.discard(address)
            case RuleKind.HOSTED:
                return UNKNOWN_USER
        return None

    def own_mailbox(self, here: "_Here") -> Reply | None:
        """The mailbox of the address itself; postmaster is found one in any case (RFC 5321 4.5.1)."""
        mailbox, address = here.mailbox, here.address
        if mailbox is None and here.local.lower() == "postmaster":
            mailbox = self.index.any_postmaster() or self.index.first_user(here.domain)
            if mailbox is not None:
                self.note("mailbox", f"postmaster has no mailbox of its own in {here.domain}: RFC 5321 4.5.1 wants it accepted")
                address = mailbox.address
        elif mailbox is not None:
            local, _, domain = mailbox.address.rpartition("@")
            address = f"{local}{here.detail}@{domain}"
        if mailbox is None:
            self.note("mailbox", f"{here.local!r} is not a user of {here.domain}")
            return UNKNOWN_USER
        return self.to_mailbox(mailbox, address, here.rule.kind is RuleKind.HOLD)

    # ---- routes --------------------------------------------------------------------------------------------------

    def to_mailbox(self, mailbox: Mailbox, address: str, hold: bool = False) -> Reply | None:
        if not mailbox.enabled:
            self.note("mailbox", f"{mailbox.address} is disabled")
            return DISABLED_USER
        self.note("mailbox", f"mailbox of {mailbox.address} on volume {mailbox.volume!r}{', held' if hold else ''}")
        self.routes.append(Route(RouteKind.LOCAL, address, mailbox.mailbox_id, mailbox.volume, hold=hold))
        return None

    def to_gateway(self, rule: DomainRule, address: str, hold: bool) -> None:
        kind = RouteKind.LMTP if rule.lmtp else RouteKind.SMTP
        self.note("route", f"by {kind.upper()} to the gateway {rule.host}:{rule.port}, TLS {rule.tls}{', held' if hold else ''}")
        self.routes.append(
            Route(
                kind,
                address,
                host=rule.host,
                port=rule.port,
                tls=rule.tls,
                implicit_tls=rule.implicit_tls,
                username=rule.username,
                password_ref=rule.password_ref,
                hold=hold,
            )
        )

    def to_mx(self, address: str, hold: bool) -> None:
        domain = address.rpartition("@")[2]
        host = _literal_host(domain)
        where = host or f"the mail exchangers of {domain}"
        self.note("route", f"by SMTP to {where}{', held' if hold else ''}")
        self.routes.append(Route(RouteKind.SMTP, address, host=host, hold=hold))

    def hold(self, rule: DomainRule, address: str) -> None:
        """Held, with the route it will take once released: the rule's own host, else the default rule's gateway, else MX."""
        default = self.index.default
        if rule.host:
            self.to_gateway(rule, address, True)
        elif default is not None and default.kind is RuleKind.GATEWAY:
            self.to_gateway(default, address, True)
        else:
            self.to_mx(address, True)

    def discard(self, address: str) -> None:
        self.note("route", "accepted and discarded")
        self.routes.append(Route(RouteKind.DISCARD, address))


class _Here:
    """The address being decided, split up, and what is known of it in its rule."""

    __slots__ = ("detail", "domain", "keeps_mail", "local", "mailbox", "rule")

    def __init__(self, rule: DomainRule, local: str, domain: str, mailbox: Mailbox | None, keeps_mail: bool, detail: str) -> None:
        self.rule = rule
        self.local = local
        self.domain = domain
        self.mailbox = mailbox
        self.keeps_mail = keeps_mail
        self.detail = detail

    @property
    def address(self) -> str:
        return str(Address(self.local, self.domain))


def _accepts_anyone(rule: DomainRule) -> bool:
    """Whether the rule takes mail of senders that may not relay. A gateway or hold rule naming a domain is asked-for relaying."""
    match rule.kind:
        case RuleKind.HOSTED | RuleKind.REJECT | RuleKind.DISCARD:
            return True
        case RuleKind.GATEWAY | RuleKind.HOLD:
            return rule.domain != "*" or rule.accept_untrusted
        case RuleKind.MX:
            return rule.accept_untrusted


def _refused_target(reply: Reply) -> Reply:
    """A forward whose target is refused is refused: permanent stays permanent, temporary stays temporary."""
    return Reply(550 if reply.permanent else 451, reply.enhanced, f"Forwarding address refused: {reply.text}")


def _mailbox_key(address: str) -> str:
    """The key of `address` among the mailboxes; '' when it is not an address."""
    try:
        return parse_address(address, lenient_dot=True).key
    except AddressError:
        return ""


def _literal_host(domain: str) -> str:
    """The IP address of '[192.0.2.1]' or '[IPv6:2001:db8::1]' (RFC 5321 4.1.3), which the parser has checked; '' for a name."""
    return domain[1:-1].removeprefix("IPv6:") if domain[0] == "[" else ""
