"""The client library against a test server, one call at a time and without a process of its own: for tests that look often.

grpc.aio binds to a loop and dislikes threads of different loops, so each call opens a client of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from gatepost.client import GatepostClient
from gatepost.client.values import QueueMessage, ServerStatus, Worker
from support.gatepost import Gatepost

CALL_SECONDS = 30.0

T = TypeVar("T")


def call(server: Gatepost, work: Callable[[GatepostClient], Awaitable[T]]) -> T:
    """What `work` returns when given a client of the server."""

    async def run() -> T:
        async with asyncio.timeout(CALL_SECONDS), GatepostClient(server.data) as client:
            return await work(client)

    return asyncio.run(run())


def queue(server: Gatepost) -> list[QueueMessage]:
    """The whole queue."""

    async def read(client: GatepostClient) -> list[QueueMessage]:
        return [one async for one in client.queue.list()]

    return call(server, read)


def status(server: Gatepost) -> ServerStatus:
    """What `gatepost status` shows."""
    return call(server, lambda client: client.server.status())


def worker(server: Gatepost, index: int) -> Worker:
    """One worker of it. AssertionError when it is not listed."""
    found = [one for one in status(server).workers if one.index == index]
    assert found, f"no worker {index} is listed"
    return found[0]
