"""The worker pool without real workers: what it does when a worker cannot be started, keeps dying, or is told to stop meanwhile."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatepost.app import pool
from gatepost.app.child import Child
from gatepost.app.listeners import ListenerSet
from gatepost.app.parent_line import Orders, ParentLine, read_orders, send_orders
from gatepost.app.pool import SettingsPlace, WorkerPool

lines: dict[int, socket.socket] = {}
"""The supervisor's end of each line, by the number of the worker's."""


class FakeProcess:
    """A worker that says it is ready and ends when told to, or after `life` seconds."""

    def __init__(self, ready_fd: int, life: float, *, ready: bool = True) -> None:
        self.pid, self.returncode, self.line = 1, None, lines[ready_fd]
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
def make_pool(monkeypatch, tmp_path):
    def make(start: Start, **options: Any) -> WorkerPool:
        starts = iter(range(1000))

        def execute() -> FakeProcess:
            ours, theirs = socket.socketpair()
            ends.append(theirs)
            lines[theirs.fileno()] = ours
            return start(next(starts), theirs.fileno())

        monkeypatch.setattr(pool, "Child", execute)
        return WorkerPool(1, ListenerSet({"smtp": []}, []), SettingsPlace(tmp_path), **options)

    ends: list[socket.socket] = []
    yield make
    for end in ends:
        end.close()


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
def line():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_a_worker_begins_only_at_its_orders_and_listens_where_they_say(line):
    ours, theirs = line
    waiting = asyncio.create_task(asyncio.to_thread(read_orders, theirs))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    groups = {name: [socket.create_server(("127.0.0.1", 0)) for _ in range(count)] for name, count in (("smtp", 2), ("imap", 150))}
    orders = Orders("/data", "", {"workers": 3}, 2, False, {name: len(group) for name, group in groups.items()})
    send_orders(ours, orders, groups)
    async with asyncio.timeout(5):
        told = await waiting
    assert told is not None
    assert told[0] == orders
    assert {name: [one.getsockname() for one in group] for name, group in told[1].items()} == {
        name: [one.getsockname() for one in group] for name, group in groups.items()
    }
    assert not any(one.get_inheritable() for group in told[1].values() for one in group)
    for group in [*groups.values(), *told[1].values()]:
        for one in group:
            one.close()


async def test_a_worker_whose_supervisor_is_gone_gets_no_orders(line):
    ours, theirs = line
    ours.close()
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(read_orders, theirs) is None


async def test_a_child_that_nobody_gives_orders_ends_with_its_line_and_is_waited_for():
    child = Child()
    child.line.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(30):
        assert await child.wait() == 0
    child.send_signal(9)  # its number may be another's now
    child.end()


async def test_a_child_that_is_not_used_is_killed():
    child = Child()
    child.end()
    assert child.returncode == -9
