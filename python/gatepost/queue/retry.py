"""When to try again: exponential back-off with jitter or a list of waits, and expiry. Pure; used by scheduler, settle and destination.

What a rule says of its mail (`DeliveryOptions`) goes before the settings.
"""

import random
from dataclasses import dataclass

from gatepost.config.settings import Queue
from gatepost.routing.model import DeliveryOptions

MICROSECONDS = 1_000_000
DESTINATION_CAP_SECONDS = 900.0
"""A destination that is down is probed at least this often (one connection), whatever retry_max_seconds says."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Waits in seconds. attempts counts the finished attempts, the one that just failed included (so it is at least 1)."""

    settings: Queue
    options: DeliveryOptions | None = None

    def of(self, options: DeliveryOptions | None) -> "RetryPolicy":
        """The policy for mail with these options."""
        return self if options is self.options else RetryPolicy(self.settings, options)

    def wait(self, attempts: int, rng: random.Random) -> float:
        """Wait before the next attempt of a recipient."""
        if self.options is not None and self.options.retry_intervals:
            waits = self.options.retry_intervals
            return self._spread(float(waits[min(max(attempts, 1), len(waits)) - 1]), rng)
        return self._spread(self._exponential(attempts, self._longest()), rng)

    def destination_wait(self, failures: int, rng: random.Random) -> float:
        """Wait before the next probe of a destination after `failures` probes in a row."""
        cap = max(self._first(), min(self._longest(), DESTINATION_CAP_SECONDS))
        return self._spread(self._exponential(failures, cap), rng)

    def expires_at(self, received_at: int) -> int:
        """Unix microseconds at which an undelivered message is given up."""
        return received_at + int(self._expire() * MICROSECONDS)

    def notice_at(self, received_at: int) -> int | None:
        """Unix microseconds from which a delay notice is due; None when notices are off."""
        seconds = self._notice()
        return received_at + int(seconds * MICROSECONDS) if seconds > 0 else None

    def ages(self) -> tuple[int, int]:
        """For the spool's wait_for: the ages in microseconds at which a message is given up and its sender is told (0 = never)."""
        return int(self._expire() * MICROSECONDS), int(max(self._notice(), 0) * MICROSECONDS)

    def _expire(self) -> float:
        return float(self.options.expire if self.options is not None and self.options.expire else self.settings.expire_seconds)

    def _notice(self) -> float:
        return float(
            self.options.delay_notice if self.options is not None and self.options.delay_notice else self.settings.delay_notice_seconds
        )

    def _first(self) -> float:
        if self.options is not None and (self.options.retry_intervals or self.options.retry_initial):
            return float(self.options.retry_initial or self.options.retry_intervals[0])
        return float(self.settings.retry_initial_seconds)

    def _longest(self) -> float:
        return float(self.options.retry_max if self.options is not None and self.options.retry_max else self.settings.retry_max_seconds)

    def _exponential(self, count: int, cap: float) -> float:
        exponent = min(max(count, 1) - 1, 64)
        factor = self.options.retry_factor if self.options is not None and self.options.retry_factor else self.settings.retry_factor
        return float(min(cap, self._first() * factor**exponent))

    def _spread(self, seconds: float, rng: random.Random) -> float:
        jitter = self.settings.retry_jitter
        return seconds * (1.0 + jitter * (2.0 * rng.random() - 1.0)) if jitter else seconds
