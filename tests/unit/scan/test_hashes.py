"""Lists of digests in files: read, read again after a change, bounded, and never a reason to fail."""

import hashlib
import os
import weakref
from pathlib import Path

import pytest

from gatepost.scan import hashes
from gatepost.scan.files import parse_policy
from gatepost.scan.hashes import HashFile, hash_file
from gatepost.scan.header import header_of

ONE, TWO = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))


def write(path: Path, *lines: str, at: int) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
    os.utime(path, (at, at))


def test_a_list_is_read_whatever_else_stands_in_it(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, "# a comment", "", f"{ONE}  a file", TWO.upper(), "zz" * 32, "12", at=1)
    known = HashFile(path)
    assert ONE in known
    assert TWO in known
    assert hashlib.sha256(b"").hexdigest() not in known
    assert "" not in known


def test_a_change_is_seen_and_a_file_that_went_leaves_its_digests(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write(path, ONE, at=1)
    known = HashFile(path)
    write(path, TWO, at=2)
    known.refresh()
    assert (ONE in known, TWO in known) == (False, True)
    path.unlink()
    known.refresh()
    assert TWO in known


def test_a_change_holds_for_the_next_look_up_that_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(hashes, "WAIT_SECONDS", 30.0)
    path = tmp_path / "list"
    write(path, ONE, at=1)
    known = HashFile(path)
    write(path, TWO, at=2)
    assert (TWO in known, ONE in known) == (True, False)


def test_a_disk_that_hangs_leaves_the_old_list_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(hashes, "WAIT_SECONDS", 0.05)
    path = tmp_path / "list"
    write(path, ONE, at=1)
    known = HashFile(path)
    path.unlink()
    os.mkfifo(path)  # opening it waits for a writer
    assert ONE in known
    assert ONE in known
    with path.open("wb"):  # lets the thread go
        pass


def test_a_list_is_bounded_and_a_missing_one_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "LINES_MAX", 1)
    write(tmp_path / "list", ONE, TWO, at=1)
    known = HashFile(tmp_path / "list")
    assert (ONE in known, TWO in known) == (True, False)
    assert ONE not in HashFile(tmp_path / "none")


def test_lists_stay_in_memory_as_long_as_rules_name_them_however_many_there_are(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(200)]
    for path in paths:
        write(path, hashlib.sha256(path.name.encode()).hexdigest(), at=1)
    text = "".join(f'[[rules]]\nname = "{path.name}"\naction = "reject"\nsha256_files = ["{path}"]\n' for path in paths)
    policy = parse_policy(text)
    held = [one for rule in policy.rules for one in rule.read_lists()]
    assert [hash_file(str(path)) for path in paths] == held
    assert all(hashlib.sha256(path.name.encode()).hexdigest() in one for path, one in zip(paths, held, strict=True))
    other = weakref.ref(hash_file(str(tmp_path / "nobody")))
    assert other() is None, "what no rule names is let go"


def test_all_lists_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a", ONE, at=1)
    write(tmp_path / "b", TWO, at=1)
    first = hash_file(str(tmp_path / "a"))
    monkeypatch.setattr(hashes, "TOTAL_MAX", sum(one.octets for one in hashes._files.values()) + 16)
    second = hash_file(str(tmp_path / "b"))
    assert (ONE in first, TWO in second) == (True, False)


@pytest.mark.parametrize(
    ("data", "name", "values"),
    [
        (b"Subject: a\r\n b\r\n\tc\r\n\r\n", "SUBJECT", ["a b c"]),
        (b"X: 1\nx: 2\n\nX: 3\n", "x", ["1", "2"]),
        (b"S: =?utf-8?q?=C3=A9?=\r\n\r\n", "s", ["é"]),
        (b"S: =?nonsense?q?=C3?= =?utf-8?b?*?=\r\n\r\n", "s", ["=?nonsense?q?=C3?= =?utf-8?b?*?="]),
        (b"S: \xff\r\n", "s", ["\ufffd"]),
        (b" folded first\r\nno colon\r\n\r\n", "s", []),
        (b"", "s", []),
    ],
)
def test_header_fields_are_shown_as_meant_and_odd_ones_as_they_stand(data: bytes, name: str, values: list[str]) -> None:
    assert list(header_of(data)(name)) == values
