"""Addresses: what parses, what it becomes, what is refused, what compares equal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.message.address import Address, AddressError, domain_key, parse_address, parse_domain, parse_parts


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("alice@example.test", "alice", "example.test"),
        ("Alice@EXAMPLE.Test", "Alice", "example.test"),
        ("a+b=c/d@x_y.example", "a+b=c/d", "x_y.example"),
        ("user%other@example.test", "user%other", "example.test"),
        ("other!user@example.test", "other!user", "example.test"),
        ('"alice"@example.test', "alice", "example.test"),
        ('"user@other"@example.test', "user@other", "example.test"),
        ('"a\\"b\\\\c d"@example.test', 'a"b\\c d', "example.test"),
        ("u@[192.0.2.1]", "u", "[192.0.2.1]"),
        ("u@[ipv6:2001:DB8::0:1]", "u", "[IPv6:2001:db8::1]"),
        ("δοκιμή@παράδειγμα.δοκιμή", "δοκιμή", "παράδειγμα.δοκιμή"),
        ("u@BÜCHER。example", "u", "bücher.example"),
        ("u@xn--bcher-kva.example", "u", "xn--bcher-kva.example"),
    ],
)
def test_valid_addresses_come_apart_into_local_part_and_canonical_domain(text: str, local: str, domain: str) -> None:
    assert parse_address(text) == Address(local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "a",
        "a@",
        "@b",
        "a b@c",
        ".a@c",
        "a.@c",
        "a..b@c",
        "a@c.",
        "a@.c",
        "a@c..d",
        "a@-c",
        "a@c-.d",
        "a@b@c",
        '"a@c',
        '"a"b@c',
        '""@c',
        'a"b@c',
        "a@[192.0.2]",
        "a@[IPv6:zz]",
        "a@[IPv6:fe80::1%eth0]",
        "a@[x:1]",
        "a@[192.0.2.1",
        "a\x00b@c",
        '"a\x00"@c',
        '"\n"@c',
        "a@b\x80c",
        "a\udc80@b",
        "a@\u200d.test",
        "a@a\u2028b",
        "x" * 257 + "@b",
        "a@" + "x" * 64 + ".test",
        "a@" + "x." * 200 + "test",
        "a@b>c",
        "a<b@c",
        "a@b,c",
        "a\u0080@b",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


def test_a_trailing_dot_is_dropped_only_when_asked() -> None:
    assert parse_address("a@Example.Test.", lenient_dot=True).domain == "example.test"
    with pytest.raises(AddressError):
        parse_address("a@example.test..", lenient_dot=True)


@pytest.mark.parametrize(
    ("local", "wire"),
    [("alice", "alice@x"), ("a b", '"a b"@x'), ('a"\\', '"a\\"\\\\"@x'), ("a@b", '"a@b"@x'), ("a..b", '"a..b"@x'), ("δ", "δ@x")],
)
def test_the_wire_form_quotes_only_what_needs_it(local: str, wire: str) -> None:
    assert str(Address(local, "x")) == wire


def test_u_labels_compare_equal_to_a_labels() -> None:
    assert domain_key("Bücher.Example") == domain_key("xn--BCHER-kva.example") == "xn--bcher-kva.example"
    assert parse_address("A@BÜCHER.example").key == parse_address("a@xn--bcher-kva.example").key


def test_sharp_s_is_not_turned_into_ss() -> None:
    assert domain_key("straße.example") == "xn--strae-oqa.example"


def test_rule_keys_pass_through_domain_key() -> None:
    assert domain_key("*") == "*"
    assert domain_key("*.Example.ORG") == "*.example.org"


@given(st.text(max_size=80))
def test_any_text_gives_an_address_that_parses_again_or_an_error(text: str) -> None:
    for candidate in (text, text + "@example.test", f'"{text}"@example.test', "a@" + text):
        try:
            address = parse_address(candidate)
        except AddressError:
            continue
        assert parse_address(str(address)) == address
        assert "\n" not in str(address) and "\r" not in str(address)


@given(st.text(max_size=40))
def test_canonical_domains_are_stable(text: str) -> None:
    try:
        domain = parse_domain(text)
    except AddressError:
        return
    assert parse_domain(domain) == domain
    assert domain_key(domain_key(domain)) == domain_key(domain)


@settings(max_examples=300, deadline=None)
@given(st.text('aB1.-_@[]"\\+ üß', max_size=20) | st.from_regex(r"[aB.+]{1,4}@([aB1_.-]{1,9})\.[aB-]{1,3}\.?", fullmatch=True))
def test_the_parts_of_an_address_are_those_of_the_whole(text: str) -> None:
    try:
        whole = parse_address(text, lenient_dot=True)
    except AddressError as fault:
        with pytest.raises(AddressError, match=str(fault)):
            parse_parts(text)
    else:
        assert parse_parts(text) == (whole.local, whole.domain, whole.key)
