"""SPF's check_host() (RFC 7208 4). Called by the verifier, within its deadline.

Invariants: at most LOOKUPS terms of a check ask the DNS, VOIDS of them may find nothing, NAMES hosts of an MX or PTR answer are looked at
(RFC 7208 4.6.4); beyond any of these it is a permerror. Never raises; what the DNS does not tell is a temperror.
"""

import ipaddress
from dataclasses import replace

from gatepost.policy.dns import Dns, DnsAnswer, DnsStatus, as_domain
from gatepost.policy.mail_auth.results import Outcome, Word
from gatepost.policy.mail_auth.spf_macros import MacroValues, expanded
from gatepost.policy.mail_auth.spf_record import Mechanism, SpfRecord, SpfSyntax, is_record, parse_record

LOOKUPS = 10
VOIDS = 2
NAMES = 10

_WORDS = {"+": Word.PASS, "-": Word.FAIL, "~": Word.SOFTFAIL, "?": Word.NEUTRAL}
_NOTHING = (DnsStatus.NODATA, DnsStatus.NXDOMAIN)


class _Ended(Exception):
    """The check is over with an error."""

    def __init__(self, word: Word, reason: str) -> None:
        super().__init__(reason)
        self.outcome = word, reason


async def check_host(dns: Dns, client: str, helo: str, sender: str, domain: str) -> Outcome:
    """Whether the client may send for a domain; `sender` is the whole address that the macros speak of."""
    name = as_domain(domain)
    if "." not in name:
        return Outcome(Word.NONE, name, "no domain name")
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return Outcome(Word.NONE, name, "the client has no IP address")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    local, _, of = sender.rpartition("@")
    check = _Check(dns, MacroValues(address, helo, local or "postmaster", of))
    try:
        word = await check.host(name)
    except _Ended as ended:
        word, reason = ended.outcome
        return Outcome(word, name, reason)
    return Outcome(word, name, check.reason)


class _Check:
    """One check, with what it has asked so far."""

    def __init__(self, dns: Dns, values: MacroValues) -> None:
        self.dns = dns
        self.values = values
        self.reason = ""
        self._lookups = self._voids = 0
        self._validated: list[str] | None = None

    async def host(self, domain: str) -> Word:
        """The result for a domain. Raises _Ended."""
        record = await self._record(domain)
        if record is None:
            self.reason = "no record"
            return Word.NONE
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                self.reason = f"{mechanism.name} of {domain}"
                return _WORDS[mechanism.qualifier]
        if not record.redirect:
            self.reason = "nothing matches"
            return Word.NEUTRAL
        self._count()
        found = await self.host(await self._target(record.redirect, domain))
        if found is Word.NONE:
            raise _Ended(Word.PERMERROR, "redirect= to a domain without a record")
        return found

    async def _record(self, domain: str) -> SpfRecord | None:
        answer = await self.dns.txt(domain)
        if answer.status is DnsStatus.TEMPORARY:
            raise _Ended(Word.TEMPERROR, answer.detail)
        found = [text for text in answer.texts if is_record(text)]
        if len(found) > 1:
            raise _Ended(Word.PERMERROR, f"{domain} has {len(found)} SPF records")
        try:
            return parse_record(found[0]) if found else None
        except SpfSyntax as fault:
            raise _Ended(Word.PERMERROR, f"record of {domain}: {fault}") from None

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        match mechanism.name:
            case "all":
                return True
            case "ip4" | "ip6":
                network, client = mechanism.network, self.values.client
                return network is not None and network.version == client.version and client in network
        self._count()
        target = await self._target(mechanism.domain, domain)
        match mechanism.name:
            case "include":
                return await self._include(target)
            case "a":
                return self._within(self._seen(await self.dns.address(target, self.values.client.version)), mechanism)
            case "mx":
                return await self._mx(target, mechanism)
            case "exists":
                return bool(self._seen(await self.dns.address(target, 4)).addresses)
            case _:
                below = f".{target.lower()}"
                return any(f".{name.lower()}".endswith(below) for name in await self._names())

    async def _include(self, target: str) -> bool:
        word = await self.host(target)
        if word is Word.NONE:
            raise _Ended(Word.PERMERROR, f"include of {target}, which has no record")
        return word is Word.PASS

    async def _mx(self, target: str, mechanism: Mechanism) -> bool:
        records = self._seen(await self.dns.mx(target)).mx
        if len(records) > NAMES:
            raise _Ended(Word.PERMERROR, f"{target} has more than {NAMES} mail exchangers")
        for one in sorted(records, key=lambda record: record.preference):
            if one.host and self._within(self._known(await self.dns.address(one.host, self.values.client.version)), mechanism):
                return True
        return False

    def _within(self, answer: DnsAnswer, mechanism: Mechanism) -> bool:
        client = self.values.client
        length = mechanism.length4 if client.version == 4 else mechanism.length6
        return any(client in ipaddress.ip_network(f"{one.partition('%')[0]}/{length}", strict=False) for one in answer.addresses)

    async def _names(self) -> list[str]:
        """The client's names by PTR that point back to it (RFC 7208 5.5); a fault of the DNS is no name."""
        if self._validated is None:
            self._validated = []
            answer = await self.dns.pointers(str(self.values.client))
            if answer.status in _NOTHING:
                self._seen(answer)
            for name in answer.names[:NAMES]:
                found = await self.dns.address(name, self.values.client.version)
                if str(self.values.client) in found.addresses:
                    self._validated.append(name)
        return self._validated

    async def _target(self, text: str, domain: str) -> str:
        """The domain a term speaks of. An impossible one is a name that nobody has."""
        if not text:
            return domain
        if "%{p" in text.lower():
            self.values = replace(self.values, validated=_best(await self._names(), domain))
        return expanded(text, domain, self.values)

    def _count(self) -> None:
        self._lookups += 1
        if self._lookups > LOOKUPS:
            raise _Ended(Word.PERMERROR, f"more than {LOOKUPS} terms ask the DNS")

    def _seen(self, answer: DnsAnswer) -> DnsAnswer:
        """An answer for a term, counted when there was nothing."""
        if answer.status in _NOTHING:
            self._voids += 1
            if self._voids > VOIDS:
                raise _Ended(Word.PERMERROR, f"more than {VOIDS} look-ups find nothing")
        return self._known(answer)

    def _known(self, answer: DnsAnswer) -> DnsAnswer:
        if answer.status is DnsStatus.TEMPORARY:
            raise _Ended(Word.TEMPERROR, answer.detail)
        return answer


def _best(names: list[str], domain: str) -> str:
    """Which name stands for %{p}: the domain itself, one below it, or any (RFC 7208 7.3)."""
    below = [name for name in names if name.endswith(f".{domain}")]
    return domain if domain in names else next(iter(below + names), "unknown")
