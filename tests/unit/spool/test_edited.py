"""A message read with edits is the message with those edits, wherever they fall, and what is stored stays as it was."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost.native import InvalidError
from gatepost.spool import AsyncSpool
from support.spool import commit

LINE = b"0123456789abcdef" * 4 + b"\r\n"
BODY = b"Subject: x\r\n\r\n" + b"".join(b"%06d " % n + LINE for n in range(9000))  # three records and what is inline


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[AsyncSpool]:
    opened = await AsyncSpool.open(tmp_path / "p0", segment_bytes=4 << 20)
    yield opened
    await opened.close()


PLACES = st.lists(st.tuples(st.integers(0, len(BODY)), st.integers(0, 300_000), st.binary(max_size=40)), max_size=5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PLACES)
async def test_any_edits_read_like_the_edited_message(spool: AsyncSpool, places: list[tuple[int, int, bytes]]) -> None:
    message_id = await commit(spool, BODY)
    reader = spool.open_message(message_id)
    stored = whole(reader.edited([]))
    edits, at, expected = [], 0, b""
    for start, length, put in sorted(places):
        start = max(start, at)
        end = min(start + length, len(stored))
        edits.append((start, end, put))
        expected += stored[at:start] + put
        at = end
    expected += stored[at:]
    edited = reader.edited(edits)
    assert edited.size == len(expected)
    assert whole(edited) == expected
    assert whole(reader) == stored and stored.endswith(BODY)


def whole(reader: object) -> bytes:
    return b"".join(iter(lambda: reader.read(100_000), b""))  # type: ignore[attr-defined]


async def test_the_header_of_an_edited_message_is_the_edited_header(spool: AsyncSpool) -> None:
    reader = spool.open_message(await commit(spool, b"Subject: x\r\n\r\n.body\r\n"))
    at = reader.header().index(b"Subject")
    edited = reader.edited([(at, at, b"X-New: 1\r\n")])
    assert b"X-New: 1\r\nSubject: x\r\n\r\n" in edited.header()
    assert edited.read_dotted().endswith(b"\r\n..body\r\n.\r\n")


@pytest.mark.parametrize("edits", [[(0, 5, b""), (4, 6, b"")], [(0, 1 << 40, b"")], [(5, 4, b"")]])
async def test_edits_that_overlap_or_do_not_fit_are_refused(spool: AsyncSpool, edits: list[tuple[int, int, bytes]]) -> None:
    reader = spool.open_message(await commit(spool, BODY))
    with pytest.raises(InvalidError):
        reader.edited(edits)
