"""Pauses survive a restart."""

from pathlib import Path

import pytest

from gatepost.queue.paused import PausedDestinations


def test_a_pause_is_kept_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "paused.json"
    paused = PausedDestinations(path)
    assert paused.add("smtp:x")
    assert not paused.add("smtp:x")
    again = PausedDestinations(path)
    assert "smtp:x" in again
    assert again.names() == ["smtp:x"]
    assert again.discard("smtp:x")
    assert "smtp:x" not in PausedDestinations(path)


def test_a_file_that_makes_no_sense_is_an_error_not_a_silent_resume(tmp_path: Path) -> None:
    path = tmp_path / "paused.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a list"):
        PausedDestinations(path)
