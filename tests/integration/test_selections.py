"""Previews, bulk calls, undo and causes through the SDK and the command line against a running server with two workers."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatepost.client import ALL, Frozen, GatepostClient, GatepostError, QueueFilter, RerouteTarget, ServerRefusedError
from support.gatepost import Gatepost
from support.programs import message, send

COUNT = 8
BODY = b"From: a@example.test\r\nSubject: waits\r\n\r\nhello\r\n"


@pytest.fixture
def server(gatepost_factory: Any) -> Gatepost:
    """A server whose mail to later.test waits: nobody listens there."""
    made: Gatepost = gatepost_factory(workers=2, queue={"undo_seconds": 600})
    made.cli("rule", "add", "later.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", "9")
    return made


async def arrive(client: GatepostClient, count: int = COUNT) -> None:
    """Mail that waits, in turn on both workers."""
    for number in range(count):
        await client.queue.submit("a@example.test", [f"x{number}@later.test"], BODY)


async def until(condition: Callable[[], Awaitable[bool]], what: str, seconds: float = 40) -> None:
    """Wait for something; a server that is just being restarted is no fault."""
    for _ in range(int(seconds / 0.1)):
        try:
            if await condition():
                return
        except GatepostError:
            pass
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in time: {what}")


async def states(client: GatepostClient, wanted: QueueFilter | None = None) -> dict[str, list[tuple[str, bool, str]]]:
    """(address, held, destination) of every recipient of every message."""
    found = [one async for one in client.queue.list(wanted)]
    return {one.message_id: [(rcpt.address, rcpt.held, rcpt.destination) for rcpt in one.recipients] for one in found}


async def tried(client: GatepostClient) -> bool:
    """Every message was tried once."""
    return (await client.queue.causes()).recipients == COUNT


async def test_a_frozen_selection_is_exactly_what_the_preview_showed(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        await arrive(client)
        assert {one.worker async for one in client.queue.list()} == {0, 1}
        found = await client.queue.preview(QueueFilter(domain="later.test"), sample_size=3)
        assert (found.messages, found.recipients, len(found.sample)) == (COUNT, COUNT, 3)
        frozen = set(await states(client))
        gone = min(frozen)
        await client.queue.remove(gone)
        await arrive(client, 3)
        result = await client.queue.hold(Frozen(found.token))
        assert (result.matched, result.changed, result.gone) == (COUNT - 1, COUNT - 1, 1)
        assert set(await states(client, QueueFilter(held=True))) == frozen - {gone}
        assert (await client.queue.release(Frozen(found.token))).changed == COUNT - 1
        assert "3 messages selected" not in await asyncio.to_thread(server.cli, "queue", "hold", "--frozen", found.token)
        assert len(await states(client, QueueFilter(held=True))) == COUNT - 1


async def test_each_operation_is_undone_over_both_workers_also_after_a_restart(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        await arrive(client)
        before = await states(client)
        operation = (await client.queue.hold(ALL)).operation_id
        assert len(await states(client, QueueFilter(held=True))) == COUNT
        assert (await client.queue.undo()).operation.operation_id == operation
        assert await states(client) == before
        done = await client.queue.reroute_all(QueueFilter(domain="later.test"), RerouteTarget(new_address="y@later.test"))
        assert (done.result.changed, done.refused) == (COUNT, 0)
        assert (await client.queue.undo(done.result.operation_id)).result.undone == COUNT
        assert await states(client) == before
        operation = (await client.queue.remove(ALL)).operation_id
        assert await states(client) == {}
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(server.start)
    async with GatepostClient(server.data) as client:
        assert set(await states(client, QueueFilter(state="REMOVED"))) == set(before)
        assert (await client.queue.stats()).total.removed == COUNT
        undone = await client.queue.undo(operation)
        assert (undone.result.undone, undone.result.recipients) == (COUNT, COUNT)
        assert await states(client) == before
        listed = [one async for one in client.queue.operations()]
        assert [(one.kind, one.state, one.changed) for one in listed] == [(kind, "undone", COUNT) for kind in ("remove", "reroute", "hold")]
        history = (await client.queue.get(min(before))).history
        assert "undone (by local:" in history[-1].text
        with pytest.raises(ServerRefusedError, match="no operation of yours"):
            await client.queue.undo()


async def test_after_a_worker_was_killed_its_token_is_refused_and_its_operations_are_undone(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        await arrive(client)
        token = (await client.queue.preview(ALL)).token
        operation = (await client.queue.remove(ALL)).operation_id
        old = server.worker_pids()[0]
        os.kill(old, signal.SIGKILL)

        async def back() -> bool:
            totals = await client.queue.stats()
            return old not in server.worker_pids() and not totals.partial and totals.total.removed == COUNT

        await until(back, "the worker is back with its partition")
        with pytest.raises(ServerRefusedError, match="preview the selection again"):
            await client.queue.hold(Frozen(token))
        assert (await client.queue.undo(operation)).result.undone == COUNT
        assert not any(held for rows in (await states(client)).values() for _, held, _ in rows)
        for bad in ("x", "0-" + "0" * 32, "9-" + "0" * 32, "0-" + "0" * 31, "." * 5000):
            with pytest.raises(GatepostError):
                await client.queue.hold(Frozen(bad))


async def test_causes_are_one_list_over_both_workers(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        await arrive(client)
        await until(lambda: tried(client), "every message was tried")
        (cause,) = (await client.queue.causes()).causes
        assert (cause.kind, cause.recipients, cause.messages) == ("refused", COUNT, COUNT)
        assert "127.0.0.1" in cause.example_reason
    assert "8 recipients in 8 messages: refused" in await asyncio.to_thread(server.cli, "queue", "causes")


def test_mail_over_smtp_is_previewed_and_removed_from_the_command_line(server: Gatepost) -> None:
    send(server.port("smtp"), message("waits"), recipients="x@later.test")
    found = server.json("queue", "preview", "--domain", "later.test")
    assert found["messages"] == 1
    result = server.json("queue", "remove", "--frozen", found["token"], "--yes")
    assert result["changed"] == 1
    assert "as before" in server.cli("queue", "undo", result["operation_id"])
