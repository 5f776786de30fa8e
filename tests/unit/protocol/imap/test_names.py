"""Folder names: modified UTF-7 both ways, INBOX, validity, LIST patterns."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.protocol.imap.cursor import ParseError
from gatepost.protocol.imap.names import Pattern, decode_utf7, encode_utf7, fold_inbox, name_problem


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("INBOX", b"INBOX"),
        ("Entwürfe", b"Entw&APw-rfe"),
        ("R&D", b"R&-D"),
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
        ("\U0001f600", b"&2D3eAA-"),
    ],
)
def test_modified_utf7(text: str, wire: bytes) -> None:
    assert encode_utf7(text) == wire
    assert decode_utf7(wire) == text


@pytest.mark.parametrize("wire", [b"&", b"&AGE-", b"&U,BTFw", b"a\xc3\xa4", b"&2D0-", b"&U,BTFw-&ZeVnLIqe-", b"\x00", b"&!!-"])
def test_encodings_that_are_not_canonical_are_refused(wire: bytes) -> None:
    with pytest.raises(ParseError):
        decode_utf7(wire)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_survives_the_round_trip(text: str) -> None:
    wire = encode_utf7(text)
    assert wire.isascii()
    assert decode_utf7(wire) == text


@given(st.binary(max_size=30))
def test_decoding_any_octets_gives_a_name_or_a_parse_error(wire: bytes) -> None:
    try:
        assert encode_utf7(decode_utf7(wire)) == wire
    except ParseError:
        pass


def test_inbox_is_folded_as_a_whole_level_only() -> None:
    assert [fold_inbox(n) for n in ("inbox", "Inbox/x", "inboxes", "a/inbox")] == ["INBOX", "INBOX/x", "inboxes", "a/inbox"]


@pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "a*b", "100%", "a\nb", "/".join("a" * 40)])
def test_names_that_cannot_be_created(name: str) -> None:
    assert name_problem(name)


def test_ordinary_names_can_be_created() -> None:
    assert not name_problem("Archive/2024/Entwürfe & mehr")


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "a/b/c", True),
        ("%", "a", True),
        ("%", "a/b", False),
        ("a/%", "a/b", True),
        ("a/%", "a/b/c", False),
        ("a*c", "a/b/c", True),
        ("%/%", "a/b", True),
        ("%*", "a/b", True),
        ("inbox", "INBOX", True),
        ("In%", "INBOX", True),
        ("inbox/%", "INBOX/x", True),
        ("a", "A", False),
        ("", "a", False),
        ("a%b", "ab", True),
    ],
)
def test_patterns(pattern: str, name: str, matches: bool) -> None:
    assert Pattern(pattern).matches(name) is matches


@given(st.text("ab/*%", max_size=12), st.text("ab/", max_size=12))
def test_patterns_match_as_their_regular_expression_does(pattern: str, name: str) -> None:
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(char, re.escape(char)) for char in pattern)
    assert Pattern(pattern).matches(name) is bool(re.fullmatch(expression, name))


@pytest.mark.parametrize("pattern", ["*a" * 499, "%a" * 499, "*a" * 499 + "b"])
def test_many_wildcards_do_not_blow_up(pattern: str) -> None:
    """A client may ask for 32 such patterns among any number of such folders, and the event loop waits for the answer."""
    matcher, name = Pattern(pattern), "/".join(["a" * 249] * 4)
    began = time.thread_time()
    for _ in range(50):
        matcher.matches(name)
    assert time.thread_time() - began < 2
