"""Frozen values the directory hands out. Times are Unix microseconds. None of them carries a password or a secret."""

from dataclasses import dataclass

from gatepost.routing.model import AddressHandler, DomainRule

ROLES = ("admin", "operator", "viewer", "domain_admin")


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A domain rule with its handlers, and the etag a conditional change names."""

    rule: DomainRule
    etag: str


@dataclass(frozen=True, slots=True)
class StoredHandler:
    """A handler, and the etag of its domain's rule."""

    handler: AddressHandler
    etag: str


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """An attachment policy as it was given, and who uses it: domains of rules, 'pattern@domain' of handlers, at most 100."""

    name: str
    text: str
    etag: str
    used_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class User:
    """A user of a hosted domain; mailbox_id names the mailbox in the volume. A conditional change names the etag."""

    address: str
    mailbox_id: bytes
    volume: str
    enabled: bool
    has_password: bool
    created_at: int
    etag: str


@dataclass(frozen=True, slots=True)
class Volume:
    """A named directory that holds mailboxes. `path` is absolute."""

    name: str
    path: str
    etag: str


@dataclass(frozen=True, slots=True)
class AllowedSender:
    """Mail from `sender` to `recipient` ('' is everybody) passes policy, though not scanners that find it infected."""

    sender: str
    recipient: str
    author: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token without its secret. expires_at and last_used_at are 0 for never; last_used_at may lag by an hour.

    domains: those that a domain admin looks after; of other roles empty.
    """

    name: str
    role: str
    created_at: int
    author: str
    expires_at: int = 0
    last_used_at: int = 0
    domains: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleVersion:
    """One change of the rule set: who, when, what in words."""

    version: int
    author: str
    created_at: int
    comment: str


@dataclass(frozen=True, slots=True)
class ScramKeys:
    """RFC 5802 3: what a SCRAM-SHA-256 server keeps instead of the password."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a login is checked against. password_hash '' and scram None: the user cannot log in that way."""

    address: str
    enabled: bool
    password_hash: str
    scram: ScramKeys | None
