"""SPF (RFC 7208) against a real DNS server on loopback."""

import time

import pytest

from gatepost.policy.mail_auth.results import Word
from gatepost.policy.mail_auth.spf import check_host
from gatepost.policy.mail_auth.spf_macros import MacroValues, expanded
from gatepost.policy.mail_auth.spf_record import SpfSyntax, parse_record
from gatepost.policy.mail_auth.verifier import LATE, Authentication

CLIENT = "192.0.2.9"

CASES = {
    "an address that is listed passes": ({"far.test": "v=spf1 ip4:192.0.2.0/24 -all"}, Word.PASS),
    "one that is not fails": ({"far.test": "v=spf1 ip4:198.51.100.0/24 -all"}, Word.FAIL),
    "a tilde is a soft fail": ({"far.test": "v=spf1 ~all"}, Word.SOFTFAIL),
    "a record that says nothing is neutral": ({"far.test": "v=spf1"}, Word.NEUTRAL),
    "no record is none": ({"far.test": "something else"}, Word.NONE),
    "a name that does not exist is none": ({"near.test": "v=spf1 -all"}, Word.NONE),
    "v=spf10 is no record": ({"far.test": "v=spf10 -all"}, Word.NONE),
    "two records are a permanent error": ({"far.test": ["v=spf1 -all", "v=spf1 +all"]}, Word.PERMERROR),
    "a record and other texts are fine": ({"far.test": ["v=spf1 +all", "other=1"]}, Word.PASS),
    "a mechanism nobody knows is a permanent error": ({"far.test": "v=spf1 foo:bar -all"}, Word.PERMERROR),
    "a modifier nobody knows is passed over": ({"far.test": "v=spf1 foo=bar +all"}, Word.PASS),
    "a: by the addresses of a name": ({"far.test": "v=spf1 a:mx.far.test -all", "mx.far.test A": "192.0.2.9"}, Word.PASS),
    "a with a length": ({"far.test": "v=spf1 a/24 -all", "far.test A": "192.0.2.1"}, Word.PASS),
    "mx by its hosts": ({"far.test": "v=spf1 mx -all", "far.test MX": "10 mx.far.test.", "mx.far.test A": "192.0.2.9"}, Word.PASS),
    "include of one that passes": ({"far.test": "v=spf1 include:b.test -all", "b.test": "v=spf1 ip4:192.0.2.9 -all"}, Word.PASS),
    "include of one that fails goes on": ({"far.test": "v=spf1 include:b.test ?all", "b.test": "v=spf1 -all"}, Word.NEUTRAL),
    "include of one without a record": ({"far.test": "v=spf1 include:b.test ?all"}, Word.PERMERROR),
    "redirect takes the other's result": ({"far.test": "v=spf1 redirect=b.test", "b.test": "v=spf1 ~all"}, Word.SOFTFAIL),
    "redirect to nothing": ({"far.test": "v=spf1 redirect=b.test"}, Word.PERMERROR),
    "exists with macros": (
        {"far.test": "v=spf1 exists:%{ir}.%{v}._x.%{d2} -all", "9.2.0.192.in-addr._x.far.test A": "127.0.0.2"},
        Word.PASS,
    ),
    "ptr by a name that points back": (
        {"far.test": "v=spf1 ptr -all", "9.2.0.192.in-addr.arpa PTR": "a.far.test.", "a.far.test A": "192.0.2.9"},
        Word.PASS,
    ),
    "ptr by a name that does not": ({"far.test": "v=spf1 ptr -all", "9.2.0.192.in-addr.arpa PTR": "a.far.test."}, Word.FAIL),
    "ten look-ups are allowed": (
        {"far.test": "v=spf1 " + " ".join(f"include:{n}.b.test" for n in range(10)) + " +all"}
        | {f"{n}.b.test": "v=spf1 -all" for n in range(10)},
        Word.PASS,
    ),
    "eleven are not": (
        {"far.test": "v=spf1 " + " ".join(f"include:{n}.b.test" for n in range(11)) + " +all"}
        | {f"{n}.b.test": "v=spf1 -all" for n in range(11)},
        Word.PERMERROR,
    ),
    "a circle of includes ends": ({"far.test": "v=spf1 include:far.test -all"}, Word.PERMERROR),
    "two look-ups may find nothing": ({"far.test": "v=spf1 a:no1.test a:no2.test +all"}, Word.PASS),
    "three may not": ({"far.test": "v=spf1 a:no1.test a:no2.test a:no3.test +all"}, Word.PERMERROR),
    "eleven mail exchangers are too many": (
        {"far.test": "v=spf1 mx +all", "far.test MX": [f"10 mx{n}.far.test." for n in range(11)]},
        Word.PERMERROR,
    ),
    "a record longer than a datagram is asked for over TCP": (
        {"far.test": "v=spf1 " + " ".join(f"ip4:198.51.{n}.0/24" for n in range(120)) + " ip4:192.0.2.9 -all"},
        Word.PASS,
    ),
    "a record in capitals": ({"far.test": "V=SPF1 IP4:192.0.2.9 -ALL"}, Word.PASS),
    "a network with bits below its length": ({"far.test": "v=spf1 ip4:192.0.2.77/24 -all"}, Word.PASS),
    "an address of the other family does not match": ({"far.test": "v=spf1 ip6:2001:db8::/32 -all"}, Word.FAIL),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_case(case: str, ask) -> None:
    zone, wanted = CASES[case]
    dns, _ = ask(zone)
    found = await check_host(dns, CLIENT, "mx.far.test", "a@far.test", "far.test")
    assert (found.word, found.domain) == (wanted, "far.test"), found.reason


async def test_a_client_by_ipv6_is_looked_for_in_its_own_records(ask) -> None:
    dns, _ = ask({"far.test": "v=spf1 a -all", "far.test A": "192.0.2.9", "far.test AAAA": "2001:db8::9"})
    assert (await check_host(dns, "2001:db8::9", "h", "a@far.test", "far.test")).word is Word.PASS
    assert (await check_host(dns, "2001:db8::8", "h", "a@far.test", "far.test")).word is Word.FAIL
    assert (await check_host(dns, "::ffff:192.0.2.9", "h", "a@far.test", "far.test")).word is Word.PASS


async def test_a_server_that_fails_is_a_temporary_error_and_says_so(ask) -> None:
    dns, _ = ask({"far.test": "v=spf1 a:b.test -all", "b.test A": "192.0.2.9"}, failing=["b.test"])
    found = await check_host(dns, CLIENT, "h", "a@far.test", "far.test")
    assert found.word is Word.TEMPERROR
    assert "b.test" in found.reason


async def test_a_server_that_does_not_answer_costs_no_more_than_the_deadline(ask) -> None:
    dns, stub = ask({"far.test": "v=spf1 -all"}, silent=["far.test", "helo.test"])
    authentication = Authentication(dns, lambda: 0.3)
    began = time.monotonic()
    found = await authentication.spf(CLIENT, "helo.test", "a@far.test")
    assert time.monotonic() - began < 1.0
    assert (found.sender.word, found.sender.reason) == (Word.TEMPERROR, LATE)
    assert found.helo.word is Word.TEMPERROR
    assert {name for name, _ in stub.questions} == {"far.test", "helo.test"}
    authentication.close()


async def test_the_null_sender_is_helos_postmaster(ask) -> None:
    dns, _ = ask({"mx.far.test": "v=spf1 exists:%{l}.%{d} -all", "postmaster.mx.far.test A": "127.0.0.1"})
    authentication = Authentication(dns, lambda: 5)
    found = await authentication.spf(CLIENT, "mx.far.test", "")
    assert (found.sender.word, found.sender.domain) == (Word.PASS, "mx.far.test")
    authentication.close()


async def test_no_domain_is_asked_for_what_is_none(ask) -> None:
    dns, stub = ask({})
    for domain in ("localhost", "[192.0.2.1]", "a..test", "x" * 64 + ".test", "[IPv6:::1]", ""):
        assert (await check_host(dns, CLIENT, "h", "a@b", domain)).word is Word.NONE
    assert not stub.questions or {name for name, _ in stub.questions} <= {"[192.0.2.1]"}


FAULTY = [
    "v=spf1 ip4:192.0.2.0/33",
    "v=spf1 ip4:192.0.2",
    "v=spf1 ip4:192.0.2.1/",
    "v=spf1 ip6:1::1%eth0",
    "v=spf1 a:museum",
    "v=spf1 a:b.test:80",
    "v=spf1 a/33",
    "v=spf1 include:",
    "v=spf1 include",
    "v=spf1 all:x",
    "v=spf1 redirect=",
    "v=spf1 redirect=a.test redirect=b.test",
    "v=spf1 exists:%{x}.test",
    "v=spf1 exists:%(d).test",
    "v=spf1 exists:%{d0}.test",
    "v=spf1 -all.",
    "v=spf1 moo",
    "v=spf1 =x",
    "v=spf1 exp=%",
]


@pytest.mark.parametrize("record", FAULTY)
def test_what_breaks_the_grammar_is_told(record: str) -> None:
    with pytest.raises(SpfSyntax):
        parse_record(record.encode())


def test_macros_of_the_rfc() -> None:
    """RFC 7208 7.4."""
    import ipaddress

    values = MacroValues(ipaddress.ip_address("192.0.2.3"), "mx.example.org", "strong-bad", "email.example.com")
    six = MacroValues(ipaddress.ip_address("2001:db8::cb01"), "mx.example.org", "strong-bad", "email.example.com")
    for text, wanted in {
        "%{s}": "strong-bad@email.example.com",
        "%{o}": "email.example.com",
        "%{d4}": "email.example.com",
        "%{d3}": "email.example.com",
        "%{d2}": "example.com",
        "%{d1}": "com",
        "%{dr}": "com.example.email",
        "%{d2r}": "example.email",
        "%{l}": "strong-bad",
        "%{l-}": "strong.bad",
        "%{lr}": "strong-bad",
        "%{lr-}": "bad.strong",
        "%{l1r-}": "strong",
        "%{ir}.%{v}._spf.%{d2}": "3.2.0.192.in-addr._spf.example.com",
        "%{lr-}.lp._spf.%{d2}": "bad.strong.lp._spf.example.com",
        "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}": "bad.strong.lp.3.2.0.192.in-addr._spf.example.com",
        "%{d2}.trusted-domains.example.net": "example.com.trusted-domains.example.net",
        "%{L}%%%-": "strong-bad%%20",
    }.items():
        assert expanded(text, "email.example.com", values) == wanted
    assert expanded("%{ir}.%{v}._spf.%{d2}", "email.example.com", six) == (
        "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
    )


def test_a_name_that_grows_too_long_loses_labels_from_the_left() -> None:
    import ipaddress

    values = MacroValues(ipaddress.ip_address("192.0.2.3"), "h", "a", "b.test")
    name = expanded("%{d}." + ".".join(["x" * 50] * 3), ".".join(["y" * 50] * 3), values)
    assert len(name) <= 253
    assert name.endswith("x" * 50)
