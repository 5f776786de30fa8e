"""When to try again: exponential back-off with jitter, and expiry. Pure; used by scheduler and destination."""

import random
from dataclasses import dataclass

from gatepost.config.settings import Queue

MICROSECONDS = 1_000_000
DESTINATION_CAP_SECONDS = 900.0
"""A destination that is down is probed at least this often (one connection), whatever retry_max_seconds says."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits in seconds. attempts counts the finished attempts, the one that just failed included (so it is at least 1)."""

    settings: Queue

    def wait(self, attempts: int, rng: random.Random) -> float:
        """Wait before the next attempt of a recipient."""
        return self._spread(self._exponential(attempts, self.settings.retry_max_seconds), rng)

    def destination_wait(self, failures: int, rng: random.Random) -> float:
        """Wait before the next probe of a destination after `failures` probes in a row."""
        cap = max(self.settings.retry_initial_seconds, min(self.settings.retry_max_seconds, DESTINATION_CAP_SECONDS))
        return self._spread(self._exponential(failures, cap), rng)

    def expires_at(self, received_at: int) -> int:
        """Unix microseconds at which an undelivered message is given up."""
        return received_at + int(self.settings.expire_seconds * MICROSECONDS)

    def notice_at(self, received_at: int) -> int | None:
        """Unix microseconds from which a delay notice is due; None when notices are off."""
        seconds = self.settings.delay_notice_seconds
        return received_at + int(seconds * MICROSECONDS) if seconds > 0 else None

    def ages(self) -> tuple[int, int]:
        """For the spool's wait_for: the ages in microseconds at which a message is given up and its sender is told (0 = never)."""
        return int(self.settings.expire_seconds * MICROSECONDS), int(self.settings.delay_notice_seconds * MICROSECONDS)

    def _exponential(self, count: int, cap: float) -> float:
        exponent = min(max(count, 1) - 1, 64)
        return float(min(cap, self.settings.retry_initial_seconds * self.settings.retry_factor**exponent))

    def _spread(self, seconds: float, rng: random.Random) -> float:
        jitter = self.settings.retry_jitter
        return seconds * (1.0 + jitter * (2.0 * rng.random() - 1.0)) if jitter else seconds
