"""Journal details."""

import json

from gatepost.message.reply import RemoteReply
from gatepost.queue.attempt import MAX_DETAIL, attempt_fields, decode_detail, encode_detail
from gatepost.queue.transport import Deferred, Delivered


def test_a_delivery_keeps_the_peers_words() -> None:
    reply = RemoteReply(250, "2.0.0", "queued as X", "mx[192.0.2.1]:25", "end of data")
    fields = attempt_fields(Delivered(reply), now=5, ms=12, tls="TLSv1.3 X")
    assert decode_detail(encode_detail(fields)) == {
        "t": 5,
        "outcome": "delivered",
        "ms": 12,
        "host": "mx[192.0.2.1]:25",
        "code": 250,
        "enhanced": "2.0.0",
        "text": "queued as X",
        "command": "end of data",
        "tls": "TLSv1.3 X",
    }


def test_a_detail_is_bounded_whatever_the_peer_says() -> None:
    reply = RemoteReply(451, "4.0.0", "ü" * 1000, "h" * 500, "RCPT")
    data = encode_detail(attempt_fields(Deferred("ü" * 5000, "4.0.0", reply), now=5, ms=1))
    assert len(data) <= MAX_DETAIL
    assert json.loads(data)["outcome"] == "deferred"


def test_a_detail_of_another_make_is_shown_as_text() -> None:
    assert decode_detail(b"what") == {"text": "what"}
    assert decode_detail(b"[1]") == {"text": "[1]"}
    assert decode_detail(b"") == {}
