"""The memory of answers, with a real file."""

import sqlite3
import threading
from pathlib import Path

import pytest

from gatepost.delivery.answered import Answered


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_sender_is_answered_once_in_an_interval_restarts_included(tmp_path: Path) -> None:
    clock = Clock()
    first = Answered(tmp_path / "answered.db", clock)
    assert first.claim("info@here.test", "alice@far.test", 3600)
    assert not first.claim("INFO@here.test", "Alice@far.test", 3600)
    assert first.claim("info@here.test", "bob@far.test", 3600)
    assert first.claim("desk@here.test", "alice@far.test", 3600)
    first.close()
    second = Answered(tmp_path / "answered.db", clock)
    assert not second.claim("info@here.test", "alice@far.test", 3600)
    clock.now += 3601
    assert second.claim("info@here.test", "alice@far.test", 3600)
    second.close()


def test_an_answer_that_was_not_sent_may_be_sent_later(tmp_path: Path) -> None:
    answered = Answered(tmp_path / "answered.db")
    assert answered.claim("a@x.test", "b@x.test", 60)
    answered.release("a@x.test", "b@x.test")
    assert answered.claim("a@x.test", "b@x.test", 60)
    answered.close()


def test_of_two_workers_only_one_answers(tmp_path: Path) -> None:
    workers = [Answered(tmp_path / "answered.db") for _ in range(2)]
    won: list[bool] = []

    def work(answered: Answered) -> None:
        won.extend([answered.claim("a@x.test", f"{n}@x.test", 60) for n in range(15)])

    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (won.count(True), won.count(False)) == (15, 15)
    for one in workers:
        one.close()


def test_the_memory_is_bounded_and_the_oldest_goes_first(tmp_path: Path) -> None:
    clock = Clock()
    answered = Answered(tmp_path / "answered.db", clock, most=20)
    for n in range(60):
        clock.now += 1
        assert answered.claim("a@x.test", f"{n}@x.test", 3600)
    assert not answered.claim("a@x.test", "59@x.test", 3600)
    answered.close()
    (rows,) = sqlite3.connect(tmp_path / "answered.db").execute("SELECT count(*) FROM answered").fetchone()
    assert rows <= 20


def test_a_file_that_cannot_be_used_is_an_error_and_no_answer(tmp_path: Path) -> None:
    (tmp_path / "answered.db").write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(OSError, match=r"answered\.db"):
        Answered(tmp_path / "answered.db").claim("a@x.test", "b@x.test", 60)
