"""Mailing lists: who may post, to whom it goes, and where mail to LIST-owner, LIST-bounces and the command addresses goes. Called by
by_handler and decide.

Members are decided like any other recipient, so a member may be a list; the chain of addresses ends loops, and a member who cannot be
reached costs the others nothing. Here the envelope sender and the authenticated user are judged; whether the author that the header names
may post is asked at the end of data (queue/authors.py), by what the decision says of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gatepost.message.reply import Reply
from gatepost.routing.index import HandlerIndex
from gatepost.routing.members import NOBODY, Member, Reached, address_key, reached
from gatepost.routing.model import AddressHandler, AuthorCheck, HandlerKind, Route, RouteKind
from gatepost.routing.replies import MAY_NOT_POST, TOO_MANY
from gatepost.routing.run import Here, Run, mailbox_key
from gatepost.routing.settings import ListSettings, Posters

BOUNCES = "-bounces"
OWNER = "-owner"
COMMANDS = ("-subscribe", "-unsubscribe", "-request")
_SUFFIXES = (BOUNCES, OWNER, *COMMANDS)
_PLAIN = ListSettings()


def post(run: Run, handler: AddressHandler, here: Here, chain: tuple[str, ...]) -> Reply | None:
    """To every member, as list mail."""
    run.fixed = False  # the sender has a say, and members come and go
    settings = handler.options.list or _PLAIN
    address = f"{handler.pattern}@{here.domain}"
    people = reached(handler.targets, known_members(run, address))
    start = len(run.routes)
    if run.in_list:
        run.note("list", f"{address} is a member of the list before it: who posted there may post here")
    elif not _may_post(run, people, settings, address):
        return MAY_NOT_POST
    reply = _to_members(run, people, address, chain)
    if reply is not None:
        return reply
    if people.digest:
        run.routes.append(Route(RouteKind.LIST, address, edits=(("digest", address),)))
    if len(run.routes) == start:
        run.note("list", f"nobody is reached through {address}")
        run.discard(here.address)
    _as_list_mail(run, start, settings, address)
    if settings.moderated and not run.in_list and not _is_one_of(run, settings.owners):
        run.note("list", "the list is moderated: it waits, held, for its owners' word")
        run.mark(start, hold=True)
        run.routes.append(notice(address))
    return None


def known_members(run: Run, address: str) -> Mapping[str, Member]:
    """What members of the list asked for."""
    book = run.index.rule_set.lists
    return book.get(address_key(address), NOBODY) if book else NOBODY


def notice(address: str) -> Route:
    """The owners are told that a post waits."""
    return Route(RouteKind.LIST, address, edits=(("notice", address),))


def _to_members(run: Run, people: Reached, address: str, chain: tuple[str, ...]) -> Reply | None:
    count = len(people.members)
    away = [(len(people.digest), "by digest"), (len(people.disabled), "disabled after bounces"), (people.left, "signed off")]
    told = "".join(f", {number} {what}" for number, what in away if number)
    run.note("list", f"{address} has {count} member{'' if count == 1 else 's'}{told}")
    run.in_list += 1
    for member in people.each:
        start = len(run.routes)
        if run.beside("member", member, chain) == TOO_MANY:
            run.in_list -= 1
            return TOO_MANY
        _remember_member(run, start, member)
    run.in_list -= 1
    return None


def _remember_member(run: Run, start: int, member: str) -> None:
    """Who it is that links and bounces are about, where an alias or a forward makes the final address another."""
    for n in range(start, len(run.routes)):
        route = run.routes[n]
        if route.address.lower() != member.lower() and route.kind is not RouteKind.LIST and not _named(route, "member", "list"):
            run.mark_one(n, edits=(*route.edits, ("member", member)))


def _named(route: Route, *kinds: str) -> bool:
    return any(kind in kinds for kind, _ in route.edits)


def _as_list_mail(run: Run, start: int, settings: ListSettings, address: str) -> None:
    """The list's own return path, so that bounces come to those who keep it and never to who posted."""
    local, _, domain = address.rpartition("@")
    path = f"verp:{address}" if settings.verp else settings.errors_to or f"{local}{BOUNCES}@{domain}"
    for n in range(start, len(run.routes)):
        if not run.routes[n].return_path and run.routes[n].kind not in (RouteKind.DISCARD, RouteKind.LIST):
            run.mark_one(n, return_path=path)
    run.edit(start, "list", address)


def _may_post(run: Run, people: Reached, settings: ListSettings, address: str) -> bool:
    sender = run.question.reverse_path
    if not sender:
        run.note("list", f"the null sender may not post to {address}: reports and answers do not belong on a list")
        return False
    if settings.may_post is Posters.ANYONE:
        run.note("list", f"anyone may post to {address}")
        return True
    named = {
        Posters.OWNER: settings.owners,
        Posters.MEMBERS: (*people.members, *settings.owners),
        Posters.LISTED: (*settings.posters, *settings.owners),
    }[settings.may_post]
    by_user = bool(run.question.user) and _is_named(run.question.user, named)
    allowed = by_user or _is_one_of(run, named)
    who = {"owner": "its owners", "members": "its members", "listed": "those listed"}[settings.may_post]
    asked = run.question.user if by_user else sender
    run.note("list", f"{who} may post to {address}, and {asked} {'may' if allowed else 'is not one of them'}")
    if allowed and not by_user and not settings.any_author:
        run.authors = AuthorCheck(address, frozenset(map(mailbox_key, named)) - {""})
    return allowed


def _is_one_of(run: Run, addresses: tuple[str, ...]) -> bool:
    return _is_named(run.question.reverse_path, addresses)


def _is_named(who: str, addresses: tuple[str, ...]) -> bool:
    sender = mailbox_key(who)
    return bool(sender) and any(mailbox_key(one) == sender for one in addresses)


@dataclass(frozen=True, slots=True)
class Service:
    """Mail about a list. keepers: who gets it, () is the domain's postmaster, None: nobody, it is a command. word: 'subscribe',
    'unsubscribe', 'request', or 'bounce' for one that names its member; '' when there is nothing to be done but to pass it on.
    """

    address: str
    keepers: tuple[str, ...] | None
    word: str = ""


def service_of(local: str, domain: str, handlers: HandlerIndex) -> Service | None:
    """What mail to LIST-bounces (with any +detail), LIST-owner, LIST-subscribe, -unsubscribe and -request is. None: it is of no list."""
    name, _, detail = local.partition("+")
    if not name.endswith(_SUFFIXES):
        return None
    for suffix in _SUFFIXES:
        if not name.endswith(suffix):
            continue
        handler = handlers.get(name.removesuffix(suffix))
        if handler is None or handler.kind is not HandlerKind.LIST:
            continue
        settings, address = handler.options.list or _PLAIN, f"{handler.pattern}@{domain}"
        if suffix in COMMANDS:
            return Service(address, None, suffix[1:])
        if suffix == OWNER:
            return Service(address, settings.owners)
        if settings.errors_to and mailbox_key(settings.errors_to).rpartition("@")[0] != name:
            return Service(address, (settings.errors_to,))
        counted = detail and settings.verp and settings.bounce_limit > 0
        return Service(address, settings.owners, "bounce" if counted else "")
    return None
