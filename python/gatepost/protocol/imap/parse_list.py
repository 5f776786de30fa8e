"""Arguments of LIST, LSUB, STATUS and CREATE's USE (RFC 3501 6.3.8, RFC 5258, RFC 5819, RFC 6154, RFC 8438).

Called by parse.py.
"""

from gatepost.protocol.imap.commands import Command, ListFolders
from gatepost.protocol.imap.cursor import Cursor, ParseError
from gatepost.protocol.imap.names import MAX_NAME, decode_utf7

MAX_PATTERNS = 32
STATUS_ITEMS = frozenset({"MESSAGES", "RECENT", "UIDNEXT", "UIDVALIDITY", "UNSEEN", "SIZE", "APPENDLIMIT"})
SPECIAL_USES = {use.upper(): use for use in ("\\Archive", "\\Drafts", "\\Junk", "\\Sent", "\\Trash")}
_SELECTION = frozenset({"SUBSCRIBED", "REMOTE", "RECURSIVEMATCH", "SPECIAL-USE"})
_RETURN = frozenset({"SUBSCRIBED", "CHILDREN", "SPECIAL-USE"})


def parse_list(cursor: Cursor, tag: str, name: str) -> Command:
    """LIST with or without the options of RFC 5258."""
    cursor.space()
    selection: frozenset[str] = frozenset()
    extended = cursor.looking_at(b"(")
    if extended:
        selection = _options(cursor, _SELECTION)
        cursor.space()
    reference = _pattern(cursor.astring())
    cursor.space()
    several = cursor.looking_at(b"(")
    patterns = _patterns(cursor) if several else (_pattern(cursor.list_mailbox()),)
    returns: frozenset[str] = frozenset()
    status: tuple[str, ...] = ()
    if not cursor.at_end():
        cursor.expect(b" RETURN ")
        extended = True
        returns, status = _return_options(cursor)
    if "RECURSIVEMATCH" in selection and not selection & {"SUBSCRIBED", "SPECIAL-USE"}:
        raise ParseError("RECURSIVEMATCH needs another selection option")
    return ListFolders(tag, name, reference, patterns, selection, returns, status, extended or several)


def parse_lsub(cursor: Cursor, tag: str, name: str) -> Command:
    """LSUB."""
    cursor.space()
    reference = _pattern(cursor.astring())
    cursor.space()
    return ListFolders(tag, name, reference, (_pattern(cursor.list_mailbox()),))


def _pattern(wire: bytes) -> str:
    if len(wire) > MAX_NAME:
        raise ParseError("Pattern too long")
    return decode_utf7(wire)


def _patterns(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect(b"(")
    found = [_pattern(cursor.list_mailbox())]
    while not cursor.accept(b")"):
        cursor.space()
        found.append(_pattern(cursor.list_mailbox()))
        if len(found) > MAX_PATTERNS:
            raise ParseError("Too many patterns")
    return tuple(found)


def _options(cursor: Cursor, known: frozenset[str]) -> frozenset[str]:
    cursor.expect(b"(")
    options: set[str] = set()
    while not cursor.accept(b")"):
        if options:
            cursor.space()
        option = cursor.keyword()
        if option not in known:
            raise ParseError("Unknown LIST option")
        options.add(option)
    return frozenset(options)


def _return_options(cursor: Cursor) -> tuple[frozenset[str], tuple[str, ...]]:
    cursor.expect(b"(")
    options: set[str] = set()
    status: tuple[str, ...] = ()
    while not cursor.accept(b")"):
        if options:
            cursor.space()
        option = cursor.keyword()
        if option == "STATUS":
            cursor.space()
            status = parse_status_items(cursor)
        elif option not in _RETURN:
            raise ParseError("Unknown LIST return option")
        options.add(option)
    return frozenset(options), status


def parse_status_items(cursor: Cursor) -> tuple[str, ...]:
    """'(' status-att *(SP status-att) ')', without duplicates."""
    cursor.expect(b"(")
    items: list[str] = []
    while not cursor.accept(b")"):
        if items:
            cursor.space()
        item = cursor.keyword()
        if item not in STATUS_ITEMS:
            raise ParseError("Unknown STATUS item")
        items.append(item)
    if not items:
        raise ParseError("STATUS needs an item")
    return tuple(dict.fromkeys(items))


def parse_special_use(cursor: Cursor) -> str:
    r"""' (USE (\Sent))' behind the name of CREATE; an unknown use comes back as it is, for NO [USEATTR]."""
    cursor.expect(b" (USE (")
    use = cursor.flag()
    cursor.expect(b"))")
    return SPECIAL_USES.get(use.upper(), use)
