"""Waits between attempts, and the state of a destination."""

import random

import pytest

from gatepost.config.settings import Queue
from gatepost.queue.destination import DestinationState
from gatepost.queue.retry import DESTINATION_CAP_SECONDS, MICROSECONDS, RetryPolicy
from gatepost.queue.transport import Deferred

RNG = random.Random(1)
REFUSED = Deferred("connection refused", "4.4.1", destination_down=True)
SECOND = MICROSECONDS


def policy(**settings: float) -> RetryPolicy:
    return RetryPolicy(Queue(**{"retry_jitter": 0, **settings}))  # type: ignore[arg-type]


def state(limit: int = 20) -> DestinationState:
    return DestinationState("smtp:x", limit, limit, local=False)


def test_waits_double_up_to_the_cap() -> None:
    waits = [policy().wait(attempts, RNG) for attempts in (1, 2, 3, 4, 100)]
    assert waits == [60, 120, 240, 480, 14_400]


def test_jitter_spreads_waits_around_the_plain_one() -> None:
    waits = [policy(retry_jitter=0.1).wait(1, RNG) for _ in range(500)]
    assert 54 <= min(waits) < 56
    assert 64 < max(waits) <= 66


def test_a_destination_is_probed_often_enough() -> None:
    assert policy().destination_wait(50, RNG) == DESTINATION_CAP_SECONDS
    assert policy(retry_max_seconds=100).destination_wait(50, RNG) == 100


def test_delay_notices_can_be_off() -> None:
    assert policy(delay_notice_seconds=0).notice_at(5) is None
    assert policy(delay_notice_seconds=10).notice_at(5) == 5 + 10 * SECOND


def test_a_fault_without_success_backs_off_then_probes_one_at_a_time_until_success() -> None:
    one = state()
    assert one.room(0)
    assert one.failed(started=0, now=SECOND, fault=REFUSED, policy=policy(), rng=RNG)
    assert one.backing_off(2 * SECOND)
    assert not one.room(2 * SECOND)
    assert one.down_until == 61 * SECOND
    assert one.room(61 * SECOND)
    one.lanes = 1
    assert not one.room(61 * SECOND)  # one probe
    assert one.failed(started=61 * SECOND, now=62 * SECOND, fault=REFUSED, policy=policy(), rng=RNG)
    assert one.down_until == 62 * SECOND + 120 * SECOND
    one.succeeded(200 * SECOND)
    assert one.room(200 * SECOND)
    assert one.failures == 0


def test_parallel_faults_count_once() -> None:
    one = state()
    assert one.failed(0, SECOND, REFUSED, policy(), RNG)
    assert not one.failed(0, SECOND + 1, REFUSED, policy(), RNG)
    assert one.failures == 1


def test_a_fault_beside_successes_only_lowers_the_concurrency_which_grows_back() -> None:
    one = state(20)
    one.succeeded(5 * SECOND)
    assert not one.failed(started=4 * SECOND, now=6 * SECOND, fault=REFUSED, policy=policy(), rng=RNG)
    assert (one.limit, one.backing_off(6 * SECOND)) == (10, False)
    for _ in range(30):
        one.succeeded(7 * SECOND)
    assert one.limit == 20


@pytest.mark.parametrize("seconds", [1, 3600])
def test_an_operator_ends_a_back_off(seconds: int) -> None:
    one = state()
    one.failed(0, SECOND, REFUSED, policy(retry_initial_seconds=seconds), RNG)
    one.forget()
    assert one.room(SECOND)
