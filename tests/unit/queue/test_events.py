"""Watching the queue."""

import asyncio

from gatepost.queue.events import EventHub, QueueEvent


async def test_a_watcher_sees_events_from_now_on() -> None:
    hub = EventHub()
    hub.publish(QueueEvent(1, "delivered"))
    seen = asyncio.create_task(anext(hub.watch()))
    await asyncio.sleep(0)
    hub.publish(QueueEvent(2, "deferred"))
    assert (await seen).time == 2


async def test_a_slow_watcher_loses_events_and_is_told_how_many() -> None:
    hub = EventHub(limit=3)
    stream = hub.watch()
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for number in range(10):
        hub.publish(QueueEvent(number, "delivered"))
    kinds = [(await first).kind] + [(await anext(stream)).kind for _ in range(3)]
    assert kinds == ["delivered", "delivered", "delivered", "overflow"]
    hub.publish(QueueEvent(11, "held"))
    assert (await anext(stream)).kind == "held"
    await stream.aclose()
    assert not hub.watched


async def test_closing_ends_every_watch() -> None:
    hub = EventHub()

    async def collect() -> list[QueueEvent]:
        return [event async for event in hub.watch()]

    task = asyncio.create_task(collect())
    await asyncio.sleep(0)
    hub.close()
    assert await task == []
