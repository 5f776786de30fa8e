"""Runs tests/corpus/flow: lists of a rule set + question → which entry decides. See the README there."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import part_checks
from gatepost.routing.model import RuleSet
from gatepost.routing.parts import PARTS
from gatepost.routing.tree import Fault, decode
from gatepost.routing.trust import Client, Trust, trust_list, trust_of

CORPUS = Path(__file__).parents[2] / "corpus" / "flow"
NOBODY = Trust(False, "-")


def rule_set_of(table: dict[str, Any]) -> RuleSet:
    faults: list[Fault] = []
    lists = {
        name: tuple(part_checks.entry(name, decode(kind, one, (name,), faults)) for one in table.get(name, ()))
        for name, kind in PARTS.items()
    }
    assert not faults
    return RuleSet(1, {}, {}, **lists)  # type: ignore[arg-type]  # each list by its name


def cases(name: str) -> list[Any]:
    return list(_cases(name))


def _cases(name: str) -> Iterator[Any]:
    for path in sorted(CORPUS.glob(f"{name}*.toml")):
        table = tomllib.loads(path.read_text())
        for case in table["case"]:
            yield pytest.param(rule_set_of(table), case, id=f"{path.stem}: {case['name']}")


def client_of(case: dict[str, Any]) -> Client:
    fields = ("client", "user", "fingerprint", "subject")
    return Client(*(case.get(name, "") for name in fields), case.get("sender", "sender@far.test"))


@pytest.mark.parametrize(("rules", "case"), cases("trust"))
def test_the_first_trust_entry_that_fits_decides(rules: RuleSet, case: dict[str, Any]) -> None:
    found = trust_of(rules, client_of(case), NOBODY)
    said = found.why.removeprefix("trust entry ").replace("'", "").replace(":", "")
    assert said == case["expect"]
    assert found.trusted == said.endswith(" trust")


@pytest.mark.parametrize(("rules", "case"), cases("trust"))
def test_a_client_that_is_not_told_to_depend_on_the_sender_does_not(rules: RuleSet, case: dict[str, Any]) -> None:
    client, entries = client_of(case), trust_list(rules)
    assert entries is not None
    answers = {
        trust_of(rules, Client(client.address, client.user, client.fingerprint, client.subject, sender), NOBODY).trusted
        for sender in ("", "x@partner.test", "alice@example.org", "x@far.test", client.sender)
    }
    assert entries.open_for(client) or len(answers) == 1


def test_without_entries_what_login_and_networks_say_holds() -> None:
    rules = RuleSet(1, {}, {})
    assert trust_of(rules, Client("10.0.0.1"), Trust(True, "network")) == Trust(True, "network")
