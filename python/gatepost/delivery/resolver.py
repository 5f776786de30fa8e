"""DNS for delivery and the verification of senders: MX, A, AAAA, TXT and PTR over dnspython's asyncio resolver, with a bounded cache.
Called by next_hop.py and, as `policy.dns.Dns`, by policy/mail_auth.

Invariants: an answer, good or "there is none", is kept for its TTL (bounded below and above); equal questions asked at once are asked
once; at most `parallel` questions are under way; of an answer TEXT_MAX octets of text are kept. A question has
dns.lifetime_seconds. Never raises for a DNS fault: the status says.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver
import dns.reversename

from gatepost.config import Settings
from gatepost.policy.dns import DnsAnswer, DnsStatus, Mx

MAX_PARALLEL = 64
MAX_TTL = 86_400.0
MAX_NEGATIVE_TTL = 300.0
DEFAULT_NEGATIVE_TTL = 60.0
MAX_RECORDS = 64
TEXT_MAX = 16_384
"""Octets of the TXT records of one name: a domain that has more keeps its first ones."""


class Resolver:
    """One per worker. `settings` is asked at each look-up, so that a reload takes effect."""

    def __init__(
        self, settings: Callable[[], Settings], clock: Callable[[], float] = time.monotonic, *, parallel: int = MAX_PARALLEL
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._cache: OrderedDict[tuple[str, str], tuple[float, DnsAnswer]] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[DnsAnswer]] = {}
        self._parallel = asyncio.Semaphore(parallel)
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._made_for: object = None

    async def mx(self, domain: str) -> DnsAnswer:
        """The MX records of an A-label domain, unsorted."""
        return await self._ask(domain, "MX")

    async def addresses(self, host: str) -> tuple[DnsAnswer, DnsAnswer]:
        """The A and the AAAA answer of a host, asked side by side."""
        both = await asyncio.gather(self._ask(host, "A"), self._ask(host, "AAAA"))
        return both[0], both[1]

    async def address(self, host: str, version: int) -> DnsAnswer:
        """The A (4) or AAAA (6) answer of a host."""
        return await self._ask(host, "A" if version == 4 else "AAAA")

    async def txt(self, name: str) -> DnsAnswer:
        """The TXT records of a name, each with its strings joined."""
        return await self._ask(name, "TXT")

    async def pointers(self, address: str) -> DnsAnswer:
        """The names that an IP address points to."""
        return await self._ask(dns.reversename.from_address(address).to_text(omit_final_dot=True), "PTR")

    def clear(self) -> None:
        """Forget the cache."""
        self._cache.clear()

    async def close(self) -> None:
        """Give up the questions under way."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask(self, name: str, kind: str) -> DnsAnswer:
        key = (name.lower(), kind)
        kept = self._cache.get(key)
        if kept is not None and kept[0] > self._clock():
            self._cache.move_to_end(key)
            return kept[1]
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key))
            self._asking[key] = task
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _fetch(self, key: tuple[str, str]) -> DnsAnswer:
        async with self._parallel:
            answer, ttl = await self._query(*key)
        if ttl > 0:
            self._cache[key] = (self._clock() + ttl, answer)
            self._cache.move_to_end(key)
            while len(self._cache) > self._settings().dns.cache_size:
                self._cache.popitem(last=False)
        return answer

    async def _query(self, name: str, kind: str) -> tuple[DnsAnswer, float]:
        """The answer and how long to keep it, in seconds."""
        try:
            question = dns.name.from_text(name).canonicalize() if name else dns.name.root
            answer = await self._current().resolve(question, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            return DnsAnswer(DnsStatus.NXDOMAIN), _negative_ttl(_response(error))
        except (dns.exception.DNSException, UnicodeError, OSError) as error:
            if isinstance(error, dns.name.LabelTooLong | dns.name.NameTooLong | dns.name.EmptyLabel | UnicodeError):
                return DnsAnswer(DnsStatus.NXDOMAIN, detail=str(error)), MAX_NEGATIVE_TTL  # such a name cannot exist
            return DnsAnswer(DnsStatus.TEMPORARY, detail=_fault(error, name, kind)), 0.0
        if answer.rrset is None:
            return DnsAnswer(DnsStatus.NODATA), _negative_ttl(answer.response)
        return _found(answer, kind), min(float(answer.rrset.ttl), MAX_TTL)

    def _current(self) -> dns.asyncresolver.Resolver:
        wanted = self._settings().dns
        if self._resolver is None or self._made_for is not wanted:
            resolver = dns.asyncresolver.Resolver(configure=not wanted.nameservers)
            if wanted.nameservers:
                resolver.nameservers = [str(address) for address in wanted.nameservers]
                resolver.port = wanted.port
            resolver.timeout = wanted.timeout_seconds
            resolver.lifetime = wanted.lifetime_seconds
            resolver.use_edns(0, 0, 1232)
            self._resolver, self._made_for = resolver, wanted
            self._cache.clear()
        return self._resolver


def _found(answer: dns.resolver.Answer, kind: str) -> DnsAnswer:
    records = list(answer)[:MAX_RECORDS]
    if kind == "MX":
        return DnsAnswer(DnsStatus.FOUND, mx=tuple(Mx(int(one.preference), _host(one.exchange)) for one in records))
    if kind == "TXT":
        return DnsAnswer(DnsStatus.FOUND, texts=_texts(b"".join(one.strings) for one in answer))
    if kind == "PTR":
        return DnsAnswer(DnsStatus.FOUND, names=tuple(_host(one.target) for one in records))
    return DnsAnswer(DnsStatus.FOUND, addresses=tuple(str(one.address) for one in records))


def _texts(texts: Iterable[bytes]) -> tuple[bytes, ...]:
    """As many as there is room for."""
    kept, octets = [], 0
    for text in texts:
        octets += len(text)
        if octets > TEXT_MAX:
            break
        kept.append(text)
    return tuple(kept)


def _host(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _response(error: dns.resolver.NXDOMAIN) -> dns.message.Message | None:
    responses = error.kwargs.get("responses", {})
    return next(iter(responses.values()), None)


def _negative_ttl(response: dns.message.Message | None) -> float:
    """RFC 2308 5: the lesser of the SOA's TTL and its MINIMUM, bounded."""
    for rrset in response.authority if response is not None else ():
        if rrset.rdtype == dns.rdatatype.SOA:
            return min(float(rrset.ttl), float(rrset[0].minimum), MAX_NEGATIVE_TTL)
    return DEFAULT_NEGATIVE_TTL


def _fault(error: Exception, name: str, kind: str) -> str:
    what = "timed out" if isinstance(error, dns.exception.Timeout) else "no usable answer (SERVFAIL or refused)"
    if not isinstance(error, dns.exception.Timeout | dns.resolver.NoNameservers):
        what = str(error) or type(error).__name__
    return f"DNS look-up of {name} {kind}: {what}"
