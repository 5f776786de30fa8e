"""The grammar of SPF records (RFC 7208 4.5, 5, 6, 12): text → terms. Called by spf.py. Pure. Raises SpfSyntax, which is a permerror."""

import ipaddress
import re
from dataclasses import dataclass

VERSION = "v=spf1"
TERMS_MAX = 200
"""Terms of one record: far more than ten of them cannot be of use."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)\Z")
_DIRECTIVE = re.compile(r"([+?~-]?)([A-Za-z0-9]+)(.*)\Z")
_LENGTHS = re.compile(r"(.*?)(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z")
_EXPAND = r"%\{[slodiphv](?:0*[1-9][0-9]*)?r?[.\-+,/_=]*\}|%%|%_|%-"
_MACRO_STRING = re.compile(rf"(?:{_EXPAND}|[!-$&-~])*\Z", re.IGNORECASE)
_EXPLAIN_STRING = re.compile(rf"(?:{_EXPAND.replace('slodiphv', 'slodiphvcrt')}|[!-$&-~])*\Z", re.IGNORECASE)
_DOMAIN_END = re.compile(r"(?:%\{[^}]*\}|\.(?=[A-Za-z0-9-]*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?)\Z")


class SpfSyntax(Exception):
    """The record breaks the grammar."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """qualifier: one of + - ~ ?. domain: a macro-string, '' for the current domain. network: of ip4 and ip6."""

    qualifier: str
    name: str
    domain: str = ""
    network: Network | None = None
    length4: int = 32
    length6: int = 128


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """Mechanisms in order; redirect: a macro-string, '' for none."""

    mechanisms: tuple[Mechanism, ...]
    redirect: str = ""


def is_record(text: bytes) -> bool:
    """Whether a TXT record is one of SPF (RFC 7208 4.5)."""
    return text[:6].lower() == VERSION.encode() and text[6:7] in (b"", b" ")


def parse_record(octets: bytes) -> SpfRecord:
    """Raises SpfSyntax."""
    if not octets.isascii():
        raise SpfSyntax("octets that are no ASCII")
    terms = octets.decode().split(" ")[1:]
    if len(terms) > TERMS_MAX:
        raise SpfSyntax(f"more than {TERMS_MAX} terms")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in filter(None, terms):
        found = _MODIFIER.match(term)
        if found is None:
            mechanisms.append(_mechanism(term))
            continue
        _check_modifier(found[1].lower(), found[2], modifiers)
    return SpfRecord(tuple(mechanisms), modifiers.get("redirect", ""))


def _check_modifier(name: str, value: str, known: dict[str, str]) -> None:
    if name in ("redirect", "exp"):
        if name in known:
            raise SpfSyntax(f"{name}= twice")
        known[name] = _domain_spec(value)
    elif not _EXPLAIN_STRING.match(value):
        raise SpfSyntax(f"{name}= is no macro-string")


def _mechanism(term: str) -> Mechanism:
    found = _DIRECTIVE.match(term)
    if found is None:
        raise SpfSyntax(f"{term!r:.40} is no term")
    qualifier, name, rest = found[1] or "+", found[2].lower(), found[3]
    if name == "all" and not rest:
        return Mechanism(qualifier, name)
    if name in ("ip4", "ip6"):
        return Mechanism(qualifier, name, network=_network(name, rest))
    if name in ("include", "exists") and rest.startswith(":"):
        return Mechanism(qualifier, name, _domain_spec(rest[1:]))
    if name == "ptr" and (not rest or rest.startswith(":")):
        return Mechanism(qualifier, name, _domain_spec(rest[1:]) if rest else "")
    if name in ("a", "mx"):
        return _with_lengths(qualifier, name, rest)
    raise SpfSyntax(f"{term!r:.40} is no mechanism")


def _with_lengths(qualifier: str, name: str, rest: str) -> Mechanism:
    found = _LENGTHS.match(rest)
    assert found is not None  # it matches everything
    domain, length4, length6 = found[1], int(found[2] or 32), int(found[3] or 128)
    if length4 > 32 or length6 > 128 or (domain and not domain.startswith(":")):
        raise SpfSyntax(f"{name}{rest!r:.40} is no mechanism")
    return Mechanism(qualifier, name, _domain_spec(domain[1:]) if domain else "", None, length4, length6)


def _network(name: str, rest: str) -> Network:
    address, slash, length = rest[1:].partition("/")
    kind: type[Network] = ipaddress.IPv4Network if name == "ip4" else ipaddress.IPv6Network
    if not rest.startswith(":") or "%" in address or (slash and not re.fullmatch(r"0|[1-9][0-9]{0,2}", length)):
        raise SpfSyntax(f"{name}{rest!r:.60} is no network")
    try:
        return kind(f"{address}/{length}" if slash else address, strict=False)
    except ValueError:
        raise SpfSyntax(f"{name}{rest!r:.60} is no network") from None


def _domain_spec(text: str) -> str:
    if not _MACRO_STRING.match(text) or not _DOMAIN_END.search(text):
        raise SpfSyntax(f"{text!r:.60} is no domain-spec")
    return text
