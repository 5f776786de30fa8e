"""What an address handler does. Called by decide once it has chosen the handler; lists are in lists.py.

A handler is the administrator's word: where it leads needs no trusted sender. Does not fail: refusals are replies.
"""

from gatepost.message.reply import Reply
from gatepost.routing.by_rule import by_default
from gatepost.routing.lists import post
from gatepost.routing.model import AddressHandler, HandlerKind, Route, RouteKind, TlsPolicy
from gatepost.routing.replies import BROKEN_HANDLER, RELAY_DENIED, refused_target
from gatepost.routing.run import REMOTE, Here, Run, mailbox_key
from gatepost.routing.settings import NO_OPTIONS, Transport, TransportKind

_FORWARD = HandlerKind.FORWARD
_BY_TRANSPORT = {TransportKind.SMTP: RouteKind.SMTP, TransportKind.LMTP: RouteKind.LMTP, TransportKind.PIPE: RouteKind.PIPE}


def by_handler(run: Run, handler: AddressHandler, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """Carry it out, options included."""
    if handler.options is NO_OPTIONS:
        return _forward(run, handler, here, chain) if handler.kind is _FORWARD else _by_kind(run, handler, here, trusted, chain)
    start = len(run.routes)
    reply = _by_kind(run, handler, here, trusted, chain)
    if reply is None and handler.options.require_tls:
        _encrypt(run, start)
    return reply


def _by_kind(run: Run, handler: AddressHandler, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    if handler.kind is _FORWARD:
        return _forward(run, handler, here, chain)
    match handler.kind:
        case HandlerKind.MAILBOX:
            return _to_mailboxes(run, handler, here, trusted, chain)
        case HandlerKind.COPY:
            return _copy(run, handler, here, trusted, chain)
        case HandlerKind.LIST:
            return post(run, handler, here, chain)
        case HandlerKind.TRANSPORT:
            return _transport(run, handler, here, trusted)
        case HandlerKind.AUTO_REPLY:
            return _auto_reply(run, handler, here, trusted, chain)
        case HandlerKind.HOLD:
            return _hold(run, here, trusted, chain)
        case HandlerKind.REJECT:
            return Reply(550, "5.7.1", handler.text or "This address does not accept mail")
        case HandlerKind.DISCARD:
            run.discard(here.address)
    return None


def _to_mailboxes(run: Run, handler: AddressHandler, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """Into one user's store or several; of several, one that cannot take it does not cost the others their mail."""
    if not handler.targets:
        return by_default(run, here, trusted, chain)
    start, refusal = len(run.routes), None
    for target in handler.targets:
        mailbox = run.index.mailboxes.get(mailbox_key(target))
        if mailbox is None:
            run.note("mailbox", f"the handler names {target}, which has no mailbox")
        reply = BROKEN_HANDLER if mailbox is None else run.to_mailbox(mailbox, mailbox.address)
        refusal = refusal or reply
    return refusal if len(run.routes) == start else None


def _forward(run: Run, handler: AddressHandler, here: Here, chain: tuple[str, ...]) -> Reply | None:
    """The administrator's forward is a trusted sender of its own: its targets may lie anywhere."""
    if not handler.targets:
        return BROKEN_HANDLER
    start = len(run.routes)
    for target in handler.targets:
        run.note("forward", "to {}", target)
        reply = run.address(target, True, chain)
        if reply is not None:
            run.note("forward", f"{target} is refused: {reply.text}")
            return reply if reply.enhanced == "5.4.6" else refused_target(reply)
    if handler.options.srs:
        _rewrite_sender(run, start, here.domain)
    return None


def _rewrite_sender(run: Run, start: int, domain: str) -> None:
    """What leaves is sent in our own name, so that the next hop's SPF check fits; a return path given already is ours."""
    for n in range(start, len(run.routes)):
        if run.routes[n].kind in REMOTE and not run.routes[n].return_path:
            run.note("srs", "the sender of mail to {} is rewritten under {}", run.routes[n].address, domain)
            run.mark_one(n, return_path=f"srs:{domain}")


def _copy(run: Run, handler: AddressHandler, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """What would happen without the handler, and the targets as well. A target that is refused never costs the recipient its mail."""
    reply = by_default(run, here, trusted, chain)
    if reply is not None:
        return reply
    start = len(run.routes)
    for target in handler.targets:
        run.beside("copy", target, chain)
    if handler.options.srs:
        _rewrite_sender(run, start, here.domain)
    return None


def _transport(run: Run, handler: AddressHandler, here: Here, trusted: bool) -> Reply | None:
    """Another next hop than the rule's, or a program."""
    given = handler.options.transport
    if given is None:
        return BROKEN_HANDLER
    if given.kind is TransportKind.PIPE:
        if given.program is None:
            return BROKEN_HANDLER
        run.note("route", f"given to the program {given.program.argv[0]}")
        run.routes.append(Route(RouteKind.PIPE, here.address, program=given.program, options=given.delivery))
        return None
    if not trusted and here.names_a_route:
        run.note("relay", "the local part has '@', '%' or '!', which a next hop may take for a route: not from an untrusted sender")
        return RELAY_DENIED
    run.note("route", f"by {given.kind.upper()} to {given.host}:{given.port}, TLS {given.tls}")
    run.routes.append(_handed_over(given, here.address))
    return None


def _handed_over(given: Transport, address: str) -> Route:
    return Route(
        _BY_TRANSPORT[given.kind],
        address,
        host=given.host,
        port=given.port,
        tls=given.tls,
        implicit_tls=given.implicit_tls,
        username=given.username,
        password_ref=given.password_ref,
        next_hops=given.next_hops,
        options=given.delivery,
    )


def _auto_reply(run: Run, handler: AddressHandler, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """What would happen without the handler, and an answer to the sender (RFC 3834), which delivery makes."""
    reply = by_default(run, here, trusted, chain)
    if reply is None:
        run.note("auto-reply", f"the sender is answered for {here.address}")
        ref = f"{handler.pattern}@{here.rule.domain}"
        run.routes.append(Route(RouteKind.AUTO_REPLY, here.address, edits=(("auto-reply", ref),)))
    return reply


def _hold(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    start = len(run.routes)
    reply = by_default(run, here, trusted, chain)
    if reply is None:
        run.note("hold", "it waits in the queue until an operator releases it")
        run.mark(start, hold=True)
    return reply


def _encrypt(run: Run, start: int) -> None:
    """What asked for TLS on the way in is not sent on in the clear."""
    for n in range(start, len(run.routes)):
        route = run.routes[n]
        if route.kind in REMOTE and route.tls in (TlsPolicy.NONE, TlsPolicy.OPPORTUNISTIC):
            run.note("tls", f"mail to {route.address} is sent on over TLS only")
            run.mark_one(n, tls=TlsPolicy.REQUIRED)
