"""DMARC (RFC 9989): whether SPF or DKIM speak for the domain in From, and what its owner asks for. Called by the verifier.

The organizational domain is found by walking up the DNS (4.10), so there is no list of public suffixes. Invariants: a walk asks WALK names,
and there are at most 2 + DOMAINS walks. Never raises; what the DNS does not tell is a temperror.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import getaddresses

from gatepost.message.fields import HeaderView
from gatepost.policy.dns import Dns, DnsStatus, as_domain
from gatepost.policy.mail_auth.results import Outcome, Signed, Spf, Word
from gatepost.policy.mail_auth.tags import TagFault, tags_of

WALK = 8
DOMAINS = 5
"""Domains of signatures whose organizational domain is looked for."""
POLICIES = ("none", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Record:
    """sub: for domains below; missing: for those that do not exist. psd: 'y', 'n' or 'u'. strict_*: alignment."""

    policy: str
    sub: str
    missing: str
    psd: str = "u"
    strict_dkim: bool = False
    strict_spf: bool = False
    testing: bool = False


class _Temporary(Exception):
    """The DNS gave no answer."""


def record_of(text: bytes) -> Record | None:
    """None for what is no DMARC record (4.7)."""
    try:
        tags = {name.lower(): value for name, value in tags_of(text).items()}
    except TagFault:
        return None
    if next(iter(tags), "") != "v" or tags["v"] != "DMARC1":
        return None
    given = {name: tags.get(name, "").lower() for name in ("p", "sp", "np", "psd", "adkim", "aspf", "t")}
    policy = given["p"] if given["p"] in POLICIES else "none"  # 4.7: as if it asked for nothing but reports
    sub = given["sp"] if given["sp"] in POLICIES else policy
    missing = given["np"] if given["np"] in POLICIES else sub
    psd = given["psd"] if given["psd"] in ("y", "n") else "u"
    return Record(policy, sub, missing, psd, given["adkim"] == "s", given["aspf"] == "s", given["t"] == "y")


def author_domain(header: bytes) -> str:
    """The domain in From; '' unless there is exactly one (RFC 9989 5.3.1 leaves such mail to others)."""
    values = HeaderView(header).raw("from")
    if len(values) != 1:
        return ""
    addresses = [address for _, address in getaddresses([values[0].decode("utf-8", "replace")]) if address]
    domains = {as_domain(address.rpartition("@")[2]) if "@" in address else "" for address in addresses}
    return domains.pop() if len(domains) == 1 else ""


async def evaluate(dns: Dns, header: bytes, spf: Spf, signatures: Sequence[Signed]) -> tuple[Outcome, str]:
    """The outcome, and the policy that its owner asks for ('' without a record)."""
    domain = author_domain(header)
    if not domain:
        return Outcome(Word.PERMERROR, "", "no single domain in From"), ""
    try:
        return await _Evaluation(dns, domain).result(spf, signatures)
    except _Temporary as fault:
        return Outcome(Word.TEMPERROR, domain, str(fault)), ""


class _Evaluation:
    """Of one message."""

    def __init__(self, dns: Dns, domain: str) -> None:
        self._dns = dns
        self._domain = domain
        self._organizations: dict[str, str] = {}

    async def result(self, spf: Spf, signatures: Sequence[Signed]) -> tuple[Outcome, str]:
        """Raises _Temporary."""
        found = await self._walk(self._domain)
        own = _organization(found, self._domain)
        self._organizations[self._domain] = own
        record = found.get(self._domain) or found.get(own) or next(reversed(found.values()), None)
        if record is None:
            return Outcome(Word.NONE, self._domain, "no record"), ""
        policy = await self._policy(record, exact=self._domain in found)
        if spf.sender.word is Word.PASS and await self._aligned(spf.sender.domain, strict=record.strict_spf):
            return Outcome(Word.PASS, self._domain, "by SPF"), policy
        signed = list(dict.fromkeys(one.domain for one in signatures if one.word is Word.PASS))
        for one in sorted(signed, key=lambda name: name != self._domain)[:DOMAINS]:
            if await self._aligned(one, strict=record.strict_dkim):
                return Outcome(Word.PASS, self._domain, "by DKIM"), policy
        unknown = [spf.sender, *signatures]
        if any(one.word is Word.TEMPERROR and self._related(one.domain) for one in unknown):
            return Outcome(Word.TEMPERROR, self._domain, "SPF or DKIM could not be worked out"), policy
        return Outcome(Word.FAIL, self._domain, "neither SPF nor DKIM speak for it"), policy

    async def _policy(self, record: Record, *, exact: bool) -> str:
        policy = record.policy
        if not exact:
            exists = record.missing == record.sub or await self._exists()
            policy = record.sub if exists else record.missing
        if record.testing:  # 4.7: one step less
            policy = POLICIES[max(0, POLICIES.index(policy) - 1)]
        return policy

    async def _exists(self) -> bool:
        answer = await self._dns.address(self._domain, 4)
        return answer.status is not DnsStatus.NXDOMAIN

    async def _aligned(self, domain: str, *, strict: bool) -> bool:
        """Identifier alignment (5.5.1)."""
        if domain == self._domain:
            return True
        if strict or not self._related(domain):
            return False
        if domain not in self._organizations:
            self._organizations[domain] = _organization(await self._walk(domain), domain)
        return self._organizations[domain] == self._organizations[self._domain]

    def _related(self, domain: str) -> bool:
        """Whether a domain may have the same organizational domain."""
        own = self._organizations[self._domain]
        return domain == own or domain.endswith(f".{own}")

    async def _walk(self, domain: str) -> dict[str, Record]:
        """The records from a domain upwards (4.10), nearest first."""
        found: dict[str, Record] = {}
        for name in _steps(domain):
            answer = await self._dns.txt(f"_dmarc.{name}")
            if answer.status is DnsStatus.TEMPORARY:
                raise _Temporary(answer.detail)
            records = [record for text in answer.texts if (record := record_of(text)) is not None]
            if len(records) == 1:  # several are as good as none
                found[name] = records[0]
                if records[0].psd != "u":
                    break
        return found


def _steps(domain: str) -> list[str]:
    """The names that a walk asks: the domain, and those above it, at most WALK (4.10)."""
    labels = domain.split(".")
    above = [labels[n:] for n in range(1, len(labels))]
    kept = above[-(WALK - 1) :] if len(labels) > WALK else above
    return [".".join(one) for one in [labels, *kept]]


def _organization(found: dict[str, Record], domain: str) -> str:
    """The organizational domain (4.10.2)."""
    for name, record in found.items():
        if record.psd == "n":
            return name
        if record.psd == "y" and name != domain:
            labels = domain.split(".")
            return ".".join(labels[-(name.count(".") + 2) :])
    return min(found, key=lambda name: name.count("."), default=domain)
