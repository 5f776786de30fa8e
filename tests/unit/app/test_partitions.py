"""Partition directories as the supervisor handles them."""

import fcntl
from pathlib import Path

import pytest

from gatepost.app import partitions
from gatepost.queue.paused import PausedDestinations


def partition(spool: Path, index: int) -> Path:
    place = spool / f"p{index}"
    place.mkdir()
    (place / "lock").touch()
    (place / "00000001.seg").write_bytes(b"x")
    return place


def names(spool: Path) -> set[str]:
    return {one.name for one in spool.iterdir()}


def test_only_partitions_beyond_the_workers_are_surplus(tmp_path: Path):
    for index in (0, 1, 7):
        partition(tmp_path, index)
    for name in ("p01", "px", "removed-p3-1", "p-1"):
        (tmp_path / name).mkdir()
    assert partitions.surplus(tmp_path, 1) == [1, 7]
    assert partitions.surplus(tmp_path, 9) == []


def test_a_partition_is_removed_and_damaged_stretches_are_kept(tmp_path: Path):
    place = partition(tmp_path, 2)
    (place / "damaged").mkdir()
    (place / "damaged" / "00000001.seg-64").write_bytes(b"y")
    partitions.remove(tmp_path, 2)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("damaged-p2-")
    assert (kept / "00000001.seg-64").read_bytes() == b"y"


def test_a_partition_that_is_open_is_not_removed(tmp_path: Path):
    place = partition(tmp_path, 1)
    with (place / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(partitions.PartitionInUse):
            partitions.remove(tmp_path, 1)
    assert names(tmp_path) == {"p1"}


def test_a_crash_in_the_middle_of_a_removal_leaves_a_tombstone_for_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash(_path: Path) -> None:
        raise KeyboardInterrupt

    partition(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(partitions.shutil, "rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            partitions.remove(tmp_path, 1)
    assert partitions.surplus(tmp_path, 0) == []
    assert len(names(tmp_path)) == 1
    partitions.delete_tombstones(tmp_path)
    assert names(tmp_path) == set()


def test_a_pause_in_one_partition_holds_in_all(tmp_path: Path):
    PausedDestinations(partition(tmp_path, 0) / "paused.json").add("smtp:a")
    PausedDestinations(partition(tmp_path, 5) / "paused.json").add("smtp:b")
    partitions.spread_pauses(tmp_path, 2)
    for index in (0, 1, 5):
        assert PausedDestinations(tmp_path / f"p{index}" / "paused.json").names() == ["smtp:a", "smtp:b"]
