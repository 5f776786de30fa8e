"""From settings to scanners: the shipped kinds by name, all others by entry point. Called when the pool is made, and before, to check.

A kind is imported when it is configured and not before. Fails with ScannersError, which names every faulty key.
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points

from gatepost.config import SettingsError
from gatepost.config.scan import ScannerSettings
from gatepost.scan.scanners.plugin import GROUP, Factory, Scanner

SHIPPED = {kind: f"gatepost.scan.scanners.{kind}" for kind in ("clamd", "icap", "rspamd", "yara")}
"""Modules with a `make`. A plug-in cannot take the place of one of these."""


class ScannersError(SettingsError):
    """Scanners that cannot be made; `problems` holds 'scan.scanners.N.key: problem' lines."""


def make_scanners(settings: Iterable[ScannerSettings]) -> list[Scanner]:
    """One scanner per table, in order. Touches no network. Raises ScannersError, all faults at once."""
    made: list[Scanner] = []
    problems: list[str] = []
    for number, one in enumerate(settings):
        try:
            made.append(_factory(one.kind)(one))
        except ValueError as fault:
            problems += [f"scan.scanners.{number}.{line}" for line in str(fault).splitlines()]
        except Exception as fault:  # a plug-in is somebody else's code: whatever it raises, the key must be named
            problems.append(f"scan.scanners.{number}.kind: the plug-in {one.kind!r} fails: {type(fault).__name__}: {fault}")
    if problems:
        raise ScannersError(problems)
    return made


def _factory(kind: str) -> Factory:
    if kind in SHIPPED:
        factory: Factory = import_module(SHIPPED[kind]).make
        return factory
    found = list(entry_points(group=GROUP, name=kind))
    if not found:
        known = sorted({*SHIPPED, *(one.name for one in entry_points(group=GROUP))})
        raise ValueError(f"kind: no such scanner; there are {', '.join(known)} (got {kind!r})")
    if len(found) > 1:
        raise ValueError(f"kind: two packages offer it: {', '.join(sorted(one.value for one in found))} (got {kind!r})")
    loaded: Factory = found[0].load()
    return loaded
