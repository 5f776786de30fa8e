"""Sequence sets (RFC 3501 section 9): parsing, resolving against a folder's uids, and writing sets compactly."""

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from gatepost.protocol.imap.cursor import MAX_NUMBER, Cursor, ParseError

MAX_RANGES = 50_000
STAR = 0
"""'*' in a parsed range: the largest number in use."""

_SET = re.compile(rb"[0-9*:,]+")
_RANGE = re.compile(rb"([0-9]{1,10}|\*)(?::([0-9]{1,10}|\*))?\Z")

Ranges = tuple[tuple[int, int], ...]
"""Ranges as sent: ends in either order, STAR for '*'."""


def parse_sequence_set(cursor: Cursor) -> Ranges:
    """One sequence-set. Raises ParseError."""
    match = _SET.match(cursor.data, cursor.pos)
    if match is None:
        raise ParseError("Expected a sequence set")
    parts = match.group().split(b",", MAX_RANGES)
    if len(parts) > MAX_RANGES:
        raise ParseError("Too many ranges in a sequence set")
    cursor.pos = match.end()
    return tuple(_range(part) for part in parts)


def _range(part: bytes) -> tuple[int, int]:
    match = _RANGE.match(part)
    if match is None:
        raise ParseError("Malformed sequence set")
    low = _number(match.group(1))
    return low, low if match.group(2) is None else _number(match.group(2))


def _number(text: bytes) -> int:
    if text == b"*":
        return STAR
    value = int(text)
    if not 1 <= value <= MAX_NUMBER:
        raise ParseError("Number out of range in a sequence set")
    return value


def bound_ranges(ranges: Ranges, largest: int) -> list[tuple[int, int]]:
    """Put `largest` for '*', order the ends, sort and merge: ascending and disjoint."""
    ordered = sorted((min(pair), max(pair)) for pair in (((a or largest), (b or largest)) for a, b in ranges))
    merged: list[tuple[int, int]] = []
    for low, high in ordered:
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged


def numbers_in(ranges: Ranges, count: int) -> Iterator[int]:
    """Sequence numbers of the set among 1..count, ascending, each once; numbers beyond `count` are passed over."""
    if not count:
        return
    for low, high in bound_ranges(ranges, count):
        yield from range(max(low, 1), min(high, count) + 1)


def indexes_of_uids(ranges: Ranges, uids: "array[int]") -> Iterator[int]:
    """Indexes into `uids` (ascending) of the uids in the set; unknown uids are passed over (RFC 3501 6.4.8)."""
    if not uids:
        return
    for low, high in bound_ranges(ranges, uids[-1]):
        yield from range(bisect_left(uids, low), bisect_right(uids, high))


def compact(numbers: Iterable[int]) -> str:
    """'1:3,5' from numbers in the order given; only runs that ascend by one are joined."""
    out: list[str] = []
    first = last = -1
    for number in numbers:
        if first >= 0 and number == last + 1:
            last = number
            continue
        if first >= 0:
            out.append(str(first) if first == last else f"{first}:{last}")
        first = last = number
    if first >= 0:
        out.append(str(first) if first == last else f"{first}:{last}")
    return ",".join(out)


def uid_query(uids: Sequence[int]) -> list[object]:
    """The store's ['UID', low, high, …] for ascending uids; a query that matches nothing when there are none."""
    query: list[object] = ["UID"]
    first = last = -1
    for uid in uids:
        if uid != last + 1 or first < 0:
            if first >= 0:
                query += [first, last]
            first = uid
        last = uid
    if first < 0:
        return ["NOT", ["ALL"]]
    return [*query, first, last]
