"""VERP: a return path of a list for each member, so that a bounce says whose it is. Pure.

Called by delivery (`verp`, for routes to members) and by routing (`unverp`, when a bounce comes in). The form is LIST-
bounces+user=host@domain. Nothing is signed: what comes back moves a counter and goes to the list's owner, no further.
"""

from gatepost.message.address import MAX_LOCAL_OCTETS, Address, AddressError, parse_address

BOUNCES = "-bounces"


def bounces_address(list_address: str) -> str:
    """LIST-bounces@domain: the return path of the list as a whole."""
    local, _, domain = list_address.rpartition("@")
    return f"{local}{BOUNCES}@{domain}"


def verp(list_address: str, member: str) -> str:
    """The return path for one member; that of the list as a whole when the member's address does not fit."""
    plain = bounces_address(list_address)
    try:
        address, own = parse_address(member), parse_address(plain)
    except AddressError:
        return plain
    local = f"{own.local}+{address.local}={address.domain}"
    if address.is_literal or not address.is_ascii or len(local.encode()) > MAX_LOCAL_OCTETS:
        return plain
    return str(Address(local, own.domain))


def unverp(local: str) -> tuple[str, str] | None:
    """(local part of the list, member) of LIST-bounces+user=host, member '' for LIST-bounces; None for any other local part."""
    name, plus, rest = local.partition("+")
    if not name.lower().endswith(BOUNCES) or len(name) == len(BOUNCES):
        return None
    user, _, host = rest.rpartition("=")
    if plus and not (user and host):
        return None
    return name[: -len(BOUNCES)], str(Address(user, host)) if plus else ""
