"""What the DNS says, as values, and the interface of who is asked. Made by delivery/resolver.py; read there and by mail_auth.

No I/O here. Invariant: an answer is never an exception; `status` says what kind of answer it is.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

LABEL_MAX = 63
NAME_MAX = 253


class DnsStatus(StrEnum):
    """found; nodata: the name exists without such a record; nxdomain; temporary: nobody knows (SERVFAIL, timeout)."""

    FOUND = "found"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"
    TEMPORARY = "temporary"


@dataclass(frozen=True, slots=True)
class Mx:
    """One MX record; host '' is the null MX (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class DnsAnswer:
    """What was asked for: Mx values, address texts, octets of TXT records or names. `detail` says what went wrong if it is TEMPORARY."""

    status: DnsStatus
    mx: tuple[Mx, ...] = ()
    addresses: tuple[str, ...] = ()
    texts: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    detail: str = ""


class Dns(Protocol):
    """Who is asked. No method raises for a fault of the DNS."""

    async def txt(self, name: str) -> DnsAnswer:
        """TXT records, each with its strings joined (RFC 7208 3.3)."""

    async def mx(self, domain: str) -> DnsAnswer:
        """MX records, unsorted."""

    async def address(self, host: str, version: int) -> DnsAnswer:
        """A records for version 4, AAAA records for 6."""

    async def pointers(self, address: str) -> DnsAnswer:
        """The names an IP address points to (PTR)."""


def as_domain(text: str) -> str:
    """A domain in the form it is asked for and compared in: A-labels, lower case, no dot at the end; '' when it is none."""
    name = text.strip().removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    labels = name.split(".")
    if len(name) > NAME_MAX or not all(0 < len(label) <= LABEL_MAX for label in labels):
        return ""
    return name if all("!" <= char <= "~" for char in name) else ""
