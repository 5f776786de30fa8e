"""Files of a newer Gatepost: each is refused by its name, says what to do, and stays as it is. Those of an older one are taken over.

Guards against: an undo, a password or a memory that an older program, started by mistake, throws away or takes for something else.
"""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost.config.files import NewerFormatError
from gatepost.control import digest
from gatepost.delivery.answered import Answered
from gatepost.directory.drafts import Drafts
from gatepost.directory.errors import DirectoryError
from gatepost.directory.secret_files import SecretFiles
from gatepost.policy.counters import Counters
from gatepost.queue.list_store import ListStore
from gatepost.queue.operations import OperationLog
from gatepost.queue.paused import PausedDestinations
from gatepost.routing.senders import Want


def database(path: Path, statement: str = "PRAGMA user_version = 2") -> None:
    made = sqlite3.connect(path)
    made.execute(statement)
    made.commit()
    made.close()


def lists(path: Path) -> None:
    database(path, "CREATE TABLE state (key TEXT PRIMARY KEY, value INTEGER) WITHOUT ROWID")
    database(path, "INSERT INTO state VALUES ('format', 2)")


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


CASES: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object], type[Exception]]] = {
    "operations": (
        "operations/0193ffff-0000-7000-8000-000000000000.json",
        text('{"format": 2, "what": "is this"}'),
        lambda path: OperationLog(path.parent, lambda: 0),
        NewerFormatError,
    ),
    "paused": ("paused.json", text('{"format": 3}'), PausedDestinations, NewerFormatError),
    "digest": ("digest.json", text('{"format": 2, "moment": 1, "after": null}'), digest.read_progress, NewerFormatError),
    "draft": ("drafts/mine.toml", text('# draft {"format": 2}\n'), lambda path: Drafts(path.parent).get("mine"), DirectoryError),
    "secret": ("secrets/smart", text("gatepost-secret-2\nxyz"), lambda path: SecretFiles(path.parent).get("smart"), DirectoryError),
    "secret at the start": (
        "secrets/smart",
        text("gatepost-secret-2\nxyz"),
        lambda path: SecretFiles(path.parent).seal_all(),
        DirectoryError,
    ),
    "answered": ("answered.db", database, lambda path: Answered(path).claim("a@b", "c@d", 60), OSError),
    "limits": ("limits.db", database, lambda path: Counters(path).take([Want("k", 60, 2, 1)]), OSError),
    "lists": ("lists.db", lists, lambda path: ListStore(path.parent).revision(), OSError),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_of_a_newer_format_is_refused_by_its_name_and_left_as_it_is(tmp_path: Path, name: str):
    place, make, use, error = CASES[name]
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    make(path)
    if name == "operations":
        path.with_suffix(".ids").write_bytes(b"i" * 16)
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    with pytest.raises(error, match=path.name.replace(".", r"\.")):
        use(path)
    after = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file() and not one.name.endswith(("-wal", "-shm"))}
    assert after == before


def test_memories_without_a_format_are_of_the_first_one(tmp_path: Path):
    path = tmp_path / "answered.db"
    database(path, "CREATE TABLE answered (pair BLOB PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID")
    assert Answered(path).claim("a@b", "c@d", 60)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (1,)


def test_a_damaged_digest_file_is_begun_anew(tmp_path: Path):
    path = tmp_path / "digest.json"
    for content in ("", "{}", "[]", json.dumps({"format": 1, "moment": "x", "after": 5})):
        path.write_text(content)
        assert digest.read_progress(path) is None
