"""Where fields stand in a header section, whatever its lines are."""

import pytest

from gatepost.message.fields import HeaderView, field_places


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (b"A: b\r\n c\r\nD: e\r\n\r\nF: g\r\n", [("a", b"A: b\r\n c\r\n"), ("d", b"D: e\r\n")]),
        (b"A: b\nD: e\n\nF: g\n", [("a", b"A: b\n"), ("d", b"D: e\n")]),
        # Some readers see a field in a continuation that continues nothing; what has to go must not hide there.
        (b" A: b\r\n c\r\nD: e\r\n", [("a", b" A: b\r\n c\r\n"), ("d", b"D: e\r\n")]),
        (b" no field\r\nD: e\r\n", [("d", b"D: e\r\n")]),
        # A bare CR ends a line for some, and never the header.
        (b"A: b\rX: y\r\nD: e\r\n", [("a", b"A: b\r"), ("x", b"X: y\r\n"), ("d", b"D: e\r\n")]),
        (b"A: b\r\r\nD: e\r\n\r\nF: g\r\n", [("a", b"A: b\r\r\n"), ("d", b"D: e\r\n")]),
        (b"A: b\r\n\rD: e\r\n", [("a", b"A: b\r\n\r"), ("d", b"D: e\r\n")]),
        (b"\r\nA: b\r\n", []),
        (b"", []),
    ],
)
def test_each_field_that_some_reader_sees_is_found_with_its_lines(header: bytes, found: list[tuple[str, bytes]]) -> None:
    assert [(one.name, header[one.start : one.end]) for one in field_places(header)] == found


def test_places_join_to_the_header_where_every_line_is_of_a_field() -> None:
    header = b"A: b\r\n c\r\rX: y\r\n\tz\r\r\nD:\r\n"
    places = field_places(header)
    assert b"".join(header[one.start : one.end] for one in places) == header
    assert HeaderView(header).raw("x") == [b"y\tz"]
