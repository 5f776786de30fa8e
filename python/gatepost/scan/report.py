"""What the native inspection found, as frozen values. Called by policy and by `gatepost scan`.

`inspect` blocks for as long as the limits allow (2 s by default) without the interpreter lock: on an event loop's thread it has no
place. It never raises for what is in the data. Limits count what really came out of decoders, over the whole tree of one call.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from gatepost import native

PATH_PARTS = 20
"""Names kept in a path; the outer ones are left out first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one inspection; what exceeds one ends it with the verdict `bomb`, `timeout` for time."""

    max_bytes: int = 512 << 20
    """Octets out of all decoders together."""
    max_entries: int = 20_000
    max_depth: int = 16
    max_ratio: int = 200
    """Octets out per octet in, once 16 MiB have come out."""
    memory_bytes: int = 32 << 20
    """Decoded octets kept at a time; of larger files only the beginning is looked at."""
    milliseconds: int = 2_000


class Place(NamedTuple):
    """Where a part stands in the message that was inspected: offsets of its header block, its body, and what follows."""

    header: int
    body: int
    end: int
    coding: str
    """How the entry's content comes out of the body: `MailContent.part`."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file: the one asked about, or one inside another."""

    parent: int | None
    depth: int
    name: str
    path: str
    """Names from the outermost container to this one, with ` / ` between."""
    extension: str
    """Of the name as it is meant: folded to ASCII, lower case, without trailing dots."""
    declared: str
    """The media type it claims; '' in most containers."""
    kind: str
    """What it is by content: `pe`, `zip`, `docx` …; '' when nothing of the content could be had."""
    media_type: str
    family: str
    """archive, document, executable, script, markup, mail, media, text, data."""
    size: int
    flags: frozenset[str]
    signs: tuple[str, ...]
    defects: tuple[str, ...]
    sha256: str
    """In hex; '' when not all octets came out."""
    place: Place | None = None
    """Of a part of the message that was inspected; None for what is inside a part."""


@dataclass(frozen=True, slots=True)
class Report:
    """The tree, containers before their content, and the outcome in one word."""

    verdict: str
    """complete, partial, bomb, timeout."""
    stop: str
    """The limit that ended it, else ''."""
    produced: int
    entries: tuple[Found, ...] = field(repr=False)

    @property
    def flags(self) -> frozenset[str]:
        """Flags of all entries."""
        return frozenset().union(*(entry.flags for entry in self.entries))


def inspect(data: bytes, name: str = "", declared: str = "", limits: Limits | None = None) -> Report:
    """Look into `data`, which claims that name and media type."""
    at = limits or Limits()
    found = native.inspect(
        data,
        name,
        declared,
        max_bytes=at.max_bytes,
        max_entries=at.max_entries,
        max_depth=at.max_depth,
        max_ratio=at.max_ratio,
        memory_bytes=at.memory_bytes,
        milliseconds=at.milliseconds,
    )
    return report_of(found)


def report_of(found: native.Inspection) -> Report:
    """The native report as values."""
    entries: list[Found] = []
    for number in range(len(found)):
        entries.append(_entry(found.entry(number), found.place(number), entries))
    return Report(found.verdict, found.stop or "", found.produced, tuple(entries))


_Raw = tuple[int | None, int, str, str, str, str, str, int, list[str], list[str], list[str], bytes | None]


def _entry(raw: _Raw, place: tuple[int, int, int, str] | None, before: list[Found]) -> Found:
    parent, depth, name, declared, kind, media_type, family, size, flags, signs, defects, digest = raw
    shown = name or "(no name)"
    around = before[parent] if parent is not None else None
    # The message itself has no name; it would begin every path.
    above = around.path.split(" / ")[-PATH_PARTS:] if around and (around.name or around.parent is not None) else []
    return Found(
        parent=parent,
        depth=depth,
        name=name,
        path=" / ".join([*above, shown]),
        extension=native.analyse_name(name)[1],
        declared=declared,
        kind=kind,
        media_type=media_type,
        family=family,
        size=size,
        flags=frozenset(flags),
        signs=tuple(signs),
        defects=tuple(defects),
        sha256=digest.hex() if digest else "",
        place=Place(*place) if place else None,
    )
