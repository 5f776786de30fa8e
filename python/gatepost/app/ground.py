"""What workers need before they begin: the directory, migrated, with the demo set-up if asked for; certificate; scanners that can be made.

Called by app.serve between the first steps (app.start) and the supervisor, whose own imports take as long again. Fails with DirectoryError,
TlsError, SettingsError, each with one line that says what to do.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gatepost.app.demo import ensure_demo
from gatepost.config import Settings
from gatepost.directory import Directory
from gatepost.scan.scanners.registry import make_scanners
from gatepost.server.tls import TlsContexts


@dataclass(frozen=True, slots=True)
class Ground:
    """`passwords`: those the demo set-up made just now, by address."""

    directory: Directory
    passwords: Mapping[str, str]


@contextlib.contextmanager
def laid(settings: Settings, *, demo: bool) -> Iterator[Ground]:
    """*blocking* Make it; at the end of the block the directory is closed."""
    make_scanners(settings.scan.scanners)  # each worker makes its own; a fault is told here, once
    directory = Directory(settings.data / "directory.db", migrate=True)
    try:
        TlsContexts(lambda: settings)
        yield Ground(directory, ensure_demo(directory, settings.data) if demo else {})
    finally:
        directory.close()
