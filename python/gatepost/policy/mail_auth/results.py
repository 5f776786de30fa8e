"""What was found out about a message, in the words of RFC 8601 2.7. Values only; made by the verifier, read by sessions and the field."""

from dataclasses import dataclass, field
from enum import StrEnum

from gatepost.message.verdict import Answer
from gatepost.routing.stage_facts import AuthFacts

SIGNATURES_TOLD = 4
"""Signatures that the record of a message tells of."""


class Word(StrEnum):
    """policy: verified, but not in a way that is taken for an identity here (a weak key, a part of the body, RFC 8601 2.4)."""

    NONE = "none"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    NEUTRAL = "neutral"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A word, the domain it is about ('' for none) and why, in a few words."""

    word: Word = Word.NONE
    domain: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Spf:
    """Of the envelope sender (of HELO's name under postmaster@ for the null sender, RFC 7208 2.4), and of HELO's name itself."""

    sender: Outcome = Outcome()
    helo: Outcome = Outcome()


@dataclass(frozen=True, slots=True)
class Signed(Outcome):
    """One signature: its domain is `d=`. selector: `s=`; start: the first characters of `b=`, which tell it from others (RFC 6008)."""

    selector: str = ""
    start: str = ""


@dataclass(frozen=True, slots=True)
class Results:
    """All of it. dmarc's domain is that of From; policy: what its owner asks for (none, quarantine, reject), '' without a record."""

    spf: Spf = Spf()
    signatures: tuple[Signed, ...] = ()
    dmarc: Outcome = Outcome()
    policy: str = ""
    ignored: int = field(default=0)
    """Signatures beyond the number that is verified."""

    @property
    def dkim(self) -> Word:
        """The best of all signatures: a broken one says no more than none (RFC 6376 6.1)."""
        return min((one.word for one in self.signatures), key=_RANK.index, default=Word.NONE)

    @property
    def dkim_domains(self) -> list[str]:
        """Who signed, of the signatures that verified."""
        return list(dict.fromkeys(one.domain for one in self.signatures if one.word is Word.PASS))

    def facts(self) -> AuthFacts:
        """For conditions."""
        sender, helo, dmarc = self.spf.sender, self.spf.helo, self.dmarc
        return AuthFacts(
            spf=sender.word.value,
            spf_domain=sender.domain,
            spf_helo=helo.word.value,
            dkim=self.dkim.value,
            dkim_domains=self.dkim_domains,
            dmarc=dmarc.word.value,
            dmarc_domain=dmarc.domain,
            dmarc_policy=self.policy,
        )

    def answers(self) -> tuple[Answer, ...]:
        """For the record of the message, as what three scanners said."""
        made = [Answer("spf", self.spf.sender.word, self.spf.sender.domain)]
        made += [Answer("dkim", one.word, one.domain) for one in self.signatures[:SIGNATURES_TOLD]] or [Answer("dkim", Word.NONE)]
        return (*made, Answer("dmarc", self.dmarc.word, self.dmarc.domain, action=self.policy))


_RANK = [Word.PASS, Word.TEMPERROR, Word.POLICY, Word.FAIL, Word.NEUTRAL, Word.PERMERROR, Word.SOFTFAIL, Word.NONE]
