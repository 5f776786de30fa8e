"""What workers need before they begin: a certificate and scanners that can be made (`check`); the directory, made or migrated, with the
demo set-up if asked for (`laid`). A directory that stands already is seen at a glance (`stands`).

Called by app.serve between the first steps (app.start) and the supervisor. Opening the directory imports SQLAlchemy, which a start that
finds everything in place does not wait for. Fails with DirectoryError, TlsError, SettingsError, each with one line that says what to do.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.app.demo import ensure_demo, password_file
from gatepost.config import Settings
from gatepost.directory.standing import stands as directory_stands
from gatepost.server.tls import TlsContexts

if TYPE_CHECKING:
    from gatepost.directory import Directory


@dataclass(frozen=True, slots=True)
class Ground:
    """`passwords`: those the demo set-up made just now, by address."""

    directory: "Directory"
    passwords: Mapping[str, str]


def check(settings: Settings) -> None:
    """*blocking* Refuse what no worker could work with; each makes its own, and a fault is told here, once."""
    if settings.scan.scanners:
        from gatepost.scan.scanners.registry import make_scanners

        make_scanners(settings.scan.scanners)
    TlsContexts(lambda: settings)


def stands(settings: Settings, *, demo: bool) -> bool:
    """*blocking* Whether the workers may begin before the directory has been opened here."""
    return directory_stands(settings.data) and (not demo or password_file(settings.data).exists())


@contextlib.contextmanager
def laid(settings: Settings, *, demo: bool) -> Iterator[Ground]:
    """*blocking* Make the directory ready; at the end of the block it is closed."""
    from gatepost.directory import Directory

    directory = Directory(settings.data / "directory.db", migrate=True)
    try:
        yield Ground(directory, ensure_demo(directory, settings.data) if demo else {})
    finally:
        directory.close()
