"""Authentication-Results (RFC 8601): ours, and those that claim to be."""

import pytest

from gatepost.message.fields import HeaderView
from gatepost.policy.mail_auth.field import claimed, field_of, forged
from gatepost.policy.mail_auth.results import Outcome, Results, Signed, Spf, Word


def test_the_field_says_each_result_with_what_it_is_about() -> None:
    results = Results(
        Spf(Outcome(Word.PASS, "far.test", "mx of far.test"), Outcome(Word.NONE, "mx.far.test")),
        (Signed(Word.PASS, "far.test", "", "sel", "AbC/d+=="), Signed(Word.FAIL, "other.test", "the body was changed", "s2", "x")),
        Outcome(Word.PASS, "far.test", "by SPF"),
        "reject",
    )
    assert field_of("gate.test", results, "a@far.test", "mx.far.test").decode() == (
        "Authentication-Results: gate.test;\r\n"
        "\tspf=pass smtp.mailfrom=a@far.test;\r\n"
        '\tdkim=pass header.d=far.test header.s=sel header.b="AbC/d+==";\r\n'
        '\tdkim=fail reason="the body was changed" header.d=other.test header.s=s2 header.b=x;\r\n'
        "\tdmarc=pass (p=reject) header.from=far.test\r\n"
    )


def test_what_a_client_says_cannot_break_out_of_the_field() -> None:
    results = Results(Spf(Outcome(Word.NONE), Outcome(Word.FAIL, "x", 'a"b\r\nX: y')))
    made = field_of("gate.test", results, 'a"; dkim=pass\r\n x@far.test', "h; dmarc=pass")
    assert made.count(b"\r\n") == made.count(b"\r\n\t") + 1
    assert b'smtp.mailfrom="a?; dkim=pass?? x@far.test"' in made
    assert b'smtp.helo="h; dmarc=pass"' in made
    assert claimed(made.partition(b":")[2]) == "gate.test"


def test_the_null_sender_is_told_by_helo() -> None:
    found = Outcome(Word.PASS, "mx.far.test")
    assert b"spf=pass smtp.helo=mx.far.test;" in field_of("gate.test", Results(Spf(found, found)), "", "mx.far.test")


OURS = [
    b" gate.test; dkim=pass",
    b"gate.test",
    b"\r\n\tGATE.test;\r\n\tspf=pass",
    b' "gate.test"; spf=pass',
    b' "ga\\te.test" 1; spf=pass',
    b" (a comment) gate.test 1; spf=pass",
    b" (a (nested\\)) one) gate.test(b); spf=pass",
    b" gate.test.; spf=pass",
    b"\tgate.test 1 ; none",
]
OTHERS = [b" other.test; dkim=pass", b" xgate.test; a", b" gate.test.other; a", b"", b" (gate.test)", b' "gate.test', b" ;gate.test"]


@pytest.mark.parametrize("value", OURS)
def test_a_field_in_our_name_is_found(value: bytes) -> None:
    view = HeaderView(b"A: b\r\nAuthentication-Results:" + value + b"\r\nC: d\r\n\r\n")
    assert [one.name for one in forged(view, "Gate.Test")] == ["authentication-results"]


@pytest.mark.parametrize("value", OTHERS)
def test_a_field_of_others_stays(value: bytes) -> None:
    assert not list(forged(HeaderView(b"Authentication-Results:" + value + b"\r\n\r\n"), "gate.test"))


def test_results_as_the_record_of_a_message_keeps_them() -> None:
    results = Results(Spf(Outcome(Word.FAIL, "far.test")), (Signed(Word.PASS, "far.test"),), Outcome(Word.PASS, "far.test"), "reject")
    assert [(one.scanner, one.outcome, one.name, one.action) for one in results.answers()] == [
        ("spf", "fail", "far.test", ""),
        ("dkim", "pass", "far.test", ""),
        ("dmarc", "pass", "far.test", "reject"),
    ]
    assert [one.outcome for one in Results().answers()] == ["none", "none", "none"]
