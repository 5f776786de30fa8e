"""docs/configuration.md as text, from the Settings model, so that no setting, default or bound is documented by hand.

Called by `python -m gatepost.config` and by the test that compares the file. Pure.
"""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gatepost.config.settings import Settings

_HEAD = """\
# Configuration

Gatepost runs without a configuration file. What is to differ from the defaults stands in a TOML file given by `--config FILE`,
in environment variables, or both. This page is made from the code (`python -m gatepost.config`), so it is complete.

```toml
hostname = "mail.example.org"

[listen]
smtp = ["0.0.0.0:25", "[::]:25"]
lmtp = []                             # off

[smtp]
max_message_bytes = "100 MiB"

[trust]
networks = ["10.0.0.0/8"]
```

- **Order**, strongest first: command line, environment, file, default.
- **Environment**: `GATEPOST_` and the key in capitals, section and key joined by two underscores: `GATEPOST_SMTP__MAX_HOPS=30`,
  `GATEPOST_LISTEN__SMTP=0.0.0.0:25,[::]:25`, `GATEPOST_DATA=/srv/mail`. Lists are written with commas or as JSON, tables as
  `name=value,name=value` or as JSON.
- **Sizes** are octets: a number, or text with `KiB`, `MiB`, `GiB`, `KB`, `MB` or `GB` behind it. **Times** are seconds.
- **Addresses to listen on** are `host:port`; IPv6 in brackets; `*` is every IPv4 address; port 0 takes a free one (`gatepost status`
  tells which); an empty list turns the protocol off.
- A key that does not exist is an error that offers the nearest one; all errors are told at once, each as `section.key: problem (got …)`.
- `SIGHUP` reads everything again. What cannot change while running (addresses to listen on, `workers`, `data`) takes effect at the
  next start; a faulty file is reported and the settings in force stay.
"""


def reference() -> str:
    """The whole page."""
    return _HEAD + "".join(_sections())


def _sections() -> Iterator[str]:
    top = {name: field for name, field in Settings.model_fields.items() if not isinstance(field.default, BaseModel)}
    yield "\n## Top level\n\n" + _table("", top)
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, BaseModel):
            model = type(field.default)
            yield f"\n## [{name}]\n\n{(model.__doc__ or '').strip()}\n\n{_table(name, model.model_fields)}"
            for key, inner in model.model_fields.items():
                yield from _repeated(f"{name}.{key}", inner)


def _repeated(key: str, field: FieldInfo) -> Iterator[str]:
    """The keys of an array of tables."""
    for model in getattr(field.annotation, "__args__", ()):
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield f"\n### [[{key}]]\n\n{(model.__doc__ or '').strip()}\n\n{_table('', model.model_fields)}"


def _table(section: str, fields: dict[str, FieldInfo]) -> str:
    rows = ["| key | default | values | meaning |", "|---|---|---|---|"]
    rows += [_row(f"{section}.{name}" if section else name, field) for name, field in fields.items()]
    return "\n".join(rows) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    return f"| `{key}` | {_default(key, field)} | {_values(field)} | {field.description} |"


_COMPUTED = {"hostname": "this machine's name", "workers": "number of cores"}


def _default(key: str, field: FieldInfo) -> str:
    if key in _COMPUTED:
        return _COMPUTED[key]
    value = field.default
    if field.is_required():
        return "none: must be given"
    if isinstance(value, tuple):
        return f"`{json.dumps(list(value))}`"
    if isinstance(value, dict):
        return "`{}`"
    return f"`{json.dumps(value if isinstance(value, bool | int | float | str) else str(value))}`"


def _values(field: FieldInfo) -> str:
    bounds = {name: value for item in field.metadata for name in ("ge", "gt", "le") if (value := getattr(item, name, None)) is not None}
    if bounds:
        return _range(bounds)
    options = getattr(field.annotation, "__args__", ())
    if options and all(isinstance(option, str) for option in options):
        return ", ".join(f"`{option}`" for option in options)
    if field.annotation is bool:
        return "true, false"
    return "text" if field.annotation is str else _kind(field.default)


def _range(bounds: dict[str, Any]) -> str:
    low = f"{bounds['ge']:,}" if "ge" in bounds else f"more than {bounds['gt']:,}" if "gt" in bounds else ""
    high = f"{bounds['le']:,}" if "le" in bounds else ""
    return f"{low} to {high}" if high else f"{low} or more"


def _kind(default: object) -> str:
    return "list" if isinstance(default, tuple) else "table" if isinstance(default, dict) else "path"
