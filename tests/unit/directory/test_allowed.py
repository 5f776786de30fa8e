"""Senders whose mail passes policy: kept once, in compared form, seen by the rule set."""

from pathlib import Path

import pytest

from gatepost.directory import Directory, InvalidValue, NotFound, allowed


@pytest.fixture
def directory(tmp_path: Path):
    made = Directory(tmp_path / "directory.db", migrate=True)
    yield made
    made.close()


def test_an_allowed_sender_is_allowed_for_its_recipient_and_no_other(directory: Directory) -> None:
    directory.allow_sender("News@Shop.example", "alice@here.test", author="op")
    rules = directory.snapshot()
    assert rules.allows("news@shop.EXAMPLE", "Alice@here.test")
    assert not rules.allows("news@shop.example", "bob@here.test")
    assert not rules.allows("other@shop.example", "alice@here.test")
    assert not rules.allows("", "alice@here.test")


def test_an_entry_without_recipient_holds_for_all(directory: Directory) -> None:
    directory.allow_sender("news@bücher.example", author="op")
    assert directory.snapshot().allows("news@xn--bcher-kva.example", "whoever@here.test")


def test_allowing_twice_is_one_entry_and_taking_back_ends_it(directory: Directory) -> None:
    first = directory.allow_sender("a@b.example", author="op")
    assert directory.allow_sender("A@B.example", author="somebody else") == first
    assert directory.list_allowed_senders() == [first]
    directory.disallow_sender("a@b.example")
    assert not directory.snapshot().allows("a@b.example", "c@here.test")
    with pytest.raises(NotFound):
        directory.disallow_sender("a@b.example")


def test_what_is_no_address_is_refused_and_the_list_is_bounded(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidValue, match="sender"):
        directory.allow_sender("nobody", author="op")
    monkeypatch.setattr(allowed, "MAX_ENTRIES", 1)
    directory.allow_sender("a@b.example", author="op")
    with pytest.raises(InvalidValue, match="already"):
        directory.allow_sender("c@b.example", author="op")
