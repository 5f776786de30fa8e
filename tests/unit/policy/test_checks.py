"""Sender, message and postmaster checks."""

import pytest

from gatepost.message.address import parse_address
from gatepost.policy.checks import (
    LOOP,
    NEED_UTF8,
    NOT_OWN_ADDRESS,
    MessageFacts,
    check_message,
    check_own_address,
    check_utf8,
    defect_reply,
    postmaster_domain,
)
from gatepost.routing.model import DomainRule, Mailbox, RuleKind, RuleSet


def rules(*domains: str, users: tuple[str, ...] = ()) -> RuleSet:
    return RuleSet(1, {d: DomainRule(d, RuleKind.HOSTED) for d in domains}, {u: Mailbox(u, bytes(16), "main") for u in users})


@pytest.mark.parametrize(
    ("sender", "allowed"),
    [
        ("alice@example.test", True),
        ("ALICE@Example.test", True),
        ("alice+x@example.test", True),
        ("bob@example.test", False),
        ("Bob@EXAMPLE.test", False),
        ("bob+x@example.test", False),
        ("alias@example.test", True),
        ("someone@elsewhere.test", True),
    ],
)
def test_a_user_may_not_send_as_another_user(sender: str, allowed: bool) -> None:
    rule_set = rules("example.test", users=("alice@example.test", "bob@example.test"))
    verdict = check_own_address(rule_set, parse_address(sender), "alice@example.test", "+")
    assert verdict is (None if allowed else NOT_OWN_ADDRESS)


def test_the_null_sender_belongs_to_everybody() -> None:
    assert check_own_address(rules(), None, "alice@example.test", "+") is None


def test_without_a_delimiter_plus_is_an_ordinary_character() -> None:
    rule_set = rules("example.test", users=("bob@example.test",))
    assert check_own_address(rule_set, parse_address("bob+x@example.test"), "alice@example.test", "") is None


def test_non_ascii_needs_smtputf8() -> None:
    assert check_utf8(parse_address("ü@b.test"), False) is NEED_UTF8
    assert check_utf8(parse_address("a@ü.test"), False) is NEED_UTF8
    assert check_utf8(parse_address("ü@b.test"), True) is None
    assert check_utf8(None, False) is None


def test_hops_beyond_the_limit_are_a_loop() -> None:
    assert check_message(MessageFacts(50), 50) is None
    assert check_message(MessageFacts(51), 50) is LOOP


@pytest.mark.parametrize(
    ("defect", "code"), [("bare-lf", 550), ("bare-cr", 550), ("too-big", 552), ("disk-full", 452), ("closed", 421), ("new", 451)]
)
def test_every_defect_has_a_reply(defect: str, code: int) -> None:
    assert defect_reply(defect).code == code


def test_postmaster_without_domain_means_ours() -> None:
    assert postmaster_domain(rules("mx.example.test", "a.test"), "mx.example.test") == "mx.example.test"
    assert postmaster_domain(rules("example.test", "a.test"), "MX.example.test") == "example.test"
    assert postmaster_domain(rules("b.test", "a.test"), "mx.example.org") == "a.test"
    assert postmaster_domain(rules(), "mx.example.org") == "mx.example.org"
