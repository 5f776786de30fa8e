"""VERP: a return path of a list for each member, so that a bounce says whose it is. Pure.

Called by queue/return_path for routes to members. The form is LIST-bounces+user=host@domain, which
routing sends to those who keep the list. Nothing is signed: what comes back goes to them and no further.
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
