"""Destinations an operator has paused, kept in a small file so that a pause survives a restart. Used by scheduler.

Invariant: the file is replaced as a whole (config.files). An unreadable file counts as "nothing
paused" only when it does not exist; anything else raises PausedFileError or NewerFormatError at start, for silently resuming would be
worse.
The file is a JSON object with `format` and `paused`; format 1 was the bare list.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from gatepost.config.files import check_format, replace_file

MAX_PAUSED = 10_000
FORMAT = 2


class PausedFileError(ValueError):
    """The file cannot be read as what it should be; the text names it."""


class PausedDestinations:
    """The set of paused destination names in `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = self._load()

    def __contains__(self, destination: str) -> bool:
        """True when paused."""
        return destination in self._names

    def names(self) -> list[str]:
        """All paused destinations, sorted."""
        return sorted(self._names)

    def add(self, destination: str) -> bool:
        """*blocking* Pause; False when it was paused already. Raises ValueError when there are too many."""
        if destination in self._names:
            return False
        if len(self._names) >= MAX_PAUSED:
            raise ValueError("too many paused destinations")
        self._names.add(destination)
        self._save()
        return True

    def add_all(self, destinations: Iterable[str]) -> None:
        """*blocking* Pause many; for the start, when what another partition has paused is taken over."""
        self._names.update(destinations)
        self._save()

    def discard(self, destination: str) -> bool:
        """*blocking* Resume; False when it was not paused."""
        if destination not in self._names:
            return False
        self._names.discard(destination)
        self._save()
        return True

    def _load(self) -> set[str]:
        try:
            told = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return set()
        except ValueError as error:
            raise PausedFileError(f"{self._path}: {error}; mend it or remove it") from error
        found = told.get("format") if isinstance(told, dict) else 1
        check_format(self._path, found, FORMAT)
        names = told.get("paused") if isinstance(told, dict) else told
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise PausedFileError(f"{self._path}: not a list of destinations; mend it or remove it")
        return set(names)

    def _save(self) -> None:
        replace_file(self._path, json.dumps({"format": FORMAT, "paused": sorted(self._names)}).encode())
