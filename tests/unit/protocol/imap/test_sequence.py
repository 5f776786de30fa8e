"""Sequence sets against a folder's uids."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.protocol.imap.cursor import Cursor, ParseError
from gatepost.protocol.imap.sequence import Ranges, compact, indexes_of_uids, numbers_in, parse_sequence_set, uid_query


def ranges(text: str) -> Ranges:
    cursor = Cursor(text.encode())
    parsed = parse_sequence_set(cursor)
    cursor.end()
    return parsed


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1", [1]),
        ("2:4", [2, 3, 4]),
        ("4:2", [2, 3, 4]),
        ("*", [5]),
        ("4:*", [4, 5]),
        ("*:4", [4, 5]),
        ("9:*", [5]),
        ("1,1:2,2:3", [1, 2, 3]),
        ("3,1", [1, 3]),
        ("7", []),
        ("1:4294967295", [1, 2, 3, 4, 5]),
    ],
)
def test_numbers_among_five_messages(text: str, numbers: list[int]) -> None:
    assert list(numbers_in(ranges(text), 5)) == numbers


def test_nothing_is_named_in_an_empty_folder() -> None:
    assert list(numbers_in(ranges("1:*"), 0)) == []
    assert list(indexes_of_uids(ranges("1:*"), array("I"))) == []


def test_uids_are_found_by_value_and_the_last_stands_for_star() -> None:
    uids = array("I", [3, 5, 9, 10])
    assert [uids[i] for i in indexes_of_uids(ranges("4:9"), uids)] == [5, 9]
    assert [uids[i] for i in indexes_of_uids(ranges("20:*"), uids)] == [10]


@pytest.mark.parametrize("text", ["0", "1:0", ":", "1:", ",1", "1,", "1:2:3", "**", "99999999999", "1," * 60_000 + "1"])
def test_malformed_sets(text: str) -> None:
    with pytest.raises(ParseError):
        ranges(text)


@given(st.sets(st.integers(1, 60)), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=6))
def test_uid_sets_agree_with_a_plain_reading(uids: set[int], pairs: list[tuple[int, int]]) -> None:
    have = array("I", sorted(uids))
    top = max(uids, default=0)
    wanted = {u for a, b in pairs for u in uids if min(a or top, b or top) <= u <= max(a or top, b or top)}
    assert [have[i] for i in indexes_of_uids(tuple(pairs), have)] == sorted(wanted)


def test_compact_and_query() -> None:
    assert compact([1, 2, 3, 7, 9, 10]) == "1:3,7,9:10"
    assert compact([]) == ""
    assert uid_query([1, 2, 3, 7]) == ["UID", 1, 3, 7, 7]
    assert uid_query([]) == ["NOT", ["ALL"]]
