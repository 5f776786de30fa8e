"""What control/ needs from the processes it runs in: the supervisor and the worker of app/ implement these."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepost.scan.scanners.entry import ScannerState


class ControlServerError(Exception):
    """The control plane cannot start; the text says why."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """A worker as its parent sees it. state: 'starting', 'running', 'failed', 'restarting', 'draining' or 'retiring'."""

    index: int
    pid: int
    state: str
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """One address. service: 'smtp', 'imaps', 'control' …; address: 'host:port' with the real port, or 'unix:PATH'."""

    service: str
    address: str
    implicit_tls: bool = False


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server as a whole. started_at is Unix seconds; paths are what it writes to (for free space)."""

    version: str
    hostname: str
    data: str
    started_at: float
    pid: int
    workers: Sequence[WorkerPlace]
    listeners: Sequence[ListenerInfo]
    paths: Sequence[str]


class StatusSource(Protocol):
    """The supervisor, for ServerService."""

    def status(self) -> ServerFacts:
        """Facts as of now; must not block."""
        ...

    async def reload(self) -> Sequence[str]:
        """Read settings and certificates anew, workers too. Returns the keys that need a restart. Raises an exception with a clear
        text (SettingsError, OSError, ValueError) when they are not valid; the old ones then stay in force.
        """
        ...

    def drain(self) -> None:
        """Begin to stop, as SIGTERM does; returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker about itself. detail says what is wrong when it is not healthy. started_at is Unix seconds."""

    index: int
    healthy: bool
    detail: str
    partition: str
    started_at: float
    sessions: int
    rule_version: int
    scanners: tuple[ScannerState, ...] = ()


class WorkerSource(Protocol):
    """The worker, for WorkerService."""

    def facts(self) -> WorkerFacts:
        """Facts as of now; must not block."""
        ...

    async def reload(self, *, settings: bool) -> Sequence[str]:
        """Take over rules and users, with `settings` also configuration and certificates. Returns keys that need a restart.
        Raises an exception with a clear text when they are not valid.
        """
        ...

    def drain(self, grace: float) -> None:
        """Begin to stop; returns at once."""
        ...
