"""A plain tree as TOML text, laid out for people: scalars first, a table for each table, short tables in one line. Pure; never fails
for trees that tree.encode makes. tomllib.loads(render(tree)) == tree, but for the order of keys: what fits in a line comes first.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_INLINE = 120
INLINE_DEPTH = 3
"""Tables this deep (the handlers of a rule) are written in one line when they fit."""
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_LITERAL = re.compile(r"[\t\n\x20-\x7e\x80-\U0010ffff]*\Z")


def render(tree: Mapping[str, Any], comment: str = "") -> str:
    """The text of a tree; `comment` stands at its head, each line behind a '# '."""
    head = [f"# {''.join(c for c in line if c.isprintable())}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *([""] if head else []), *_table(tree, ())]).rstrip("\n") + "\n"


def _table(tree: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    later: list[tuple[str, Any]] = []
    for key, value in tree.items():
        line = f"{quoted(key)} = {_value(value)}" if _is_inline(value) else ""
        if line and (not isinstance(value, Mapping) or (len(path) >= INLINE_DEPTH and len(line) <= MAX_INLINE)):
            yield line
        else:
            later.append((key, value))
    for key, value in later:
        yield from _tables(value, (*path, key))


def _tables(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    name = ".".join(map(quoted, path))
    if isinstance(value, list):
        for one in value:
            yield from ("", f"[[{name}]]", *_table(one, path))
        return
    inside = list(_table(value, path))
    if not inside or inside[0] != "":  # else the headers of the tables within it name it
        yield from ("", f"[{name}]")
    yield from inside


def _is_inline(value: Any) -> bool:
    """Whether a value can stand behind its key on one line (a text of several lines counts as such)."""
    if isinstance(value, Mapping):
        return all(
            _is_inline(one) and not isinstance(one, Mapping) and not (isinstance(one, str) and "\n" in one) for one in value.values()
        )
    return not (isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value))


def quoted(key: str) -> str:
    """A key as it is written."""
    return key if _BARE.match(key) else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value) if "\n" not in value or not _literal(value) else f"'''\n{value}'''"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{quoted(key)} = {_value(one)}" for key, one in value.items()) + " }"
    return repr(value)


def _literal(value: str) -> bool:
    return "'''" not in value and not value.endswith("'") and _LITERAL.match(value) is not None


def _text(value: str) -> str:
    """JSON's strings are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
