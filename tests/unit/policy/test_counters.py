"""Counts of what was sent: windows, all or nothing, shared by processes, kept over a restart, bounded."""

from pathlib import Path

import pytest

from gatepost.policy.counters import MAX_NOTED, Counters
from gatepost.routing.senders import NO_LIMIT, Want


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


def test_what_is_noted_is_known_here_at_once_and_by_others_when_it_was_written(tmp_path: Path, clock: Clock) -> None:
    here, there = Counters(tmp_path / "limits.db", clock), Counters(tmp_path / "limits.db", clock)
    here.note([Want("ann", 60, NO_LIMIT, 1), Want("b.test", 60, NO_LIMIT, 2)], 3)
    assert (here.known("ann", 60), here.known("b.test", 60), here.known("ann", 30)) == (3, 6, 0)
    assert there.known("ann", 60) == 0
    here.flush()
    clock.now += 1
    assert (here.known("ann", 60), there.known("ann", 60)) == (3, 3)
    there.note([Want("ann", 60, NO_LIMIT, 1)])
    clock.now += 1
    there.note([Want("ann", 60, NO_LIMIT, 1)])  # it has waited long enough
    assert (here.known("ann", 60), there.known("ann", 60)) == (5, 5)
    clock.now += 60
    assert there.known("ann", 60) == 0
    there.note([Want("ann", 60, NO_LIMIT, 1)])
    there.close()
    assert Counters(tmp_path / "limits.db", clock).known("ann", 60) == 1


def test_what_is_noted_and_remembered_is_bounded(tmp_path: Path, clock: Clock) -> None:
    counters = Counters(tmp_path / "limits.db", clock)
    for n in range(MAX_NOTED + 2):
        counters.note([Want(f"k{n}", 60, NO_LIMIT, 1)])
        counters.known(f"other{n}", 60)
    assert Counters(tmp_path / "limits.db", clock).known("k0", 60) == 1
    assert counters.known("k0", 60) == 1


def test_what_cannot_be_written_is_told_and_not_kept_for_ever(tmp_path: Path, clock: Clock) -> None:
    counters = Counters(tmp_path / "nowhere" / "limits.db", clock)
    counters.note([Want("ann", 60, NO_LIMIT, 1)])
    with pytest.raises(OSError, match="nowhere"):
        counters.flush()
    counters.flush()
    counters.close()
