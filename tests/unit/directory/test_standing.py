"""The quick look at a data directory: yes only when opening the directory would make, migrate and refuse nothing."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gatepost.directory import Directory
from gatepost.directory.standing import REVISION, SRS_KEY, stands


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Directory(tmp_path / "directory.db", migrate=True).close()
    return tmp_path


def test_a_directory_that_was_opened_before_stands(data):
    assert stands(data)


def test_an_empty_place_does_not(tmp_path):
    assert not stands(tmp_path)


@pytest.mark.parametrize("revision", ["0001", f"{int(REVISION) + 1:04}"])
def test_one_of_another_version_does_not(data, revision):
    with closing(sqlite3.connect(data / "directory.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    assert not stands(data)


@pytest.mark.parametrize("content", [b"in the clear", b"gatepost-secret-2\nof a newer version"])
def test_one_with_a_secret_that_is_to_be_sealed_or_refused_does_not(data, content):
    (data / "secrets" / "gateway").write_bytes(content)
    assert not stands(data)


def test_one_without_the_key_of_return_paths_does_not(data):
    (data / "secrets" / SRS_KEY).unlink()
    assert not stands(data)


def test_one_that_is_no_database_does_not(data):
    (data / "directory.db").write_bytes(b"nothing of the kind" * 100)
    assert not stands(data)


def test_one_somebody_changes_just_now_does_not(data):
    with closing(sqlite3.connect(data / "directory.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert not stands(data)


def imported(module: str, *watched: str) -> str:
    """Which of the watched modules come in with `module`."""
    code = f"import sys, {module}; print(*[one for one in {watched} if one in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_the_look_imports_no_sqlalchemy():
    """Guards against a start that waits a tenth of a second for what it does not use."""
    assert imported("gatepost.app.ground", "sqlalchemy", "grpc", "cryptography", "dns", "typing") == "typing"


def test_what_takes_mail_imports_nothing_that_only_delivers_or_answers():
    assert imported("gatepost.app.worker", "grpc", "cryptography", "dns", "gatepost.server.imap", "sqlalchemy") == "sqlalchemy"
