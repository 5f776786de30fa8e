"""AsyncSpool: futures, callbacks, back-pressure and the end of everything."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from gatepost.message.envelope import Meta
from gatepost.native import (
    K_ACCEPTED,
    K_DEFERRED,
    K_DELIVERED,
    K_NOTE,
    ClosedError,
    DamagedError,
    DiskFullError,
    FormatVersionError,
    InvalidError,
    LockedError,
    NotFoundError,
    SyncFailedError,
)
from gatepost.spool import AsyncSpool, reply_for
from support.spool import ENVELOPE, commit, filled, planned


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[AsyncSpool]:
    opened = await AsyncSpool.open(tmp_path / "p0", segment_bytes=1 << 20)
    yield opened
    await opened.close()


def now() -> int:
    return int(time.time() * 1_000_000)


async def test_a_committed_message_is_ready_and_reads_back(spool: AsyncSpool) -> None:
    names: list[str] = []
    spool.on_ready(names.extend)
    message_id = await commit(spool, b"Subject: x\r\n\r\n.dot\r\n", planned("a@b", "smtp:b"))
    assert names == ["smtp:b"]
    (job,) = spool.take("smtp:b", 10)
    assert job[0] == message_id and job[3] == ENVELOPE.reverse_path
    assert Meta.decode(job[4]) == Meta(ENVELOPE.origin, rule_version=1)
    assert job[5] == [(0, "a@b", "", 0, b"route:a@b", 0)]
    assert spool.open_message(message_id).read() == b"Received: test\r\nSubject: x\r\n\r\n.dot\r\n"
    assert spool.open_message(message_id).read_dotted() == b"Received: test\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
    assert spool.open_message(message_id).header() == b"Received: test\r\nSubject: x\r\n\r\n"


async def test_commit_reports_its_errors_through_the_future_only(spool: AsyncSpool) -> None:
    incoming = spool.receive(b"", 0)
    incoming.feed(b"not the end\r\n")
    future = spool.commit(incoming, ENVELOPE, [planned()], 1)
    with pytest.raises(InvalidError, match="not complete"):
        await future
    assert spool.stats()["messages"] == 0


async def test_the_id_can_be_chosen_before_the_message_exists(spool: AsyncSpool) -> None:
    chosen = bytes(range(16))
    incoming = filled(spool, b"x\r\n", chosen)
    assert incoming.message_id == chosen
    await spool.commit(incoming, ENVELOPE, [planned()], 1)
    assert spool.list_ids(None, 9) == [chosen]
    with pytest.raises(InvalidError, match="exists"):
        await spool.commit(filled(spool, b"x\r\n", chosen), ENVELOPE, [planned()], 1)


async def test_those_who_ask_hear_of_each_commit_and_a_callback_that_raises_stops_nobody(spool: AsyncSpool) -> None:
    seen: list[bytes] = []

    def fails(*_: object) -> None:
        raise RuntimeError("a bug of the callback")

    spool.on_committed(fails)
    spool.on_committed(lambda message_id, envelope: seen.append(message_id))
    message_id = await commit(spool)
    await asyncio.sleep(0)
    assert seen == [message_id]


async def test_a_change_is_in_the_history_and_ends_the_message(spool: AsyncSpool) -> None:
    message_id = await commit(spool)
    spool.take("local:main", 1)
    due = now() + 3_600_000_000
    await spool.change([(message_id, 0, K_DEFERRED, due, b'{"try":1}'), (message_id, -1, K_NOTE, 0, b"{}")])
    state = spool.get(message_id)[6][0]
    assert state[5:] == ("PENDING", False, due, 1, b'{"try":1}')
    assert spool.advance(now()) == due
    history = await spool.history(message_id)
    assert [(kind, index) for _, kind, index, _ in history] == [(K_ACCEPTED, -1), (K_DEFERRED, 0), (K_NOTE, -1)]
    await spool.change([(message_id, 0, K_DELIVERED, 0, b"{}")])
    with pytest.raises(NotFoundError):
        spool.get(message_id)


async def test_rerouting_what_does_not_exist_raises_at_once(spool: AsyncSpool) -> None:
    with pytest.raises(NotFoundError):
        spool.reroute(bytes(16), 0, "a@b", "smtp:b", b"")
    message_id = await commit(spool)
    await spool.reroute(message_id, 0, "n@n", "smtp:n", b"R")
    assert spool.destinations() == [("smtp:n", 1, 1, 0)]


async def test_drain_lets_the_disk_catch_up(spool: AsyncSpool) -> None:
    incoming = spool.receive(b"", 0)
    for _ in range(200):
        incoming.feed_raw(b"x" * 65_536)
        await spool.drain()
        assert spool.pending_bytes() <= 2 << 20
    incoming.abort()
    assert not spool.congested()


async def test_after_close_everything_ends_with_closed(tmp_path: Path) -> None:
    spool = await AsyncSpool.open(tmp_path / "p0")
    last = spool.commit(filled(spool, b"last\r\n"), ENVELOPE, [planned()], 1)
    pending = filled(spool, b"x\r\n")
    await spool.close()
    await spool.close()
    assert last.exception() is None
    with pytest.raises(ClosedError):
        await spool.commit(pending, ENVELOPE, [planned()], 1)
    again = await AsyncSpool.open(tmp_path / "p0")
    assert again.recovery["messages"] == 1 and again.recovery["checkpoint"] == 1
    await again.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_tasks_commit_at_once_on_either_loop(tmp_path: Path, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def run() -> tuple[int, int]:
        spool = await AsyncSpool.open(tmp_path / "p0")

        async def client() -> None:
            for _ in range(25):
                await commit(spool)

        await asyncio.gather(*(client() for _ in range(20)))
        stats = spool.stats()
        await spool.close()
        return stats["messages"], stats["syncs"]

    with asyncio.Runner(loop_factory=factory) as runner:
        messages, syncs = runner.run(run())
    assert messages == 500
    assert syncs < 500, "commits of one moment share a sync"


@pytest.mark.parametrize(
    ("error", "code", "enhanced"),
    [
        (DiskFullError("x"), 452, "4.3.1"),
        (SyncFailedError("x"), 421, "4.3.0"),
        (DamagedError("x"), 451, "4.3.0"),
        (LockedError("x"), 421, "4.3.2"),
        (FormatVersionError("x"), 421, "4.3.2"),
        (ClosedError("x"), 421, "4.3.2"),
        (NotFoundError("x"), 451, "4.3.0"),
    ],
)
def test_each_failure_has_its_own_temporary_answer(error: Exception, code: int, enhanced: str) -> None:
    reply = reply_for(error)  # type: ignore[arg-type]
    assert (reply.code, reply.enhanced) == (code, enhanced)
