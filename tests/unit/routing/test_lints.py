"""Lints: what an administrator cannot have meant is found, and what is fine is left alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gatepost.routing.lints import Surroundings, lint
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, Mailbox, RuleKind, RuleSet, TlsPolicy
from gatepost.routing.settings import RuleSettings
from gatepost.routing.stages import Stage, StageAction, StagePolicy

AROUND = Surroundings(frozenset({"mail.example.test"}), frozenset({("127.0.0.1", 2525), ("192.0.2.7", 25), ("0.0.0.0", 26)}))
GATEWAY = DomainRule("g.test", RuleKind.GATEWAY, host="other.test", port=2525, tls=TlsPolicy.VERIFIED)


def hosted(**handlers: tuple[HandlerKind, tuple[str, ...]]) -> DomainRule:
    return DomainRule("a.test", RuleKind.HOSTED, handlers=tuple(AddressHandler(name, *what) for name, what in handlers.items()))


def found(*rules: DomainRule) -> list[tuple[str, str, bool]]:
    mailboxes: Mapping[str, Any] = {"bob@a.test": Mailbox("bob@a.test", b"b" * 16, "main")}
    rule_set = RuleSet(1, {rule.domain: rule for rule in rules}, mailboxes)
    return [(one.code, ".".join(one.path[1:]), one.error) for one in lint(rule_set, AROUND)]


@pytest.mark.parametrize(
    ("host", "port", "here"),
    [
        ("mail.example.test", 26, True),
        ("MAIL.example.test.", 26, True),
        ("localhost", 2525, True),
        ("127.0.0.1", 2525, True),
        ("192.0.2.7", 25, True),
        ("127.0.0.1", 2526, False),
        ("192.0.2.8", 25, False),
        ("other.test", 2525, False),
    ],
)
def test_a_gateway_to_this_server_itself_is_an_error(host: str, port: int, here: bool) -> None:
    assert found(replace(GATEWAY, host=host, port=port)) == ([("relay-to-self", "g.test.host", True)] if here else [])


@pytest.mark.parametrize(("domain", "is_open"), [("*", True), ("*.com", True), ("*.example.com", False), ("com", False)])
def test_whoever_takes_anybodys_mail_for_everybody_is_an_open_relay(domain: str, is_open: bool) -> None:
    rule = DomainRule(domain, RuleKind.MX, accept_untrusted=True)
    assert found(rule) == ([("open-relay", f"{domain}.accept_untrusted", True)] if is_open else [])


@pytest.mark.parametrize("tls", list(TlsPolicy))
def test_a_password_sent_to_who_knows_whom_is_a_warning(tls: TlsPolicy) -> None:
    rule = replace(GATEWAY, tls=tls, username="me", password_ref="x")
    careless = tls in (TlsPolicy.NONE, TlsPolicy.OPPORTUNISTIC, TlsPolicy.REQUIRED)
    assert found(rule) == ([("unverified-login", "g.test.tls", False)] if careless else [])
    assert found(replace(rule, username="", password_ref="")) == []


def test_a_loop_is_an_error_at_each_handler_of_it() -> None:
    rule = hosted(x=(HandlerKind.FORWARD, ("y@a.test",)), y=(HandlerKind.FORWARD, ("x@a.test",)))
    assert found(rule) == [("loop", "a.test.handlers.x.targets", True), ("loop", "a.test.handlers.y.targets", True)]


def test_a_handler_that_leads_to_nobody_is_told() -> None:
    rule = hosted(
        x=(HandlerKind.FORWARD, ("nobody@a.test",)), y=(HandlerKind.COPY, ("gone@a.test",)), bob=(HandlerKind.COPY, ("x@far.test",))
    )
    assert {one for one in found(rule) if one[0] == "leads-nowhere"} == {
        ("leads-nowhere", "a.test.handlers.x.targets", False),
        ("leads-nowhere", "a.test.handlers.y.targets", False),
    }


def test_a_handler_that_another_one_always_beats_is_told() -> None:
    handlers = tuple(AddressHandler(name, HandlerKind.DISCARD) for name in ("sales", "sales+*", "sale*", "*s", "*"))
    rule = DomainRule("a.test", RuleKind.HOSTED, handlers=handlers)
    assert found(rule) == [("unreachable", "a.test.handlers.sales+*", False)]


def test_an_ordinary_rule_set_has_no_lints() -> None:
    rule = hosted(sales=(HandlerKind.FORWARD, ("bob@a.test", "agency@far.test")), bob=(HandlerKind.COPY, ("x@far.test",)))
    catch_all = replace(rule, handlers=(*rule.handlers, AddressHandler("*", HandlerKind.MAILBOX, ("bob@a.test",))))
    assert found(catch_all, GATEWAY, DomainRule("*.a.test", RuleKind.HOLD), DomainRule("*", RuleKind.GATEWAY, host="smart.test")) == []


def test_an_alias_of_a_domain_without_a_rule_is_told() -> None:
    alias = DomainRule("b.test", RuleKind.ALIAS, settings=RuleSettings(alias_of="a.test"))
    assert found(alias) == [("leads-nowhere", "b.test.settings", False)]
    assert found(alias, DomainRule("*", RuleKind.MX)) == [("leads-nowhere", "b.test.settings", False)]
    assert found(alias, hosted()) == []
    assert found(alias, DomainRule("*.test", RuleKind.MX)) == []


def test_a_policy_that_asks_what_nobody_finds_out_is_told() -> None:
    policy = StagePolicy(name="p", stage=Stage.DATA, when="auth.dmarc == 'fail' && message.size > 1", action=StageAction.HOLD)
    other = replace(policy, name="q", when="message.header('authentication-results').size() > 0")
    for verifies, codes in ((True, []), (False, ["never-verified"])):
        lints = lint(RuleSet(1, {}, {}, stage_policies=(policy, other)), replace(AROUND, verifies=verifies))
        assert [one.code for one in lints] == codes
