"""Mailing lists: who may post, to whom it goes, and where bounces and the owners' mail go. Called by by_handler and decide.

Members are decided like any other recipient, so a member may be a list; the chain of addresses ends loops, and a member who cannot be
reached costs the others nothing. The envelope sender is what is judged: it is what the client says, so a list that matters is moderated.
"""

from gatepost.message.reply import Reply
from gatepost.routing.index import HandlerIndex
from gatepost.routing.model import AddressHandler, HandlerKind, RouteKind
from gatepost.routing.replies import MAY_NOT_POST, TOO_MANY
from gatepost.routing.run import Here, Run, mailbox_key
from gatepost.routing.settings import ListSettings, Posters

BOUNCES = "-bounces"
OWNER = "-owner"
_PLAIN = ListSettings()


def post(run: Run, handler: AddressHandler, here: Here, chain: tuple[str, ...]) -> Reply | None:
    """To every member, as list mail."""
    settings = handler.options.list or _PLAIN
    address = f"{handler.pattern}@{here.domain}"
    start = len(run.routes)
    if run.in_list:
        run.note("list", f"{address} is a member of the list before it: who posted there may post here")
    elif not _may_post(run, handler, settings, address):
        return MAY_NOT_POST
    reply = _to_members(run, handler, address, chain)
    if reply is not None:
        return reply
    if len(run.routes) == start:
        run.note("list", f"nobody is reached through {address}")
        run.discard(here.address)
    _as_list_mail(run, start, settings, address, f"{handler.pattern}@{here.rule.domain}")
    if settings.moderated and not run.in_list and not _is_one_of(run, settings.owners):
        run.note("list", "the list is moderated: it waits, held, for release")
        run.mark(start, hold=True)
    return None


def _to_members(run: Run, handler: AddressHandler, address: str, chain: tuple[str, ...]) -> Reply | None:
    run.note("list", f"{address} has {len(handler.targets)} member{'' if len(handler.targets) == 1 else 's'}")
    run.in_list += 1
    for member in handler.targets:
        if run.beside("member", member, chain) == TOO_MANY:
            run.in_list -= 1
            return TOO_MANY
    run.in_list -= 1
    return None


def _as_list_mail(run: Run, start: int, settings: ListSettings, address: str, ref: str) -> None:
    """The list's own return path, so that bounces come to those who keep it and never to who posted."""
    local, _, domain = address.rpartition("@")
    path = f"verp:{address}" if settings.verp else settings.errors_to or f"{local}{BOUNCES}@{domain}"
    for n in range(start, len(run.routes)):
        if not run.routes[n].return_path and run.routes[n].kind is not RouteKind.DISCARD:
            run.mark_one(n, return_path=path)
    run.edit(start, "list", ref)


def _may_post(run: Run, handler: AddressHandler, settings: ListSettings, address: str) -> bool:
    run.fixed = False  # the sender has a say
    sender = run.question.reverse_path
    if not sender:
        run.note("list", f"the null sender may not post to {address}: reports and answers do not belong on a list")
        return False
    named = {
        Posters.ANYONE: (),
        Posters.OWNER: settings.owners,
        Posters.MEMBERS: (*handler.targets, *settings.owners),
        Posters.LISTED: (*settings.posters, *settings.owners),
    }[settings.may_post]
    allowed = settings.may_post is Posters.ANYONE or _is_one_of(run, named)
    who = {"owner": "its owners", "members": "its members", "listed": "those listed", "anyone": "anyone"}[settings.may_post]
    run.note("list", f"{who} may post to {address}, and {sender} {'may' if allowed else 'is not one of them'}")
    return allowed


def _is_one_of(run: Run, addresses: tuple[str, ...]) -> bool:
    sender = mailbox_key(run.question.reverse_path)
    return bool(sender) and any(mailbox_key(one) == sender for one in addresses)


def service_targets(local: str, handlers: HandlerIndex) -> tuple[str, ...] | None:
    """Who gets mail for LIST-bounces (with any +detail) or LIST-owner; () is the domain's postmaster. None: it is neither of a list."""
    name = local.partition("+")[0]
    for suffix in (BOUNCES, OWNER):
        if not name.endswith(suffix):
            continue
        handler = handlers.get(name.removesuffix(suffix))
        if handler is None or handler.kind is not HandlerKind.LIST:
            continue
        settings = handler.options.list or _PLAIN
        if suffix == BOUNCES and settings.errors_to and mailbox_key(settings.errors_to).rpartition("@")[0] != name:
            return (settings.errors_to,)
        return settings.owners
    return None
