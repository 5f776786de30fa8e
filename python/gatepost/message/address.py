"""Mail addresses (RFC 5321 4.1.2, RFC 6531): parse, normalise, compare. Any text in; a value or AddressError out.

Called for every MAIL and RCPT, so plain addresses take a path of one regular expression and one cached domain look-up.
Domains are lower-cased, internationalised labels are kept as U-labels for display and compared as A-labels (`domain_key`).
A trailing dot is refused (RFC 5321 has none) unless `lenient_dot`, which drops it. Local parts keep their case and are never
looked into: a percent hack or bang path stays what it is, an opaque local part. Local lookups fold case (`Address.key`).
"""

import ipaddress
import re
import unicodedata
from functools import lru_cache

from gatepost.message.value import value

MAX_LOCAL_OCTETS = 256
"""RFC 5321 4.5.3.1.1 asks for 64 at least and for no limit where possible; VERP and SRS senders do pass 64."""
MAX_DOMAIN_OCTETS = 255
MAX_ADDRESS_OCTETS = MAX_LOCAL_OCTETS + 1 + MAX_DOMAIN_OCTETS
MAX_LABEL_OCTETS = 63

_ATEXT = r"-A-Za-z0-9!#$%&'*+/=?^_`{|}~"
_PLAIN = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@([A-Za-z0-9_.-]+)\Z")
_DOT_STRING = re.compile(rf"[{_ATEXT}\u0080-\U0010ffff]+(?:\.[{_ATEXT}\u0080-\U0010ffff]+)*\Z")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*)"')
_PAIR = re.compile(r"\\(.)")
_NEEDS_PAIR = re.compile(r'(["\\])')
_DOMAIN_CHARACTERS = re.compile(r"[a-z0-9_.-]+\Z")
_ODD_HYPHEN_OR_DOT = re.compile(r"\.\.|\.-|-\.|\A[.-]|[.-]\Z")
_DOTS = str.maketrans({"\u3002": ".", "\uff0e": ".", "\uff61": "."})
_LABEL_CATEGORIES = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})


class AddressError(ValueError):
    """Not an address; the text is fit for a 501/553 reply."""


@value(frozen=True, slots=True)
class Address:
    """local is unquoted; domain is lower-case, or '[...]' for an address literal."""

    local: str
    domain: str

    def __str__(self) -> str:
        """The address as it goes on the wire, the local part quoted when it has to be."""
        if self.local.isalnum() or _DOT_STRING.match(self.local):
            return f"{self.local}@{self.domain}"
        return f'"{_NEEDS_PAIR.sub(_escape, self.local)}"@{self.domain}'

    @property
    def key(self) -> str:
        """What two spellings of one address have in common: local part folded, domain in A-labels."""
        local = self.local.lower() if self.local.isascii() else unicodedata.normalize("NFC", self.local).lower()
        return f"{local}@{self.domain.lower() if self.domain.isascii() else domain_key(self.domain)}"

    @property
    def is_ascii(self) -> bool:
        """False when SMTPUTF8 is needed to pass this address on (RFC 6531 3.2)."""
        return self.local.isascii() and self.domain.isascii()

    @property
    def is_literal(self) -> bool:
        """True for user@[192.0.2.1] (RFC 5321 4.1.3)."""
        return self.domain.startswith("[")


def parse_address(text: str, *, lenient_dot: bool = False) -> Address:
    """Parse a Mailbox (RFC 5321 4.1.2, RFC 6531 3.3), without angle brackets and source route. Raises AddressError."""
    plain = _PLAIN.match(text)
    if plain and len(text) <= MAX_LABEL_OCTETS * 2:
        return Address(plain[1], parse_domain(plain[2], lenient_dot))
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ADDRESS_OCTETS:
        raise AddressError("address too long")
    local, rest = _split_local(text)
    if not rest.startswith("@"):
        raise AddressError("address has no domain")
    return Address(local, parse_domain(rest[1:], lenient_dot))


def parse_parts(text: str) -> tuple[str, str, str]:
    """Local part, domain and key of what `parse_address` takes with a lenient dot. Raises AddressError.

    For decide(), which asks about an address it has not seen before: a domain of letters, digits, '_' and dots that is no longer than a
    label may be is valid at the first look, and need not be remembered.
    """
    plain = _PLAIN.match(text)
    if plain and len(text) <= MAX_LABEL_OCTETS:
        local, domain = plain.groups()
        if "-" not in domain and ".." not in domain and domain[0] != "." and domain[-1] != ".":
            return local, domain.lower(), text.lower()
    address = parse_address(text, lenient_dot=True)
    return address.local, address.domain, address.key


def _split_local(text: str) -> tuple[str, str]:
    """The unquoted local part, and what follows it."""
    if text.startswith('"'):
        quoted = _QUOTED.match(text)
        if not quoted:
            raise AddressError("quoted local part is not valid")
        local, rest = _PAIR.sub(r"\1", quoted[1]), text[quoted.end() :]
    else:
        local, at, domain = text.rpartition("@")
        if not at:
            raise AddressError("address has no domain")
        if not _DOT_STRING.match(local):
            raise AddressError("local part is not valid")
        rest = at + domain
    _check_text(local)
    if not local:
        raise AddressError("local part is empty")
    if len(local.encode()) > MAX_LOCAL_OCTETS:
        raise AddressError("local part too long")
    return local, rest


def _check_text(text: str) -> None:
    """Refuse C1 controls, surrogates (octets that were not UTF-8) and unassigned code points."""
    if text.isascii():
        return
    if any(unicodedata.category(c) in {"Cc", "Cs", "Cn", "Zl", "Zp"} for c in text):
        raise AddressError("address holds characters that are not allowed")


@lru_cache(maxsize=8192)
def parse_domain(text: str, lenient_dot: bool = False) -> str:
    """Canonical form of a domain: lower-case, U-labels in NFC, or a checked '[literal]'. Raises AddressError."""
    if text.startswith("["):
        return _parse_literal(text)
    domain = text.lower() if text.isascii() else _canonical_unicode(text)
    if lenient_dot and domain.endswith(".") and domain != ".":
        domain = domain[:-1]
    ascii_form = domain if domain.isascii() else _to_ascii(domain)
    if not _DOMAIN_CHARACTERS.match(ascii_form) or _ODD_HYPHEN_OR_DOT.search(ascii_form):
        raise AddressError("domain is not valid")
    if len(ascii_form) > MAX_DOMAIN_OCTETS or max(map(len, ascii_form.split("."))) > MAX_LABEL_OCTETS:
        raise AddressError("domain too long")
    return domain


@lru_cache(maxsize=8192)
def domain_key(domain: str) -> str:
    """Lower-case A-label form for comparing. Text that is no valid domain (a rule key such as '*') comes back lower-cased."""
    if domain.isascii():
        return domain.lower()
    try:
        return _to_ascii(_canonical_unicode(domain))
    except AddressError:
        return domain.lower()


def _canonical_unicode(text: str) -> str:
    """RFC 5895 mapping: dots, compatibility forms and case folded away, then NFC."""
    if len(text) > MAX_DOMAIN_OCTETS:
        raise AddressError("domain too long")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text.translate(_DOTS).lower()).lower())


def _to_ascii(domain: str) -> str:
    """U-labels to A-labels by RFC 5891 4 (no IDNA 2003 mapping: that one would send mail for a sharp s to 'ss')."""
    return ".".join(label if label.isascii() else _label_to_ascii(label) for label in domain.split("."))


def _label_to_ascii(label: str) -> str:
    if unicodedata.category(label[0]).startswith("M") or label[2:4] == "--":
        raise AddressError("domain is not valid")
    if any(c != "-" and c != "\u00b7" and unicodedata.category(c) not in _LABEL_CATEGORIES for c in label):
        raise AddressError("domain holds characters that are not allowed")
    return "xn--" + label.encode("punycode").decode("ascii")


def _parse_literal(text: str) -> str:
    """RFC 5321 4.1.3: IPv4 and IPv6 literals only; no other tag is registered."""
    if not text.endswith("]"):
        raise AddressError("address literal is not valid")
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(_without_zone(inner[5:]))}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError("address literal is not valid") from None


def _without_zone(text: str) -> str:
    if "%" in text:
        raise AddressError("address literal is not valid")
    return text


def _escape(match: re.Match[str]) -> str:
    return "\\" + match[1]
