"""Domains, users, credentials, volumes, tokens and rule-set versions, kept in DIR/directory.db; and the check of logins (SASL).

`Directory` is the store, `Authenticator` the check. Only the supervisor changes the store; workers read it.
"""

from gatepost.directory.auth import Authenticator, AuthResult
from gatepost.directory.errors import AlreadyExists, ConflictInUse, DirectoryError, EtagMismatch, InvalidValue, NotFound, SchemaTooNew
from gatepost.directory.sasl import Challenge, Failure, SaslExchange, Success
from gatepost.directory.store import Directory
from gatepost.directory.values import AllowedSender, Credentials, RuleVersion, StoredHandler, StoredPolicy, StoredRule, Token, User, Volume

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
