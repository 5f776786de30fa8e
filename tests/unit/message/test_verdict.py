"""A verdict survives the journal, and what comes from a message cannot make it large."""

import json

import pytest

from gatepost.message.verdict import MAX_OCTETS, Action, Answer, Finding, Verdict


def test_a_verdict_comes_back_as_it_was_written() -> None:
    verdict = Verdict(
        Action.QUARANTINE,
        "default",
        "program",
        "programs are not taken",
        (Finding("a.zip / b.exe", "program", Action.QUARANTINE),),
        (Answer("clamd", "infected", "Eicar-Signature"), Answer("rspamd", "suspicious", "", 7.5)),
        1_700_000_000.25,
    )
    assert Verdict.decode(json.loads(json.dumps(verdict.encode()))) == verdict


def test_a_thousand_long_findings_stay_within_the_bound_and_are_counted() -> None:
    findings = tuple(Finding("\u202e" * 5_000, "x" * 5_000, Action.TAG) for _ in range(1_000))
    encoded = Verdict(Action.REJECT, reason="kept", findings=findings).encode()
    assert len(json.dumps(encoded)) <= MAX_OCTETS
    back = Verdict.decode(encoded)
    assert (back.action, back.reason) == (Action.REJECT, "kept")
    assert len(back.findings) + back.omitted == 1_000


@pytest.mark.parametrize("damaged", [[], ["accept"], ["no such", "", "", "", [], [], 0, 0], ["accept", "", "", "", 1, [], 0, 0]])
def test_a_damaged_verdict_is_an_error(damaged: list[object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Verdict.decode(damaged)


def test_a_verdict_in_words_names_what_decided_and_what_scanners_found() -> None:
    answers = (Answer("clamd", "infected", "Eicar"), Answer("rspamd", "suspicious", "", 9.5), Answer("icap", "clean"))
    verdict = Verdict(Action.QUARANTINE, "default", "program", answers=answers)
    assert verdict.text == "quarantine, policy default, rule program, clamd infected Eicar, rspamd suspicious (9.5), icap clean"
    assert verdict.infected and not Verdict(Action.HOLD).infected
    assert Verdict(Action.ACCEPT).text == "accept"
