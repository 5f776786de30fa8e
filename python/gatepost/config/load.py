"""From a TOML file, the environment and the command line to one `Settings`. Called by app/ at start and at SIGHUP, and by cli/.

Order, strongest first: overrides (command line), environment (GATEPOST_SECTION__KEY), the file, defaults. Fails with
SettingsError, whose text has one 'key: problem (got …)' line per fault, all faults at once; nothing is half loaded.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gatepost.config.settings import Settings

PREFIX = "GATEPOST_"
MAX_FILE_BYTES = 1 << 20
_TOP_LEVEL = {name for name, field in Settings.model_fields.items() if not isinstance(field.default, BaseModel)}


class SettingsError(Exception):
    """Settings that cannot be used; `problems` holds 'key: problem (got …)' lines."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_settings(
    config: Path | None = None,
    data: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read, merge, validate. `overrides` may be nested or dotted ({'listen.smtp': […]}). Raises SettingsError."""
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = _read_file(config) if config else {}
    problems: list[str] = []
    _merge(merged, _from_environment(environ, problems))
    _merge(merged, _nested(overrides or {}))
    if data is not None:
        merged["data"] = data
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(problems + [_explain(details) for details in error.errors()]) from None
    if problems:
        raise SettingsError(problems)
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(text) > MAX_FILE_BYTES:
        raise SettingsError([f"{path}: larger than {MAX_FILE_BYTES} octets"])
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise SettingsError([f"{path}: not TOML: {error}"]) from None


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """GATEPOST_HOSTNAME, GATEPOST_SMTP__MAX_HOPS … as nested tables. A name with '__' must be a known one, others may be someone else's."""
    found: dict[str, Any] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        section, nested, key = name.removeprefix(PREFIX).lower().partition("__")
        if nested and section in Settings.model_fields and section not in _TOP_LEVEL:
            found.setdefault(section, {})[key] = value
        elif nested:
            problems.append(f"{name}: unknown setting{_closest(f'{section}.{key}')} (got {value!r})")
        elif section in _TOP_LEVEL:
            found[section] = value
    return found


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in overrides.items():
        section, dot, key = name.partition(".")
        value = dict(value) if isinstance(value, Mapping) else value
        _merge(result, {section: {key: value}} if dot else {section: value})
    return result


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` on `base`, table by table; a table never gives way to a missing key."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            base[key] = {**base[key], **value}
        else:
            base[key] = value


def setting_names() -> Iterator[str]:
    """Every key as it stands in the file: 'hostname', 'smtp.max_hops' and so on."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from (f"{name}.{key}" for key in type(field.default).model_fields)
        else:
            yield name


def _closest(name: str) -> str:
    """', did you mean …?' for the nearest valid name, or nothing."""
    names = [*setting_names(), *Settings.model_fields]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not near:
        tail = name.rpartition(".")[2]
        near = [full for full in names if full.rpartition(".")[2] == tail]
    return f", did you mean {near[0]}?" if near else ""


_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "tuple_type": "must be a list",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "string_too_long": "must be at most {max_length} character",
}


def _explain(details: ErrorDetails) -> str:
    """One fault as 'section.key: problem (got …)'."""
    key = ".".join(str(part) for part in details["loc"])
    got = details["input"]
    if details["type"] == "extra_forbidden":
        return f"{key}: unknown setting{_closest(key)} (got {got!r})"
    if details["type"] == "value_error":
        text = str(details["ctx"]["error"])
        if isinstance(got, Mapping | BaseModel):  # found by a section's own check, which names the key itself
            return f"{key}.{text}"
        return f"{key}: {text}" if "(got " in text else f"{key}: {text} (got {got!r})"
    words = _WORDS.get(details["type"])
    context = details.get("ctx", {})
    problem = words.format(**context) if words else details["msg"][:1].lower() + details["msg"][1:]
    return f"{key}: {problem} (got {got!r})"
