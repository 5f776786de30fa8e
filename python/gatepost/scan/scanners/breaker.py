"""When a scanner is out of service, and when it is tried again: a state and a clock that is passed in. Used by `entry`. No I/O.

    closed ──failures in a row──▶ open ──probe succeeds──▶ trying ──a scan succeeds──▶ closed
                                   ▲                         │
                                   └──────one failure────────┘

The wait before a probe doubles with every opening and every failed probe, and is forgotten once a scan succeeds.
"""

from enum import StrEnum


class State(StrEnum):
    """Of one scanner."""

    CLOSED = "closed"
    """In service."""
    OPEN = "open"
    """Out of service: mail is not put to it."""
    TRYING = "trying"
    """It answered a probe; the first scan that fails puts it out of service again."""


class Breaker:
    """Times are of one monotonic clock, in seconds."""

    def __init__(self, failures: int, retry_seconds: float, retry_max_seconds: float) -> None:
        self._limit = failures
        self._first = self._wait = retry_seconds
        self._longest = retry_max_seconds
        self._row = 0
        self._period = 0
        self.state = State.CLOSED
        self.fault = ""
        """The last failure; '' once a scan succeeded."""
        self.probe_at = 0.0
        """While open: when to try whether it is back."""

    def enter(self) -> int:
        """To be given back with the outcome of a scan that begins now."""
        return self._period

    def succeeded(self, period: int) -> None:
        """A scan gave an answer. One that began before the last change of state proves nothing about now."""
        if period != self._period:
            return
        self.state, self._row, self.fault, self._wait = State.CLOSED, 0, "", self._first

    def failed(self, period: int, now: float, fault: str) -> bool:
        """A scan, or a probe in service, failed. True when that put the scanner out of service."""
        if period != self._period or self.state is State.OPEN:
            return False
        self.fault = fault
        self._row += 1
        if self.state is State.CLOSED and self._row < self._limit:
            return False
        self.trip(now, fault)
        return True

    def trip(self, now: float, fault: str) -> None:
        """Out of service at once, or for longer when it is already."""
        self.state, self.fault = State.OPEN, fault
        self._period += 1
        self.probe_at = now + self._wait
        self._wait = min(self._wait * 2, self._longest)

    def answered_probe(self) -> bool:
        """A probe succeeded. True when that brings the scanner back."""
        if self.state is not State.OPEN:
            return False
        self.state, self._row = State.TRYING, 0
        self._period += 1
        return True
