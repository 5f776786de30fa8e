"""Mail addresses (RFC 5321 4.1.2, RFC 6531): parse, normalise, compare. Any text in; a value or AddressError out.

Domains are lower-cased, a trailing dot is refused by the parser (RFC 5321 has none) unless `lenient_dot`, internationalised
labels are kept as U-labels for display and compared as A-labels. Local parts keep their case; local lookups fold it.
"""

from dataclasses import dataclass


class AddressError(ValueError):
    """Not an address; the text is fit for a 501/553 reply."""


@dataclass(frozen=True, slots=True)
class Address:
    """local is unquoted; domain is lower-case, or '[...]' for an address literal."""

    local: str
    domain: str

    def __str__(self) -> str:
        """The address as it goes on the wire, the local part quoted when it has to be."""
        return f"{self.local}@{self.domain}"
