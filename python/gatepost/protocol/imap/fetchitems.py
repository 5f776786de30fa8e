"""FETCH items (RFC 3501 6.4.5): from the wire to the normalised strings that the native store takes.

Called by parse.py. Macros are expanded, names are upper-case, section specs are checked here so that the store only sees
well-formed ones. Field names of HEADER.FIELDS are upper-cased too: they compare without case, and RFC 3501 lets the
answer repeat them in any.
"""

import re

from gatepost.protocol.imap.cursor import Cursor, ParseError

MAX_ITEMS = 64
MAX_FIELDS = 100
MAX_PART_DEPTH = 32

_MACROS: dict[str, tuple[str, ...]] = {
    "ALL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE"),
    "FAST": ("FLAGS", "INTERNALDATE", "RFC822.SIZE"),
    "FULL": ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY"),
}
_PLAIN = frozenset({"UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE", "RFC822.HEADER"})
_MARKING = frozenset({"RFC822", "RFC822.TEXT"})
_NAME = re.compile(rb"[A-Za-z0-9.]+")
_PART = re.compile(rb"[1-9][0-9]{0,8}(?:\.[1-9][0-9]{0,8})*")
_SECTION_TEXT = re.compile(rb"HEADER\.FIELDS\.NOT|HEADER\.FIELDS|HEADER|TEXT|MIME", re.IGNORECASE)
_PARTIAL = re.compile(rb"<([0-9]{1,10})\.([0-9]{1,10})>")
_FIELD_NAME = re.compile(rb"[\x21-\x39\x3b-\x7e]{1,998}\Z")
_BARE_FIELD = re.compile(rb'[^(){%*"\\\]]+\Z')


def parse_fetch_items(cursor: Cursor) -> tuple[tuple[str, ...], bool]:
    r"""The items argument: (normalised items without duplicates, whether one of them sets \Seen)."""
    if not cursor.accept(b"("):
        return _finish(_item(cursor, macros=True))
    items = list(_item(cursor, macros=False))
    while not cursor.accept(b")"):
        cursor.space()
        items += _item(cursor, macros=False)
        if len(items) > MAX_ITEMS:
            raise ParseError("Too many FETCH items")
    return _finish(tuple(items))


def _finish(items: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    marks = any(item in _MARKING or item.startswith("BODY[") for item in items)
    return tuple(dict.fromkeys(items)), marks


def _item(cursor: Cursor, *, macros: bool) -> tuple[str, ...]:
    match = _NAME.match(cursor.data, cursor.pos)
    if match is None:
        raise ParseError("Expected a FETCH item")
    cursor.pos = match.end()
    name = match.group().decode("ascii").upper()
    if macros and name in _MACROS:
        return _MACROS[name]
    if cursor.looking_at(b"[") and name in ("BODY", "BODY.PEEK"):
        return (f"{name}{_section(cursor)}{_partial(cursor)}",)
    if name in _PLAIN or name in _MARKING:
        return (name,)
    raise ParseError("Unknown FETCH item")


def _section(cursor: Cursor) -> str:
    cursor.expect(b"[")
    part = _PART.match(cursor.data, cursor.pos)
    spec = ""
    if part is not None:
        cursor.pos = part.end()
        spec = part.group().decode("ascii")
        if spec.count(".") >= MAX_PART_DEPTH:
            raise ParseError("Section nested too deep")
        if cursor.accept(b"."):
            spec += "." + _section_text(cursor, in_part=True)
    elif not cursor.looking_at(b"]"):
        spec = _section_text(cursor, in_part=False)
    cursor.expect(b"]")
    return f"[{spec}]"


def _section_text(cursor: Cursor, *, in_part: bool) -> str:
    match = _SECTION_TEXT.match(cursor.data, cursor.pos)
    if match is None:
        raise ParseError("Unknown section")
    cursor.pos = match.end()
    text = match.group().decode("ascii").upper()
    if text == "MIME" and not in_part:
        raise ParseError("MIME needs a part number")
    if not text.startswith("HEADER.FIELDS"):
        return text
    cursor.space()
    return f"{text} ({_field_names(cursor)})"


def _field_names(cursor: Cursor) -> str:
    cursor.expect(b"(")
    names = [_field_name(cursor)]
    while not cursor.accept(b")"):
        cursor.space()
        names.append(_field_name(cursor))
        if len(names) > MAX_FIELDS:
            raise ParseError("Too many header fields")
    return " ".join(names)


def _field_name(cursor: Cursor) -> str:
    raw = cursor.astring()
    if not _FIELD_NAME.match(raw):
        raise ParseError("Not a header field name")
    text = raw.decode("ascii").upper()
    if _BARE_FIELD.match(raw):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _partial(cursor: Cursor) -> str:
    if not cursor.looking_at(b"<"):
        return ""
    match = _PARTIAL.match(cursor.data, cursor.pos)
    if match is None or int(match.group(2)) == 0 or int(match.group(1)) > 0xFFFFFFFF:
        raise ParseError("Malformed partial range")
    cursor.pos = match.end()
    return f"<{int(match.group(1))}.{min(int(match.group(2)), 0xFFFFFFFF)}>"
