"""docs/policies.md: its example is a policy, its tables name what there is, and recipients who differ fare as it says."""

import re
import tomllib
from pathlib import Path

import pytest

from gatepost.expression import ListOf, Record
from gatepost.message.verdict import Action, Answer
from gatepost.routing.model import DomainRule, RuleKind, RuleSet
from gatepost.scan.conditions import ENVIRONMENT
from gatepost.scan.facts import MailFacts
from gatepost.scan.files import parse_policy
from gatepost.scan.judge import judge
from gatepost.scan.policies import Policies
from gatepost.scan.policy import Policy, Rule
from gatepost.scan.report import inspect

PAGE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text("utf-8")


def table(head: str) -> list[list[str]]:
    """Rows of the table whose first line begins with `head`."""
    lines = PAGE[PAGE.index(f"\n{head}") + 1 :].splitlines()[2:]
    end = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]


def policy(kind: str) -> Policy:
    if kind.startswith("out:"):
        return Policy.model_validate(
            {"outage": kind.removeprefix("out:"), "rules": [{"name": "i", "action": "reject", "outcomes": ["infected"]}]}
        )
    return Policy.model_validate({"scanners": [], "rules": [{"name": "t", "action": kind, "extensions": ["txt"], "min_depth": 0}]})


@pytest.mark.parametrize(("kinds", "smtp", "lmtp"), table("| policies of the recipients"))
def test_recipients_who_differ_fare_as_the_table_says(kinds: str, smtp: str, lmtp: str) -> None:
    names = [f"p{number}" for number, _ in enumerate(kinds.split(", "))]
    rules = {f"{name}.test": DomainRule(f"{name}.test", RuleKind.MX, policy=name) for name in names}
    policies = Policies(RuleSet(1, rules, {}), dict(zip(names, map(policy, kinds.split(", ")), strict=True)))
    for each, expected in ((False, smtp), (True, lmtp)):
        mail = MailFacts("", tuple(f"b@{name}.test" for name in names), replies_each=each)
        report = inspect(b"From: a@b.test\r\nMIME-Version: 1.0\r\nContent-Disposition: attachment; filename=a.txt\r\n\r\nx", "m.eml")
        found = judge(policies, mail, report, (Answer("clamd", "error", "gone"),), 0)
        assert ", ".join(found.fates) == expected


def test_the_example_is_a_policy_and_uses_what_it_explains() -> None:
    text = PAGE[PAGE.index("```toml\n") + 8 :]
    text = text[: text.index("```")]
    made = parse_policy(text)
    assert [rule.action for rule in made.rules] == ["accept", "reject", "strip", "quarantine"]
    assert set(tomllib.loads(text)) == set(Policy.model_fields)


def test_the_tables_name_every_action_condition_and_field() -> None:
    assert [row[0].strip("`") for row in table("| action ")] == [str(action) for action in Action]
    conditions = {name for row in table("| condition ") for name in re.findall(r"`(\w+)`", row[0])}
    assert conditions == set(Rule.model_fields) - {"name", "action", "reason", "subject", "copy_to"}
    for name, fields in table("| name "):
        kind = ENVIRONMENT.variables[name.strip("`")]
        record = kind.element if isinstance(kind, ListOf) else kind
        assert isinstance(record, Record)
        assert set(re.findall(r"`(\w+)", fields)) == {*record.fields, *record.methods}
    assert len(table("| name ")) == len(ENVIRONMENT.variables)
