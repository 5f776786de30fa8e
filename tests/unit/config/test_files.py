"""Small files replaced as a whole: octets before the name, the name before the call returns; and those who keep one use it so."""

import os
import stat
from pathlib import Path

import pytest

from gatepost.config.files import replace_file
from gatepost.directory.drafts import Drafts
from gatepost.directory.secret_files import SecretFiles
from gatepost.queue.paused import PausedDestinations


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order: 'file', 'rename', 'directory'."""
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        seen.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(self: Path, target: Path) -> Path:
        seen.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return seen


def test_a_file_is_synced_before_it_is_renamed_and_its_directory_after(tmp_path: Path, calls: list[str]) -> None:
    path = tmp_path / "one"
    for content in (b"first", b"second"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert calls == ["file", "rename", "directory"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["one"]


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one"
    replace_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["one"]


def test_drafts_secrets_and_pauses_are_durable_when_they_are_told_to_be_kept(tmp_path: Path, calls: list[str]) -> None:
    Drafts(tmp_path / "drafts").put("one", "# rules\n", 0, "alice", None)
    assert calls[-3:] == ["file", "rename", "directory"]
    SecretFiles(tmp_path / "secrets").put("gateway", "password")
    assert calls[-3:] == ["file", "rename", "directory"]
    PausedDestinations(tmp_path / "paused.json").add("smtp:example.org")
    assert calls[-3:] == ["file", "rename", "directory"]
