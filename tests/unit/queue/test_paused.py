"""Pauses survive a restart."""

import json
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


def test_the_bare_list_of_format_1_is_read_and_becomes_format_2(tmp_path: Path) -> None:
    path = tmp_path / "paused.json"
    path.write_text('["smtp:x"]')
    paused = PausedDestinations(path)
    paused.add("smtp:a")
    assert json.loads(path.read_bytes()) == {"format": 2, "paused": ["smtp:a", "smtp:x"]}
    assert PausedDestinations(path).names() == ["smtp:a", "smtp:x"]


def test_a_newer_file_is_refused_with_both_versions_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "paused.json"
    path.write_text('{"format": 3, "paused": {"smtp:x": 1}}')
    with pytest.raises(ValueError, match=r"paused\.json: format version 3, this program knows up to 2"):
        PausedDestinations(path)
    assert "format" in path.read_text()
