"""Runs tests/corpus/routing: rule set + question → routes or reply, and what the trace must say. See the README there."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import validation
from gatepost.message.plain import from_plain
from gatepost.routing.decide import decide
from gatepost.routing.model import (
    AddressHandler,
    Decision,
    DomainRule,
    HandlerOptions,
    Mailbox,
    Question,
    Route,
    RouteKind,
    RuleSet,
    RuleSettings,
)

CORPUS = Path(__file__).parents[2] / "corpus" / "routing"
MIN_CASES = 150


def rule_set_of(table: dict[str, Any]) -> RuleSet:
    rules = {}
    for entry in table.get("rule", []):
        handlers = tuple(handler_of(each) for each in entry.pop("handler", []))
        settings = from_plain(RuleSettings, entry.pop("settings", {}))
        rule = validation.domain_rule(DomainRule(**entry, handlers=handlers, settings=settings))
        rules[rule.domain] = rule
    states = [(address, True) for address in table.get("users", [])] + [(address, False) for address in table.get("disabled_users", [])]
    mailboxes = {address: Mailbox(address, bytes([n]) * 16, "main", enabled) for n, (address, enabled) in enumerate(states)}
    return RuleSet(1, rules, mailboxes)


def handler_of(table: dict[str, Any]) -> AddressHandler:
    options = from_plain(HandlerOptions, table.get("options", {}))
    return AddressHandler(**{**table, "targets": tuple(table.get("targets", ())), "options": options})


def cases() -> Iterator[Any]:
    for path in sorted(CORPUS.glob("*.toml")):
        table = tomllib.loads(path.read_text())
        rule_set = rule_set_of(table)
        for case in table["case"]:
            name = f"{path.stem}: {case['name']}"
            yield pytest.param(rule_set, table.get("delimiter", "+"), case, id=name)


def in_words(route: Route) -> str:
    sender = f" from {route.return_path}" if route.return_path else ""
    edits = "".join(f" with {kind} {ref}" for kind, ref in route.edits)
    held = " held" if route.hold else ""
    if route.kind in (RouteKind.LOCAL, RouteKind.DISCARD, RouteKind.AUTO_REPLY, RouteKind.LIST):
        return f"{route.kind} {route.address}{sender}{edits}{held}"
    destination = route.destination.partition(":~")[0]
    hops = "".join(f" or {hop.host}:{hop.port}" for hop in route.next_hops[1:])
    return f"{route.kind} {route.address} via {destination}{hops}{sender}{edits}{held}"


def question_of(case: dict[str, Any]) -> Question:
    return Question(
        case.get("sender", "sender@far.test"),
        case["recipient"],
        case.get("trusted", False),
        case.get("size", 0),
        case.get("tls", False),
        case.get("now", 0),
        case.get("client", ""),
    )


def assert_trace(decision: Decision, expected: list[str]) -> None:
    steps = iter(step.detail for step in decision.trace)
    for text in expected:
        assert any(text in step for step in steps), (text, decision.trace)


CASES = list(cases())


@pytest.mark.parametrize(("rule_set", "delimiter", "case"), CASES)
def test_decides_as_the_truth_table_says(rule_set: RuleSet, delimiter: str, case: dict[str, Any]) -> None:
    decision = decide(rule_set, question_of(case), delimiter=delimiter)
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
