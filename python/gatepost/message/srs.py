"""SRS: the sender of forwarded mail rewritten so that SPF holds at the next hop, and bounces find the way back. Pure.

Called by delivery (`encode`, for routes that ask for it) and by routing (`decode`, when such an address is written to). The form is that
of the Sender Rewriting Scheme: SRS0=hash=day=host=local, and SRS1=hash=host=rest for a sender that another forwarder rewrote already, so
that a chain of forwarders does not make it longer and longer. Invariants: an address decodes only under the key that made it and within
MAX_AGE_DAYS; what is decoded is what was encoded, but for the case of letters in the host; nothing is kept. Fails with SrsError, which
carries the reply.
"""

import hmac
from base64 import b32encode
from dataclasses import dataclass
from hashlib import sha256

from gatepost.message.address import MAX_LOCAL_OCTETS, Address, AddressError, parse_address
from gatepost.message.reply import SmtpError

MAX_AGE_DAYS = 21
"""A bounce comes within the days that servers keep trying; afterwards the address is of use to spammers only."""
HASH_LENGTH = 8
"""Characters of the hash: 40 bits. A guess costs the guesser a refused RCPT."""
DAY_SECONDS = 86_400
_PERIOD = 1024
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SEPARATORS = "=+-"


class SrsError(SmtpError):
    """The address was not made by us, or too long ago."""


def is_srs(local: str) -> bool:
    """Whether a local part has the form, whoever made it."""
    return len(local) > 5 and local[4] in _SEPARATORS and local[:4].upper() in ("SRS0", "SRS1")


@dataclass(frozen=True, slots=True)
class Srs:
    """`key`: secret octets. A day is a count of 86,400 s since 1970."""

    key: bytes

    def encode(self, sender: str, domain: str, day: int) -> str:
        """The return path under `domain` for mail of `sender`; `sender` itself when null, of that domain, or too long then."""
        try:
            address = parse_address(sender, lenient_dot=True)
        except AddressError:
            return sender
        if address.domain == domain.lower():
            return sender
        local = self._local(address, day)
        return str(Address(local, domain)) if len(local.encode()) <= MAX_LOCAL_OCTETS else sender

    def decode(self, local: str, day: int) -> str:
        """The address that mail to this local part is for. Raises SrsError."""
        kind, rest = local[:4].upper(), local[5:]
        if not is_srs(local):
            raise _forged()
        return self._first(rest, day) if kind == "SRS0" else self._second(rest)

    def _local(self, address: Address, day: int) -> str:
        kind, separator, rest = address.local[:4].upper(), address.local[4:5], address.local[5:]
        if is_srs(address.local) and kind == "SRS0":
            host, opaque = address.domain, separator + rest
        elif is_srs(address.local) and rest.count("=") >= 2:
            _, host, opaque = rest.split("=", 2)
        else:
            stamp = _stamp(day)
            return f"SRS0={self._hash(stamp, address.domain, address.local)}={stamp}={address.domain}={address.local}"
        return f"SRS1={self._hash(host, opaque)}={host}={opaque}"

    def _first(self, rest: str, day: int) -> str:
        parts = rest.split("=", 3)
        if len(parts) != 4 or not self._fits(parts[0], *parts[1:]):
            raise _forged()
        _, stamp, host, local = parts
        age = (day - _day(stamp)) % _PERIOD
        if MAX_AGE_DAYS < age < _PERIOD - 1:  # a clock may be a day ahead of another
            raise SrsError(550, "5.1.1", "This return address has expired")
        return _address(local, host)

    def _second(self, rest: str) -> str:
        parts = rest.split("=", 2)
        if len(parts) != 3 or not self._fits(parts[0], *parts[1:]) or parts[2][:1] not in _SEPARATORS:
            raise _forged()
        return _address(f"SRS0{parts[2]}", parts[1])

    def _fits(self, given: str, *texts: str) -> bool:
        return hmac.compare_digest(self._hash(*texts).encode(), given.upper().encode("utf-8", "replace"))

    def _hash(self, *texts: str) -> str:
        # Some servers fold the case of local parts: the hash does not depend on it.
        digest = hmac.digest(self.key, "\0".join(texts).lower().encode("utf-8", "surrogatepass"), sha256)
        return b32encode(digest)[:HASH_LENGTH].decode()


def _stamp(day: int) -> str:
    return _DIGITS[day % _PERIOD >> 5] + _DIGITS[day & 31]


def _day(stamp: str) -> int:
    high, low = (_DIGITS.find(one) for one in (stamp.upper() + "  ")[:2])
    if len(stamp) != 2 or high < 0 or low < 0:
        raise _forged()
    return high << 5 | low


def _address(local: str, host: str) -> str:
    try:
        return str(parse_address(str(Address(local, host))))
    except AddressError:
        raise _forged() from None


def _forged() -> SrsError:
    return SrsError(550, "5.7.1", "This return address was not made here")
