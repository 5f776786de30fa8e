"""The receiver: octets to commands whatever their chunking, literals, APPEND's stream, bounds, and what cannot be parsed."""

import itertools
import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap import receiver as rx


def play(receiver: rx.Receiver, chunks: Iterable[bytes], *, accept: bool = True) -> list[rx.Event]:
    """Feed chunks and pull after each; every APPEND is accepted (or refused), message octets are joined."""
    events: list[rx.Event] = []
    for chunk in chunks:
        receiver.feed(chunk)
        while (event := receiver.next_event()) is not None:
            if isinstance(event, rx.AppendData) and events and isinstance(events[-1], rx.AppendData):
                events[-1] = rx.AppendData(events[-1].data + event.data)
                continue
            events.append(event)
            if isinstance(event, c.Append):
                (receiver.accept_append if accept else receiver.refuse_append)()
            if isinstance(event, rx.Overflow):
                return events
    return events


def one(line: bytes) -> rx.Event:
    """The only event of one command line."""
    [event] = play(rx.Receiver(), [line + b"\r\n"])
    return event


def test_a_command_without_arguments() -> None:
    assert one(b"a1 NOOP") == c.Command("a1", "NOOP")


def test_names_are_upper_case_and_bare_lf_ends_a_line() -> None:
    assert play(rx.Receiver(), [b"a noop\nb Capability\r\n"]) == [c.Command("a", "NOOP"), c.Command("b", "CAPABILITY")]


def test_login_takes_atoms_quoted_strings_and_literals() -> None:
    receiver = rx.Receiver()
    events = play(receiver, [b'a LOGIN bob "pass \\"word\\\\"\r\n', b"b LOGIN {3}\r\n", b"bob {6+}\r\nse cre\r\n"])
    assert events == [c.Login("a", "LOGIN", "bob", 'pass "word\\'), rx.Continue(), c.Login("b", "LOGIN", "bob", "se cre")]


def test_a_synchronising_literal_asks_for_a_continuation_and_a_non_synchronising_one_does_not() -> None:
    receiver = rx.Receiver()
    assert play(receiver, [b"a SELECT {5}\r\n"]) == [rx.Continue()]
    assert play(receiver, [b"INBOX\r\n"]) == [c.FolderCommand("a", "SELECT", "INBOX")]
    assert play(receiver, [b"b SELECT {5+}\r\ninbox\r\n"]) == [c.FolderCommand("b", "SELECT", "INBOX")]


def test_append_announces_streams_and_ends() -> None:
    line = b'a APPEND Sent (\\Seen $Label) "01-Feb-2024 10:00:00 +0130" {11}\r\n'
    head, data, end = play(rx.Receiver(), [line, b"hello", b" world", b"\r\n"])
    assert head == c.Append("a", "APPEND", "Sent", ("\\Seen", "$Label"), 1_706_776_200_000_000, 11, waits=True)
    assert (data, end) == (rx.AppendData(b"hello world"), rx.AppendEnd())


def test_append_takes_its_folder_as_a_literal() -> None:
    events = play(rx.Receiver(), [b"a APPEND {4}\r\n", b"Sent {3+}\r\nabc\r\n"])
    assert events[0] == rx.Continue()
    assert isinstance(events[1], c.Append)
    assert events[1].folder == "Sent"
    assert events[2:] == [rx.AppendData(b"abc"), rx.AppendEnd()]


def test_a_refused_append_is_passed_over_if_the_client_does_not_wait() -> None:
    events = play(rx.Receiver(), [b"a APPEND x {9+}\r\nb NOOP\r\nz\r\nc NOOP\r\n"], accept=False)
    assert [type(event) for event in events] == [c.Append, c.Command]
    assert events[1] == c.Command("c", "NOOP")


def test_a_refused_append_that_waits_is_followed_by_a_command_at_once() -> None:
    events = play(rx.Receiver(), [b"a APPEND x {9}\r\n", b"b NOOP\r\n"], accept=False)
    assert events[1] == c.Command("b", "NOOP")


def test_text_behind_the_message_is_malformed() -> None:
    events = play(rx.Receiver(), [b"a APPEND x {1+}\r\nz (more) {3+}\r\nabc\r\nb NOOP\r\n"])
    assert events[2:] == [rx.Malformed("a", "Unexpected text after the message"), c.Command("b", "NOOP")]


@pytest.mark.parametrize(
    "line",
    [
        b"a",
        b"a ",
        b"a FOO",
        b"a LOGIN",
        b"a LOGIN bob",
        b"a LOGIN bob secret more",
        b"a NOOP ",
        b'a SELECT "unclosed',
        b"a SELECT &broken",
        b"a SELECT &AGE-",
        b"a FETCH 0 FLAGS",
        b"a FETCH 1:: FLAGS",
        b"a FETCH 4294967296 FLAGS",
        b"a FETCH 1 BODY[",
        b"a FETCH 1 BODY[MIME]",
        b"a FETCH 1 BODY[0]",
        b"a FETCH 1 BODY[1.]",
        b"a FETCH 1 BODY[]<0.0>",
        b"a FETCH 1 BODY[HEADER.FIELDS ()]",
        b"a FETCH 1 (FLAGS",
        b"a FETCH 1 (ALL FAST)",
        b"a SEARCH",
        b"a SEARCH (ALL",
        b"a SEARCH SINCE 31-Feb-2020",
        b"a SEARCH RETURN (FOO) ALL",
        b"a SEARCH " + b"(" * 200 + b"ALL",
        b"a SEARCH " + b"NOT " * 3000 + b"ALL",
        b"a STORE 1 FLAGS (\\Seen",
        b"a STORE 1 FLAGS.LOUD (\\Seen)",
        b"a STATUS INBOX ()",
        b"a STATUS INBOX (FOO)",
        b'a LIST (RECURSIVEMATCH) "" *',
        b"a UID NOOP",
        b"a AUTHENTICATE PLAIN !!!",
        b'a APPEND x "01-Foo-2024 10:00:00 +0000" {1+}',
        b"\xff\xfe\x00",
    ],
)
def test_what_cannot_be_parsed_is_malformed_and_keeps_its_tag(line: bytes) -> None:
    receiver = rx.Receiver()
    receiver.limit = 1 << 20
    first = play(receiver, [line + b"\r\n"])[0]
    assert isinstance(first, rx.Malformed)
    assert first.tag == ("a" if line.startswith(b"a ") else None)


def test_a_literal_too_long_is_refused_before_it_is_sent() -> None:
    assert play(rx.Receiver(), [b"a LOGIN {70000}\r\n", b"b NOOP\r\n"]) == [rx.Malformed("a", "Literal too long"), c.Command("b", "NOOP")]


def test_a_long_literal_that_does_not_wait_is_passed_over_with_the_rest_of_its_command() -> None:
    chunks = [b"a LOGIN {70000+}\r\n", b"x" * 70_000, b" {3+}\r\nabc\r\n", b"b NOOP\r\n"]
    assert play(rx.Receiver(), chunks) == [rx.Malformed("a", "Literal too long"), c.Command("b", "NOOP")]


def test_a_line_without_end_overflows_and_holds_no_more_than_the_limit() -> None:
    receiver = rx.Receiver()
    events = play(receiver, [b"a " + b"x" * 8192] * 4)
    assert isinstance(events[-1], rx.Overflow)
    assert receiver.buffered < 20_000


def test_a_huge_literal_that_does_not_wait_overflows() -> None:
    assert isinstance(play(rx.Receiver(), [b"a LOGIN {9999999999+}\r\n"])[-1], rx.Overflow)


def test_discarding_forgets_what_was_pipelined() -> None:
    receiver = rx.Receiver()
    receiver.feed(b"a STARTTLS\r\nb LOGIN evil secret\r\nc LO")
    assert receiver.next_event() == c.Command("a", "STARTTLS")
    receiver.discard_buffered()
    assert play(receiver, [b"d NOOP\r\n"]) == [c.Command("d", "NOOP")]


def test_an_expected_line_is_not_parsed() -> None:
    receiver = rx.Receiver()
    receiver.expect_line()
    assert play(receiver, [b"DO", b"NE\r\na NOOP\r\n"]) == [rx.Line(b"DONE"), c.Command("a", "NOOP")]


SESSION = (
    b"a LOGIN bob {6+}\r\nsecret\r\n"
    b'b SELECT "INBOX"\r\n'
    b"c UID FETCH 1:*,7 (FLAGS BODY.PEEK[HEADER.FIELDS (From {2+}\r\nTo)]<0.100>)\r\n"
    b"d APPEND Sent (\\Seen) {20+}\r\nFrom: a\r\n\r\n{3}\r\nab}\r\n\r\n"
    b"e BOGUS {5+}\r\nabcde (\r\n"
    b"f SEARCH CHARSET UTF-8 TEXT {2+}\r\n\xc3\xa4 UNSEEN\r\n"
    b"g APPEND bad bad {4+}\r\nxxxx\r\n"
    b"h LOGOUT\r\n"
)


@given(st.lists(st.integers(0, len(SESSION)), max_size=60))
def test_chunking_does_not_change_the_commands(cuts: list[int]) -> None:
    edges = sorted({0, len(SESSION), *cuts})
    chunks = [SESSION[a:b] for a, b in itertools.pairwise(edges)]
    assert play(rx.Receiver(), chunks) == play(rx.Receiver(), [SESSION])


def test_single_octets_give_the_same_commands() -> None:
    whole = play(rx.Receiver(), [SESSION])
    assert play(rx.Receiver(), [bytes([octet]) for octet in SESSION]) == whole
    assert whole[-1] == c.Command("h", "LOGOUT")


_WORDS = st.sampled_from(
    [b"a ", b"FETCH ", b"SEARCH ", b"APPEND ", b"LIST ", b"UID ", b"(", b")", b'"', b"{3}\r\n", b"{4+}\r\n", b"\r\n", b"\n", b"*", b":",
     b"1", b",", b" ", b"BODY[", b"]", b"<0.1>", b"HEADER.FIELDS", b"NOT ", b"&", b"-", b"\\Seen", b"NIL", b"\x00", b"\xff", b"INBOX"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(st.one_of(_WORDS, st.binary(max_size=12)), max_size=60), st.booleans())
def test_any_octets_give_events_and_never_an_exception(words: list[bytes], accept: bool) -> None:
    data = b"".join(words)
    assert play(rx.Receiver(), [data], accept=accept) == play(rx.Receiver(), [data[:7], data[7:]], accept=accept)


def test_one_octet_at_a_time_takes_time_linear_in_the_octets() -> None:
    def seconds(size: int) -> float:
        receiver = rx.Receiver()
        receiver.limit = 1 << 20
        began = time.thread_time()
        play(receiver, (b"x" for _ in range(size)))
        return time.thread_time() - began

    small = max(min(seconds(20_000) for _ in range(3)), 1e-3)
    assert min(seconds(160_000) for _ in range(3)) < 8 * small * 4
