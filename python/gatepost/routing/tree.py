"""Frozen dataclasses as plain trees (what TOML and JSON hold) and back, by their annotations alone: a new field needs no line here.

Called by routing.document and directory/documents.py. A tree leaves out what has its default. A tuple of dataclasses whose first field
is one of KEYS becomes a table by that field; a tuple of others stays a list. Decoding never raises for what a tree holds: it notes a
Fault for each thing that is wrong, with its path, and goes on.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from gatepost.message.nearest import nearest

KEYS = frozenset({"domain", "pattern", "name", "address"})
"""First fields by which their dataclass is known among its like."""
MAX_INTEGER = 2**53
_SIMPLE = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where: the keys that lead to it."""

    path: Path
    problem: str


def key_field(kind: type) -> str:
    """The field by which values of a dataclass are known among their like; '' when there is none."""
    first: Field[Any] = dataclasses.fields(kind)[0]
    return first.name if first.name in KEYS and first.default is MISSING else ""


@cache
def hints(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass, `| None` taken off: in a tree, what is None is left out."""
    return {name: _without_none(hint) for name, hint in get_type_hints(kind).items()}


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        rest = [one for one in get_args(hint) if one is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


# ---- to a tree -------------------------------------------------------------------------------------------------------


def encode(value: Any) -> dict[str, Any]:
    """A dataclass as a dict; what has its default is left out."""
    made: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        here = getattr(value, field.name)
        if here is None or here == _default(field):
            continue
        made[field.name] = _plain(here)
    return made


def _default(field: "Field[Any]") -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return encode(value)
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(_plain(one) for one in value)
    if isinstance(value, tuple | list):
        name = key_field(type(value[0])) if value and dataclasses.is_dataclass(value[0]) else ""
        if not name:
            return [_plain(one) for one in value]
        return {getattr(one, name): {key: item for key, item in encode(one).items() if key != name} for one in value}
    return value


# ---- from a tree -----------------------------------------------------------------------------------------------------


def decode(kind: type, tree: Any, path: Path, faults: list[Fault], given: Mapping[str, Any] | None = None) -> Any:
    """A value of the dataclass, or None when something it needs is missing or wrong. `given`: fields that the tree need not name."""
    if not isinstance(tree, Mapping):
        faults.append(Fault(path, f"must be a table (got {shown(tree)})"))
        return None
    before, known = len(faults), {field.name: field for field in dataclasses.fields(kind)}
    values = dict(given or {})
    for name, item in tree.items():
        if name in known and name not in values:
            values[name] = _typed(hints(kind)[name], item, (*path, name), faults)
        else:
            faults.append(Fault((*path, name), unknown(name, [one for one in known if one not in (given or {})])))
    for name, field in known.items():
        if name not in values and _default(field) is MISSING:
            faults.append(Fault((*path, name), "is needed"))
    return kind(**values) if len(faults) == before else None


def unknown(name: str, known: Sequence[str]) -> str:
    """What to say of a name that is not known, with the closest one that is."""
    close = get_close_matches(name, known, 1, 0.5)
    return f"there is no {name!r} here" + (f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(sorted(known))}")


def _typed(hint: Any, item: Any, path: Path, faults: list[Fault]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return decode(hint, item, path, faults)  # type: ignore[arg-type]  # a hint that is a dataclass is its type
    if origin is tuple or origin in (frozenset, Sequence):
        return _several(arguments[0], item, path, faults, frozenset if origin is frozenset else tuple)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(item, Mapping):
            faults.append(Fault(path, f"must be a table (got {shown(item)})"))
            return {}
        return {name: _typed(arguments[1], one, (*path, name), faults) for name, one in item.items()}
    return _scalar(hint, item, path, faults)


def _several(kind: Any, item: Any, path: Path, faults: list[Fault], make: Any) -> Any:
    name = key_field(kind) if dataclasses.is_dataclass(kind) else ""  # type: ignore[arg-type]  # as above
    if name and isinstance(item, Mapping):
        found = [decode(kind, one, (*path, str(key)), faults, {name: str(key)}) for key, one in item.items()]
    elif isinstance(item, list):
        found = [_typed(kind, one, (*path, str(n)), faults) for n, one in enumerate(item)]
    else:
        wanted = f"a table by {name}" if name else "a list"
        faults.append(Fault(path, f"must be {wanted} (got {shown(item)})"))
        return make()
    return make(one for one in found if one is not None)


def _scalar(hint: Any, item: Any, path: Path, faults: list[Fault]) -> Any:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if isinstance(item, str) and item in set(hint):
            return hint(item)
        meant = nearest(item, list(hint)) if isinstance(item, str) else ""
        faults.append(Fault(path, f"must be one of {', '.join(hint)} (got {shown(item)}){meant}"))
        return None
    if hint is float and isinstance(item, int) and not isinstance(item, bool):
        item = float(item)
    if not isinstance(item, hint) or (isinstance(item, bool) and hint is not bool):
        faults.append(Fault(path, f"must be {_SIMPLE.get(hint, 'something else')} (got {shown(item)})"))
        return None
    if isinstance(item, int) and abs(item) > MAX_INTEGER:
        faults.append(Fault(path, "is too large a number"))
        return None
    return item


def shown(item: Any) -> str:
    """A value in a message, of bearable length."""
    text = "a table" if isinstance(item, Mapping) else "a list" if isinstance(item, list) else repr(item)
    return text if len(text) <= 60 else text[:57] + "..."
