"""One complete command in octets to a `Command` value (RFC 3501 section 9 and the extensions of docs/mail-clients.md).

Called by receiver.py. Raises ParseError, never anything else, whatever the octets.
"""

import base64
import binascii
from collections.abc import Callable

from gatepost.protocol.imap import commands as c
from gatepost.protocol.imap.cursor import Cursor, ParseError
from gatepost.protocol.imap.fetchitems import parse_fetch_items
from gatepost.protocol.imap.names import folder_name
from gatepost.protocol.imap.parse_list import parse_list, parse_lsub, parse_special_use, parse_status_items
from gatepost.protocol.imap.search import KeyParser, parse_charset, parse_return_options
from gatepost.protocol.imap.sequence import parse_sequence_set

MAX_ID_FIELDS = 30
_UID_FORMS = frozenset({"COPY", "EXPUNGE", "FETCH", "MOVE", "SEARCH", "STORE"})


def parse_command(data: bytes) -> c.Command:
    """A command without its final CRLF. APPEND never comes here: its literal is not collected (see `parse_append_head`)."""
    cursor = Cursor(data)
    tag = cursor.tag()
    cursor.space()
    name = _name(cursor)
    parser = _PARSERS.get(name)
    if parser is None:
        raise ParseError("Unknown command")
    command = parser(cursor, tag, name)
    cursor.end()
    return command


def parse_append_head(data: bytes) -> c.Append | None:
    """APPEND up to and including the '{size}' CRLF of the message; None when the command is another one.

    Raises Incomplete when the literal is an earlier argument, whose octets are still to come.
    """
    cursor = Cursor(data)
    tag = cursor.tag()
    cursor.space()
    if cursor.keyword() != "APPEND":
        return None
    cursor.space()
    folder = folder_name(cursor.astring())
    cursor.space()
    flags: tuple[str, ...] = ()
    if cursor.looking_at(b"("):
        flags = cursor.flag_list()
        cursor.space()
    moment = None
    if cursor.looking_at(b'"'):
        moment = cursor.date_time()
        cursor.space()
    cursor.expect(b"{")
    size = cursor.number()
    waits = not cursor.accept(b"+")
    cursor.expect(b"}\r\n")
    cursor.end()
    return c.Append(tag, "APPEND", folder, flags, moment, size, waits)


def _name(cursor: Cursor) -> str:
    name = cursor.keyword()
    if name != "UID":
        return name
    cursor.space()
    name = cursor.keyword()
    if name not in _UID_FORMS:
        raise ParseError("Unknown UID command")
    return f"UID {name}"


def _bare(_cursor: Cursor, tag: str, name: str) -> c.Command:
    return c.Command(tag, name)


def _login(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    user = _utf8(cursor.astring())
    cursor.space()
    return c.Login(tag, name, user, _utf8(cursor.astring()))


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ParseError("Not valid UTF-8") from None


def _authenticate(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    mechanism = cursor.keyword()
    if cursor.at_end():
        return c.Authenticate(tag, name, mechanism, None)
    cursor.space()
    initial = decode_base64(cursor.data[cursor.pos :])
    cursor.pos = len(cursor.data)
    return c.Authenticate(tag, name, mechanism, initial)


def decode_base64(text: bytes) -> bytes:
    """A SASL response line; '=' is the empty initial response (RFC 4959 section 3)."""
    if text == b"=":
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ParseError("Invalid base64") from None


def _folder(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    return c.FolderCommand(tag, name, folder_name(cursor.astring()))


def _create(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    folder = folder_name(cursor.astring())
    return c.Create(tag, name, folder, "" if cursor.at_end() else parse_special_use(cursor))


def _rename(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    folder = folder_name(cursor.astring())
    cursor.space()
    return c.Rename(tag, name, folder, folder_name(cursor.astring()))


def _status(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    folder = folder_name(cursor.astring())
    cursor.space()
    return c.Status(tag, name, folder, parse_status_items(cursor))


def _search(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    returns = parse_return_options(cursor)
    codec, known = parse_charset(cursor)
    return c.Search(tag, name, KeyParser(cursor, codec).keys(), returns, known)


def _fetch(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    ranges = parse_sequence_set(cursor)
    cursor.space()
    items, marks = parse_fetch_items(cursor)
    if name == "UID FETCH" and "UID" not in items:
        items = ("UID", *items)
    return c.Fetch(tag, name, ranges, items, marks)


_STORE_MODES = {"FLAGS": "set", "+FLAGS": "add", "-FLAGS": "remove"}


def _store(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    ranges = parse_sequence_set(cursor)
    cursor.space()
    item, dot, silent = cursor.keyword().partition(".")
    if item not in _STORE_MODES or (dot and silent != "SILENT"):
        raise ParseError("Unknown STORE item")
    cursor.space()
    if cursor.looking_at(b"("):
        flags = cursor.flag_list()
    else:
        bare = [cursor.flag()]
        while not cursor.at_end():
            cursor.space()
            bare.append(cursor.flag())
        flags = tuple(bare[:100])
    return c.Store(tag, name, ranges, _STORE_MODES[item], bool(dot), flags)


def _copy(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    ranges = parse_sequence_set(cursor)
    cursor.space()
    return c.Copy(tag, name, ranges, folder_name(cursor.astring()))


def _uid_expunge(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    return c.UidExpunge(tag, name, parse_sequence_set(cursor))


def _enable(cursor: Cursor, tag: str, name: str) -> c.Command:
    wanted: list[str] = []
    while not cursor.at_end():
        cursor.space()
        wanted.append(cursor.keyword())
    if not wanted:
        raise ParseError("Missing argument")
    return c.Enable(tag, name, tuple(wanted))


def _id(cursor: Cursor, tag: str, name: str) -> c.Command:
    cursor.space()
    if cursor.accept(b"NIL"):
        return c.Id(tag, name, ())
    cursor.expect(b"(")
    fields: list[tuple[str, str]] = []
    while not cursor.accept(b")"):
        if fields:
            cursor.space()
        key = cursor.string().decode("utf-8", "replace")
        cursor.space()
        value = "" if cursor.accept(b"NIL") else cursor.string().decode("utf-8", "replace")
        fields.append((key, value))
        if len(fields) > MAX_ID_FIELDS:
            raise ParseError("Too many ID fields")
    return c.Id(tag, name, tuple(fields))


_Parser = Callable[[Cursor, str, str], c.Command]

_PARSERS: dict[str, _Parser] = {
    **dict.fromkeys(("CAPABILITY", "NOOP", "LOGOUT", "STARTTLS", "NAMESPACE", "IDLE", "CHECK", "CLOSE", "UNSELECT", "EXPUNGE"), _bare),
    **dict.fromkeys(("SELECT", "EXAMINE", "DELETE", "SUBSCRIBE", "UNSUBSCRIBE"), _folder),
    **dict.fromkeys(("COPY", "MOVE", "UID COPY", "UID MOVE"), _copy),
    **dict.fromkeys(("SEARCH", "UID SEARCH"), _search),
    **dict.fromkeys(("FETCH", "UID FETCH"), _fetch),
    **dict.fromkeys(("STORE", "UID STORE"), _store),
    "LOGIN": _login,
    "AUTHENTICATE": _authenticate,
    "CREATE": _create,
    "RENAME": _rename,
    "LIST": parse_list,
    "LSUB": parse_lsub,
    "STATUS": _status,
    "UID EXPUNGE": _uid_expunge,
    "ENABLE": _enable,
    "ID": _id,
}
