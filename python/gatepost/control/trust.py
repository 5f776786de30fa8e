"""May a sender relay? The same question the SMTP server asks, for Explain. Pure."""

import ipaddress

from gatepost.config import Settings
from gatepost.control.errors import invalid
from gatepost.routing.model import RuleSet


def is_trusted(settings: Settings, rules: RuleSet, client_address: str, user: str) -> tuple[bool, str]:
    """(trusted, why in words). Raises ControlError for something that is no IP address."""
    if user:
        mailbox = rules.mailboxes.get(user.lower())
        if mailbox is None or not mailbox.enabled:
            return False, f"user {user} cannot log in: {'disabled' if mailbox else 'no such user'}"
        return True, f"authenticated as {user}"
    if not client_address:
        return False, "no user and no client address: a stranger"
    try:
        address = ipaddress.ip_address(client_address)
    except ValueError:
        raise invalid("client_address", "is not an IP address") from None
    address = getattr(address, "ipv4_mapped", None) or address
    for network in settings.trust.networks:
        if address in ipaddress.ip_network(network):
            return True, f"{address} is in the trusted network {network}"
    return False, f"{address} is in no trusted network"
