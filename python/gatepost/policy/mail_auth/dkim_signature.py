"""What a DKIM-Signature field says (RFC 6376 3.5) and what a key record says (3.6.1). Pure. Raises TagFault, which makes a signature
neutral or its key a permerror.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gatepost.message.fields import FieldPlace
from gatepost.policy.dns import as_domain
from gatepost.policy.mail_auth.tags import TagFault, number_of, octets_of, tags_of, words_of

NAME = "dkim-signature"
FIELDS_MAX = 1_000
"""Names in `h=`."""

_SIGNATURE = re.compile(rb"((?:^|;)[ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_NEEDED = ("v", "a", "b", "bh", "d", "h", "s")
_FORMS = {"simple": False, "relaxed": True}


@dataclass(frozen=True, slots=True)
class Signature:
    """algorithm: `a=`; relaxed_*: which canonical forms; names: `h=`; identity: the domain of `i=`; length: `l=`; expires: `x=`."""

    place: FieldPlace
    algorithm: str
    octets: bytes
    body_hash: bytes
    relaxed_header: bool
    relaxed_body: bool
    domain: str
    identity: str
    selector: str
    names: tuple[str, ...]
    length: int | None
    expires: int | None
    start: str

    @property
    def key_name(self) -> str:
        """Where the key stands."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def body_form(self) -> tuple[bool, int | None]:
        """What the hash of the body depends on."""
        return self.relaxed_body, self.length


@dataclass(frozen=True, slots=True)
class Key:
    """kind: 'rsa' or 'ed25519'. octets: '' of a key that was revoked. strict: identity and domain must be the same (t=s)."""

    kind: str
    octets: bytes
    testing: bool
    strict: bool


def signature_of(header: bytes, place: FieldPlace) -> Signature:
    """Raises TagFault."""
    tags = tags_of(header[place.value : place.end])
    lacking = [name for name in _NEEDED if not tags.get(name)]
    if lacking:
        raise TagFault(f"without {lacking[0]}=")
    if tags["v"] != "1":
        raise TagFault(f"version {tags['v']!r:.10}")
    if "dns/txt" not in words_of(tags.get("q", "dns/txt")):
        raise TagFault("its key is not in the DNS")
    relaxed_header, relaxed_body = _forms(tags.get("c", "simple/simple"))
    domain, selector, identity = _names(tags)
    names = words_of(tags["h"])
    if len(names) > FIELDS_MAX:
        raise TagFault(f"more than {FIELDS_MAX:,} names in h=")
    return Signature(
        place,
        tags["a"].lower(),
        octets_of(tags["b"]),
        octets_of(tags["bh"]),
        relaxed_header,
        relaxed_body,
        domain,
        identity,
        selector,
        names,
        number_of(tags, "l"),
        number_of(tags, "x"),
        re.sub(r"\s", "", tags["b"])[:8],
    )


def _forms(text: str) -> tuple[bool, bool]:
    header, _, body = text.lower().partition("/")
    if header not in _FORMS or (body or "simple") not in _FORMS:
        raise TagFault(f"canonical form {text!r:.30}")
    return _FORMS[header], _FORMS[body or "simple"]


def _names(tags: dict[str, str]) -> tuple[str, str, str]:
    domain, selector = as_domain(tags["d"]), as_domain(tags["s"])
    identity = as_domain(tags["i"].rpartition("@")[2]) if "i" in tags else domain
    if not domain or not selector or "." not in domain:
        raise TagFault("d= or s= is no name")
    if identity != domain and not identity.endswith(f".{domain}"):
        raise TagFault("i= is not within d=")
    return domain, selector, identity


def key_of(text: bytes) -> Key:
    """Raises TagFault for what is no key for mail."""
    tags = tags_of(text)
    if tags.get("v", "DKIM1") != "DKIM1":
        raise TagFault("another version of key")
    if "p" not in tags:
        raise TagFault("no key in the record")
    if not {"*", "email"}.intersection(words_of(tags.get("s", "*"))):
        raise TagFault("a key for other services")
    if "h" in tags and "sha256" not in words_of(tags["h"]):
        raise TagFault("a key for other hashes")
    flags = words_of(tags.get("t", ""))
    return Key(tags.get("k", "rsa").lower(), octets_of(tags["p"]), "y" in flags, "s" in flags)


def signed_fields(header: bytes, places: Sequence[FieldPlace], signature: Signature) -> list[bytes]:
    """The octets of the fields that are signed, the signature itself last, without its `b` (RFC 6376 3.7, 5.4.2: from the bottom up)."""
    left: dict[str, list[FieldPlace]] = defaultdict(list)
    for place in places:
        left[place.name].append(place)
    found = [left[name].pop() for name in signature.names if left[name]]
    own = signature.place
    value = _SIGNATURE.sub(rb"\1", header[own.value : own.end], count=1)
    return [*(header[one.start : one.end] for one in found), header[own.start : own.value] + value]
