"""Envelope, recipients and origin (RFC 5321 2.3.1, RFC 3461), with the compact form the journal keeps as `meta`."""

import json
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache


class Notify(IntFlag):
    """RFC 3461 4.1 NOTIFY. UNSET is not NEVER: it means the default, failure and delay at our discretion."""

    UNSET = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from. protocol: 'SMTP', 'ESMTP', 'ESMTPS', 'ESMTPSA', 'LMTP', 'GRPC', 'INTERNAL' … (RFC 3848)."""

    protocol: str
    client_address: str = ""
    client_port: int = 0
    helo: str = ""
    user: str = ""
    tls: str = ""
    listener: str = ""

    @property
    def authenticated(self) -> bool:
        """True when a user logged in on the session."""
        return bool(self.user)


@dataclass(frozen=True, slots=True)
class Recipient:
    """One RCPT TO. `orcpt` is 'rfc822;addr' (xtext decoded) or ''."""

    address: str
    notify: Notify = Notify.UNSET
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reverse-path ('' is the null reverse-path), recipients, origin and the per-message DSN parameters."""

    reverse_path: str
    recipients: tuple[Recipient, ...]
    origin: Origin
    envid: str = ""
    ret: str = ""
    body: str = "7BIT"
    smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Meta:
    """What the journal keeps of a message besides reverse-path and recipients. `rule_version` decided its routes."""

    origin: Origin
    envid: str = ""
    ret: str = ""
    body: str = "7BIT"
    smtputf8: bool = False
    rule_version: int = 0

    def encode(self) -> bytes:
        """Compact JSON: a list in field order (see docs/formats.md)."""
        o = self.origin
        lead, trail = (o.protocol, o.client_address), (o.helo, o.user, o.tls, o.listener)
        before, after = _meta_around_port(lead, trail, self.envid, self.ret, self.body, self.smtputf8, self.rule_version)
        return b"%b%d%b" % (before, o.client_port, after)

    @classmethod
    def decode(cls, data: bytes) -> "Meta":
        """Inverse of `encode`. Raises ValueError on anything else."""
        origin, *rest = json.loads(data)
        return cls(Origin(*origin), *rest)


@lru_cache(maxsize=1024)
def _meta_around_port(before: tuple[str, str], after: tuple[str, ...], *rest: str | bool | int) -> tuple[bytes, bytes]:
    """Meta's JSON on both sides of the client's port: all else is the same for message after message."""
    head = json.dumps(before, separators=(",", ":"))[:-1]
    tail = json.dumps([list(after), *rest], separators=(",", ":"))[2:]
    return f"[{head},".encode(), f",{tail}".encode()
