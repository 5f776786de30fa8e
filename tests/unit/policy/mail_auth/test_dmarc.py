"""DMARC (RFC 9989) against a real DNS server on loopback."""

import time

import pytest

from gatepost.policy.mail_auth.dkim import Mail
from gatepost.policy.mail_auth.dmarc import author_domain, evaluate, record_of
from gatepost.policy.mail_auth.results import Outcome, Signed, Spf, Word
from gatepost.policy.mail_auth.verifier import LATE, Authentication

REJECT = "v=DMARC1; p=reject"


def spf(word: Word, domain: str) -> Spf:
    return Spf(Outcome(word, domain))


def signed(domain: str, word: Word = Word.PASS) -> tuple[Signed, ...]:
    return (Signed(word, domain),)


NO = Spf()
CASES = {
    "SPF for the very domain": ({"_dmarc.far.test": REJECT}, "far.test", spf(Word.PASS, "far.test"), (), Word.PASS, "reject"),
    "DKIM for the very domain": ({"_dmarc.far.test": REJECT}, "far.test", NO, signed("far.test"), Word.PASS, "reject"),
    "neither": ({"_dmarc.far.test": REJECT}, "far.test", spf(Word.PASS, "other.test"), signed("else.test"), Word.FAIL, "reject"),
    "SPF fails": ({"_dmarc.far.test": "v=DMARC1; p=quarantine"}, "far.test", spf(Word.FAIL, "far.test"), (), Word.FAIL, "quarantine"),
    "a signature that does not verify": ({"_dmarc.far.test": REJECT}, "far.test", NO, signed("far.test", Word.FAIL), Word.FAIL, "reject"),
    "a part that is signed does not count": (
        {"_dmarc.far.test": REJECT},
        "far.test",
        NO,
        signed("far.test", Word.POLICY),
        Word.FAIL,
        "reject",
    ),
    "no record": ({}, "far.test", spf(Word.PASS, "far.test"), (), Word.NONE, ""),
    "relaxed: a domain below": ({"_dmarc.far.test": REJECT}, "far.test", NO, signed("mail.far.test"), Word.PASS, "reject"),
    "relaxed: a domain above": ({"_dmarc.far.test": REJECT}, "news.far.test", NO, signed("far.test"), Word.PASS, "reject"),
    "relaxed: a domain beside": ({"_dmarc.far.test": REJECT}, "a.far.test", spf(Word.PASS, "b.far.test"), (), Word.PASS, "reject"),
    "strict DKIM": ({"_dmarc.far.test": f"{REJECT}; adkim=s"}, "far.test", NO, signed("mail.far.test"), Word.FAIL, "reject"),
    "strict DKIM, the same": ({"_dmarc.far.test": f"{REJECT}; adkim=s"}, "far.test", NO, signed("far.test"), Word.PASS, "reject"),
    "strict SPF": ({"_dmarc.far.test": f"{REJECT}; aspf=s"}, "far.test", spf(Word.PASS, "b.far.test"), (), Word.FAIL, "reject"),
    "a name that only ends alike": ({"_dmarc.far.test": REJECT}, "far.test", NO, signed("notfar.test"), Word.FAIL, "reject"),
    "a policy for domains below": (
        {"_dmarc.far.test": f"{REJECT}; sp=none", "a.far.test A": "192.0.2.1"},
        "a.far.test",
        NO,
        (),
        Word.FAIL,
        "none",
    ),
    "and for those that do not exist": ({"_dmarc.far.test": "v=DMARC1; p=none; np=reject"}, "a.far.test", NO, (), Word.FAIL, "reject"),
    "a record of its own counts more": (
        {"_dmarc.far.test": REJECT, "_dmarc.a.far.test": "v=DMARC1; p=none"},
        "a.far.test",
        NO,
        (),
        Word.FAIL,
        "none",
    ),
    "a public suffix that says so": (
        {"_dmarc.co.test": "v=DMARC1; p=none; psd=y", "_dmarc.far.co.test": REJECT},
        "far.co.test",
        NO,
        signed("evil.co.test"),
        Word.FAIL,
        "reject",
    ),
    "one that says it is none": (
        {"_dmarc.far.test": REJECT, "_dmarc.a.far.test": "v=DMARC1; p=quarantine; psd=n"},
        "a.far.test",
        NO,
        signed("far.test"),
        Word.FAIL,
        "quarantine",
    ),
    "a record for tests asks for one step less": ({"_dmarc.far.test": f"{REJECT}; t=y"}, "far.test", NO, (), Word.FAIL, "quarantine"),
    "two records are as good as none": ({"_dmarc.far.test": [REJECT, "v=DMARC1; p=none"]}, "far.test", NO, (), Word.NONE, ""),
    "a policy nobody knows": ({"_dmarc.far.test": "v=DMARC1; p=destroy"}, "far.test", NO, (), Word.FAIL, "none"),
    "v= must come first": ({"_dmarc.far.test": "p=reject; v=DMARC1"}, "far.test", NO, (), Word.NONE, ""),
    "SPF that could not be worked out": (
        {"_dmarc.far.test": REJECT},
        "far.test",
        spf(Word.TEMPERROR, "far.test"),
        (),
        Word.TEMPERROR,
        "reject",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_case(case: str, ask) -> None:
    zone, domain, found_spf, signatures, word, policy = CASES[case]
    dns, _ = ask(zone)
    found, asked = await evaluate(dns, f"From: a@{domain}\r\n\r\n".encode(), found_spf, signatures)
    assert (found.word, found.domain, asked) == (word, domain, policy), found.reason


async def test_a_deep_name_costs_eight_look_ups(ask) -> None:
    dns, stub = ask({"_dmarc.far.test": REJECT})
    deep = ".".join("abcdefghijklm") + ".far.test"
    found, _ = await evaluate(dns, f"From: a@{deep}\r\n\r\n".encode(), NO, ())
    asked = [name for name, kind in stub.questions if kind == "TXT"]
    assert len(asked) == 8
    assert asked[0] == f"_dmarc.{deep}"
    assert asked[-1] == "_dmarc.test"
    assert found.word is Word.FAIL


async def test_a_hundred_domains_that_signed_are_not_all_looked_up(ask) -> None:
    dns, stub = ask({"_dmarc.far.test": f"{REJECT}; psd=n"})
    signatures = [Signed(Word.PASS, f"d{n}.far.test") for n in range(100)]
    await evaluate(dns, b"From: a@far.test\r\n\r\n", NO, signatures)
    assert len(stub.questions) < 20


async def test_a_server_that_does_not_answer_is_a_temporary_error(ask) -> None:
    dns, _ = ask({"_dmarc.far.test": REJECT}, failing=["_dmarc.far.test"])
    found, policy = await evaluate(dns, b"From: a@far.test\r\n\r\n", NO, ())
    assert (found.word, policy) == (Word.TEMPERROR, "")
    silent, _ = ask({}, silent=["_dmarc.far.test"])
    authentication = Authentication(silent, lambda: 0.3)
    began = time.monotonic()
    header = b"From: a@far.test\r\n\r\n"
    results = await authentication.content(Mail(header, len(header), lambda *_: b""), NO)
    assert time.monotonic() - began < 1.0
    assert (results.dmarc.word, results.dmarc.domain, results.dmarc.reason) == (Word.TEMPERROR, "far.test", LATE)
    authentication.close()


AUTHORS = {
    b"From: A <a@Far.Test>": "far.test",
    b"From: a@far.test, b@far.test": "far.test",
    b"From: a@far.test, b@near.test": "",
    b"From: a@far.test\r\nFrom: a@far.test": "",
    b"From: nobody": "",
    b"From:": "",
    b"Subject: x": "",
    b'From: "boss@near.test" <a@far.test>': "far.test",
    b"From: a@b\xc3\xbccher.test": "xn--bcher-kva.test",
    b"From: =?utf-8?q?boss=40near=2Etest?= <a@far.test>": "far.test",
}


@pytest.mark.parametrize("field", AUTHORS)
async def test_whose_mail_it_is(field: bytes, ask) -> None:
    assert author_domain(field + b"\r\n\r\n") == AUTHORS[field]
    if not AUTHORS[field]:
        dns, stub = ask({})
        found, _ = await evaluate(dns, field + b"\r\n\r\n", NO, ())
        assert found.word is Word.PERMERROR
        assert not stub.questions


@pytest.mark.parametrize("text", [b"", b"v=DMARC1 p=reject", b"v=DMARC2; p=reject", b"hello", b"v=spf1 -all", b"v=DMARC1; p=none; p=none"])
def test_what_is_no_record(text: bytes) -> None:
    assert record_of(text) is None
