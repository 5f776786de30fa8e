"""DKIM (RFC 6376, 8301, 8463): keys from a real DNS server on loopback, signatures by a signer that shares no code with the server."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import pytest_asyncio

from gatepost.message.fields import HeaderView
from gatepost.policy.mail_auth import dkim
from gatepost.policy.mail_auth.dkim import SIGNATURES, Mail
from gatepost.policy.mail_auth.results import Results, Signed, Spf, Word
from gatepost.policy.mail_auth.verifier import Authentication
from support.dkim import Signer

MESSAGE = (
    b"From: A <a@far.test>\r\nTo: b@near.test\r\nSubject: one  two\r\n\tthree\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\n"
    b"Hello  \r\n\tthere\r\n\r\n\r\n"
)


def mail_of(octets: bytes) -> Mail:
    header = octets[: octets.find(b"\r\n\r\n") + 4]
    return Mail(header, len(octets), lambda start, length: octets[start : start + length])


@pytest_asyncio.fixture
async def verify(ask) -> AsyncIterator:
    threads = ThreadPoolExecutor(1)

    async def run(octets: bytes, zone: dict, now: float = 1_000_000, **more) -> tuple[Signed, ...]:
        dns, _ = ask(zone, **more)
        found, _ = await dkim.verify(dns, mail_of(octets), threads, lambda: now)
        return found

    yield run
    threads.shutdown()


def keys(*signers: Signer, more: tuple[str, ...] = ()) -> dict[str, str]:
    return {one.key_name: one.key_record(*more) for one in signers}


RFC_8463 = """\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
""".replace("\n", "\r\n").encode()
RFC_8463_KEYS = {
    "brisbane._domainkey.football.example.com": "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "test._domainkey.football.example.com": (
        "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR"
        "iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyV"
        "YLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
    ),
}


async def test_the_example_of_rfc_8463_verifies_both_ways(verify) -> None:
    found = await verify(RFC_8463, RFC_8463_KEYS)
    assert [(one.word, one.domain, one.selector, one.start) for one in found] == [
        (Word.PASS, "football.example.com", "brisbane", "/gCrinpc"),
        (Word.PASS, "football.example.com", "test", "F45dVWDf"),
    ]
    changed = await verify(RFC_8463.replace(b"hungry", b"thirsty"), RFC_8463_KEYS)
    assert [(one.word, one.reason) for one in changed] == [(Word.FAIL, "the body was changed")] * 2
    forged = await verify(RFC_8463.replace(b"dinner", b"lunch"), RFC_8463_KEYS)
    assert [(one.word, one.reason) for one in forged] == [(Word.FAIL, "the signature does not fit the header")] * 2


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
@pytest.mark.parametrize("form", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed", "relaxed", "simple"])
async def test_every_pair_of_canonical_forms_verifies(kind: str, form: str, verify) -> None:
    signer = Signer(kind=kind, form=form if "/" in form else f"{form}/simple", tags={"c": form})
    (found,) = await verify(signer.sign(MESSAGE), keys(signer))
    assert (found.word, found.reason) == (Word.PASS, "")
    respaced = MESSAGE.replace(b"one  two", b"one two")
    (other,) = await verify(signer.sign(MESSAGE).replace(MESSAGE, respaced), keys(signer))
    assert other.word is (Word.PASS if form.startswith("relaxed") else Word.FAIL)


async def test_a_key_is_found_through_a_cname(verify) -> None:
    signer = Signer()
    zone = {f"{signer.key_name} CNAME": "keys.hoster.test.", "keys.hoster.test": signer.key_record()}
    (found,) = await verify(signer.sign(MESSAGE), zone)
    assert found.word is Word.PASS


async def test_a_long_key_comes_in_several_strings_and_over_tcp(verify) -> None:
    signer = Signer(bits=2048)
    zone = {signer.key_name: ["v=spf1 " + "x" * 1200, signer.key_record("n=" + "y" * 600)]}
    (found,) = await verify(signer.sign(MESSAGE), zone)
    assert found.word is Word.PASS


REFUSED = {
    "expired": (Signer(also=["x=999999"]), (), Word.FAIL, "expired"),
    "not expired": (Signer(also=["x=1000001"]), (), Word.PASS, ""),
    "x= beyond all time": (Signer(also=["x=" + "9" * 70]), (), Word.PASS, ""),
    "a key for tests": (Signer(), ("t=y",), Word.PASS, "test key"),
    "a key for d= alone": (Signer(also=["i=@mail.far.test"]), ("t=s",), Word.PERMERROR, "the key is for d= alone, and i= is below it"),
    "i= below d=": (Signer(also=["i=@mail.far.test"]), (), Word.PASS, ""),
    "i= elsewhere": (Signer(also=["i=@other.test"]), (), Word.NEUTRAL, "i= is not within d="),
    "a key for other services": (Signer(), ("s=tlsrpt",), Word.PERMERROR, "a key for other services"),
    "a key for SHA-1": (Signer(), ("h=sha1",), Word.PERMERROR, "a key for other hashes"),
    "From not signed": (Signer(names=("to", "subject")), (), Word.PERMERROR, "From is not signed"),
    "SHA-1": (Signer(tags={"a": "rsa-sha1"}), (), Word.POLICY, "SHA-1 is not taken (RFC 8301)"),
    "an algorithm nobody knows": (Signer(tags={"a": "rsa-sha3"}), (), Word.NEUTRAL, "unknown algorithm"),
    "another version": (Signer(tags={"v": "2"}), (), Word.NEUTRAL, "version '2'"),
    "another canonical form": (Signer(tags={"c": "nofws"}), (), Word.NEUTRAL, "canonical form 'nofws'"),
    "a tag twice": (Signer(also=["d=far.test"]), (), Word.NEUTRAL, "d= stands twice"),
    "a field that is not there, signed": (Signer(names=("from", "from", "x-none", "subject", "date", "to")), (), Word.PASS, ""),
    "the whole body by l=": (Signer(length=len(b"Hello\r\n there\r\n")), (), Word.PASS, ""),
    "a part of the body": (Signer(length=7), (), Word.POLICY, "7 of 15 octets of the body are signed"),
    "no octet of the body": (Signer(length=0), (), Word.POLICY, "0 of 15 octets of the body are signed"),
    "more than the body": (Signer(tags={"l": "99"}), (), Word.FAIL, "l= is more than the body has"),
    "l= that is no number": (Signer(tags={"l": "-1"}), (), Word.NEUTRAL, "l= is no number"),
    "a short key": (Signer(bits=1024, selector="short"), (), Word.PASS, ""),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_becomes_of_a_signature(case: str, verify) -> None:
    signer, record, word, reason = REFUSED[case]
    (found,) = await verify(signer.sign(MESSAGE), keys(signer, more=record))
    assert (found.word, found.reason) == (word, reason)


async def test_what_is_put_behind_a_part_that_was_signed_is_not_taken_for_signed(verify) -> None:
    signer = Signer(length=len(b"Hello\r\n there\r\n"))
    (found,) = await verify(signer.sign(MESSAGE) + b"buy now\r\n", keys(signer))
    assert found.word is Word.POLICY


KEYS = {
    "no record": (None, Word.PERMERROR, "no key"),
    "a revoked key": ("v=DKIM1; p=", Word.PERMERROR, "the key was revoked"),
    "a record without a key": ("v=DKIM1; k=rsa", Word.PERMERROR, "no key in the record"),
    "another version": ("v=DKIM2; p=AAAA", Word.PERMERROR, "another version of key"),
    "no base64": ("v=DKIM1; p=!!!", Word.PERMERROR, "'!!!' is not base64"),
    "no key in the octets": ("v=DKIM1; p=AAAA", Word.PERMERROR, "the key cannot be read"),
    "a key of another kind": ("v=DKIM1; k=ed25519; p=" + "A" * 43 + "=", Word.PERMERROR, "a key of another kind"),
    "garbage": ("hello", Word.PERMERROR, "'hello' is no tag"),
}


@pytest.mark.parametrize("case", KEYS)
async def test_what_becomes_of_a_signature_by_its_key(case: str, verify) -> None:
    record, word, reason = KEYS[case]
    signer = Signer()
    (found,) = await verify(signer.sign(MESSAGE), {} if record is None else {signer.key_name: record})
    assert (found.word, found.reason) == (word, reason)


async def test_a_key_that_is_too_short_is_not_taken(verify) -> None:
    """Of 512 bits, which this machine's cryptography no longer makes."""
    short = (
        "v=DKIM1; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKt4z31Us42PimFx3eBvtF3eWz+3iEXXEqz7qt"
        "xS/nqdw/juP3PJE+GU04Sz9putm0IxO6IWgDuNC10t0rc5b1UCAwEAAQ=="
    )
    signer = Signer()
    (found,) = await verify(signer.sign(MESSAGE), {signer.key_name: short})
    assert (found.word, found.reason) == (Word.POLICY, "an RSA key of 512 bits")


async def test_a_bad_signature_by_a_test_key_is_as_good_as_none(verify) -> None:
    signer = Signer()
    (found,) = await verify(signer.sign(MESSAGE).replace(b"Hello", b"Hallo"), keys(signer, more=("t=y",)))
    assert (found.word, found.reason) == (Word.NEUTRAL, "the body was changed (test key)")


async def test_a_second_from_field_is_never_carried_by_a_signature(verify) -> None:
    signer = Signer()
    (found,) = await verify(b"From: boss@near.test\r\n" + signer.sign(MESSAGE), keys(signer))
    assert (found.word, found.reason) == (Word.POLICY, "several From fields")


async def test_a_server_that_does_not_answer_is_a_temporary_error(verify, ask) -> None:
    signer = Signer()
    (found,) = await verify(signer.sign(MESSAGE), keys(signer), failing=[signer.key_name])
    assert found.word is Word.TEMPERROR
    dns, _ = ask(keys(signer), silent=[signer.key_name])
    authentication = Authentication(dns, lambda: 0.3)
    began = time.monotonic()
    results = await authentication.content(mail_of(signer.sign(MESSAGE)), Spf())
    assert time.monotonic() - began < 1.0
    assert results.dkim is Word.TEMPERROR
    authentication.close()


async def test_of_a_hundred_signatures_the_first_are_verified_and_the_rest_counted(ask) -> None:
    octets, signers = MESSAGE, [Signer(selector=f"s{n}") for n in range(100)]
    for one in signers:
        octets = one.sign(octets)
    dns, stub = ask(keys(*signers))
    authentication = Authentication(dns, lambda: 5)
    results = await authentication.content(mail_of(octets), Spf())
    assert [one.word for one in results.signatures] == [Word.PASS] * SIGNATURES
    assert results.ignored == 100 - SIGNATURES
    assert len([name for name, _ in stub.questions if "_domainkey" in name]) == SIGNATURES
    assert results.dkim_domains == ["far.test"]
    authentication.close()


GARBAGE = [
    b"",
    b";;;;",
    b"v=1",
    b"\x00\xff\xfe",
    b"v=1; a=rsa-sha256; b=; bh=; d=; h=; s=",
    b"v=1; a=rsa-sha256; b=%%; bh=AA==; d=far.test; h=from; s=sel",
    b"v=1; a=rsa-sha256; b=AA==; bh=AA==; d=far..test; h=from; s=sel",
    b"v=1; a=rsa-sha256; b=AA==; bh=AA==; d=far.test; h=" + b"a:" * 2_000 + b"from; s=sel",
    b"v=1; a=rsa-sha256; b=AA==; bh=AA==; d=far.test; h=from; s=sel; x=" + b"9" * 100,
    b"v=1; a=rsa-sha256; b=" + b"A" * 100_000 + b"; bh=AA==; d=far.test; h=from; s=sel",
    b"v=1; a=rsa-sha256; b=AA==; bh=AA==; d=far.test; h=from; s=sel; q=http",
]


async def test_garbage_is_neutral_and_nobody_is_asked_about_it(ask) -> None:
    dns, stub = ask({})
    threads = ThreadPoolExecutor(1)
    for value in GARBAGE:
        octets = b"DKIM-Signature: " + value + b"\r\n" + MESSAGE
        (found,), _ = await dkim.verify(dns, mail_of(octets), threads)
        assert found.word is Word.NEUTRAL, value[:60]
    assert not stub.questions
    threads.shutdown()


async def test_a_signature_under_another_garbage_one_still_counts(verify) -> None:
    signer = Signer()
    found = await verify(b"DKIM-Signature: v=1\r\n" + signer.sign(MESSAGE), keys(signer))
    assert [one.word for one in found] == [Word.NEUTRAL, Word.PASS]
    assert Results(signatures=found).dkim is Word.PASS


async def test_a_large_body_is_read_in_pieces(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dkim, "PIECE", 65_536)
    signer = Signer(form="relaxed/relaxed")
    octets = signer.sign(MESSAGE + b"a line  with blanks \r\n" * 20_000)
    dns, _ = ask(keys(signer))
    pieces: list[int] = []

    def read(start: int, length: int) -> bytes:
        pieces.append(length)
        return octets[start : start + length]

    threads = ThreadPoolExecutor(1)
    header = octets[: octets.find(b"\r\n\r\n") + 4]
    (found,), _ = await dkim.verify(dns, Mail(header, len(octets), read), threads)
    assert found.word is Word.PASS
    assert len(pieces) > 4
    assert max(pieces) <= dkim.PIECE
    threads.shutdown()


@pytest.mark.parametrize("octets", [b"", b"\r\n", b"\r\nbody", b"From: a@b.test", b"From: a@b.test\r\n\r\n"])
def test_where_the_body_begins(octets: bytes) -> None:
    wanted = {b"": 0, b"\r\n": 2, b"\r\nbody": 2, b"From: a@b.test": 14, b"From: a@b.test\r\n\r\n": 18}
    header = octets if not octets.startswith(b"\r\n") else octets[:2]
    assert Mail(header, len(octets), lambda *_: b"").body == wanted[octets]
    assert HeaderView(header) is not None


def test_verification_needs_no_loop_of_its_own() -> None:
    """A message without signatures costs no thread and no look-up."""

    async def run() -> tuple[Signed, ...]:
        found, _ = await dkim.verify(None, mail_of(MESSAGE), None)  # type: ignore[arg-type]
        return found

    assert asyncio.run(run()) == ()
