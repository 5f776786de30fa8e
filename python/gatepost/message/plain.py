"""Frozen values ↔ plain JSON values, by their fields: how settings of rules and handlers are stored, journaled and sent.

Used by routing (journal), directory (tables), control and client (protos). Only what differs from its default is written, so that a new
field changes nothing that is stored already. `to_plain` does not fail; `from_plain` raises ValueError that names the field.
"""

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")


def to_plain(value: Any) -> dict[str, Any]:
    """A dataclass as a dict of what differs from the defaults."""
    made = {}
    for name, default in _defaults(cast(Hashable, type(value))):
        current = getattr(value, name)
        if default is dataclasses.MISSING or current != default:
            made[name] = _plain(current)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, StrEnum):
        return str(value)
    if dataclasses.is_dataclass(value):
        return to_plain(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def from_plain(kind: type[T], plain: Any) -> T:
    """Inverse of `to_plain`. Raises ValueError for a field that is unknown or of another type."""
    if not isinstance(plain, dict):
        raise ValueError(f"not a {kind.__name__}: {plain!r}")
    readers = _readers(cast(Hashable, kind))
    given = {}
    for name, value in plain.items():
        reader = readers.get(name)
        if reader is None:
            raise ValueError(f"{kind.__name__} has no field {name!r}")
        try:
            given[name] = reader(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from None
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"not a {kind.__name__}: {error}") from None


@cache
def _defaults(kind: Hashable) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.default) for field in dataclasses.fields(cast(Any, kind)))


@cache
def _readers(kind: Hashable) -> dict[str, Callable[[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cast(Any, kind))}


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What turns the plain form of one field into its value."""
    origin = typing.get_origin(hint)
    if origin is tuple:
        each = _reader(typing.get_args(hint)[0])
        return lambda value: tuple(each(one) for one in _expect(list, value))
    if origin in (types.UnionType, typing.Union):
        inner = _reader(next(one for one in typing.get_args(hint) if one is not type(None)))
        return lambda value: None if value is None else inner(value)
    if dataclasses.is_dataclass(hint):
        kind: type = hint  # type: ignore[assignment]
        return lambda value: from_plain(kind, value)
    if issubclass(hint, StrEnum):
        return lambda value: hint(_expect(str, value))
    if hint is float:
        return lambda value: float(_expect((int, float), value))
    return lambda value: _expect(hint, value)


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"has the wrong type (got {value!r})")
    return value
