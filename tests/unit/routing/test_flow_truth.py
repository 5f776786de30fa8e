"""Runs tests/corpus/flow: lists of a rule set + question → which entry decides. See the README there."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import part_checks, validation
from gatepost.routing.decide import decide
from gatepost.routing.model import DomainRule, Question, RuleSet
from gatepost.routing.parts import PARTS
from gatepost.routing.senders import choice_of
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
    rules = {one["domain"]: validation.domain_rule(DomainRule(**one)) for one in table.get("rule", ())}
    return RuleSet(1, rules, {}, **lists)  # type: ignore[arg-type]  # each list by its name


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


@pytest.mark.parametrize(("rules", "case"), cases("senders"))
def test_sender_rules_say_who_may_what_and_how_it_leaves(rules: RuleSet, case: dict[str, Any]) -> None:
    client = client_of(case)
    choice = choice_of(rules, client)
    told = [f"{what} {most} in {seconds} for {whom}" for rule, whom in choice.limited for what, seconds, most in rule.limits]
    assert told == case.get("limits", [])
    assert choice.masked(case["sender"]) == case.get("masked", case["sender"])
    refusal = choice.refusal(case["sender"])
    if refusal is not None:
        assert f"{refusal.code} {refusal.enhanced}" == case["expect"]
        return
    decision = decide(rules, Question(case["sender"], case["recipient"], True, client=client.address, user=client.user))
    (route,) = decision.routes
    options = route.options
    leaving = f" leaving {options.source_address} as {options.helo}" if options and options.helo else ""
    assert f"{route.kind} {route.address} via {route.destination.partition(':~')[0]}{leaving}" == case["expect"]
    named = choice.leaving is not None and any(step.step == "sender" for step in decision.trace)
    assert decision.fixed != (choice.leaving is not None)
    assert named == (choice.leaving is not None and "partner" not in case["recipient"] and "[" not in case["recipient"])


@pytest.mark.parametrize(("rules", "case"), cases("senders"))
def test_a_remembered_answer_is_not_given_to_whom_a_sender_rule_fits(rules: RuleSet, case: dict[str, Any]) -> None:
    client = client_of(case)
    question = Question(case["sender"], case["recipient"], True, client=client.address, user=client.user)
    alone = decide(rules, question)
    decide(rules, Question("a@far.test", case["recipient"], True, client="203.0.113.1"))
    assert decide(rules, question) == alone
