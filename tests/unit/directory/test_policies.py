"""Attachment policies as the directory keeps them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.directory import ConflictInUse, Directory, EtagMismatch, InvalidValue, NotFound
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    made = Directory(tmp_path / "directory.db", migrate=True)
    yield made
    made.close()


RULE = DomainRule("example.test", RuleKind.HOSTED)
HANDLER = AddressHandler("boss", HandlerKind.DISCARD)


def with_policy(name: str) -> DomainRule:
    return DomainRule("example.test", RuleKind.HOSTED, policy=name)


def test_a_policy_is_in_the_rule_set_and_in_its_versions(directory: Directory) -> None:
    stored = directory.put_policy("strict", "# first", author="a")
    assert directory.snapshot().policies == {"strict": "# first"}
    directory.put_policy("strict", "# second", etag=stored.etag, author="b")
    directory.delete_policy("strict", author="c")
    assert directory.snapshot().policies == {}
    assert [one.comment for one in directory.rule_versions()] == ["remove policy strict", "change policy strict", "add policy strict"]


def test_a_rule_and_a_handler_name_policies_that_are_there(directory: Directory) -> None:
    directory.put_policy("strict", "", author="a")
    directory.put_rule(with_policy("strict"), create=True, author="a")
    directory.put_handler("example.test", AddressHandler("boss", HandlerKind.DISCARD, policy="none"), create=True, author="a")
    rule = directory.snapshot().rules["example.test"]
    assert (rule.policy, rule.handlers[0].policy) == ("strict", "none")
    assert directory.get_policy("strict").used_by == ("example.test",)
    with pytest.raises(InvalidValue, match="did you mean 'strict'"):
        directory.put_rule(with_policy("stict"), create=False, author="a")
    with pytest.raises(InvalidValue, match="no policy 'x'"):
        directory.put_handler("example.test", AddressHandler("other", HandlerKind.DISCARD, policy="x"), create=True, author="a")


def test_a_policy_that_is_named_stays(directory: Directory) -> None:
    directory.put_policy("strict", "", author="a")
    directory.put_rule(with_policy("strict"), create=True, author="a")
    with pytest.raises(ConflictInUse, match=r"used by example\.test"):
        directory.delete_policy("strict", author="a")
    directory.put_rule(with_policy("shipped"), create=False, author="a")
    directory.delete_policy("strict", author="a")
    with pytest.raises(NotFound):
        directory.get_policy("strict")


def test_etags_names_and_lengths_are_checked(directory: Directory) -> None:
    old = directory.put_policy("strict", "1", author="a").etag
    directory.put_policy("strict", "2", author="a")
    for change in (
        lambda: directory.put_policy("strict", "3", etag=old, author="a"),
        lambda: directory.delete_policy("strict", etag=old, author="a"),
    ):
        with pytest.raises(EtagMismatch):
            change()
    for name in ("shipped", "none", "", "Über", "x" * 40):
        with pytest.raises(InvalidValue):
            directory.put_policy(name, "", author="a")
    with pytest.raises(InvalidValue, match="characters"):
        directory.put_policy("long", "#" * 300_000, author="a")
