"""Runs tests/corpus/routing: rule set + question → routes or reply, and what the trace must say. See the README there."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import validation
from gatepost.routing.decide import decide
from gatepost.routing.model import AddressHandler, Decision, DomainRule, Mailbox, Question, Route, RouteKind, RuleSet

CORPUS = Path(__file__).parents[2] / "corpus" / "routing"
MIN_CASES = 60


def rule_set_of(table: dict[str, Any]) -> RuleSet:
    rules = {}
    for entry in table.get("rule", []):
        handlers = tuple(AddressHandler(**{**each, "targets": tuple(each.get("targets", ()))}) for each in entry.pop("handler", []))
        rule = validation.domain_rule(DomainRule(**entry, handlers=handlers))
        rules[rule.domain] = rule
    states = [(address, True) for address in table.get("users", [])] + [(address, False) for address in table.get("disabled_users", [])]
    mailboxes = {address: Mailbox(address, bytes([n]) * 16, "main", enabled) for n, (address, enabled) in enumerate(states)}
    return RuleSet(1, rules, mailboxes)


def cases() -> Iterator[Any]:
    for path in sorted(CORPUS.glob("*.toml")):
        table = tomllib.loads(path.read_text())
        rule_set = rule_set_of(table)
        for case in table["case"]:
            name = f"{path.stem}: {case['name']}"
            yield pytest.param(rule_set, table.get("delimiter", "+"), case, id=name)


def in_words(route: Route) -> str:
    held = " held" if route.hold else ""
    if route.kind in (RouteKind.LOCAL, RouteKind.DISCARD):
        return f"{route.kind} {route.address}{held}"
    return f"{route.kind} {route.address} via {route.destination}{held}"


def assert_trace(decision: Decision, expected: list[str]) -> None:
    steps = iter(step.detail for step in decision.trace)
    for text in expected:
        assert any(text in step for step in steps), (text, decision.trace)


CASES = list(cases())


@pytest.mark.parametrize(("rule_set", "delimiter", "case"), CASES)
def test_decides_as_the_truth_table_says(rule_set: RuleSet, delimiter: str, case: dict[str, Any]) -> None:
    decision = decide(rule_set, Question("sender@far.test", case["recipient"], case.get("trusted", False)), delimiter=delimiter)
    if "reply" in case:
        assert decision.reply is not None, decision
        code, enhanced, *text = case["reply"].split(" ", 2)
        assert (decision.reply.code, decision.reply.enhanced) == (int(code), enhanced)
        assert (text[0] if text else "") in decision.reply.text
        assert decision.routes == ()
    else:
        assert decision.reply is None, decision
        assert [in_words(route) for route in decision.routes] == case["routes"]
    assert_trace(decision, case.get("trace", []))
    assert decision.trace[0].step == "trust"


def test_the_corpus_is_not_empty() -> None:
    assert len(CASES) >= MIN_CASES
    for path in CORPUS.glob("*.toml"):
        assert tomllib.loads(path.read_text()).get("case"), path


def test_every_case_has_an_outcome_and_a_name_of_its_own() -> None:
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert ("reply" in case.values[2]) != ("routes" in case.values[2]), case.id
