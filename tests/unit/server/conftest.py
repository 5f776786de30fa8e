"""Servers run on uvloop in production, so they are tested on it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from support.receiving import Receiver, receiver


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def receive(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    """receive('smtp', smtp={...}) starts a server; all end with the test."""
    async with AsyncExitStack() as stack:
        started: list[Path] = []

        async def start(listener: str = "smtp", **sections: Any) -> Receiver:
            started.append(tmp_path / f"server-{len(started)}")
            started[-1].mkdir()
            return await stack.enter_async_context(receiver(started[-1], listener, **sections))

        yield start
