"""Streams of all workers as one: what a watch of the supervisor consists of. Used by merge.py (queue) and events.py.

Each worker's stream is opened again whenever it ends, so that a restart is a gap that is told of and not an end. What comes waits in one
queue of bounded length; waiting for room slows the workers' streams, whose own buffers tell what they lost.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import grpc.aio

from gatepost.control.workers import RESTART_WAIT, WorkerLink

BUFFER = 1_000
_RETRY = 0.25

T = TypeVar("T")


async def watched(
    context: Any,
    links: Sequence[WorkerLink],
    follow_one: Callable[[WorkerLink, "asyncio.Queue[T]", asyncio.Event], Coroutine[Any, Any, None]],
    *own: Callable[["asyncio.Queue[T]"], Coroutine[Any, Any, None]],
) -> AsyncGenerator[T, None]:
    """What all of them put into the queue, until the caller goes. Initial metadata is sent once every worker that is there watches."""
    queue: asyncio.Queue[T] = asyncio.Queue(BUFFER)
    ready = [asyncio.Event() for _ in links]
    watchers = [asyncio.create_task(follow_one(link, queue, one)) for link, one in zip(links, ready, strict=True)]
    watchers += [asyncio.create_task(one(queue)) for one in own]
    try:
        await asyncio.wait([asyncio.create_task(one.wait()) for one in ready], timeout=RESTART_WAIT)
        await context.send_initial_metadata(())
        while True:
            yield await queue.get()
    finally:
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)


async def follow(
    link: WorkerLink, stream: Callable[[], Any], queue: "asyncio.Queue[T]", ready: asyncio.Event, tell: Callable[[bool], Awaitable[None]]
) -> None:
    """Pass one worker's stream on while it has its place. `tell` is called with False when it went away, True when it is back."""
    away = False
    while not link.retired:
        call = stream()
        try:
            await call.initial_metadata()
            if not call.done():
                ready.set()
                if away:
                    await tell(True)
                away = False
            async for one in call:
                await queue.put(one)
        except grpc.aio.AioRpcError:
            pass
        finally:
            call.cancel()
        ready.set()
        if not away:
            await tell(False)
        away = True
        await asyncio.sleep(_RETRY)
