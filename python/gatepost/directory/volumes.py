"""Volumes in the tables. Used by store.py inside its transactions.

Invariants: 'main' is always there; no volume lies within another; one with a user's mailbox on it is not removed. Removing one touches no
file. Fails with the errors of errors.py.
"""

import os
from pathlib import Path, PurePosixPath
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select

from gatepost.directory import validation, versions
from gatepost.directory.clock import now_us
from gatepost.directory.errors import AlreadyExists, ConflictInUse, InvalidValue, NotFound
from gatepost.directory.etags import Etags
from gatepost.directory.schema import users, volumes
from gatepost.directory.values import Volume

DEFAULT = "main"
_KIND = "v"


def add_volume(connection: Connection, base: Path, name: str, path: str, author: str) -> Volume:
    """Name a directory that holds mailboxes; it is made when missing."""
    name = validation.name(name, "name")
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise InvalidValue("path", f"must be an absolute path without '..' (got {path!r})")
    listed = list_volumes(connection, base)
    if any(volume.name == name for volume in listed):
        raise AlreadyExists(f"volume {name!r} exists already")
    place = str(PurePosixPath(path))
    for volume in listed:
        if PurePosixPath(place).is_relative_to(volume.path) or PurePosixPath(volume.path).is_relative_to(place):
            raise InvalidValue("path", f"{place} and volume {volume.name!r} at {volume.path} lie within each other")
    try:
        Path(place).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidValue("path", f"{place} cannot be made: {error.strerror}") from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise InvalidValue("path", f"{place} cannot be written to")
    connection.execute(insert(volumes).values(name=name, path=place, created_at=now_us()))
    versions.record(connection, author, f"add volume {name}", "volume", name, None, {"path": place})
    return get_volume(connection, base, name)


def get_volume(connection: Connection, base: Path, name: str) -> Volume:
    """One volume."""
    return _volume(_must(connection, name), base, Etags(connection, _KIND))


def list_volumes(connection: Connection, base: Path) -> list[Volume]:
    """Volumes by name, paths made absolute with `base`."""
    etags = Etags(connection, _KIND)
    return [_volume(row, base, etags) for row in connection.execute(select(volumes).order_by(volumes.c.name))]


def remove_volume(connection: Connection, name: str, author: str, etag: str | None) -> None:
    """Forget a volume; its files stay."""
    row = _must(connection, name)
    Etags(connection, _KIND).check(row, etag, f"volume {name}")
    if name == DEFAULT:
        raise ConflictInUse(f"volume {DEFAULT!r} is the default of new users and cannot be removed")
    count = connection.execute(select(func.count()).select_from(users).where(users.c.volume == name)).scalar_one()
    if count:
        raise ConflictInUse(f"volume {name!r} holds the mailbox of {count} user{'s' if count > 1 else ''}; remove them first")
    connection.execute(delete(volumes).where(volumes.c.name == name))
    versions.record(connection, author, f"remove volume {name}", "volume", name, {"path": row.path}, None)


def _must(connection: Connection, name: str) -> Row[Any]:
    row = connection.execute(select(volumes).where(volumes.c.name == name)).first()
    if row is None:
        raise NotFound(f"no volume {name!r}")
    return row


def _volume(row: Row[Any], base: Path, etags: Etags) -> Volume:
    return Volume(row.name, str((base / row.path).absolute()), etags.of(row))
