"""DNS for delivery and the verification of senders: MX, A, AAAA, TXT and PTR, with a bounded cache.
Called by next_hop.py and, as `policy.dns.Dns`, by policy/mail_auth; what is not in the cache is asked through dns_question.py.

Invariants: an answer, good or "there is none", is kept for its TTL (bounded below and above); equal questions asked at once are asked
once; at most `parallel` questions are under way. A question has dns.lifetime_seconds. Never raises for a DNS fault: the status says.
"""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from gatepost.config import Settings
from gatepost.policy.dns import DnsAnswer, DnsStatus

if TYPE_CHECKING:
    from gatepost.delivery.dns_question import Questions

MAX_PARALLEL = 64
_LOOPBACK = {"A": "127.0.0.1", "AAAA": "::1"}
"""The addresses of localhost, which is not for the DNS to say (RFC 6761 6.3)."""


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
        self._questions: Questions | None = None

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
        ip = ipaddress.ip_address(address)
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return await self._ask((mapped or ip).reverse_pointer, "PTR")

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
        if key[0].removesuffix(".") == "localhost" and kind in _LOOPBACK:
            return DnsAnswer(DnsStatus.FOUND, addresses=(_LOOPBACK[kind],))
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
            answer, ttl = await self._current().ask(*key)
        if ttl > 0:
            self._cache[key] = (self._clock() + ttl, answer)
            self._cache.move_to_end(key)
            while len(self._cache) > self._settings().dns.cache_size:
                self._cache.popitem(last=False)
        return answer

    def _current(self) -> "Questions":
        wanted = self._settings().dns
        if self._questions is None or self._questions.settings is not wanted:
            from gatepost.delivery.dns_question import Questions  # dnspython: 40 ms, which the start of a worker does not wait for

            self._questions = Questions(wanted)
            self._cache.clear()
        return self._questions
