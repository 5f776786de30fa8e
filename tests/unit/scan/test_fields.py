"""Header fields that scanners add and remove: what is written, what is cut, what nobody may touch."""

import pytest

from gatepost.message.verdict import Action, Answer, Finding, Verdict
from gatepost.scan.edits import HEADER_SEEN, edits_of
from gatepost.scan.fields import added
from gatepost.scan.judge import Judgement
from gatepost.scan.report import Found, Report
from gatepost.scan.scanners.plugin import ScanAnswer

NOTHING = Report("complete", "", 0, ())
HEAD = b"X-Spam: yes\r\nSubject: a\r\nX-Spam:\r\n folded\r\nContent-Type: text/plain\r\nx-spam: last\r\n\r\n"


def changed(header: bytes, *answers: Answer, subject: str = "") -> bytes:
    """The header after the edits that the answers ask for."""
    judgement = Judgement(Verdict(Action.TAG, answers=answers), (), subject=subject)
    out, at = b"", 0
    for start, end, octets in sorted(edits_of(judgement, NOTHING, header, "mx.test"), key=lambda edit: edit[:2]):
        assert start >= at, "edits do not overlap"
        out += header[at:start] + octets
        at = end
    return out + header[at:]


def adding(*fields: tuple[str, str]) -> ScanAnswer:
    return ScanAnswer("rspamd", "clean", fields=fields)


def removing(*removes: tuple[str, int]) -> ScanAnswer:
    return ScanAnswer("rspamd", "clean", removes=removes)


def test_added_fields_stand_in_front_in_their_order_and_each_once() -> None:
    answers = adding(("X-Spam-Status", "Yes"), ("X-Twice", "1"), ("X-Twice", "2")), adding(("X-Spam-Status", "Yes"), ("X-Other", ""))
    assert changed(HEAD, *answers) == b"X-Spam-Status: Yes\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Other: \r\n" + HEAD


@pytest.mark.parametrize(
    ("which", "left"),
    [
        (0, b"Subject: a\r\nContent-Type: text/plain\r\n\r\n"),
        (1, HEAD.replace(b"X-Spam: yes\r\n", b"")),
        (2, HEAD.replace(b"X-Spam:\r\n folded\r\n", b"")),
        (-1, HEAD.replace(b"x-spam: last\r\n", b"")),
        (-3, HEAD.replace(b"X-Spam: yes\r\n", b"")),
        (4, HEAD),
        (-4, HEAD),
    ],
)
def test_fields_are_removed_by_name_and_place_with_their_folded_lines(which: int, left: bytes) -> None:
    assert changed(HEAD, removing(("X-SPAM", which))) == left


@pytest.mark.parametrize(
    ("order", "behind"),
    [
        (1, b"X-Spam: yes\r\n"),
        (2, b"Subject: a\r\n"),
        (3, b" folded\r\n"),
        (99, b"last\r\n"),
        (-1, b"last\r\n"),
        (-2, b"text/plain\r\n"),
        (-99, b""),
    ],
)
def test_a_field_with_a_place_stands_behind_as_many_fields_of_the_message(order: int, behind: bytes) -> None:
    answer = ScanAnswer("rspamd", "clean", placed=(("X-Here", "1", order), ("X-Here", "2", order)))
    before, _, after = HEAD.partition(behind) if behind else (b"", b"", HEAD)
    assert changed(HEAD, answer) == before + behind + b"X-Here: 1\r\nX-Here: 2\r\n" + after


def test_a_field_with_a_place_stands_in_front_where_readers_would_see_different_fields() -> None:
    flags = frozenset({"ambiguous"})
    entry = Found(None, 0, "", "", "", "", "eml", "message/rfc822", "mail", 0, flags, (), (), "")
    judgement = Judgement(Verdict(Action.TAG, answers=(ScanAnswer("rspamd", "clean", placed=(("X-Here", "1", 2),)),)), ())
    assert edits_of(judgement, Report("complete", "", 0, (entry,)), HEAD, "mx.test") == [(0, 0, b"X-Here: 1\r\n")]


def test_a_place_a_removal_and_a_subject_of_a_scanner_go_together() -> None:
    answers = ScanAnswer("a", "clean", placed=(("X-Here", "1", 1),), subject="** a **"), removing(("X-Spam", 0), ("Subject", 0))
    assert changed(HEAD, *answers) == b"X-Here: 1\r\nSubject: ** a **\r\nContent-Type: text/plain\r\n\r\n"
    assert changed(b"X: 1\r\n\r\n", answers[0]) == b"Subject: ** a **\r\nX: 1\r\nX-Here: 1\r\n\r\n"
    assert b"Subject: [t]\r\n a\r\n" in changed(HEAD, answers[0], subject="[t]"), "the policy's mark counts"


def test_what_says_how_content_is_read_and_our_own_field_are_left_alone() -> None:
    answers = adding(("Content-Type", "text/html"), ("MIME-Version", "2"), ("X-Gatepost-Scan", "mx; accept")), removing(("content-type", 0))
    assert changed(HEAD, *answers) == HEAD


def test_a_subject_is_rewritten_unless_the_policy_marks_it() -> None:
    answers = adding(("Subject", "***SPAM*** a")), removing(("Subject", 0))
    assert changed(b"Subject: a\r\n\r\n", *answers) == b"Subject: ***SPAM*** a\r\n\r\n"
    assert changed(b"Subject: a\r\n\r\n", *answers, subject="[tagged]") == b"Subject: [tagged]\r\n a\r\n\r\n"


def test_long_values_are_folded_and_what_cannot_be_is_left_out() -> None:
    octets = added([adding(("X-Result", " ".join(f"SYMBOL_{n}(1.00)[];" for n in range(100))), ("X-Solid", "y" * 2000))])
    assert octets.count(b"\r\n\t") > 20
    assert all(len(line) <= 78 for line in octets.split(b"\r\n"))
    assert b"X-Solid" not in octets


def test_other_letters_than_ascii_travel_as_encoded_words() -> None:
    octets = added([adding(("X-Note", "für " * 50))])
    assert octets.isascii()
    assert octets.startswith(b"X-Note: =?utf-8?")
    assert all(len(line) <= 78 for line in octets.split(b"\r\n"))


def test_half_a_field_is_not_cut_where_the_header_was_seen_no_further() -> None:
    header = b"X-Spam: 1\r\nX-Spam: " + b"y" * HEADER_SEEN
    assert changed(header[:HEADER_SEEN], removing(("X-Spam", 0))) == b"X-Spam: " + b"y" * (HEADER_SEEN - 19)


def test_a_verdict_keeps_action_and_digest_and_reads_what_older_versions_wrote() -> None:
    verdict = Verdict(
        Action.STRIP,
        "p",
        "r",
        findings=(Finding("a.zip", "r", Action.STRIP, "ab" * 32), Finding("b", "r", Action.TAG)),
        answers=(Answer("clam", "clean"), Answer("rspamd", "suspicious", "GTUBE", 15.0, "reject")),
    )
    listed = verdict.encode()
    assert Verdict.decode(listed) == verdict
    assert verdict.story == (
        f"strip, policy p, rule r, clam clean, rspamd suspicious GTUBE (reject, 15), removed a.zip (sha256 {'ab' * 32})"
    )
    old = ["tag", "p", "r", "", [["a", "r", "tag"]], [["clam", "infected", "Eicar", 0.0]], 1.0, 0]
    assert Verdict.decode(old).answers == (Answer("clam", "infected", "Eicar"),)
