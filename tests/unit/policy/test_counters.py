"""Counts of what was sent: windows, all or nothing, shared by processes, kept over a restart, bounded."""

from pathlib import Path

import pytest

from gatepost.policy.counters import Counters
from gatepost.routing.senders import Want


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counters(tmp_path: Path, clock: Clock) -> Counters:
    return Counters(tmp_path / "limits.db", clock)


def test_what_fits_is_counted_until_the_window_is_over(counters: Counters, clock: Clock) -> None:
    want = [Want("ann", 3600, 2, 1)]
    assert [counters.take(want), counters.take(want)] == [0, 0]
    clock.now += 600
    assert counters.take(want) == 3000, "the window began with the first"
    assert counters.wait(want) == 3000
    clock.now += 3000
    assert counters.take(want) == 0


def test_all_of_it_is_counted_or_nothing(counters: Counters) -> None:
    assert counters.take([Want("ann", 3600, 10, 4), Want("ann", 86_400, 5, 4)]) == 0
    assert counters.take([Want("ann", 3600, 10, 4), Want("ann", 86_400, 5, 4)]) == 86_400
    assert counters.take([Want("ann", 3600, 10, 6)]) == 0, "the refused one was not counted in the hour either"


def test_more_than_the_limit_at_once_never_fits(counters: Counters) -> None:
    assert counters.take([Want("ann", 3600, 3, 4)]) == 3600
    assert counters.take([Want("ann", 3600, 3, 3)]) == 0


def test_counts_are_shared_and_outlive_who_counted(tmp_path: Path, counters: Counters, clock: Clock) -> None:
    other = Counters(tmp_path / "limits.db", clock)
    assert [counters.take([Want("ann", 60, 2, 1)]), other.take([Want("ann", 60, 2, 1)])] == [0, 0]
    counters.close()
    other.close()
    assert Counters(tmp_path / "limits.db", clock).take([Want("ann", 60, 2, 1)]) == 60


def test_a_clock_that_was_set_back_does_not_lock_anybody_out(counters: Counters, clock: Clock) -> None:
    counters.take([Want("ann", 60, 1, 1)])
    clock.now -= 1_000_000
    assert counters.take([Want("ann", 60, 1, 1)]) == 0


def test_the_file_has_a_bound(tmp_path: Path, clock: Clock) -> None:
    counters = Counters(tmp_path / "limits.db", clock, most=50)
    for n in range(200):
        clock.now += 1
        counters.take([Want(f"user-{n}", 86_400, 5, 1)])
    (rows,) = counters._open().execute("SELECT count(*) FROM counts").fetchone()
    assert rows <= 50 + 16


def test_a_file_that_cannot_be_used_is_an_oserror(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "limits.db").write_text("this is no database, but quite some text " * 30)
    with pytest.raises(OSError, match=r"limits\.db"):
        Counters(tmp_path / "limits.db", clock).take([Want("ann", 60, 1, 1)])
