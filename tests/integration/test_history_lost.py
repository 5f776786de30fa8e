"""A history that is destroyed, full or read-only while the server runs never stops mail, goes on by itself, and says what it does not know.

Guards against: mail that waits for its history, a history that stays away when the trouble is over, and one that tells mail as pending
that has left the queue.
"""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from gatepost.client import GatepostClient
from support.gatepost import ALICE, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import message, send
from support.small_disk import SmallDisk, small_disk

WAIT = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    """Its history is on a disk of its own."""
    with start_gatepost(tmp_path_factory.mktemp("lost")) as made:
        made.stop()
        subprocess.run(["rm", "-rf", str(made.data / "history")], check=True)
        with small_disk(made.data / "history", 16):
            made.start()
            yield made
            made.stop()


@pytest.fixture
def disk(server: Gatepost) -> SmallDisk:
    return SmallDisk(server.data / "history")


def delivered(server: Gatepost, name: str) -> None:
    """Mail goes through, whatever the history does."""
    send(server.port("smtp"), message(name))
    wait_until(lambda: server.queue("--recipient", ALICE) == [], WAIT, f"{name} is delivered")


def traced(server: Gatepost, name: str) -> None:
    """It is found in the history, with its end."""

    def found() -> list[str]:
        return [one["subject"] for one in server.json("trace", "--subject", name, "--outcome", "delivered")]

    wait_until(lambda: found() == [name], WAIT, f"{name} is traced")


async def said(server: Gatepost) -> list[str]:
    """What an answer warns of."""
    heard: list[str] = []
    async with GatepostClient(server.data) as client:
        assert [one async for one in client.history.search(limit=1, warn=heard.append)]
    return heard


def test_a_full_disk_of_the_history_costs_nothing_once_there_is_room(server: Gatepost, disk: SmallDisk):
    delivered(server, "before the disk is full")
    traced(server, "before the disk is full")
    disk.leave(0)
    names = [f"while it is full {number}" for number in range(3)]
    for name in names:
        delivered(server, name)
    disk.empty()
    for name in names:
        traced(server, name)


def test_a_disk_that_is_read_only_costs_nothing_once_it_can_be_written(server: Gatepost, disk: SmallDisk):
    server.stop()
    subprocess.run(["mount", "-o", "remount,ro", str(disk.path)], check=True)
    try:
        server.start()
        delivered(server, "read only")
        wait_until(lambda: "mail goes on" in server.log(), WAIT, "it is said in the log")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk.path)], check=True)
    traced(server, "read only")


def test_files_that_turn_to_dust_under_the_server_are_replaced_and_what_is_missing_is_said(server: Gatepost, disk: SmallDisk):
    server.cli("rule", "add", "waits.test", "--kind", "hold")
    send(server.port("smtp"), message("waits"), recipients="x@waits.test")
    delivered(server, "before the dust")
    traced(server, "before the dust")
    server.stop()
    server.start()
    for path in (disk.path / "p0").glob("*.db*"):
        with path.open("r+b") as file:
            file.write(b"dust" * (path.stat().st_size // 4))
    delivered(server, "after the dust")
    traced(server, "after the dust")
    wait_until(lambda: "damaged" in server.log() or "anew" in server.log(), WAIT, "it is said in the log")
    # What waits is known again from the queue, and what is not known is said.
    wait_until(lambda: [one["subject"] for one in server.json("trace", "--outcome", "pending")] == ["waits"], WAIT, "what waits is known")
    (waiting,) = server.json("trace", "--outcome", "pending")
    assert waiting["gaps"]
    assert "history incomplete" in server.cli("trace", waiting["message_id"])
    assert any("history incomplete" in text for text in asyncio.run(said(server)))
