"""Runs tests/corpus/flow: lists of a rule set + question → which entry decides. See the README there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import InvalidValue, part_checks, validation
from gatepost.routing.decide import decide
from gatepost.routing.model import DomainRule, Question, RuleSet
from gatepost.routing.parts import PARTS
from gatepost.routing.senders import choice_of
from gatepost.routing.stage_facts import AddressFacts, AttemptFacts, ClientFacts, Facts, MessageFacts, RateFacts, RouteFacts, ScanFacts
from gatepost.routing.stages import ENVIRONMENT, LimitBy, Stage, StageAction, StagePolicy, compiled, limit_want, refusal, stage_policies
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


def facts_of(case: dict[str, Any]) -> Facts:
    header = case.get("header", {})
    facts = Facts(ClientFacts(**case["client"]), rate=RateFacts())
    if "sender" in case:
        facts.sender = AddressFacts(case["sender"])
    if "recipient" in case:
        facts.recipient = AddressFacts(case["recipient"])
    if "route" in case:
        facts.route = RouteFacts(**case["route"])
    if "attempt" in case:
        facts.attempt = AttemptFacts(**case["attempt"])
    if "rates" in case:
        facts.rate = RateFacts(count=lambda by, seconds: case["rates"].get(f"{by} {seconds}", 0))
    if case["stage"] in ("data", "deliver"):
        facts.message = MessageFacts(100, ("x@y.test",), lambda name: header.get(name, ()))
        facts.scan = ScanFacts(**case.get("scan", {}))
    return facts


@pytest.mark.parametrize(("rules", "case"), cases("stages"))
def test_policies_hold_for_what_they_name(rules: RuleSet, case: dict[str, Any]) -> None:
    policies = stage_policies(rules)
    assert policies is not None
    facts = facts_of(case)
    found = policies.ask(Stage(case["stage"]), facts)
    assert [one.policy.name for one in found if one.holds] == case["met"]
    replies = [reply for one in found if (reply := refusal(one)) is not None]
    assert [f"{one.code} {one.text}" for one in replies] == ([case["reply"]] if "reply" in case else [])
    if "want" in case:
        assert limit_want(found[-1].policy if found[-1].holds else found[0].policy, facts).key.endswith(case["want"])


@pytest.mark.parametrize(("rules", "case"), cases("stages"))
def test_what_cannot_concern_a_sender_or_recipient_never_holds_for_it(rules: RuleSet, case: dict[str, Any]) -> None:
    policies, facts = stage_policies(rules), facts_of(case)
    assert policies is not None
    partly = [Facts(client=facts.client), Facts(sender=facts.sender), Facts(recipient=facts.recipient)]
    may = [all(places) for places in zip(*(policies.may_hold(one) for one in partly), strict=True)]
    if case["stage"] == Stage.DELIVER:
        assert policies.may_hold_at_delivery(Facts(route=facts.route)) or not case["met"]
        return
    enabled = [one.name for one in rules.stage_policies if one.enabled and one.stage is not Stage.DELIVER]
    for one in policies.ask(Stage(case["stage"]), facts, go_on=True):
        assert may[enabled.index(one.policy.name)] or one.holds is False, one.policy.name


PAGE = Path(__file__).parents[3] / "docs" / "stages.md"


def test_the_examples_of_the_page_are_conditions_of_their_stage() -> None:
    examples = re.findall(r"```cel (\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) >= 8
    for stage, condition in examples:
        compiled(StagePolicy(name="x", stage=Stage(stage), when=condition.strip(), action=StageAction.ACCEPT))


def test_the_page_names_every_stage_action_and_field() -> None:
    page = PAGE.read_text()
    for word in (*Stage, *StageAction):
        assert re.search(rf"^\| [^|]*\b{word}\b", page, re.MULTILINE), word
    for record in ENVIRONMENT.variables.values():
        for name in (*record.fields, *record.methods):  # type: ignore[union-attr]  # all variables are records
            assert f"`{name}" in page, f"{record}.{name}"


@pytest.mark.parametrize(
    ("stage", "condition", "fault"),
    [
        ("mail", "sender.domian == 'a.test'", "did you mean 'domain'"),
        ("mail", "recipient.domain == 'a.test'", "'recipient' is not known at stage mail, but at rcpt, route, deliver"),
        ("data", "recipient.domain == 'a.test'", "but at rcpt, route"),
        ("connect", "message.size > 1", "but at data"),
        ("data", "attempt.number > 1", "'attempt' is not known at stage data, but at deliver"),
        ("deliver", "client.certificate == 'x'", "client.certificate is of the session, and not known any more at stage deliver"),
        ("deliver", "rate.messages > 3", "rate.messages is of the session"),
        ("helo", "rate.sender(60) > 3", "rate.sender needs the sender, which is not known at stage helo"),
        ("mail", "rate.recipient_domain(60) > 3", "needs the recipient"),
        ("rcpt", "rate.client(time.hour) > 3", "takes seconds as a plain number, 1 to 86400"),
        ("rcpt", "rate.client(0) > 3", "takes seconds as a plain number"),
        ("rcpt", " + ".join(f"rate.client({n})" for n in range(1, 6)) + " > 3", "asks for 5 rates; 4 are possible"),
        ("rcpt", "rate.clients(60) > 3", "did you mean 'client'"),
        ("data", "message.size", "a condition is true or false"),
        ("data", "message.recipients.exists(a, message.recipients.exists(b, a == b))", "steps"),
        ("data", "clinet.tls", "did you mean 'client'"),
    ],
)
def test_a_condition_that_its_stage_cannot_answer_is_refused_when_it_is_saved(stage: str, condition: str, fault: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(fault)) as refused:
        part_checks.entry("stage_policies", StagePolicy(name="x", stage=Stage(stage), when=condition, action=StageAction.ACCEPT))
    assert refused.value.field == "when"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"action": "reject", "code": 451}, "code"),
        ({"action": "defer", "code": 550}, "code"),
        ({"action": "reject", "text": "no\r\n250 ok"}, "text"),
        ({"action": "reject", "text": "ü"}, "text"),
        ({"action": "tag"}, "text"),
        ({"action": "add-header", "header": "Received", "text": "x"}, "header"),
        ({"action": "add-header", "header": "X A", "text": "x"}, "header"),
        ({"action": "add-header", "header": "X-A", "text": "x\r\nBcc: y"}, "text"),
        ({"action": "reroute", "host": "a.test"}, "stage"),
        ({"action": "copy", "address": "nobody"}, "address"),
        ({"action": "limit"}, "most"),
        ({"action": "limit", "most": 5, "by": "recipient"}, "by"),
        ({"action": "hold", "host": "a.test"}, "host"),
    ],
)
def test_an_action_with_what_it_cannot_use_is_refused(fields: dict[str, Any], field: str) -> None:
    given = {**fields, "action": StageAction(fields["action"]), "by": LimitBy(fields.get("by", "client"))}
    with pytest.raises(InvalidValue) as refused:
        part_checks.entry("stage_policies", StagePolicy(name="x", stage=Stage.DATA, when="true", **given))
    assert refused.value.field == field
