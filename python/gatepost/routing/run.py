"""One decision being made: the question, and the trace, routes and limits so far. Used by decide and the modules that carry out rules,
handlers and lists; each of their functions returns the refusing Reply, or None when routes were added.

Invariants: the rule set is not changed; the trace is bounded; `fixed` turns False as soon as anything but recipient, trust and delimiter
had a say, so that nobody remembers the answer.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from gatepost.message.address import Address, AddressError, parse_address
from gatepost.message.reply import Reply
from gatepost.routing.index import RoutingIndex
from gatepost.routing.model import AddressHandler, AuthorCheck, Check, DomainRule, Mailbox, Note, Question, Route, RouteKind
from gatepost.routing.replies import DISABLED_USER
from gatepost.routing.senders import Choice
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS, RuleSettings, Verify

MAX_TRACE = 500
VERIFY_POSITIVE, VERIFY_NEGATIVE = 86_400, 3_600
_ROUTING_CHARACTERS = frozenset("@%!")
REMOTE = (RouteKind.SMTP, RouteKind.LMTP)
_UPPER = {kind: kind.upper() for kind in REMOTE}


class Here:
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
        """As it was written, its domain in stored form."""
        local = self.local
        return f"{local}@{self.domain}" if local.isalnum() else str(Address(local, self.domain))

    @property
    def names_a_route(self) -> bool:
        """A next hop may still obey user%other@domain or other!user@domain; passing it on would make the pair of us a relay."""
        return not _ROUTING_CHARACTERS.isdisjoint(self.local)


class Run(ABC):
    """The state of one decision, and how routes are made."""

    __slots__ = (
        "authors",
        "delimiter",
        "done",
        "fixed",
        "in_list",
        "index",
        "leaving",
        "limited",
        "notes",
        "policy",
        "question",
        "routes",
        "size_limit",
        "verify",
        "visits",
    )

    def __init__(self, index: RoutingIndex, question: Question, delimiter: str) -> None:
        self.index = index
        self.question = question
        self.delimiter = delimiter
        self.notes: list[Note] = []
        self.routes: list[Route] = []
        self.done: set[str] = set()
        self.visits = 0
        self.policy = ""
        self.size_limit = 0
        self.fixed = True
        self.limited = False
        self.in_list = 0
        self.verify: Check | None = None
        self.leaving: Choice | None = None
        """The sender rule that says how mail leaves."""
        self.authors: AuthorCheck | None = None

    @abstractmethod
    def address(self, text: str, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
        """Decide one address; `chain` holds the addresses that led here."""

    def note(self, step: str, text: str, *of: Any) -> None:
        """One line of the trace: with `of`, `text` is a format, put into words when somebody asks."""
        if len(self.notes) < MAX_TRACE:
            self.notes.append((step, text, of))

    def in_force(self, handler: AddressHandler) -> bool:
        """Whether the handler is valid at the time of the question; outside of it, it is as if it were not there."""
        options = handler.options
        if options is NO_OPTIONS or not (options.valid_from or options.valid_until):
            return True
        self.fixed = False
        now = self.question.now
        if not now or (options.valid_from <= now and (not options.valid_until or now < options.valid_until)):
            return True
        self.note("handler", f"the {handler.kind} handler {handler.pattern!r} is not valid now")
        return False

    def mark(self, start: int, **fields: Any) -> None:
        """Change the routes from `start` on."""
        for n in range(start, len(self.routes)):
            self.mark_one(n, **fields)

    def mark_one(self, place: int, **fields: Any) -> None:
        """Change one route."""
        self.routes[place] = replace(self.routes[place], **fields)

    def beside(self, step: str, target: str, chain: tuple[str, ...]) -> Reply | None:
        """Decide a further address; one that is refused is left out, and costs the others nothing. Returns why it was."""
        self.note(step, "to {}", target)
        start = len(self.routes)
        reply = self.address(target, True, chain)
        if reply is not None:
            del self.routes[start:]
            self.note(step, f"{target} is left out: {reply.text}")
        return reply

    def edit(self, start: int, kind: str, ref: str) -> None:
        """Have the messages of the routes from `start` on changed."""
        for n in range(start, len(self.routes)):
            if self.routes[n].kind not in (RouteKind.DISCARD, RouteKind.AUTO_REPLY, RouteKind.LIST):
                self.routes[n] = replace(self.routes[n], edits=(*self.routes[n].edits, (kind, ref)))

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

    # ---- routes --------------------------------------------------------------------------------------------------

    def to_mailbox(self, mailbox: Mailbox, address: str, hold: bool = False) -> Reply | None:
        """Into a user's store."""
        if not mailbox.enabled:
            self.note("mailbox", f"{mailbox.address} is disabled")
            return DISABLED_USER
        self.note("mailbox", "mailbox of {} on volume {!r}{}", mailbox.address, mailbox.volume, ", held" if hold else "")
        self.routes.append(Route(RouteKind.LOCAL, address, mailbox.mailbox_id, mailbox.volume, hold=hold))
        return None

    def to_gateway(self, rule: DomainRule, address: str, hold: bool = False) -> None:
        """To the next hop that the rule gives."""
        kind, settings = RouteKind.LMTP if rule.lmtp else RouteKind.SMTP, rule.settings
        held = ", held" if hold else ""
        self.note("route", "by {} to the gateway {}:{}, TLS {}{}", _UPPER[kind], rule.host, rule.port, rule.tls, held)
        if len(settings.next_hops) > 1:
            self.note("route", "next hops: " + ", ".join(f"{hop.host}:{hop.port} (priority {hop.priority})" for hop in settings.next_hops))
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
                next_hops=settings.next_hops,
                options=settings.delivery,
            )
        )
        if self.leaving is not None and rule.domain == "*":
            self._by_sender(self.leaving)
        if settings.verify is not Verify.OFF and not hold:
            self._to_verify(settings)

    def _to_verify(self, settings: RuleSettings) -> None:
        """The next hop is asked, unless another one is already."""
        if self.verify is not None:
            return
        self.fixed = False
        times = settings.verify_positive or VERIFY_POSITIVE, settings.verify_negative or VERIFY_NEGATIVE
        self.verify = Check(self.routes[-1], settings.verify, *times)
        then = "the client comes back" if settings.verify is Verify.DEFER else "what was known holds"
        self.note("verify", f"the next hop is asked whether it takes {self.routes[-1].address}; when it does not answer, {then}")

    def to_mx(self, address: str, rule: DomainRule | None = None, hold: bool = False) -> None:
        """To the mail exchangers of the address's domain, or to the host of an address literal (RFC 5321 4.1.3)."""
        domain = address.rpartition("@")[2]
        host = domain[1:-1].removeprefix("IPv6:") if domain[0] == "[" else ""
        held = ", held" if hold else ""
        self.note("route", "by SMTP to {}{}{}", "" if host else "the mail exchangers of ", host or domain, held)
        if rule is None or (rule.settings is NO_SETTINGS):
            self.routes.append(Route(RouteKind.SMTP, address, host=host, hold=hold))
        else:
            self.routes.append(Route(RouteKind.SMTP, address, host=host, tls=rule.tls, hold=hold, options=rule.settings.delivery))
        if self.leaving is not None and not host:
            self._by_sender(self.leaving)

    def _by_sender(self, choice: Choice) -> None:
        """The last route, as the sender's rule has it."""
        rule = choice.leaving
        assert rule is not None  # nothing else is put there
        way = f"by {rule.host}:{rule.port}, TLS {rule.tls}" if rule.host else "with its own source address or name"
        self.note("sender", f"sender rule {rule.name!r}: {way}")
        self.routes[-1] = choice.routed(self.routes[-1])

    def discard(self, address: str) -> None:
        """Taken and dropped."""
        self.note("route", "accepted and discarded")
        self.routes.append(Route(RouteKind.DISCARD, address))


def mailbox_key(address: str) -> str:
    """The key of `address` among the mailboxes; '' when it is not an address."""
    try:
        return parse_address(address, lenient_dot=True).key
    except AddressError:
        return ""
