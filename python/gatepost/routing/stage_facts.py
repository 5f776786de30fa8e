"""What the conditions of stage policies see: client, addresses, route, message, verdicts, rates, attempt.

Filled by whoever asks (sessions, explain, the queue), read by the programs of routing.stages. Plain values; what is not known where a
condition is asked is UNKNOWN, and naming it raises NotKnown, which makes the condition unanswerable unless another part decides.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gatepost.expression import EvaluationError
from gatepost.message.address import AddressError, parse_parts
from gatepost.message.verdict import Verdict


@dataclass(slots=True)
class ClientFacts:
    """Who is connected."""

    address: str = ""
    listener: str = ""
    user: str = ""
    tls: bool = False
    trusted: bool = False
    helo: str = ""
    certificate: str = ""
    """Subject, RFC 4514."""


class NotKnown(EvaluationError):
    """The condition has an answer, but not from what is known where it is asked."""


class PartlyKnown:
    """A client of whom some things are not known (HELO, or what was not asked): as ClientFacts, but naming one of those has no answer."""

    def __init__(self, **known: object) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        raise NotKnown(f"{name} is not known here")


class AddressFacts:
    """An address, its parts in the form they are compared in."""

    __slots__ = ("address", "domain", "local")

    def __init__(self, text: str) -> None:
        try:
            self.address = parse_parts(text)[2]
        except AddressError:
            self.address = text.lower()
        self.local, _, self.domain = self.address.rpartition("@")


@dataclass(slots=True)
class RouteFacts:
    """Where a recipient goes: kind of route and next hop ('' by MX) of the first, and how many."""

    kind: str = ""
    host: str = ""
    count: int = 0


@dataclass(slots=True)
class MessageFacts:
    """A received message."""

    size: int = 0
    recipients: Sequence[str] = ()
    header: Callable[[str], Sequence[str]] = lambda _: ()


@dataclass(slots=True)
class ScanFacts:
    """What the gate decided; action '' when it was not looked into."""

    action: str = ""
    policy: str = ""
    rule: str = ""
    score: float = 0.0


def scan_facts(verdict: Verdict | None) -> ScanFacts:
    """What the gate decided, for conditions."""
    if verdict is None:
        return ScanFacts()
    score = max((one.score for one in verdict.answers), default=0.0)
    return ScanFacts(verdict.action.value, verdict.policy, verdict.rule, score)


@dataclass(slots=True)
class AuthFacts:
    """Whether a message comes from where it says, in the words of RFC 8601; 'none' when nothing was verified. See policy/mail_auth."""

    spf: str = "none"
    spf_domain: str = ""
    spf_helo: str = "none"
    dkim: str = "none"
    dkim_domains: Sequence[str] = ()
    dmarc: str = "none"
    dmarc_domain: str = ""
    dmarc_policy: str = ""


NOT_VERIFIED = AuthFacts()
"""Of trusted senders, and wherever nothing is verified."""


def auth_facts(verdict: Verdict | None) -> AuthFacts:
    """What was verified at reception, as the record of a message keeps it."""
    made, signed = AuthFacts(), []
    for one in verdict.answers if verdict is not None else ():
        match one.scanner:
            case "spf":
                made.spf, made.spf_domain = one.outcome, one.name
            case "dmarc":
                made.dmarc, made.dmarc_domain, made.dmarc_policy = one.outcome, one.name, one.action
            case "dkim":
                made.dkim = "pass" if "pass" in (one.outcome, made.dkim) else one.outcome
                signed += [one.name] if one.outcome == "pass" else []
    made.dkim_domains = tuple(dict.fromkeys(signed))
    return made


@dataclass(slots=True)
class RateFacts:
    """Of this session so far: messages taken, recipients refused. count(by, seconds): of all sessions of this machine, see `Rates`."""

    messages: int = 0
    refused: int = 0
    count: Callable[[str, int], int] = lambda by, _: uncounted(by)


def uncounted(by: str) -> int:
    """A count that nobody has."""
    raise NotKnown(f"rate.{by} is not known here")


@dataclass(slots=True)
class AttemptFacts:
    """An attempt to deliver: which one it is for the recipient (from 1), seconds since the message came, and where it leads."""

    number: int = 1
    age: int = 0
    destination: str = ""


class _Time:
    """Read when asked, in UTC."""

    @property
    def now(self) -> int:
        return int(time.time())

    @property
    def hour(self) -> int:
        return time.gmtime().tm_hour

    @property
    def weekday(self) -> int:
        return time.gmtime().tm_wday + 1


class _Unknown:
    """Of something that is not known: no field has a value."""

    def __getattr__(self, name: str) -> Any:
        raise NotKnown(f"{name} is not known here")


UNKNOWN: Any = _Unknown()
TIME = _Time()


@dataclass(slots=True)
class Facts:
    """All that a condition may name. What a stage does not know yet is UNKNOWN."""

    client: Any = UNKNOWN
    sender: Any = UNKNOWN
    recipient: Any = UNKNOWN
    route: Any = UNKNOWN
    message: Any = UNKNOWN
    scan: Any = UNKNOWN
    time: Any = TIME
    rate: Any = UNKNOWN
    attempt: Any = UNKNOWN
    auth: Any = UNKNOWN

    def values(self) -> tuple[Any, ...]:
        """In the order of the environment."""
        return self.client, self.sender, self.recipient, self.route, self.message, self.scan, self.time, self.rate, self.attempt, self.auth
