"""Replies of a peer, as bytes."""

import pytest

from gatepost.delivery.peer_reply import MAX_LINE, PeerReply, ProtocolViolation, ReplyParser


def test_a_reply_in_one_piece_is_parsed_with_its_enhanced_code() -> None:
    assert ReplyParser().feed(b"250 2.1.5 Ok\r\n") == [PeerReply(250, "2.1.5", ("Ok",))]


def test_a_multi_line_reply_arrives_octet_by_octet() -> None:
    parser, replies = ReplyParser(), []
    for octet in b"250-peer.test\r\n250-SIZE 100\r\n250 DSN\r\n":
        replies += parser.feed(bytes([octet]))
    assert replies == [PeerReply(250, "", ("peer.test", "SIZE 100", "DSN"))]
    assert not parser.pending


def test_several_replies_in_one_piece_come_out_in_order() -> None:
    assert [reply.code for reply in ReplyParser().feed(b"250 a\r\n550 5.1.1 b\r\n354\r\n")] == [250, 550, 354]


def test_a_bare_line_feed_ends_a_line_and_control_characters_become_spaces() -> None:
    (reply,) = ReplyParser().feed(b"550 no\x00way\n")
    assert reply.text == "no way"


def test_text_that_is_not_utf8_is_replaced() -> None:
    (reply,) = ReplyParser().feed(b"550 \xff\xfe\r\n")
    assert reply.text == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"25\r\n",
        b"250x\r\n",
        b"250-a\r\n550 b\r\n",
        b"2" * (MAX_LINE + 1),
        b"250-" + b"a" * 3000 + b"\r\n",
    ],
)
def test_what_is_no_reply_is_a_violation(octets: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        ReplyParser().feed(octets)


def test_an_endless_reply_is_cut_off() -> None:
    with pytest.raises(ProtocolViolation, match="too long"):
        ReplyParser().feed((b"250-" + b"a" * 1500 + b"\r\n") * 100)
