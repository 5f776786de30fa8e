"""Route → addresses to try, in order (RFC 5321 5.1, RFC 7505). Called by smtp.py once per new connection, not per message.

Invariants: at most MAX_EXCHANGERS hosts and MAX_ADDRESSES addresses come out; hosts of equal preference are shuffled, and so
are the addresses of a host; we never come out ourselves, nor anything of our own preference or worse.
Fails with NoRoute, which carries the outcome.
"""

import asyncio
import errno
import ipaddress
import random
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from gatepost.config import Settings
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp_session import Peer
from gatepost.message.address import domain_key
from gatepost.policy.dns import DnsAnswer, DnsStatus, Mx
from gatepost.queue.transport import Deferred, Failed
from gatepost.routing.model import NextHop, Route

MAX_EXCHANGERS = 10
MAX_ADDRESSES = 8
MAX_ADDRESSES_PER_HOST = 4


class NoRoute(Exception):
    """There is no host to try; `outcome` is what becomes of the job."""

    def __init__(self, outcome: Deferred | Failed) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Own:
    """What we are known by: host names (lower-case) and the (address, port) pairs we listen on for SMTP."""

    names: frozenset[str] = frozenset()
    endpoints: frozenset[tuple[str, int]] = frozenset()

    def is_us(self, host: str, addresses: Iterable[str], port: int) -> bool:
        """True when connecting there would be talking to ourselves."""
        if host in self.names:
            return True
        return any((address, port) in self.endpoints or self._by_wildcard(address, port) for address in addresses)

    def _by_wildcard(self, address: str, port: int) -> bool:
        wildcard = "::" if ":" in address else "0.0.0.0"
        return ((wildcard, port) in self.endpoints or ("::", port) in self.endpoints) and is_local_address(address)


def is_local_address(address: str) -> bool:
    """True when the address is one of this machine's: the kernel lets us bind to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError as error:
            return error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
    return True


def address_literal(domain: str) -> str | None:
    """'[192.0.2.1]' or '[IPv6:2001:db8::1]' → the address; None for anything else (RFC 5321 4.1.3)."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    text = domain[1:-1]
    if text.lower().startswith("ipv6:"):
        text = text[5:]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


class NextHops:
    """Finds where to connect for a route."""

    def __init__(self, settings: Callable[[], Settings], resolver: Resolver, own: Callable[[], Own]) -> None:
        self._settings = settings
        self._resolver = resolver
        self._own = own
        self._random = random.Random()

    async def find(self, route: Route) -> list[Peer]:
        """Addresses in the order to try them, at least one. Raises NoRoute."""
        source = (route.options.source_address if route.options is not None else "") or self._settings().delivery.source_address
        if route.next_hops:
            return await self._several(route.next_hops, source)
        if route.host:
            return await self._given(route.host, route.port, source)
        domain = route.address.rpartition("@")[2]
        port = self._settings().delivery.mx_port
        if domain.startswith("["):
            return self._literal(domain, port)
        name = domain_key(domain)
        if not name.isascii():
            raise NoRoute(Failed(f"{domain} is not a valid domain name", "5.1.2"))
        return await self._exchangers(name, port, source)

    async def _several(self, hops: Sequence[NextHop], source: str) -> list[Peer]:
        """The given hosts in their order; one that has no address now is passed over, unless none has."""
        found = await asyncio.gather(
            *(self._given(hop.host, hop.port, source) for hop in in_order(hops, self._random)[:MAX_EXCHANGERS]), return_exceptions=True
        )
        peers = [peer for peers in found if isinstance(peers, list) for peer in peers[:MAX_ADDRESSES_PER_HOST]]
        if peers:
            return peers
        raise next(fault for fault in found if isinstance(fault, BaseException))

    def _literal(self, domain: str, port: int) -> list[Peer]:
        address = address_literal(domain)
        if address is None:
            raise NoRoute(Failed(f"{domain} is not an address literal we know", "5.1.2"))
        if self._own().is_us("", (address,), port):
            raise NoRoute(_loop(domain))
        return [Peer(domain, address, port)]

    async def _given(self, host: str, port: int, source: str) -> list[Peer]:
        """A gateway: its A and AAAA, no MX. We may be our own gateway (ports of one machine chained); hop counting ends loops."""
        address = address_literal(f"[{host.strip('[]')}]")
        if address is not None:
            return [Peer(address, address, port)]
        found = await self._resolve(host, source)
        if isinstance(found, DnsAnswer):
            temporary = found.status is DnsStatus.TEMPORARY
            reason = found.detail if temporary else f"the gateway {host} has no address in the DNS"
            # A gateway's name is our administrator's word: a mistake there is no reason to return mail.
            raise NoRoute(Deferred(reason, "4.4.3" if temporary else "4.4.4", destination_down=True))
        return [Peer(host, one, port) for one in found[:MAX_ADDRESSES]]

    async def _exchangers(self, domain: str, port: int, source: str) -> list[Peer]:
        answer = await self._resolver.mx(domain)
        if answer.status is DnsStatus.TEMPORARY:
            raise NoRoute(Deferred(answer.detail, "4.4.3", destination_down=True))
        if answer.status is DnsStatus.NXDOMAIN:
            raise NoRoute(Failed(f"the domain {domain} does not exist", "5.1.2"))
        implicit = answer.status is DnsStatus.NODATA
        records = [Mx(0, domain)] if implicit else list(answer.mx)
        if any(record.host == "" for record in records):
            records = [record for record in records if record.host]
            if not records:
                raise NoRoute(Failed(f"the domain {domain} takes no mail (null MX)", "5.1.10"))
        return await self._peers(domain, self._sorted(records), port, source, implicit=implicit)

    def _sorted(self, records: list[Mx]) -> list[Mx]:
        self._random.shuffle(records)
        return sorted(records, key=lambda record: record.preference)[:MAX_EXCHANGERS]

    async def _peers(self, domain: str, records: list[Mx], port: int, source: str, *, implicit: bool) -> list[Peer]:
        hosts = await asyncio.gather(*(self._resolve(record.host, source) for record in records))
        own, peers, faults = self._own(), [], []
        limit = _own_preference(own, records, hosts, port)
        for record, found in zip(records, hosts, strict=True):
            if limit is not None and record.preference >= limit:
                break
            if isinstance(found, DnsAnswer):
                faults.append(found)
            else:
                peers += [Peer(record.host, address, port) for address in found[:MAX_ADDRESSES_PER_HOST]]
        if peers:
            return peers[:MAX_ADDRESSES]
        raise NoRoute(_no_peers(domain, faults, limit is not None, implicit))

    async def _resolve(self, host: str, source: str) -> list[str] | DnsAnswer:
        """Addresses of a host, families taking turns; or the answer that says why there are none."""
        a, aaaa = await self._resolver.addresses(host)
        first, second = (a, aaaa) if self._settings().delivery.prefer_ipv4 else (aaaa, a)
        pools = [list(answer.addresses) for answer in (first, second)]
        for pool in pools:
            self._random.shuffle(pool)
        mixed = [one for pair in zip_longest(*pools) for one in pair if one and _reachable(one, source)]
        if mixed:
            return mixed
        return next((answer for answer in (a, aaaa) if answer.status is DnsStatus.TEMPORARY), a)


def in_order(hops: Sequence[NextHop], rng: random.Random) -> list[NextHop]:
    """The lowest priority first; among equals chance decides, in proportion to the weight, 0 hardly ever first (RFC 2782)."""
    ordered: list[NextHop] = []
    for priority in sorted({hop.priority for hop in hops}):
        left = [hop for hop in hops if hop.priority == priority]
        while left:
            (chosen,) = rng.choices(left, [hop.weight or 0.001 for hop in left])
            ordered.append(chosen)
            left.remove(chosen)
    return ordered


def _reachable(address: str, source: str) -> bool:
    return not source or (":" in address) == (":" in source)


def _own_preference(own: Own, records: Sequence[Mx], hosts: Sequence[list[str] | DnsAnswer], port: int) -> int | None:
    """The best preference at which we are listed ourselves (RFC 5321 5.1: hosts from there on are discarded)."""
    for record, found in zip(records, hosts, strict=True):
        if own.is_us(record.host, () if isinstance(found, DnsAnswer) else found, port):
            return record.preference
    return None


def _no_peers(domain: str, faults: list[DnsAnswer], own: bool, implicit: bool) -> Deferred | Failed:
    temporary = next((fault for fault in faults if fault.status is DnsStatus.TEMPORARY), None)
    if temporary is not None:
        return Deferred(temporary.detail, "4.4.3", destination_down=True)
    if own:
        return _loop(domain)
    if implicit:
        return Failed(f"the domain {domain} has neither MX nor address records", "5.1.2")
    return Failed(f"no mail exchanger of {domain} has an address", "5.4.4")


def _loop(domain: str) -> Failed:
    return Failed(f"mail for {domain} leads back to this server", "5.4.6")
