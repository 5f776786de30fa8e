"""Domains, users, credentials, volumes, tokens and rule-set versions, kept in DIR/directory.db; and the check of logins (SASL).

`Directory` is the store, `Authenticator` the check. Only the supervisor changes the store; workers read it. A name is imported when it is
first asked for: SQLAlchemy is a fifth of what a process imports, and a supervisor that starts lets its workers begin before (`standing`).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.directory.auth import Authenticator, AuthResult
    from gatepost.directory.errors import AlreadyExists, ConflictInUse, DirectoryError, EtagMismatch, InvalidValue, NotFound, SchemaTooNew
    from gatepost.directory.sasl import Challenge, Failure, SaslExchange, Success
    from gatepost.directory.store import Directory
    from gatepost.directory.values import (
        AllowedSender,
        Credentials,
        RuleVersion,
        StoredHandler,
        StoredPolicy,
        StoredRule,
        Token,
        User,
        Volume,
    )

__all__ = [
    "AllowedSender",
    "AlreadyExists",
    "AuthResult",
    "Authenticator",
    "Challenge",
    "ConflictInUse",
    "Credentials",
    "Directory",
    "DirectoryError",
    "EtagMismatch",
    "Failure",
    "InvalidValue",
    "NotFound",
    "RuleVersion",
    "SaslExchange",
    "SchemaTooNew",
    "StoredHandler",
    "StoredPolicy",
    "StoredRule",
    "Success",
    "Token",
    "User",
    "Volume",
]

_ROOMS = {
    "auth": ("AuthResult", "Authenticator"),
    "errors": ("AlreadyExists", "ConflictInUse", "DirectoryError", "EtagMismatch", "InvalidValue", "NotFound", "SchemaTooNew"),
    "sasl": ("Challenge", "Failure", "SaslExchange", "Success"),
    "store": ("Directory",),
}
"""Which room of the directory makes which name; all others are values."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "values")
    found: object = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = found
    return found
