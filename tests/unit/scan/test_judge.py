"""What becomes of a message, recipient by recipient."""

from email import message_from_bytes
from email.policy import default

import pytest

from gatepost.message.verdict import Action, Answer
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, RuleSet
from gatepost.scan.facts import Direction, MailFacts, direction_of
from gatepost.scan.judge import ALLOWED, SCANNER_OUT, Fate, judge, needs
from gatepost.scan.notice import Removed, marked_subject, notice_part, notice_text
from gatepost.scan.policies import Defaults, Policies
from gatepost.scan.policy import Policy, Rule
from gatepost.scan.report import Report, inspect
from gatepost.scan.scanners.plugin import ScanAnswer

PROGRAM = inspect(
    b"From: a@remote.test\r\nTo: b@soft.test\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
    b'Content-Disposition: attachment; filename="setup.exe"\r\n\r\nhello',
    "message.eml",
)


def policy(action: Action, **more: object) -> Policy:
    return Policy(rules=(Rule(name=f"names {action}", action=action, extensions=("exe",), **more),))


NAMED = {f"to-{action}": policy(action) for action in Action}


def policies(named: dict[str, Policy] | None = None, **defaults: object) -> Policies:
    domains = {f"{name}.test": DomainRule(f"{name}.test", RuleKind.GATEWAY, "192.0.2.1", policy=name) for name in named or NAMED}
    return Policies(RuleSet(1, domains, {}), named or NAMED, Defaults(**defaults))


def judged(*actions: str, report: Report = PROGRAM, each: bool = False, answers: tuple[Answer, ...] = ()) -> tuple[Action, list[str]]:
    mail = MailFacts("x@remote.test", tuple(f"b@to-{action}.test" for action in actions), replies_each=each)
    found = judge(policies(), mail, report, answers, 5.0)
    return found.verdict.action, [str(fate) for fate in found.fates]


@pytest.mark.parametrize(
    ("actions", "action", "fates"),
    [
        (["accept"], "accept", ["deliver"]),
        (["reject"], "reject", ["reject"]),
        (["reject", "reject"], "reject", ["reject", "reject"]),
        (["reject", "accept"], "quarantine", ["quarantine", "deliver"]),
        (["accept", "reject", "hold"], "hold", ["deliver", "quarantine", "hold"]),
        (["quarantine", "tag"], "quarantine", ["quarantine", "deliver"]),
        (["strip", "tag"], "strip", ["deliver", "deliver"]),
    ],
)
def test_recipients_who_differ_share_one_reply_but_not_one_fate(actions: list[str], action: str, fates: list[str]) -> None:
    assert judged(*actions) == (action, fates)


def test_a_client_that_hears_of_each_recipient_has_only_those_refused_that_refuse() -> None:
    assert judged("reject", "accept", each=True) == ("reject", ["reject", "deliver"])


def test_a_part_is_stripped_for_all_if_one_recipient_that_gets_it_wants_that() -> None:
    for others in (("accept",), ("hold",), ("accept", "quarantine")):
        mail = MailFacts("", tuple(f"b@to-{one}.test" for one in ("strip", *others)))
        assert [one.entry for one in judge(policies(), mail, PROGRAM, (), 0).strip] == [1]


def test_a_quarantined_message_keeps_what_its_policy_strips() -> None:
    both = {"both": Policy(rules=(*policy(Action.STRIP).rules, Rule(name="all", action=Action.QUARANTINE, min_bytes=0)))}
    found = judge(policies(both), MailFacts("", ("b@both.test",)), PROGRAM, (), 0)
    assert found.fates == (Fate.QUARANTINE,)
    assert found.strip == ()


def test_a_rule_that_would_strip_the_whole_message_quarantines_it() -> None:
    whole = {"whole": Policy(rules=(Rule(name="all", action=Action.STRIP, verdicts=("complete",)),))}
    found = judge(policies(whole), MailFacts("", ("b@whole.test",)), PROGRAM, (), 0)
    assert (found.fates, found.verdict.action, found.strip) == ((Fate.QUARANTINE,), Action.QUARANTINE, ())


@pytest.mark.parametrize(("outage", "fate", "action"), [("open", "deliver", "tag"), ("closed", "defer", "hold"), ("hold", "wait", "hold")])
def test_a_scanner_without_an_answer_is_treated_as_the_policy_says(outage: str, fate: str, action: str) -> None:
    named = {"p": Policy(outage=outage, rules=policy(Action.TAG, subject="[exe]").rules)}
    found = judge(policies(named), MailFacts("", ("b@p.test",)), PROGRAM, (Answer("clamd", "error", "timed out"),), 0)
    assert (found.fates[0], found.verdict.action, found.verdict.rule) == (fate, action, SCANNER_OUT)


def test_content_that_a_scanner_cannot_judge_does_not_wait_for_it() -> None:
    refused = ScanAnswer("clamd", "error", "too large", outage=False)
    found = judge(
        policies({"p": Policy(outage="hold", rules=policy(Action.TAG).rules)}), MailFacts("", ("b@p.test",)), PROGRAM, (refused,), 0
    )
    assert (found.fates[0], found.verdict.action, found.verdict.rule) == ("deliver", "tag", "scanner-error")


def test_an_allowed_sender_passes_for_whom_it_was_allowed_unless_a_scanner_names_what_is_in_it() -> None:
    rules = RuleSet(
        1, {"a.test": DomainRule("a.test", RuleKind.GATEWAY, "192.0.2.1")}, {}, allowed={"x@remote.test": frozenset({"b@a.test"})}
    )
    mail = MailFacts("X@remote.test", ("b@a.test", "c@a.test"))
    found = judge(Policies(rules), mail, PROGRAM, (), 0)
    assert found.fates == (Fate.DELIVER, Fate.QUARANTINE)
    found = judge(Policies(rules), MailFacts("x@remote.test", ("b@a.test",)), PROGRAM, (), 0)
    assert (found.fates, found.verdict.action, found.verdict.rule) == ((Fate.DELIVER,), Action.ACCEPT, ALLOWED)
    infected = judge(Policies(rules), mail, PROGRAM, (Answer("clamd", "infected", "Eicar"),), 0)
    assert infected.refused is Fate.REJECT
    assert infected.verdict.rule == "infected"


def test_an_outage_does_not_soften_what_the_rules_say() -> None:
    assert judged("reject", answers=(Answer("clamd", "error"),)) == ("reject", ["reject"])


def test_a_policy_that_does_not_ask_a_scanner_does_not_hear_it() -> None:
    named = {"deaf": Policy(scanners=(), rules=(Rule(name="i", action=Action.REJECT, outcomes=("infected",)),))}
    found = judge(policies(named), MailFacts("", ("b@deaf.test",)), PROGRAM, (Answer("clamd", "infected", "Eicar"),), 0)
    assert found.fates == (Fate.DELIVER,)
    assert needs(policies(named), MailFacts("", ("b@deaf.test",))).scanners == ()


def test_handler_beats_rule_beats_direction_beats_trust_beats_default() -> None:
    handler = AddressHandler("boss", HandlerKind.MAILBOX, policy="handler")
    rules = {
        "a.test": DomainRule("a.test", RuleKind.HOSTED, handlers=(handler,), policy="rule"),
        "b.test": DomainRule("b.test", RuleKind.MX),
    }
    names = Policies(RuleSet(1, rules, {}), {}, Defaults("default", "trusted", {Direction.OUTBOUND: "out"}))
    asked = [
        ("boss@a.test", "inbound"),
        ("x@a.test", "inbound"),
        ("x@b.test", "outbound"),
        ("x@b.test", "internal"),
        ("x@b.test", "inbound"),
    ]
    found = [names.name_for(address, Direction(way), trusted=way != "inbound") for address, way in asked]
    assert found == ["handler", "rule", "out", "trusted", "default"]


def test_direction_depends_on_trust_and_on_whose_the_recipients_are() -> None:
    kinds = {"ours.test": RuleKind.HOSTED, "gate.test": RuleKind.GATEWAY, "other.test": RuleKind.MX, "*": RuleKind.GATEWAY}
    rules = RuleSet(1, {domain: DomainRule(domain, kind) for domain, kind in kinds.items()}, {})
    assert direction_of(rules, ("a@other.test",), trusted=False) == "inbound"
    assert direction_of(rules, ("a@ours.test", "b@gate.test", "postmaster"), trusted=True) == "internal"
    for elsewhere in ("a@other.test", "a@unknown.test", "a@[192.0.2.1]", "not an address@"):
        assert direction_of(rules, ("a@ours.test", elsewhere), trusted=True) == "outbound"


def test_mail_without_rules_needs_nothing_and_the_shipped_ones_pass_plain_text() -> None:
    shipped, nothing = Policies(RuleSet(1, {}, {})), Policies(RuleSet(1, {}, {}), {}, Defaults("none"))
    mail = MailFacts("", ("a@b.test",))
    assert needs(shipped, mail).inspect
    assert not needs(shipped, mail).plain
    assert not needs(nothing, mail).inspect
    assert not needs(Policies(RuleSet(1, {}, {}), enabled=False), mail).inspect
    assert needs(policies({"big": Policy(rules=(Rule(name="b", action=Action.TAG, min_bytes=9),))}), MailFacts("", ("a@big.test",))).plain


def test_a_notice_is_one_part_whatever_the_names_hold() -> None:
    name = "x\r\n--bound\r\nContent-Type: text/html\r\n\r\n<a>\u202egpj.exe"
    for contact in ("postmaster@a.test", "postmästare@a.test"):
        part = message_from_bytes(notice_part([Removed(name, name)], "mx.a.test", contact), policy=default)
        assert part.get_content_type() == "text/plain"
        assert part.get_content_charset() == "utf-8"
        lines = part.get_content().splitlines()
        assert "--bound" not in lines
        assert contact in lines[-1]
        assert not any("\u202e" in line or "\r" in line for line in lines)


def test_a_notice_about_many_files_is_bounded() -> None:
    text = notice_text([Removed("n" * 9_000, "r" * 9_000)] * 5_000, "mx", "me")
    assert len(text) < 10_000
    assert "4980 more" in text


@pytest.mark.parametrize(
    ("before", "tag", "after"),
    [
        (b" Hello\r\n", "[exe]", b"Subject: [exe]\r\n Hello\r\n"),
        (b" [exe] Hello\r\n", "[exe]", b"Subject: [exe] Hello\r\n"),
        (b"", "[exe]", b"Subject: [exe]\r\n"),
        (b" =?utf-8?q?a?=\r\n =?utf-8?q?b?=\r\n", "[exe]", b"Subject: [exe]\r\n =?utf-8?q?a?=\r\n =?utf-8?q?b?=\r\n"),
        (b" Hello", "x\r\nBcc: y", b"Subject: x\\u000d\\u000aBcc: y\r\n Hello\r\n"),
    ],
)
def test_a_subject_is_marked_without_touching_what_it_said(before: bytes, tag: str, after: bytes) -> None:
    assert marked_subject(before, tag) == after
