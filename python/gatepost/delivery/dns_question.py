"""One question to the DNS over dnspython's asyncio resolver, and its answer as ours. Asked by resolver.py alone, which keeps the answers.

A module of its own because dnspython takes long to import: a worker listens before it is there (app/behind.py).
Invariants: of an answer TEXT_MAX octets of text and MAX_RECORDS records are kept. Never raises for a DNS fault: the status says.
"""

from collections.abc import Iterable

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.resolver

from gatepost.config.settings import Dns
from gatepost.policy.dns import DnsAnswer, DnsStatus, Mx

MAX_TTL = 86_400.0
MAX_NEGATIVE_TTL = 300.0
DEFAULT_NEGATIVE_TTL = 60.0
MAX_RECORDS = 64
TEXT_MAX = 16_384
"""Octets of the TXT records of one name: a domain that has more keeps its first ones."""


class Questions:
    """Asks as `settings` say: which servers, how long."""

    def __init__(self, settings: Dns) -> None:
        self.settings = settings
        resolver = dns.asyncresolver.Resolver(configure=not settings.nameservers)
        if settings.nameservers:
            resolver.nameservers = [str(address) for address in settings.nameservers]
            resolver.port = settings.port
        resolver.timeout = settings.timeout_seconds
        resolver.lifetime = settings.lifetime_seconds
        resolver.use_edns(0, 0, 1232)
        self._resolver = resolver

    async def ask(self, name: str, kind: str) -> tuple[DnsAnswer, float]:
        """The answer and how long to keep it, in seconds."""
        try:
            question = dns.name.from_text(name).canonicalize() if name else dns.name.root
            answer = await self._resolver.resolve(question, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            return DnsAnswer(DnsStatus.NXDOMAIN), _negative_ttl(_response(error))
        except (dns.exception.DNSException, UnicodeError, OSError) as error:
            if isinstance(error, dns.name.LabelTooLong | dns.name.NameTooLong | dns.name.EmptyLabel | UnicodeError):
                return DnsAnswer(DnsStatus.NXDOMAIN, detail=str(error)), MAX_NEGATIVE_TTL  # such a name cannot exist
            return DnsAnswer(DnsStatus.TEMPORARY, detail=_fault(error, name, kind)), 0.0
        if answer.rrset is None:
            return DnsAnswer(DnsStatus.NODATA), _negative_ttl(answer.response)
        return _found(answer, kind), min(float(answer.rrset.ttl), MAX_TTL)


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
