"""What a domain rule does with an address that no handler takes. Called by decide and by handlers that do something besides.

Invariant: mail of a sender that may not relay leaves only where the rule says so in words. Does not fail: refusals are replies.
"""

from gatepost.message.address import Address
from gatepost.message.reply import Reply
from gatepost.routing.model import DomainRule, RuleKind
from gatepost.routing.replies import BROKEN_HANDLER, RELAY_DENIED, UNKNOWN_USER, refused_target
from gatepost.routing.run import Here, Run, mailbox_key
from gatepost.routing.settings import NO_SETTINGS, UnknownRecipients


def by_default(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """The rule's own action, and what its settings add to it."""
    start = len(run.routes)
    reply = _by_kind(run, here, trusted, chain)
    settings = here.rule.settings
    if reply is None and settings is not NO_SETTINGS and settings.disclaimer is not None:
        run.note("disclaimer", "the text of {!r} is put into the message", here.rule.domain)
        run.edit(start, "disclaimer", here.rule.domain)
    return reply


def _by_kind(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    if here.keeps_mail:
        return _own_mailbox(run, here, trusted, chain)
    rule = here.rule
    if rule.kind is RuleKind.ALIAS:
        return _alias(run, here, trusted, chain)
    if not trusted and not _accepts_anyone(rule):
        run.note("relay", "the {} rule {!r} takes mail of trusted senders only", rule.kind, rule.domain)
        return RELAY_DENIED
    if rule.kind in (RuleKind.GATEWAY, RuleKind.MX, RuleKind.HOLD) and not _may_leave(run, here, trusted):
        return RELAY_DENIED
    return carry_out(run, rule, here.address)


def _may_leave(run: Run, here: Here, trusted: bool) -> bool:
    if trusted or not here.names_a_route:
        return True
    run.note("relay", "the local part has '@', '%' or '!', which a next hop may take for a route: not from an untrusted sender")
    return False


def carry_out(run: Run, rule: DomainRule, address: str) -> Reply | None:
    """The rule's own action for mail that is not kept here."""
    match rule.kind:
        case RuleKind.GATEWAY:
            run.to_gateway(rule, address)
        case RuleKind.MX:
            run.to_mx(address, rule)
        case RuleKind.HOLD:
            _hold(run, rule, address)
        case RuleKind.REJECT:
            return Reply(550, "5.7.1", rule.text or "This domain does not accept mail")
        case RuleKind.DISCARD:
            run.discard(address)
        case RuleKind.HOSTED | RuleKind.ALIAS:
            return UNKNOWN_USER
    return None


def _hold(run: Run, rule: DomainRule, address: str) -> None:
    """Held, with the route it will take once released: the rule's own host, else the default rule's gateway, else MX."""
    default = run.index.default
    if rule.host:
        run.to_gateway(rule, address, True)
    elif default is not None and default.kind is RuleKind.GATEWAY:
        run.to_gateway(default, address, True)
    else:
        run.to_mx(address, rule, True)


def _alias(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """The domain stands for another: every rule and handler of that one holds."""
    target = here.rule.settings.alias_of
    run.note("alias", "{} stands for {}", here.domain, target)
    return run.address(str(Address(here.local, target)), trusted, chain)


def _own_mailbox(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """The mailbox of the address itself; postmaster is found one in any case (RFC 5321 4.5.1)."""
    mailbox, address = here.mailbox, here.address
    if mailbox is None and here.local.lower() == "postmaster":
        mailbox = run.index.any_postmaster() or run.index.first_user(here.domain)
        if mailbox is not None:
            run.note("mailbox", f"postmaster has no mailbox of its own in {here.domain}: RFC 5321 4.5.1 wants it accepted")
            address = mailbox.address
    elif mailbox is not None:
        local, _, domain = mailbox.address.rpartition("@")
        address = f"{local}{here.detail}@{domain}"
    if mailbox is None:
        run.note("mailbox", "{!r} is not a user of {}", here.local, here.domain)
        return _unknown(run, here, trusted, chain)
    return run.to_mailbox(mailbox, address, here.rule.kind is RuleKind.HOLD)


def _unknown(run: Run, here: Here, trusted: bool, chain: tuple[str, ...]) -> Reply | None:
    """An address that nobody has, as the rule's settings say."""
    settings = here.rule.settings
    match settings.unknown:
        case UnknownRecipients.REJECT:
            return UNKNOWN_USER
        case UnknownRecipients.MAILBOX:
            return _to_catch_all(run, settings.unknown_target)
        case UnknownRecipients.FORWARD:
            run.note("unknown", f"unknown addresses of {here.rule.domain!r} are forwarded to {settings.unknown_target}")
            reply = run.address(settings.unknown_target, True, chain)
            return reply if reply is None or reply.enhanced == "5.4.6" else refused_target(reply)
        case UnknownRecipients.RELAY:
            return _to_other_half(run, here, trusted)
        case UnknownRecipients.ACCEPT:
            run.note("unknown", f"{here.rule.domain!r} takes mail for unknown addresses and drops it")
            run.discard(here.address)
    return None


def _to_catch_all(run: Run, target: str) -> Reply | None:
    run.note("unknown", f"unknown addresses go to the mailbox of {target}")
    mailbox = run.index.mailboxes.get(mailbox_key(target))
    if mailbox is None:
        run.note("mailbox", f"{target} has no mailbox")
        return BROKEN_HANDLER
    return run.to_mailbox(mailbox, mailbox.address)


def _to_other_half(run: Run, here: Here, trusted: bool) -> Reply | None:
    """A split domain: who is not known here may be known there. What comes from there for somebody nobody knows does not go back."""
    rule = here.rule
    hosts = {rule.host, *(hop.host for hop in rule.settings.next_hops)}
    run.fixed = False
    if run.question.client and run.question.client in hosts:
        run.note("unknown", f"it comes from {run.question.client}, where unknown addresses of {rule.domain!r} go: nobody knows it")
        return UNKNOWN_USER
    if not _may_leave(run, here, trusted):
        return RELAY_DENIED
    run.note("unknown", f"unknown addresses of {rule.domain!r} go to the other server")
    run.to_gateway(rule, here.address)
    return None


def _accepts_anyone(rule: DomainRule) -> bool:
    """Whether the rule takes mail of senders that may not relay. A gateway or hold rule naming a domain is asked-for relaying."""
    match rule.kind:
        case RuleKind.HOSTED | RuleKind.REJECT | RuleKind.DISCARD | RuleKind.ALIAS:
            return True
        case RuleKind.GATEWAY | RuleKind.HOLD:
            return rule.domain != "*" or rule.accept_untrusted
        case RuleKind.MX:
            return rule.accept_untrusted
