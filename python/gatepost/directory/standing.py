"""Whether a data directory can be worked with as it is: the quick look of a supervisor that starts, before `Directory` is imported.

Called by app.ground. Light on purpose: no SQLAlchemy. When in doubt the answer is no, and then opening `Directory` makes, migrates or
refuses, and says why. Never raises.
"""

import contextlib
import sqlite3
from pathlib import Path

REVISION = "0006"
"""The newest migration of directory.db this code knows."""

SEALED = b"gatepost-secret-1\n"
"""What a file of DIR/secrets begins with."""

SRS_KEY = "srs-key"
"""Name of the secret that return paths of forwards are signed with (message/srs.py)."""


def stands(data: Path) -> bool:
    """*blocking* The tables are of this version, what every directory has from its first start is there, and no secret has to be sealed."""
    secrets = data / "secrets"
    try:
        if not (secrets / SRS_KEY).is_file() or not (data / "volumes" / "main").is_dir():
            return False
        return _revision(data / "directory.db") == REVISION and all(_is_sealed(path) for path in secrets.iterdir())
    except (OSError, sqlite3.Error):
        return False


def _revision(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def _is_sealed(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return True
    with path.open("rb") as file:
        return file.read(len(SEALED)) == SEALED
