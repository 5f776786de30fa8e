"""Etags of users and volumes: a keyed digest of the whole stored row. Used by users.py and volumes.py inside their transactions.

Invariants: any change of the row changes the etag, a new password too (its salt is new each time); without the key, which stays in the
directory, an etag can be neither made nor held against a guessed password. A row that is changed and changed back has its old etag again:
what the caller has read is then what is there. Rules have a revision instead, see rules.py.
"""

import hmac
from typing import Any

from sqlalchemy import Connection, Row

from gatepost.directory.database import pepper
from gatepost.directory.errors import EtagMismatch

OCTETS = 12


class Etags:
    """Makes etags within one transaction; `kind` is a letter that tells what they belong to."""

    def __init__(self, connection: Connection, kind: str) -> None:
        self._key = pepper(connection)
        self._kind = kind

    def of(self, row: Row[Any]) -> str:
        """The etag of a row with all columns of its table."""
        content = repr((self._kind, *row)).encode("utf-8", "backslashreplace")
        return self._kind + hmac.digest(self._key, content, "sha256")[:OCTETS].hex()

    def check(self, row: Row[Any], etag: str | None, name: str) -> None:
        """Raise EtagMismatch unless `etag` is the row's, or none was given."""
        if etag and etag != self.of(row):
            raise EtagMismatch(f"{name} was changed by someone else since it was read", self.of(row))
