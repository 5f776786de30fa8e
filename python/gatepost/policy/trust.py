"""Which clients are trusted by their address. Called once per connection; pure, answers are remembered.

The default is nobody: behind a proxy or tunnel every client looks like 127.0.0.1, so loopback is trusted only where an
administrator says so. An address that is none (a Unix socket's '') is never in a network.
"""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=4096)
def _parse(client: str) -> IPAddress | None:
    """The address, an IPv4-mapped one as IPv4; None when it is none."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(client: str) -> bool:
    """True for 127.0.0.0/8 and ::1, and for clients of Unix sockets."""
    if not client:
        return True
    address = _parse(client)
    return address is not None and address.is_loopback


class TrustedNetworks:
    """`client in networks`. Built once per settings object."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in networks]
        self._known: dict[str, bool] = {}

    def __contains__(self, client: str) -> bool:
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= 10_000:
                self._known.clear()
            known = self._known[client] = self._look_up(client)
        return known

    def _look_up(self, client: str) -> bool:
        address = _parse(client)
        return address is not None and any(address.version == network.version and address in network for network in self._networks)
