"""Envelope, recipients and origin (RFC 5321 2.3.1, RFC 3461), with the compact form the journal keeps as `meta`."""

import json
from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache

from gatepost.message.verdict import PLAIN, PLAIN_MARK, Verdict


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
    """Reverse-path ('' is the null reverse-path), recipients, origin, the per-message DSN parameters, and what scanning decided."""

    reverse_path: str
    recipients: tuple[Recipient, ...]
    origin: Origin
    envid: str = ""
    ret: str = ""
    body: str = "7BIT"
    smtputf8: bool = False
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Meta:
    """What the journal keeps of a message besides reverse-path and recipients. `rule_version` decided its routes.

    verdict is None for a message that nobody looked into; then it takes no octet. That of text looked at in place takes two.
    """

    origin: Origin
    envid: str = ""
    ret: str = ""
    body: str = "7BIT"
    smtputf8: bool = False
    rule_version: int = 0
    verdict: Verdict | None = None

    def encode(self) -> bytes:
        """Compact JSON: a list in field order (see docs/formats.md)."""
        o = self.origin
        lead, trail = (o.protocol, o.client_address), (o.helo, o.user, o.tls, o.listener)
        before, after = _meta_around_port(lead, trail, self.envid, self.ret, self.body, self.smtputf8, self.rule_version)
        whole = b"%b%d%b" % (before, o.client_port, after)
        if self.verdict is None:
            return whole
        if self.verdict == PLAIN:
            return b"%b,%d]" % (whole[:-1], PLAIN_MARK)
        return b"%b,%b]" % (whole[:-1], json.dumps(self.verdict.encode(), separators=(",", ":")).encode())

    @classmethod
    def decode(cls, data: bytes) -> "Meta":
        """Inverse of `encode`, also of records without a verdict. Raises ValueError or TypeError on anything else."""
        origin, *rest = json.loads(data)
        if len(rest) > _BEFORE_VERDICT:
            listed = rest[_BEFORE_VERDICT]
            rest[_BEFORE_VERDICT] = PLAIN if listed == PLAIN_MARK else Verdict.decode(listed)
        return cls(Origin(*origin), *rest)


_BEFORE_VERDICT = 5
"""Fields of Meta between origin and verdict."""


@lru_cache(maxsize=1024)
def _meta_around_port(before: tuple[str, str], after: tuple[str, ...], *rest: str | bool | int) -> tuple[bytes, bytes]:
    """Meta's JSON on both sides of the client's port: all else is the same for message after message."""
    head = json.dumps(before, separators=(",", ":"))[:-1]
    tail = json.dumps([list(after), *rest], separators=(",", ":"))[2:]
    return f"[{head},".encode(), f",{tail}".encode()
