"""VERP: a return path of a list for each member, so that a bounce says whose it is. Pure.

Called by queue/return_path and delivery/changes for routes to members, and by delivery/list_service for what comes back. The form is
LIST-bounces+user=host@domain, with +tag behind the host where there is a key: without its tag nobody but this server can have a bounce
counted against a member. Routing sends all of them to those who keep the list.
"""

import hmac
from base64 import b32encode
from hashlib import sha256

from gatepost.message.address import MAX_LOCAL_OCTETS, Address, AddressError, parse_address

BOUNCES = "-bounces"
TAG_LENGTH = 8
"""Characters of the tag: 40 bits; a guess costs the guesser a mail."""


def bounces_address(list_address: str) -> str:
    """LIST-bounces@domain: the return path of the list as a whole."""
    local, _, domain = list_address.rpartition("@")
    return f"{local}{BOUNCES}@{domain}"


def verp(list_address: str, member: str, key: bytes = b"") -> str:
    """The return path for one member; without the tag when it does not fit with it, that of the list as a whole when it does not at all."""
    plain = bounces_address(list_address)
    try:
        address, own = parse_address(member), parse_address(plain)
    except AddressError:
        return plain
    local = f"{own.local}+{address.local}={address.domain}"
    tagged = f"{local}+{_tag(key, list_address, str(address))}" if key else local
    if len(tagged.encode()) <= MAX_LOCAL_OCTETS:
        local = tagged
    if address.is_literal or not address.is_ascii or len(local.encode()) > MAX_LOCAL_OCTETS:
        return plain
    return str(Address(local, own.domain))


def member_of(path: str, list_address: str, key: bytes) -> tuple[str, bool]:
    """Whose the return path is, '' when it names nobody; and whether its tag is ours."""
    try:
        rest = parse_address(path, lenient_dot=True).local.partition("+")[2]
    except AddressError:
        return "", False
    user, _, host = rest.rpartition("=")
    host, _, tag = host.partition("+")
    try:
        member = str(parse_address(str(Address(user, host))))
    except AddressError:
        return "", False
    return member, bool(key) and hmac.compare_digest(tag.lower(), _tag(key, list_address, member))


def _tag(key: bytes, list_address: str, member: str) -> str:
    data = f"gatepost verp\0{list_address.lower()}\0{member.lower()}".encode()
    return b32encode(hmac.digest(key, data, sha256)).decode()[:TAG_LENGTH].lower()
