"""Incoming: the end of data, dots, bare line ends and what is said about a message, through the real extension."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.native import Incoming, Spool
from support.spool import wait_native


@pytest.fixture(scope="module")
def spool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spool]:
    opened = Spool(str(Path(tmp_path_factory.mktemp("spool")) / "p0"), segment_bytes=1 << 20)
    yield opened
    opened.close()


def stored(spool: Spool, incoming: Incoming) -> bytes:
    spool.commit(1, incoming, "", [("a@b", "", "local:main", 0, b"", 0, False)], b"")
    assert wait_native(spool, 1)[0] is None
    reader = spool.open(incoming.message_id)
    return b"".join(iter(lambda: reader.read(1000), b""))


def test_what_follows_the_end_of_data_is_left_alone(spool: Spool) -> None:
    incoming = spool.receive(prefix=b"", max_bytes=0)
    assert incoming.feed(b"a\r\n..b\r\n.\r\nQUIT\r\n") == 11
    assert incoming.done and incoming.feed(b"more") == 0
    assert incoming.size == 7
    assert stored(spool, incoming) == b"a\r\n.b\r\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_can_be_fed_from_any_place(spool: Spool, kind: type) -> None:
    incoming = spool.receive(prefix=b"", max_bytes=0)
    assert incoming.feed(kind(b"DATA\r\nhello\r\n.\r\n"), 6) == 10
    assert incoming.done
    assert stored(spool, incoming) == b"hello\r\n"
    assert incoming.feed(kind(b"x" * 100_000), 200_000) == 0


def test_a_strided_buffer_is_refused(spool: Spool) -> None:
    with pytest.raises((ValueError, BufferError)):
        spool.receive(prefix=b"", max_bytes=0).feed(memoryview(b"abcdef")[::2])


def test_bare_line_ends_are_a_defect_unless_allowed(spool: Spool) -> None:
    for data, defect in ((b"a\nb\r\n.\r\n", "bare-lf"), (b"a\rb\r\n.\r\n", "bare-cr")):
        incoming = spool.receive(prefix=b"", max_bytes=0)
        assert incoming.feed(data) == len(data)
        assert incoming.done and incoming.defect == defect
        lenient = spool.receive(prefix=b"", max_bytes=0, allow_bare=True)
        lenient.feed(data)
        assert lenient.defect is None and lenient.verdict()[2]
        assert stored(spool, lenient) == b"a\r\nb\r\n"


def test_the_verdict_counts_the_messages_own_fields_only(spool: Spool) -> None:
    incoming = spool.receive(prefix=b"Received: ours\r\nDelivered-To: us\r\n", max_bytes=0)
    incoming.feed(b"Received: theirs\r\nDelivered-To: loop@x\r\n\r\nbody \xe9\r\n.\r\n")
    assert incoming.verdict()[:3] == (None, 1, False)
    assert incoming.header() == b"Received: theirs\r\nDelivered-To: loop@x\r\n\r\n"


def test_a_limit_counts_the_message_without_its_prefix(spool: Spool) -> None:
    incoming = spool.receive(prefix=b"Received: a long one\r\n", max_bytes=4)
    incoming.feed(b"ab\r\n.\r\n")
    assert incoming.done and incoming.defect is None
    incoming = spool.receive(prefix=b"", max_bytes=4)
    incoming.feed(b"abc\r\n.\r\n")
    assert incoming.done and incoming.defect == "too-big"


@given(
    lines=st.lists(st.sampled_from([b"a", b".", b"\r", b"\n", b"\r\n", b"..", b"\xff", b"x" * 90]), max_size=40),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    allow=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_cutting_of_the_same_octets_gives_the_same_result(spool: Spool, lines: list[bytes], cuts: list[int], allow: bool) -> None:
    data = b"".join(lines) + b"\r\n.\r\nNEXT"
    whole = spool.receive(prefix=b"", max_bytes=0, allow_bare=allow)
    consumed = whole.feed(data)
    pieces = spool.receive(prefix=b"", max_bytes=0, allow_bare=allow)
    position = 0
    for end in sorted({*(cut for cut in cuts if cut < len(data)), len(data)}):
        while position < end and not pieces.done:
            position += pieces.feed(data[:end], position)
    assert (position, pieces.done, pieces.size, pieces.defect) == (consumed, True, whole.size, whole.defect)
    assert pieces.verdict()[:3] == whole.verdict()[:3] and pieces.header() == whole.header()
    whole.abort()
    pieces.abort()
