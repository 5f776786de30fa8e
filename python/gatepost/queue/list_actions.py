"""What members and owners of a mailing list may do by a signed word, and what comes of it. *Blocking*; called in threads.

Called by delivery/list_service (words that come by mail) and by control/lists (links, administrators). Invariants: anybody may leave;
only a list that says so takes new members by their own word; what is asked twice is done once. Fails with ListRefused, whose text is for
whoever asked, and OSError.
"""

from dataclasses import replace

from gatepost.message.list_link import ListAction, ListLink
from gatepost.queue.list_store import ListStore, MemberRecord
from gatepost.routing.members import Member, MemberState, address_key
from gatepost.routing.model import AddressHandler, RuleSet
from gatepost.routing.settings import ListSettings


class ListRefused(Exception):
    """It cannot be done; the text says why."""


PLAIN = ListSettings()


def list_of(rules: RuleSet, address: str) -> AddressHandler:
    """The list of this address. Raises ListRefused."""
    handler = rules.list_handler(address)
    if handler is None:
        raise ListRefused(f"{address} is no mailing list")
    return handler


def owners_of(rules: RuleSet, address: str) -> tuple[str, ...]:
    """Who is told and decides; the postmaster of the domain where the list has no owner."""
    settings = rules.list_settings(address) or PLAIN
    return settings.owners or (f"postmaster@{address.rpartition('@')[2]}",)


def members_of(rules: RuleSet, store: ListStore, address: str) -> dict[str, MemberRecord]:
    """Every address that is a target or was ever heard of, by its key. Raises ListRefused."""
    targets = list_of(rules, address).targets
    found = {address_key(one): MemberRecord(Member(one), 0, 0, 0) for one in targets}
    return {**found, **store.records(address)}


def is_member(rules: RuleSet, store: ListStore, address: str, member: str) -> Member | None:
    """What the list knows of a member, also of a disabled one; None for others."""
    found = members_of(rules, store, address).get(address_key(member))
    return None if found is None or found.member.state is MemberState.UNSUBSCRIBED else found.member


def may_subscribe(rules: RuleSet, address: str, member: str) -> bool:
    """A list may take anyone; and who is named by the administrator may come back."""
    handler = list_of(rules, address)
    open_to_all = (handler.options.list or PLAIN).self_subscribe
    return open_to_all or address_key(member) in {address_key(one) for one in handler.targets}


def carry_out(rules: RuleSet, store: ListStore, link: ListLink) -> str:
    """Do what a member asked for; what was done in words. Raises ListRefused, OSError."""
    known = is_member(rules, store, link.list, link.subject)
    if link.action is ListAction.SUBSCRIBE:
        if not may_subscribe(rules, link.list, link.subject):
            raise ListRefused(f"{link.list} takes new members by its owners' word only")
        store.put_member(link.list, replace(known or Member(link.subject), state=MemberState.SUBSCRIBED))
        return f"{link.subject} gets the posts of {link.list}"
    if link.action is ListAction.UNSUBSCRIBE:
        if known is not None:
            store.put_member(link.list, replace(known, state=MemberState.UNSUBSCRIBED))
        return f"{link.subject} is no member of {link.list}"
    if link.action not in (ListAction.DIGEST, ListAction.EACH):
        raise ListRefused(f"a link to {link.action} is none of a member's")
    if known is None:
        raise ListRefused(f"{link.subject} is no member of {link.list}")
    digest = link.action is ListAction.DIGEST
    store.put_member(link.list, replace(known, digest=digest, state=MemberState.SUBSCRIBED))
    return f"{link.subject} gets the posts of {link.list} {'as a daily digest' if digest else 'one by one'}"
