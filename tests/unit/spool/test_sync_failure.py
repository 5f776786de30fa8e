"""What a directory remembers of a failed sync, and what is done before its files are believed again."""

import json
import time
from pathlib import Path

import pytest

from gatepost.native import SyncFailedError
from gatepost.spool import sync_failure


def test_without_a_note_nothing_is_done(tmp_path: Path):
    assert sync_failure.distrust(tmp_path) is None
    assert sync_failure.distrust(tmp_path / "missing") is None
    assert sync_failure.read(tmp_path).text(time.time()) == ""


def test_a_failure_is_distrusted_until_it_was_opened_again_and_remembered_for_a_day(tmp_path: Path):
    (tmp_path / "00000001.seg").write_bytes(b"x" * 10_000)
    sync_failure.note(tmp_path, "EIO")
    failures = sync_failure.distrust(tmp_path)
    assert failures is not None and failures.error == "EIO"
    sync_failure.trust(tmp_path, failures)
    assert sync_failure.distrust(tmp_path) is None
    assert "EIO" in sync_failure.read(tmp_path).text(time.time())
    assert sync_failure.read(tmp_path).text(time.time() + 100_000) == ""
    assert (tmp_path / "00000001.seg").read_bytes() == b"x" * 10_000
    assert not (tmp_path / "sync-probe").exists()


def test_failures_are_counted_within_the_hour(tmp_path: Path):
    now = time.time()
    note = {"error": "x", "times": [now - 7200, now - 100], "trusted": True}
    (tmp_path / "sync-failed").write_text(json.dumps(note))
    assert sync_failure.note(tmp_path, "again").recent(now + 1) == 2


def test_a_note_that_cannot_be_read_counts_as_a_failure(tmp_path: Path):
    (tmp_path / "sync-failed").write_text("{")
    assert sync_failure.distrust(tmp_path) is not None


def test_a_disk_that_still_fails_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(_directory: Path) -> None:
        raise OSError(5, "Input/output error")

    sync_failure.note(tmp_path, "EIO")
    monkeypatch.setattr(sync_failure, "probe", fails)
    with pytest.raises(SyncFailedError, match="still fails"):
        sync_failure.distrust(tmp_path)
    assert not sync_failure.read(tmp_path).trusted
