"""Queued mail decided by the rules of now: stage policies that reroute are asked, as far as the queue knows what they ask for."""

from dataclasses import replace
from typing import Any

import pytest

from gatepost.directory import part_checks
from gatepost.message.envelope import Origin
from gatepost.queue.anew import Anew
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, RuleSet
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.queue_lab import RULES

CLIENT = Origin("ESMTP", "192.0.2.1", 4711, "client.test", listener="smtp")


def policy(stage: Stage, when: str, action: str = "reroute", **more: Any) -> StagePolicy:
    given = {"host": "filter.test"} if action == "reroute" else {}
    made = StagePolicy(name=f"{stage}-{action}", stage=stage, when=when, action=StageAction(action), **{**given, **more})
    checked: StagePolicy = part_checks.entry("stage_policies", made)
    return checked


def host(rules: RuleSet, address: str = "x@far.test", origin: Origin = CLIENT, orcpt: str = "", networks: tuple[str, ...] = ()) -> str:
    (route,) = Anew(rules, "+", networks).decide(origin, "alice@here.test", address, 1000, orcpt).routes
    return route.host


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (policy(Stage.ROUTE, "route.kind == 'smtp' && recipient.domain == 'far.test'"), "filter.test"),
        (policy(Stage.RCPT, "client.within('192.0.2.0/24') && client.helo == 'client.test'"), "filter.test"),
        (policy(Stage.RCPT, "client.trusted"), ""),
        (policy(Stage.ROUTE, "route.kind == 'local'"), ""),
        (policy(Stage.ROUTE, "rate.client(60) > 1"), ""),
        (policy(Stage.ROUTE, "auth.spf == 'fail'"), ""),
        (policy(Stage.DELIVER, "true"), ""),
        (policy(Stage.ROUTE, "true", "hold"), ""),
    ],
    ids=str,
)
def test_policies_that_reroute_before_the_queue_are_followed(made: StagePolicy, expected: str) -> None:
    assert host(replace(RULES, stage_policies=(made,))) == expected


def test_accept_before_it_ends_the_stage() -> None:
    first, second = policy(Stage.ROUTE, "sender.local == 'alice'", "accept"), policy(Stage.ROUTE, "true")
    assert host(replace(RULES, stage_policies=(first, second))) == ""
    assert host(replace(RULES, stage_policies=(second, first))) == "filter.test"


def test_who_was_trusted_is_known() -> None:
    rules = replace(RULES, stage_policies=(policy(Stage.RCPT, "client.trusted"),))
    assert host(rules, networks=("192.0.2.0/24",)) == "filter.test"
    assert host(rules, origin=Origin("ESMTPSA", "192.0.2.1", 1, "x", user="alice@here.test", listener="submission")) == "filter.test"


def test_mail_that_came_over_the_api_meets_no_policy() -> None:
    assert host(replace(RULES, stage_policies=(policy(Stage.ROUTE, "true"),)), origin=Origin("GRPC")) == ""


def test_policies_are_asked_about_whom_the_client_named() -> None:
    sales = AddressHandler("sales", HandlerKind.FORWARD, ("agency@far.test",))
    rules = {**RULES.rules, "here.test": DomainRule("here.test", RuleKind.HOSTED, handlers=(sales,))}
    made = replace(RULES, rules=rules, stage_policies=(policy(Stage.RCPT, "recipient.local == 'sales'"),))
    assert host(made, "agency@far.test", orcpt="rfc822;sales@here.test") == "filter.test"
    assert host(made, "agency@far.test") == ""
