"""The event bus: what is kept, in which order, and what a slow watcher is told."""

import asyncio

from gatepost.events.bus import KINDS, MAX_TEXT, NOTICE, OVERFLOW, RULES, EventBus


def test_the_newest_come_first_and_the_oldest_go() -> None:
    bus = EventBus(3, clock=lambda: 1000.0, kept=4)
    for n in range(6):
        bus.publish(NOTICE, f"n{n}", policy="x", client="")
    found = bus.newest(10)
    assert [one.text for one in found] == ["n5", "n4", "n3", "n2"]
    assert [one.id for one in found] == sorted((one.id for one in found), reverse=True)
    assert found[0].fields == {"policy": "x"}
    assert found[0].worker == 3
    assert [one.text for one in bus.newest(1, before=found[1].id)] == ["n3"]


def test_kinds_are_chosen_and_texts_are_bounded() -> None:
    bus = EventBus()
    bus.publish(NOTICE, "x" * 9999, error="y" * 9999)
    bus.publish(RULES, "version 2")
    (one,) = bus.newest(10, kind=NOTICE)
    assert len(one.text) == len(one.fields["error"]) == MAX_TEXT
    assert {NOTICE, RULES, OVERFLOW} <= set(KINDS)


def test_processes_do_not_make_the_same_id() -> None:
    buses = [EventBus(n, clock=lambda: 5.0) for n in (-1, 0, 1)]
    assert len({bus.publish(NOTICE).id for bus in buses for _ in range(3)}) == 9


async def test_a_slow_watcher_is_told_what_it_lost() -> None:
    bus = EventBus(buffer=2)
    stream = bus.watch()
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    for _ in range(5):
        bus.publish(NOTICE, "n")
    kinds = [(await first).kind] + [(await anext(stream)).kind for _ in range(2)]
    assert kinds == [NOTICE, NOTICE, OVERFLOW]
    bus.close()
