"""Plain values (message/plain.py) ↔ proto messages of the same field names. Used by control/ and client/ for settings with many fields.

Enums are lower-case words with '-', durations and timestamps whole seconds. What is not set on one side is not set on the other, so the
defaults are those of the values, not of the protos. Fails with ValueError, which names the field.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_TIMES = ("google.protobuf.Duration", "google.protobuf.Timestamp")


def plain_of(message: Message, *, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """What is set in the message; fields named in `leave_out` are not looked at."""
    made = {}
    for field, value in message.ListFields():
        if field.name in leave_out:
            continue
        try:
            made[field.name] = [_plain(field, one, leave_out) for one in value] if field.is_repeated else _plain(field, value, leave_out)
        except ValueError as error:
            raise ValueError(f"{field.name}: {error}") from None
    return made


def _plain(field: FieldDescriptor, value: Any, leave_out: tuple[str, ...]) -> Any:
    if field.message_type is not None:
        return int(value.seconds) if field.message_type.full_name in _TIMES else plain_of(value, leave_out=leave_out)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        if named is None:
            raise ValueError(f"unknown value {value}")
        return named.name.removeprefix(_prefix(field.enum_type)).lower().replace("_", "-")
    return value


def fill(message: Message, plain: Mapping[str, Any]) -> None:
    """Set the fields of the message; names it does not have are left out."""
    fields: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    for name, value in plain.items():
        field = fields.get(name)
        if field is None or value is None:
            continue
        if field.is_repeated:
            _fill_each(getattr(message, name), field, value)
        elif field.message_type is None:
            setattr(message, name, _number(field, value))
        else:
            _fill_one(getattr(message, name), field, value)


def _fill_each(container: Any, field: FieldDescriptor, values: Any) -> None:
    for value in values:
        if field.message_type is None:
            container.append(_number(field, value))
        else:
            _fill_one(container.add(), field, value)


def _fill_one(target: Any, field: FieldDescriptor, value: Any) -> None:
    if field.message_type is not None and field.message_type.full_name in _TIMES:
        target.seconds = value
    else:
        target.SetInParent()
        fill(target, value)


def _number(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is None:
        return value
    name = _prefix(field.enum_type) + value.upper().replace("-", "_")
    named = field.enum_type.values_by_name.get(name)
    if named is None:
        raise ValueError(f"{field.name}: must be one of {', '.join(_words(field.enum_type))} (got {value!r})")
    return named.number


def _words(enum: EnumDescriptor) -> list[str]:
    return [value.name.removeprefix(_prefix(enum)).lower().replace("_", "-") for value in enum.values if value.number]


def _prefix(enum: EnumDescriptor) -> str:
    """'RULE_KIND_' of RULE_KIND_UNSPECIFIED, which every enum begins with."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")
