"""The trust list: who may relay, by network, user, client certificate and sender; in order, the first entry that fits decides.

Asked by the SMTP and LMTP sessions at MAIL, by the native plain path once per client, by `explain` and by whoever judges a message again.
Pure. Invariants: an entry fits when each kind of thing it names fits; where no entry fits, what came before holds (a login or
trust.networks); a pattern that is none fits nobody. Nothing is checked here: validation is directory/'s.
"""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from re import IGNORECASE
from re import compile as pattern
from typing import TYPE_CHECKING

from gatepost.message.address import AddressError, parse_address

if TYPE_CHECKING:
    from gatepost.routing.model import RuleSet

_ATTRIBUTE = "_trust_list"
NULL_SENDER = "<>"
"""In lists of senders: the null reverse-path."""

Fits = Callable[[str], bool]


class TrustAction(StrEnum):
    """What an entry says of those it fits: they may relay, or they may not, whatever else speaks for them."""

    TRUST = "trust"
    DISTRUST = "distrust"


@dataclass(frozen=True, slots=True)
class TrustEntry:
    """Networks: 'ADDRESS/BITS'. users: 'alice@example.org', '*@example.org' or '*' (whoever has logged in). certificates: 'sha256:HEX' of
    the whole certificate or a pattern of its subject, 'subject:*,O=Example,*'. senders: envelope senders as users, and '<>'.
    """

    action: TrustAction
    name: str
    networks: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """Who is there: IP address ('' for a Unix socket or a program of ours), user logged in, certificate (SHA-256 in hex, subject as
    'CN=a,O=b'), and the envelope sender; None where it is not known yet.
    """

    address: str = ""
    user: str = ""
    fingerprint: str = ""
    subject: str = ""
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class Trust:
    """The answer, and why, as explain says it."""

    trusted: bool
    why: str


class TrustList:
    """Entries made ready for questions."""

    def __init__(self, entries: Iterable[TrustEntry]) -> None:
        self._entries = [(one, _Matcher(one)) for one in entries]
        self.by_sender = any(one.senders for one, _ in self._entries)
        """Whether the envelope sender has a say."""

    def ask(self, client: Client) -> Trust | None:
        """What the first entry that fits says; None when none does."""
        for entry, matcher in self._entries:
            if matcher.fits(client):
                return Trust(entry.action is TrustAction.TRUST, f"trust entry {entry.name!r}: {entry.action}")
        return None

    def open_for(self, client: Client) -> bool:
        """Whether it depends on the sender what this client is told."""
        for entry, matcher in self._entries:
            if matcher.may_fit(client):
                return bool(entry.senders)
        return False


class _Matcher:
    """One entry."""

    def __init__(self, entry: TrustEntry) -> None:
        self._networks = networks_of(entry.networks)
        self._users = addresses_of(entry.users)
        self._certificates = [_certificate(one) for one in entry.certificates]
        self._senders = addresses_of(entry.senders)
        self._entry = entry

    def may_fit(self, client: Client) -> bool:
        """Whatever the sender."""
        entry = self._entry
        return (
            (not entry.networks or in_networks(client.address, self._networks))
            and (not entry.users or (bool(client.user) and self._users(client.user)))
            and (not entry.certificates or any(fits(client) for fits in self._certificates))
        )

    def fits(self, client: Client) -> bool:
        """All that the entry names."""
        if not self.may_fit(client):
            return False
        return not self._entry.senders or (client.sender is not None and self._senders(client.sender))


def trust_list(rule_set: "RuleSet") -> TrustList | None:
    """The rule set's list, made at the first call; None when it has no entries."""
    if not rule_set.trust:
        return None
    found: TrustList | None = rule_set.__dict__.get(_ATTRIBUTE)
    if found is None:
        found = rule_set.__dict__[_ATTRIBUTE] = TrustList(rule_set.trust)  # a cache beside the frozen fields, as routing.index has
    return found


def trust_of(rule_set: "RuleSet", client: Client, otherwise: Trust) -> Trust:
    """May this client relay? `otherwise`: what login and trust.networks say."""
    entries = trust_list(rule_set)
    return (entries.ask(client) if entries is not None else None) or otherwise


# ---- patterns, also of sender rules ------------------------------------------------------------------------------------

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Those that are networks."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def in_networks(client: str, networks: tuple[Network, ...]) -> bool:
    """An IPv4-mapped address counts as IPv4; what is no address is in no network."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    known = (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
    return any(known.version == network.version and known in network for network in networks)


def addresses_of(patterns: Iterable[str]) -> Fits:
    """'alice@example.org', '*@example.org', '*@*.example.org', '*' (any address that is not empty), '<>'."""
    exact = {one.lower() for one in patterns if "*" not in one}
    globs = [pattern(translate(one.lower()), IGNORECASE).match for one in patterns if "*" in one]

    def fits(address: str) -> bool:
        key = address_key(address)
        if key == NULL_SENDER:
            return key in exact
        return key in exact or any(match(key) for match in globs)

    return fits


def address_key(address: str) -> str:
    """In the form that patterns are compared in."""
    if not address:
        return NULL_SENDER
    try:
        return parse_address(address, lenient_dot=True).key
    except AddressError:
        return address.lower()


def _certificate(text: str) -> Callable[[Client], bool]:
    kind, _, value = text.partition(":")
    if kind == "sha256":
        wanted = value.replace(":", "").lower()
        return lambda client: bool(client.fingerprint) and client.fingerprint == wanted
    match = pattern(translate(value), IGNORECASE).match
    return lambda client: bool(client.subject) and match(client.subject) is not None
