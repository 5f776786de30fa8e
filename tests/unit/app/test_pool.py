"""The worker pool without real workers: what it does when a worker cannot be started, keeps dying, or is told to stop meanwhile."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatepost.app import pool, worker
from gatepost.app.listeners import ListenerSet
from gatepost.app.parent_line import ParentLine
from gatepost.app.pool import WorkerPool


class FakeProcess:
    """A worker that says it is ready and ends when told to, or after `life` seconds."""

    def __init__(self, ready_fd: int, life: float, *, ready: bool = True) -> None:
        self.pid, self.returncode = 1, None
        if ready:
            ParentLine(ready_fd).say("ready")
        self._end = asyncio.Event()
        asyncio.get_running_loop().call_later(life, self._end.set)

    async def wait(self) -> int:
        await self._end.wait()
        return 1

    def terminate(self) -> None:
        self._end.set()

    def send_signal(self, _number: int) -> None:
        self._end.set()


Start = Callable[[int, int], FakeProcess]
"""(number of the start, descriptor to say ready on) → the process; may raise OSError."""


@pytest.fixture
def make_pool(monkeypatch):
    def make(start: Start, **options: Any) -> WorkerPool:
        starts = iter(range(1000))

        async def execute(*command: str, **_: object) -> FakeProcess:
            return start(next(starts), int(command[command.index("--ready-fd") + 1]))

        monkeypatch.setattr(asyncio, "create_subprocess_exec", execute)
        return WorkerPool(1, ListenerSet({"smtp": []}, []), [], **options)

    return make


async def test_a_worker_that_cannot_be_started_for_now_is_tried_again(make_pool):
    def start(number: int, fd: int) -> FakeProcess:
        if number == 1:
            raise BlockingIOError("no more processes")
        return FakeProcess(fd, 0.05 if number == 0 else 60)

    workers = make_pool(start)
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    async with asyncio.timeout(5):
        while workers.workers[0].restarts < 2 or not workers.workers[0].ready.is_set():
            await asyncio.sleep(0.02)
    await workers.stop(5)


def ready_only_at_first(number: int, fd: int) -> FakeProcess:
    return FakeProcess(fd, 0.05, ready=number == 0)


async def test_stop_does_not_wait_for_the_pause_of_a_worker_that_cannot_start(make_pool, monkeypatch):
    monkeypatch.setattr(pool, "GIVE_UP", 1)
    workers = make_pool(ready_only_at_first)
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await workers.stop(5)
    assert time.monotonic() - began < 1


async def test_a_dead_worker_is_not_called_ready(make_pool, monkeypatch):
    monkeypatch.setattr(pool, "GIVE_UP", 1)
    workers = make_pool(ready_only_at_first)
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    assert workers.workers[0].ready.is_set()
    await asyncio.sleep(0.5)
    assert not workers.workers[0].ready.is_set()
    await workers.stop(5)


async def test_a_worker_that_was_ready_is_never_given_up_however_often_it_is_killed(make_pool, monkeypatch):
    """Guards against a server left with half its workers for 30 s because somebody killed them a few times in a row."""
    monkeypatch.setattr(pool, "LONGEST_PAUSE", 0.05)
    workers = make_pool(lambda _, fd: FakeProcess(fd, 0.02))
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    async with asyncio.timeout(5):
        while workers.workers[0].restarts < 3 * pool.GIVE_UP:
            await asyncio.sleep(0.02)
    await workers.stop(5)


def slow_start(_number: int, fd: int, *, details: int) -> FakeProcess:
    """Says how far it is eight times, then that it is ready; `details` different words."""
    line, loop = ParentLine(os.dup(fd)), asyncio.get_running_loop()
    for step in range(8):
        loop.call_later(0.1 * step, line.say, "opening", f"step {min(step, details)}")
    loop.call_later(0.9, line.say, "ready")
    return FakeProcess(fd, 60, ready=False)


async def test_a_worker_that_gets_further_may_take_longer_to_start(make_pool, monkeypatch):
    """Guards against a start given up in the middle of a long recovery."""
    monkeypatch.setattr(pool, "READY_SECONDS", 0.5)
    workers = make_pool(lambda number, fd: slow_start(number, fd, details=8))
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    assert workers.workers[0].ready.is_set()
    await workers.stop(5)


async def test_a_worker_that_gets_no_further_is_given_up(make_pool, monkeypatch):
    monkeypatch.setattr(pool, "READY_SECONDS", 0.5)
    workers = make_pool(lambda number, fd: slow_start(number, fd, details=0))
    await workers.launch()
    with pytest.raises(RuntimeError, match="step 0"):
        await workers.wait_ready()
    await workers.stop(5)


async def test_an_empty_surplus_partition_loses_its_place_and_is_not_started_again(make_pool):
    retired: list[int] = []

    async def on_retired(index: int) -> None:
        retired.append(index)

    def start(number: int, fd: int) -> FakeProcess:
        line = ParentLine(fd)
        line.say("ready")
        if number:
            line.say("empty")
        return FakeProcess(fd, 0.05 if number else 60, ready=False)

    workers = make_pool(start, surplus=[3])
    workers.report_to(lambda: None, on_retired)
    await workers.launch()
    workers.begin()
    await workers.wait_ready()
    async with asyncio.timeout(5):
        while not retired:
            await asyncio.sleep(0.02)
    assert retired == [3]
    assert [worker.index for worker in workers.workers] == [0]
    await workers.stop(5)


@pytest.fixture
def two_pipes():
    ends = [*os.pipe(), *os.pipe()]
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


async def test_a_worker_begins_only_at_the_word_and_not_at_all_when_the_supervisor_is_gone(two_pipes):
    word_read, word_write, life_read, life_write = two_pipes
    waiting = asyncio.create_task(asyncio.to_thread(worker.word_to_begin, word_read, life_read))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    os.close(word_write)
    async with asyncio.timeout(5):
        assert await waiting
    os.close(life_write)
    assert not await asyncio.to_thread(worker.word_to_begin, word_read, life_read)
