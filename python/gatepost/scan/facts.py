"""What is known of a message besides its content: who sends, to whom, from where. Made by reception and by the dry run, read by `judge`.

Frozen values, no I/O. Invariant: reception and rehearsal make the same facts of the same session, so that both come to the same verdict.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from gatepost.message.address import AddressError, parse_address
from gatepost.routing.index import index_of
from gatepost.routing.model import RuleKind, RuleSet


class Direction(StrEnum):
    """Which way a message goes."""

    INBOUND = "inbound"
    """From a sender that is not trusted."""
    OUTBOUND = "outbound"
    """From a trusted sender, to somebody elsewhere at least."""
    INTERNAL = "internal"
    """From a trusted sender, to domains of ours only."""


def _no_header(_name: str) -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class MailFacts:
    """Envelope and session of one message. `recipients` are the envelope's, each once, as RCPT named them."""

    sender: str
    """The reverse-path; '' is the null one."""
    recipients: tuple[str, ...]
    direction: Direction = Direction.INBOUND
    trusted: bool = False
    client_address: str = ""
    helo: str = ""
    user: str = ""
    size: int = 0
    """Octets of the message."""
    replies_each: bool = False
    """The client hears of each recipient by itself (LMTP), so that one may be refused and another not."""
    header: Callable[[str], Sequence[str]] = field(default=_no_header, compare=False)
    """Values of the fields of a name, decoded and unfolded, first to last. Called only if a rule asks."""


def direction_of(rule_set: RuleSet, recipients: Iterable[str], *, trusted: bool) -> Direction:
    """Untrusted is inbound, whatever its recipients; else it depends on whether all of them are ours."""
    if not trusted:
        return Direction.INBOUND
    return Direction.INTERNAL if all(is_ours(rule_set, one) for one in recipients) else Direction.OUTBOUND


def is_ours(rule_set: RuleSet, address: str) -> bool:
    """Whether a rule of our own decides the domain: one that names it and does more than pass on to its mail exchangers."""
    if "@" not in address:
        return True  # postmaster without a domain (RFC 5321 4.5.1)
    try:
        parsed = parse_address(address, lenient_dot=True)
    except AddressError:
        return False
    rule = None if parsed.is_literal else index_of(rule_set).rule_for(parsed.key.rpartition("@")[2])
    return rule is not None and rule.domain != "*" and rule.kind is not RuleKind.MX
