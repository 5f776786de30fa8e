"""Macros in SPF records (RFC 7208 7): macro-string → domain. Called by spf.py on what the grammar took. Pure. Does not fail."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote

from gatepost.policy.dns import NAME_MAX

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MACRO = re.compile(r"%(?:\{([A-Za-z])([0-9]*)(r?)([.\-+,/_=]*)\}|([%_-]))", re.IGNORECASE)
_PLAIN = {"%": "%", "_": " ", "-": "%20"}


@dataclass(frozen=True, slots=True)
class MacroValues:
    """client: the IP address. local, sender_domain: of the sender. validated: the client's name by PTR, 'unknown' when there is none."""

    client: Address
    helo: str
    local: str
    sender_domain: str
    validated: str = "unknown"

    def of(self, letter: str, domain: str) -> str:
        """The value of a macro letter (RFC 7208 7.2)."""
        match letter:
            case "s":
                return f"{self.local}@{self.sender_domain}"
            case "l":
                return self.local
            case "o":
                return self.sender_domain
            case "d":
                return domain
            case "i":
                return str(self.client) if self.client.version == 4 else ".".join(f"{int(self.client):032x}")
            case "v":
                return "in-addr" if self.client.version == 4 else "ip6"
            case "h":
                return self.helo
            case _:
                return self.validated


def expanded(text: str, domain: str, values: MacroValues) -> str:
    """A domain-spec with its macros expanded; labels are cut from the left until it has the length of a name (RFC 7208 7.3)."""

    def one(found: re.Match[str]) -> str:
        letter, digits, reverse, delimiters, plain = found.groups()
        if plain:
            return _PLAIN[plain]
        value = _transformed(values.of(letter.lower(), domain), digits, bool(reverse), delimiters)
        return quote(value, safe="") if letter.isupper() else value

    name = _MACRO.sub(one, text).removesuffix(".")
    while len(name) > NAME_MAX and "." in name:
        name = name.partition(".")[2]
    return name


def _transformed(value: str, digits: str, reverse: bool, delimiters: str) -> str:
    if not (digits or reverse or delimiters):
        return value
    parts = re.split("[" + re.escape(delimiters or ".") + "]", value)
    if reverse:
        parts.reverse()
    count = int(digits[:4]) if digits else 0
    return ".".join(parts[-count:] if count else parts)
