"""A worker is killed in the middle of a large bulk: each message is changed or not, the record says so, repeating it finishes it.

Guards against: a message that is neither held nor free; a record that claims more or less than was done; a repetition that leaves
something out or undoes too much. The queue is filled without a server, so that 50,000 messages cost two seconds.
"""

import asyncio
import contextlib
import os
import random
import select
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from gatepost.client import ALL, Frozen, GatepostClient, GatepostError
from gatepost.client.operations import Operation
from gatepost.client.values import QueueFilter
from gatepost.native import Spool
from gatepost.routing.model import Route, RouteKind
from support.gatepost import Gatepost
from support.processes import wait_until

MESSAGES = 50_000
WAIT = 120
YEARS = 30 * 365 * 86_400

T = TypeVar("T")


def fill(partition: Path) -> None:
    """Messages that are due in many years."""
    spool = Spool(str(partition), segment_bytes=16 << 20)
    due = int((time.time() + YEARS) * 1_000_000)
    meta = b'[["ESMTP","192.0.2.1",25,"client.example","","","smtp"],"","","7BIT",false,3]'
    recipient = (
        "x@down.test",
        "",
        "smtp:127.0.0.1:9",
        0,
        Route(RouteKind.SMTP, "x@down.test", host="127.0.0.1", port=9).encode(),
        due,
        False,
    )
    for ticket in range(1, MESSAGES + 1):
        message = spool.receive(prefix=b"Received: here\r\n", max_bytes=0)
        message.feed_raw(b"Subject: bulk\r\n\r\nbody\r\n")
        message.finish()
        spool.commit(ticket, message, "sender@example.org", [recipient], meta)
    while MESSAGES not in {ticket for ticket, _ in spool.completions()[0]}:
        select.select([spool.event_fd], [], [], 1)
    spool.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Gatepost(tmp_path_factory.mktemp("bulk"), workers=1) as made:
        made.stop()
        shutil.rmtree(made.data / "spool" / "p0")
        fill(made.data / "spool" / "p0")
        made.start()
        wait_until(lambda: sum(counts(made)) == MESSAGES, WAIT, "all messages are seen")
        yield made


def ask(server: Gatepost, work: Callable[[GatepostClient], Awaitable[T]]) -> T:
    """Again until the worker answers."""

    async def body() -> T:
        async with asyncio.timeout(WAIT), GatepostClient(server.data) as client:
            return await work(client)

    end = time.monotonic() + WAIT
    while True:
        try:
            return asyncio.run(body())
        except GatepostError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def held(server: Gatepost) -> int:
    return ask(server, lambda client: client.queue.hold(QueueFilter(held=True), dry_run=True)).matched


def counts(server: Gatepost) -> tuple[int, int]:
    """Messages in the queue, and removed ones that can come back."""
    queue = server.json("status")["queue"]
    return queue["messages"], queue["removed"]


def operations(server: Gatepost) -> list[Operation]:
    """Newest first."""

    async def work(client: GatepostClient) -> list[Operation]:
        return [one async for one in client.queue.operations()]

    return ask(server, work)


def killed_in_the_middle(server: Gatepost, work: Callable[[GatepostClient], Awaitable[object]], *, begins: bool) -> None:
    """Kill the worker soon after something has begun, an operation when it is written down; the call goes on with the next worker."""
    (pid,) = server.worker_pids()
    folder = server.data / "spool" / "p0" / "operations"
    known = set(folder.glob("*.json"))

    async def body() -> None:
        async with asyncio.timeout(WAIT), GatepostClient(server.data) as client:
            await work(client)

    def attempt() -> None:
        # A token does not outlive the worker.
        with contextlib.suppress(GatepostError):
            asyncio.run(body())

    thread = threading.Thread(target=attempt)
    thread.start()
    if begins:
        wait_until(lambda: set(folder.glob("*.json")) != known, WAIT, "the operation is written down", 0.001)
    time.sleep(random.uniform(0, 0.1) if begins else random.uniform(0.02, 0.3))
    os.kill(pid, signal.SIGKILL)
    thread.join(WAIT)
    assert not thread.is_alive()
    wait_until(lambda: server.worker_pids() != [pid], WAIT, "the worker is back")
    wait_until(lambda: sum(counts(server)) == MESSAGES, WAIT, "all messages are seen again")


def test_a_frozen_hold_that_is_cut_short_says_how_far_it_came_and_the_next_one_does_the_rest(server):
    token = ask(server, lambda client: client.queue.preview(ALL)).token
    killed_in_the_middle(server, lambda client: client.queue.hold(Frozen(token)), begins=True)
    done = held(server)
    wait_until(lambda: operations(server)[0].changed == done, WAIT, "the record says what was done")
    first = operations(server)[0]
    assert first.state == ("interrupted" if done < MESSAGES else first.state)
    assert (first.matched, first.kind) == (MESSAGES, "hold")
    rest = ask(server, lambda client: client.queue.hold(ALL))
    assert (rest.changed, held(server)) == (MESSAGES - done, MESSAGES)
    for operation in operations(server):
        ask(server, lambda client, one=operation: client.queue.undo(one.operation_id))
    assert held(server) == 0


def test_a_remove_and_its_undo_that_are_cut_short_are_finished_when_they_are_asked_for_again(server):
    killed_in_the_middle(server, lambda client: client.queue.remove(ALL), begins=True)
    gone = counts(server)[1]
    wait_until(lambda: operations(server)[0].changed == gone, WAIT, "the record says what was done")
    ask(server, lambda client: client.queue.remove(ALL))
    assert counts(server) == (0, MESSAGES)
    removals = sorted((one for one in operations(server) if one.kind == "remove"), key=lambda one: one.changed)
    assert sum(one.changed for one in removals) == MESSAGES
    killed_in_the_middle(server, lambda client: client.queue.undo(removals[-1].operation_id), begins=False)
    for one in removals:
        result = ask(server, lambda client, one=one: client.queue.undo(one.operation_id)).result
        assert (result.undone + result.already_undone, result.untouched) == (one.changed, one.matched - one.changed)
    assert (counts(server), held(server)) == ((MESSAGES, 0), 0)
    assert {one.state for one in operations(server) if one.kind == "remove"} == {"undone"}
