"""Opens directory.db: pragmas, transactions, schema. Used by the rooms of directory/ only.

Invariants: one writer process (the supervisor) and many readers; rollback journal, synchronous=FULL, foreign keys on; a write
transaction takes the lock at once (BEGIN IMMEDIATE), so it never fails half-way for a lock; every one bumps `revision`.
Fails with DirectoryError naming the file; SchemaTooNew when a newer Gatepost wrote it. Waits for a lock at most BUSY_SECONDS.
"""

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from gatepost.directory.clock import now_us
from gatepost.directory.errors import DirectoryError, InvalidValue, SchemaTooNew
from gatepost.directory.schema import metadata, state, volumes
from gatepost.directory.standing import REVISION

BUSY_SECONDS = 5.0
POOL_SIZE = 4
_KNOWN_REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")


class Database:
    """One SQLite file. `read()` and `write()` give a connection inside a transaction; both are safe from any thread."""

    def __init__(self, path: Path, *, migrate: bool) -> None:
        self.path = path
        self.writable = migrate
        try:
            self._engine = _engine(path, writable=migrate)
            if migrate:
                self._migrate()
            else:
                self._check()
        except (SQLAlchemyError, OSError) as error:
            raise DirectoryError(f"{path}: {_plain(error)}") from error

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; ends with the block."""
        with self._errors(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """All or nothing; durable when the block has ended. Bumps the revision."""
        if not self.writable:
            raise DirectoryError(f"{self.path} was opened for reading; only the supervisor writes")
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(gatepost_write=True)
            with connection.begin():
                bump_revision(connection)
                yield connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise DirectoryError(f"{self.path}: {_plain(error)}") from error
        except UnicodeEncodeError:
            raise InvalidValue("text", "holds a lone surrogate, which is no character") from None

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()

    # ---- schema ----------------------------------------------------------------------------------------------------

    def _migrate(self) -> None:
        """Make the tables, or bring them up to date. An up-to-date file costs one SELECT: Alembic is not even imported."""
        is_new = not self.path.exists() or self.path.stat().st_size == 0
        if is_new:
            self._create()
            return
        found = self._schema_revision()
        if found == REVISION:
            return
        self._refuse_newer(found)
        self._back_up(found or "0000")
        self._upgrade()

    def _create(self) -> None:
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
        with self._engine.connect() as connection, connection.execution_options(gatepost_write=True).begin():
            metadata.create_all(connection)
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (REVISION,))
            seed(connection)

    def _upgrade(self) -> None:
        # Imported here: 0.7 s that a start with an up-to-date file must not pay.
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        # Changing a table in SQLite means copying it, which foreign keys would forbid half-way: they are off on this connection.
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
            connection.rollback()
            with connection.execution_options(gatepost_write=True).begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if connection.execute(select(state)).first() is None:
                    seed(connection)
            connection.detach()  # so that no later user of the pool gets it without foreign keys

    def _check(self) -> None:
        if not self.path.exists():
            raise DirectoryError(f"{self.path}: does not exist; 'gatepost serve' makes it")
        found = self._schema_revision()
        if found != REVISION:
            self._refuse_newer(found)
            raise DirectoryError(f"{self.path}: schema {found or 'none'} is older than {REVISION}; 'gatepost serve' upgrades it")

    def _schema_revision(self) -> str | None:
        with self._engine.connect() as connection:
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").first()
            row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first() if names else None
        return str(row[0]) if row else None

    def _refuse_newer(self, found: str | None) -> None:
        if found is not None and found not in _KNOWN_REVISIONS:
            raise SchemaTooNew(f"{self.path}: written by a newer Gatepost (schema {found}, this one knows {REVISION}); nothing was changed")

    def _back_up(self, found: str) -> None:
        """A copy beside the file, made through SQLite so that it is consistent; kept for the administrator."""
        target = self.path.with_name(f"{self.path.name}.before-{REVISION}-from-{found}")
        with contextlib.closing(sqlite3.connect(self.path)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        target.chmod(0o600)


def seed(connection: Connection) -> None:
    """What every directory has from the start."""
    connection.execute(insert(state), [{"key": "revision", "value": "1"}, {"key": "pepper", "value": secrets.token_hex(32)}])
    connection.execute(insert(volumes).values(name="main", path="volumes/main", created_at=now_us()))


def revision(connection: Connection) -> int:
    """How many changes the directory has seen."""
    return int(connection.execute(select(state.c.value).where(state.c.key == "revision")).scalar_one())


def pepper(connection: Connection) -> bytes:
    """A secret of this installation, the same in every process."""
    found = connection.execute(select(state.c.value).where(state.c.key == "pepper")).scalar()
    if found is None:
        raise DirectoryError("the directory has no pepper; it was not made by Gatepost")
    return bytes.fromhex(found)


def bump_revision(connection: Connection) -> int:
    """Count one more change; the new number."""
    new = revision(connection) + 1
    connection.execute(update(state).where(state.c.key == "revision").values(value=str(new)))
    return new


def _engine(path: Path, *, writable: bool) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),  # not a text: a path may hold any character
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=4,
        pool_timeout=BUSY_SECONDS,
        # isolation_level None: this module says BEGIN itself, sqlite3 would say it too late.
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        if not writable:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("gatepost_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _plain(error: Exception) -> str:
    """SQLAlchemy's text carries statement and parameters (password hashes among them); only the driver's own words are shown."""
    cause = getattr(error, "orig", None) or error
    return str(cause)
