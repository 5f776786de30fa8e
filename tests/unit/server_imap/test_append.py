"""APPEND streams: bounded memory, nothing left of an unfinished one, limits before the octets are sent."""

import os
import time

import pytest

from support.access import ALICE, AccessHost
from support.processes import resident_kib

MIB = 1 << 20


def big(octets: int) -> bytes:
    head = b"Subject: big\r\n\r\n"
    line = b"0123456789abcdef" * 4 + b"\r\n"
    return (head + line * (octets // len(line) + 1))[:octets]


@pytest.mark.timeout(180)
def test_a_message_of_fifty_megabytes_passes_both_ways_in_bounded_memory(host: AccessHost) -> None:
    octets = 50 * MIB - 1024
    piece = big(MIB)
    with host.raw("imap", user=ALICE) as client:
        client.append(big(100_000))
        client.ok("SELECT INBOX")
        client.ok("FETCH 1 BODY.PEEK[]")
        before = resident_kib(os.getpid())
        client.send(b"b APPEND INBOX {%d+}\r\n" % octets)
        peak = 0
        for sent in range(0, octets, MIB):
            client.send(piece[: min(MIB, octets - sent)])
            peak = max(peak, resident_kib(os.getpid()))
        client.send(b"\r\n")
        assert "APPENDUID" in client.until("b OK", 60)[-1]
        client.send(b"c FETCH 2 BODY.PEEK[]\r\n")
        assert client.line() == f"* 2 FETCH (BODY[] {{{octets}}}"
        left = octets
        while left:
            left -= len(client.file.read(min(MIB, left)))
            peak = max(peak, resident_kib(os.getpid()))
        client.until("c OK", 30)
    assert peak - before < 6 * 1024  # the client's own buffers are in this process, too


def test_an_unfinished_append_leaves_nothing(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.send(b"a APPEND INBOX {300000+}\r\n" + b"x" * 200_000)
        time.sleep(0.2)
    with host.raw("imap", user=ALICE) as client:
        assert client.ok("STATUS INBOX (MESSAGES UIDNEXT)") == ['* STATUS "INBOX" (MESSAGES 0 UIDNEXT 1)']


def test_one_octet_at_a_time_arrives_whole(host: AccessHost) -> None:
    message = b"Subject: slow\r\n\r\n" + b"slow body\r\n" * 20
    with host.raw("imap", user=ALICE) as client:
        for octet in b"a APPEND INBOX {%d+}\r\n%b\r\n" % (len(message), message):
            client.send(bytes([octet]))
        client.until("a OK [APPENDUID", 10)
        client.ok("SELECT INBOX")
        assert client.ok("FETCH 1 RFC822.SIZE") == [f"* 1 FETCH (RFC822.SIZE {len(message)})"]


def test_a_message_over_the_limit_is_refused_before_it_is_sent_or_passed_over(host: AccessHost) -> None:
    size = host.settings.smtp.max_message_bytes + 1
    with host.raw("imap", user=ALICE) as client:
        client.send(b"a APPEND INBOX {%d}\r\n" % size)
        client.until("a NO [TOOBIG]")
        client.send(b"b APPEND INBOX {%d+}\r\n" % size)
        client.until("b NO [TOOBIG]")
        for sent in range(0, size, MIB):
            client.send(b"x" * min(MIB, size - sent))
        client.send(b"\r\n")
        assert client.ok("NOOP") == []


def test_append_to_the_selected_folder_shows_at_once(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE, folder="INBOX") as client:
        client.send(b"a APPEND INBOX (\\Draft) {18+}\r\nSubject: x\r\n\r\ny\r\n\r\n")
        lines = client.until("a OK")
        assert lines[:2] == ["* 1 EXISTS", "* 1 RECENT"]
