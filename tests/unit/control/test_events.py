"""EventsService over real channels: pages and watches of all processes as one, who may, and the command."""

import asyncio
from contextlib import aclosing

import pytest

from gatepost.api.events.v1 import events_pb2 as api
from gatepost.client import GatepostClient
from gatepost.client.connection import find_target
from gatepost.client.errors import InvalidRequestError, UnauthenticatedError
from gatepost.client.events import Event
from gatepost.events.bus import NOTICE, RULES, WORKER
from support.control import Plane


def publish(plane: Plane, count: int) -> None:
    """Notices n0, n1 … by turns of the workers, and one word of the supervisor's."""
    for n in range(count):
        plane.workers[n % 2].events.publish(NOTICE, f"n{n}", policy="p", sender="a@b.test")
    plane.events.publish(RULES, "version 2", version="2")


async def test_events_of_all_processes_come_in_order_a_page_at_a_time(plane: Plane) -> None:
    publish(plane, 7)
    async with GatepostClient(plane.data) as client:
        found = await client.events.newest(100)
        assert [one.text for one in found] == [*(f"n{n}" for n in range(7)), "version 2"]
        assert [one.worker for one in found[-3:]] == [1, 0, -1]
        assert found[0].fields == {"policy": "p", "sender": "a@b.test"}
        assert [one.text for one in await client.events.newest(3, kind=NOTICE)] == ["n4", "n5", "n6"]
        stub = client.events._stub
        seen, token = [], ""
        while True:
            answer = await stub.ListEvents(api.ListEventsRequest(page_size=3, page_token=token))
            seen += [one.text for one in answer.events]
            token = answer.next_page_token
            if not token:
                break
        assert seen == ["version 2", *(f"n{n}" for n in reversed(range(7)))]


async def test_a_watch_merges_all_processes_and_tells_of_a_worker_that_went(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        ready, seen = asyncio.Event(), list[Event]()

        async def watch() -> None:
            async with aclosing(client.events.watch(started=ready.set)) as events:
                async for one in events:
                    seen.append(one)

        watcher = asyncio.create_task(watch())
        async with asyncio.timeout(10):
            await ready.wait()
            publish(plane, 2)
            while len(seen) < 3:
                await asyncio.sleep(0.01)
            assert {one.text for one in seen} == {"n0", "n1", "version 2"}
            await plane.workers[1].stop()
            while not any(one.kind == WORKER for one in seen):
                await asyncio.sleep(0.01)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def test_a_viewer_may_look_and_watch_and_nobody_may_not(plane: Plane) -> None:
    publish(plane, 1)
    for token in (plane.token("viewer"), ""):
        async with GatepostClient(find_target(address=plane.tcp, token=token, ca_file=plane.authority.ca_file)) as client:
            if token:
                assert len(await client.events.newest(10)) == 2
                with pytest.raises(InvalidRequestError, match="page_token"):
                    await client.events._connection.call(client.events._stub.ListEvents, _request("nonsense"))
                continue
            with pytest.raises(UnauthenticatedError):
                await client.events.newest(10)
            with pytest.raises(UnauthenticatedError):
                await anext(client.events.watch())


def _request(token: str) -> object:
    return api.ListEventsRequest(page_token=token)
