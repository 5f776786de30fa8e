"""SEARCH keys (RFC 3501 6.4.4, RFC 4731): from the wire to the store's prefix tree.

Called by parse.py. Keys that depend on the session's view are left as ['SEQ', ranges], ['UIDS', ranges] and ['RECENT'];
`FolderView.bind_search` puts uids in their place.
"""

from collections.abc import Callable

from gatepost.protocol.imap.cursor import Cursor, ParseError
from gatepost.protocol.imap.sequence import parse_sequence_set

MAX_DEPTH = 40
MAX_KEYS = 2000
CHARSETS = ("US-ASCII", "UTF-8")

Key = list[object]

_FLAGS: dict[str, str] = {
    "ANSWERED": "\\Answered",
    "DELETED": "\\Deleted",
    "DRAFT": "\\Draft",
    "FLAGGED": "\\Flagged",
    "SEEN": "\\Seen",
}
_HEADERS = frozenset({"BCC", "CC", "FROM", "SUBJECT", "TO"})
_DATES = frozenset({"BEFORE", "ON", "SINCE", "SENTBEFORE", "SENTON", "SENTSINCE"})
_RETURNS = frozenset({"MIN", "MAX", "ALL", "COUNT"})


def parse_return_options(cursor: Cursor) -> frozenset[str] | None:
    """'RETURN (…) ' in front of the keys; None when absent, {'ALL'} for '()' (RFC 4731 3.1)."""
    if not cursor.accept(b"RETURN ("):
        return None
    options: set[str] = set()
    while not cursor.accept(b")"):
        if options:
            cursor.space()
        option = cursor.keyword()
        if option not in _RETURNS:
            raise ParseError("Unknown SEARCH return option")
        options.add(option)
    cursor.space()
    return frozenset(options or {"ALL"})


def parse_charset(cursor: Cursor) -> tuple[str, bool]:
    """'CHARSET name ' if present: (codec to decode strings with, whether the charset is one of ours)."""
    if not cursor.accept(b"CHARSET "):
        return "utf-8", True
    name = cursor.astring().decode("latin-1").upper()
    cursor.space()
    return ("utf-8", True) if name in CHARSETS else ("latin-1", False)


class KeyParser:
    """Parses search keys with a bound on depth and number."""

    __slots__ = ("_codec", "_cursor", "_left")

    def __init__(self, cursor: Cursor, codec: str) -> None:
        self._cursor = cursor
        self._codec = codec
        self._left = MAX_KEYS

    def keys(self, depth: int = 0) -> Key:
        """search-key *(SP search-key): the conjunction of them."""
        cursor = self._cursor
        found: Key = [self._key(depth)]
        while cursor.looking_at(b" "):
            cursor.space()
            found.append(self._key(depth))
        return ["AND", *found] if len(found) > 1 else self._only(found)

    @staticmethod
    def _only(found: Key) -> Key:
        first = found[0]
        assert isinstance(first, list)  # for the type checker; every key is a list
        return first

    def _key(self, depth: int) -> Key:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise ParseError("Search too complex")
        cursor = self._cursor
        if cursor.accept(b"("):
            inner = self.keys(depth + 1)
            cursor.expect(b")")
            return inner
        if cursor.data[cursor.pos : cursor.pos + 1] in _SET_START:
            return ["SEQ", parse_sequence_set(cursor)]
        return self._named(cursor.keyword(), depth)

    def _named(self, name: str, depth: int) -> Key:
        if name in _FLAGS:
            return ["FLAG", _FLAGS[name]]
        if name.startswith("UN") and name[2:] in _FLAGS:
            return ["NOT", ["FLAG", _FLAGS[name[2:]]]]
        plain = _CONSTANT.get(name)
        if plain is not None:
            return plain()
        self._cursor.space()
        if name in ("NOT", "OR"):
            return self._logical(name, depth)
        return self._with_argument(name)

    def _logical(self, name: str, depth: int) -> Key:
        first = self._key(depth + 1)
        if name == "NOT":
            return ["NOT", first]
        self._cursor.space()
        return ["OR", first, self._key(depth + 1)]

    def _with_argument(self, name: str) -> Key:
        cursor = self._cursor
        if name in _HEADERS:
            return ["HEADER", name, self._text()]
        if name in _DATES:
            return [name, cursor.date()]
        if name in ("BODY", "TEXT"):
            return [name, self._text()]
        if name in ("LARGER", "SMALLER"):
            return [name, cursor.number()]
        if name == "UID":
            return ["UIDS", parse_sequence_set(cursor)]
        if name in ("KEYWORD", "UNKEYWORD"):
            key: Key = ["FLAG", cursor.atom()]
            return key if name == "KEYWORD" else ["NOT", key]
        if name == "HEADER":
            field = self._text()
            cursor.space()
            return ["HEADER", field, self._text()]
        raise ParseError("Unknown search key")

    def _text(self) -> str:
        try:
            return self._cursor.astring().decode(self._codec)
        except UnicodeDecodeError:
            raise ParseError("Search text does not fit its charset") from None


_SET_START = tuple(b"%c" % c for c in b"0123456789*")
_CONSTANT: dict[str, Callable[[], Key]] = {
    "ALL": lambda: ["ALL"],
    "RECENT": lambda: ["RECENT"],
    "NEW": lambda: ["AND", ["RECENT"], ["NOT", ["FLAG", "\\Seen"]]],
    "OLD": lambda: ["NOT", ["RECENT"]],
}
