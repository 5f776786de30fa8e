"""Files of a newer Gatepost under a real server: what mail needs is refused by name before anything is taken, the history stands back.

Guards against a start that replaces the index of a volume by what it cannot read.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.gatepost import ALICE, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import message, send

NEWER = 99


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    with start_gatepost(tmp_path_factory.mktemp("newer")) as made:
        yield made


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={NEWER}")


def delivered(server: Gatepost, subject: str) -> None:
    send(server.port("smtp"), message(subject))
    wait_until(lambda: server.queue("--recipient", ALICE) == [], 60, f"{subject} is delivered")


def test_a_history_of_a_newer_gatepost_is_named_and_mail_goes_on(server: Gatepost) -> None:
    delivered(server, "before")
    server.stop()
    newest = max((server.data / "history" / "p0").glob("*.db"))
    make_newer(newest)
    server.start()
    delivered(server, "beside a newer history")
    wait_until(lambda: f"{newest}: format version {NEWER}" in server.log(), 60, "it is said in the log")
    assert "move the file away" in server.log()
    server.stop()
    newest.unlink()
    server.start()


def test_a_snapshot_of_a_newer_gatepost_is_refused_by_name_and_left_alone(server: Gatepost) -> None:
    server.stop()
    volume = server.data / "volumes" / "main"
    index, snapshot = volume / "index.db", volume / "snapshot.db"
    shutil.copy(index, snapshot)
    make_newer(snapshot)
    for path in volume.glob("index.db*"):
        path.unlink()
    with pytest.raises(AssertionError) as refused:
        server.start()
    assert f"{snapshot}: format version {NEWER}" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert not index.exists()
    snapshot.unlink()
    server.start()
    delivered(server, "after it was moved away")
