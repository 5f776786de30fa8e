"""Bearer tokens of the control plane. Used by store.py inside its transactions.

Invariants: a secret is 256 random bits, shown once, kept as its SHA-256 only (no slow hash: there is nothing to guess); the look-up is
by that digest, so its timing tells nothing of the secret. Fails with the errors of errors.py; a bad secret is None, not an error.
"""

import dataclasses
import hashlib
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from gatepost.directory import validation
from gatepost.directory.clock import now_us
from gatepost.directory.errors import AlreadyExists, InvalidValue, NotFound
from gatepost.directory.schema import tokens
from gatepost.directory.values import ROLES, Token

DOMAIN_ADMIN = "domain_admin"
DOMAINS_MAX = 100
PREFIX = "gp_"
"""Lets people and secret scanners see what it is."""
USE_NOTED_EVERY_US = 3_600_000_000


def create_token(
    connection: Connection, name: str, role: str, author: str, expires_at: int, domains: Sequence[str] = ()
) -> tuple[Token, str]:
    """A new token and its secret."""
    name = validation.name(name, "name")
    if role not in ROLES:
        raise InvalidValue("role", f"must be one of {', '.join(ROLES)} (got {role!r})")
    chosen = tuple(dict.fromkeys(validation.domain_name(one, "domains") for one in domains))
    if not (1 <= len(chosen) <= DOMAINS_MAX if role == DOMAIN_ADMIN else not chosen):
        raise InvalidValue("domains", f"must be 1 to {DOMAINS_MAX} for the role {DOMAIN_ADMIN}, and none for others (got {len(chosen)})")
    if expires_at and expires_at <= now_us():
        raise InvalidValue("expires_at", "must lie in the future")
    if connection.execute(select(tokens.c.id).where(tokens.c.name == name)).first() is not None:
        raise AlreadyExists(f"token {name!r} exists already")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(name, role, now_us(), author[:200], expires_at, domains=chosen)
    values = {**dataclasses.asdict(token), "domains": " ".join(chosen)}
    connection.execute(insert(tokens).values(secret_sha256=_digest(secret), **values))
    return token, secret


def list_tokens(connection: Connection) -> list[Token]:
    """Tokens by name, expired ones too."""
    return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.name))]


def revoke_token(connection: Connection, name: str) -> None:
    """End a token at once."""
    if connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount == 0:
        raise NotFound(f"no token {name!r}")


def find_token(connection: Connection, secret: str) -> Token | None:
    """The token with this secret, unless it has expired."""
    row = connection.execute(select(tokens).where(tokens.c.secret_sha256 == _digest(secret))).first()
    if row is None or (row.expires_at and row.expires_at <= now_us()):
        return None
    return _token(row)


def use_is_worth_noting(token: Token) -> bool:
    """True when the noted last use is so old that writing a new one pays."""
    return now_us() - token.last_used_at > USE_NOTED_EVERY_US


def note_use(connection: Connection, name: str) -> None:
    """Write the time of use."""
    connection.execute(update(tokens).where(tokens.c.name == name).values(last_used_at=now_us()))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _token(row: Row[Any]) -> Token:
    return Token(row.name, row.role, row.created_at, row.author, row.expires_at, row.last_used_at, tuple(row.domains.split()))
