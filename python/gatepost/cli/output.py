"""What the commands print: tables, JSON, human sizes and ages. Pure but for the printing.

On a terminal a table fits its width and long ids are shortened (to a prefix that the commands take back). Into a pipe nothing is
ever cut, wrapped or coloured. JSON shapes are the fields of gatepost.client.values; docs/cli.md lists them.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console

PIPE_WIDTH = 1_000_000
GAP = 2
SHORT_ID = 18
FULL_ID_WIDTH = 120
NARROW = 12
"""A column of at most this width is not worth cutting: the wide ones give way."""
_HIDDEN = frozenset({"password"})


def console() -> Console:
    """For standard output as it is now (tests swap it)."""
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PIPE_WIDTH, no_color=True, force_terminal=False)


def to_json(value: Any) -> Any:
    """Values of the SDK as JSON data: times in ISO 8601 with Z, spans in seconds, no secrets."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value) if field.name not in _HIDDEN}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return round(value.total_seconds(), 3)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def print_json(value: Any, *, line: bool = False) -> None:
    """One JSON document; `line`: on one line, at once on its way."""
    text = json.dumps(to_json(value), ensure_ascii=False, indent=None if line else 2)
    sys.stdout.write(f"{text}\n")
    if line:
        sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str = "nothing") -> None:
    """A table. A column name with '>' in front is right-aligned; one with '!' or '>' is never cut."""
    listed = [[clean(cell) for cell in row] for row in rows]
    if not listed:
        print(empty, file=sys.stderr)
        return
    out = console()
    room = out.width if out.is_terminal else PIPE_WIDTH
    titles = [name.lstrip("!>") for name in columns]
    shape = [(width, name.startswith(">")) for name, width in zip(columns, _widths(columns, listed, room), strict=True)]
    out.print(
        _line(titles, shape), style="bold" if out.is_terminal else None, markup=False, no_wrap=True, overflow="ignore", crop=out.is_terminal
    )
    # A hundred thousand lines are not a picture to be laid out: rich would take half a minute for them.
    for row in listed:
        sys.stdout.write(f"{_line(row, shape)}\n")


def _line(cells: Sequence[str], shape: Sequence[tuple[int, bool]]) -> str:
    """The cells in columns of (width, to the right), without the blanks at its end."""
    return (" " * GAP).join(_cell(cell, width, right=right) for cell, (width, right) in zip(cells, shape, strict=True)).rstrip()


def _cell(text: str, width: int, *, right: bool) -> str:
    """Exactly so many columns of a terminal, shortened with an ellipsis if need be."""
    if text.isascii() and len(text) <= width:
        return text.rjust(width) if right else text.ljust(width)
    wide = cell_len(text)
    if wide > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - wide) + text if right else text + " " * (width - wide)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """A width for each column. When they do not all fit, those that may be cut share what the others leave, the narrow ones first."""
    widths = [max(len(name.lstrip("!>")), *(_cells(row[at]) for row in rows)) for at, name in enumerate(columns)]
    flexible = [at for at, name in enumerate(columns) if name[0] not in "!>" and widths[at] > NARROW]
    left = room - GAP * (len(columns) - 1) - sum(width for at, width in enumerate(widths) if at not in flexible)
    for count, at in enumerate(sorted(flexible, key=lambda at: widths[at])):
        widths[at] = max(NARROW, min(widths[at], left // (len(flexible) - count)))
        left -= widths[at]
    return widths


def _cells(text: str) -> int:
    """Columns of a terminal that it takes."""
    return len(text) if text.isascii() else cell_len(text)


def print_fields(pairs: Iterable[tuple[str, str]]) -> None:
    """'name  value' lines; empty values are left out."""
    shown = [(name, clean(value)) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def clean(text: str) -> str:
    """Text that came from outside, without control characters: a reply must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text.replace("\r\n", " ").replace("\n", " ").replace("\t", " "))


def human_size(octets: int) -> str:
    """'512 B', '10.0 KiB', '3.4 GiB'."""
    if octets < 1024:
        return f"{octets} B"
    size = float(octets)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def human_span(span: timedelta) -> str:
    """The two largest units: '5s', '3m', '2h 10m', '4d 3h'."""
    total = max(0, int(span.total_seconds()))
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m"
    if total < 86400:
        hours, minutes = total // 3600, total % 3600 // 60
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    days, hours = total // 86400, total % 86400 // 3600
    return f"{days}d {hours}h" if hours else f"{days}d"


def age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago."""
    return human_span((now or datetime.now(UTC)) - moment)


def until(moment: datetime | None, now: datetime | None = None) -> str:
    """How long from now: 'in 5m', 'now', '' for never."""
    if moment is None:
        return ""
    left = moment - (now or datetime.now(UTC))
    return "now" if left.total_seconds() <= 0 else f"in {human_span(left)}"


def local_time(moment: datetime) -> str:
    """'2026-11-22 11:30:05' in this machine's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def shown_ids(ids: Sequence[str]) -> list[str]:
    """Ids for a table: whole into a pipe or on a wide terminal, else a prefix, unless it would be ambiguous in this list."""
    out = console()
    if not out.is_terminal or out.width >= FULL_ID_WIDTH:
        return list(ids)
    short = [one[:SHORT_ID] for one in ids]
    return [part if short.count(part) == 1 else whole for part, whole in zip(short, ids, strict=True)]
