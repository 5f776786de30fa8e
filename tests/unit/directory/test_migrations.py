"""The schema: made at once, by migrations, and the two are the same; older files are backed up and upgraded, newer ones left alone."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, inspect

from gatepost.directory import Directory, DirectoryError, SchemaTooNew, database
from gatepost.directory.schema import metadata
from gatepost.directory.standing import REVISION
from gatepost.routing.model import DomainRule, RuleKind


def shape(path: Path) -> list[tuple[str, str]]:
    """Every table and index, the order of constraints and the layout of the text aside."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
    return [(name, "".join(sorted(sql.replace("\t", " ").replace("\n", " ").replace(" ", "").replace(",", "")))) for name, sql in rows]


def unversioned(path: Path) -> Path:
    """A file as it was before the first migration: it has content, but no revision."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    return path


def test_migrations_lead_to_the_schema_that_a_new_file_gets(tmp_path: Path) -> None:
    Directory(tmp_path / "new.db", migrate=True).close()
    Directory(unversioned(tmp_path / "old.db"), migrate=True).close()
    assert shape(tmp_path / "new.db") == shape(tmp_path / "old.db")
    engine = create_engine(URL.create("sqlite", database=str(tmp_path / "old.db")))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_newest_script_is_the_one_the_code_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [REVISION]
    assert {script.revision for script in scripts.walk_revisions()} == set(database._KNOWN_REVISIONS)


def test_an_upgraded_file_works_and_its_older_self_is_kept_beside_it(tmp_path: Path) -> None:
    path = unversioned(tmp_path / "directory.db")
    before = path.read_bytes()
    directory = Directory(path, migrate=True)
    directory.put_rule(DomainRule("example.test", RuleKind.HOSTED), create=True, author="a")
    directory.add_user("alice@example.test", None, author="a")
    directory.close()
    backup = tmp_path / f"directory.db.before-{REVISION}-from-0000"
    assert backup.read_bytes() == before
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    Directory(path, migrate=True).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    for migrate in (True, False):
        with pytest.raises(SchemaTooNew, match="9999"):
            Directory(path, migrate=migrate)
    assert path.read_bytes() == before
    assert {each.name for each in tmp_path.iterdir() if each.is_file()} == {"directory.db", "secrets.key"}


def test_a_reader_does_not_upgrade(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="'gatepost serve' upgrades it"):
        Directory(unversioned(tmp_path / "directory.db"))


def test_a_file_left_empty_by_a_crash_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    path.touch()
    directory = Directory(path, migrate=True)
    assert directory.list_volumes()
    directory.close()


def test_an_up_to_date_file_opens_without_alembic(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    Directory(path, migrate=True).close()
    code = (
        "import sys, pathlib; from gatepost.directory import Directory; "
        f"Directory(pathlib.Path({str(path)!r}), migrate=True); print('alembic' in sys.modules, 'scramp' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.split() == ["False", "False"]


def test_any_character_in_the_path_is_fine(tmp_path: Path) -> None:
    odd = tmp_path / "50% of? #it & ü"
    odd.mkdir()
    Directory(odd / "directory.db", migrate=True).close()
    assert (odd / "directory.db").stat().st_size > 0


def test_the_newest_migration_can_be_taken_back_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "directory.db"
    Directory(path, migrate=True).close()
    before = shape(path)
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    engine = create_engine(URL.create("sqlite", database=str(path)))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        names = {column["name"] for column in inspect(connection).get_columns("handlers")}
        assert "options" not in names
        command.upgrade(config, "head")
    engine.dispose()
    assert shape(path) == before
