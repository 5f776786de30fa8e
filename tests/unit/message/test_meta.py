"""What the journal keeps of a message: its octets are read by versions before and after verdicts came."""

import json

import pytest

from gatepost.message.envelope import Meta, Origin
from gatepost.message.verdict import MAX_OCTETS, PLAIN, Action, Answer, Finding, Verdict
from gatepost.queue.jobs import decode_meta

ORIGIN = Origin("ESMTPS", "192.0.2.1", 4711, "client.example", "", "TLSv1.3", "smtp")
WITHOUT = b'[["ESMTPS","192.0.2.1",4711,"client.example","","TLSv1.3","smtp"],"","","8BITMIME",false,7]'
VERDICT = Verdict(
    Action.QUARANTINE,
    "default",
    "program",
    "programs are not taken",
    (Finding("a.zip / b.exe", "executable", Action.QUARANTINE),),
    (Answer("clamd", "infected", "Eicar-Test-Signature"),),
    1_700_000_000.5,
)


def test_a_message_without_verdict_takes_not_one_octet_more() -> None:
    assert Meta(ORIGIN, body="8BITMIME", rule_version=7).encode() == WITHOUT


def test_a_record_from_before_verdicts_is_read_as_one_without() -> None:
    assert Meta.decode(WITHOUT) == Meta(ORIGIN, body="8BITMIME", rule_version=7, verdict=None)


def test_a_verdict_comes_back_as_it_was_written() -> None:
    meta = Meta(ORIGIN, rule_version=7, verdict=VERDICT)
    assert Meta.decode(meta.encode()) == meta
    assert decode_meta(meta.encode()) == meta
    assert len(json.loads(meta.encode())) == len(json.loads(WITHOUT)) + 1


def test_a_huge_verdict_stays_within_its_bound() -> None:
    many = Verdict(Action.REJECT, findings=tuple(Finding("x" * 200, f"rule {n}", Action.REJECT) for n in range(5000)))
    data = Meta(ORIGIN, verdict=many).encode()
    assert len(data) < MAX_OCTETS + 200
    found = Meta.decode(data).verdict
    assert found is not None and found.omitted + len(found.findings) == 5000


@pytest.mark.parametrize("verdict", [b"null", b"[]", b'["explode","","","",[],[],0,0]', b"7"])
def test_a_verdict_of_another_make_is_an_error_that_callers_know(verdict: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Meta.decode(WITHOUT[:-1] + b"," + verdict + b"]")


def test_the_verdict_of_text_that_was_looked_at_in_place_takes_two_octets() -> None:
    meta = Meta(ORIGIN, body="8BITMIME", rule_version=7, verdict=PLAIN)
    assert meta.encode() == WITHOUT[:-1] + b",1]"
    assert Meta.decode(meta.encode()) == meta
