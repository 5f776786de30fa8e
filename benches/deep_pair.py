"""The two servers of benches/depth.py: one with a deep queue, one with an empty one, and what is done with both. Fails on errors only."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from gatepost.client import GatepostClient
from sides import HELD
from support.deep_spool import Fill, fill
from support.gatepost import ALICE, Gatepost
from support.processes import free_port
from usage import cpu_seconds

Line = dict[str, Any]
T = TypeVar("T")

CALL_SECONDS = 600.0


def line(bench: str, unit: str, value: float, bar: float | None, *, below: bool = True, **more: Any) -> Line:
    """A figure with its bar; `below`: less is better."""
    met = None if bar is None else value <= bar if below else value >= bar
    shown = {key: round(one, 4) if isinstance(one, float) else one for key, one in more.items()}
    empty: Line = {"peer": None, "ratio": None, "peers": {}}
    return {"bench": f"depth-{bench}", "unit": unit, "gatepost": round(value, 4), "bar": bar, "met": met, **empty, **shown}


@dataclass
class Pair:
    """The deep server and the empty one beside it."""

    directory: Path
    what: Fill
    runs: int
    console: Console
    deep: Gatepost
    empty: Gatepost

    def tell(self, text: str) -> None:
        """Progress, for people."""
        self.console.print(f"  depth: {text}", highlight=False)


# ---- the servers


def prepare(directory: Path, what: Fill, runs: int, console: Console) -> Pair:
    """Both servers, stopped, the one filled."""
    pair = Pair(directory, what, runs, console, _server(directory / "deep"), _server(directory / "empty"))
    for server in (pair.deep, pair.empty):
        if (server.data / "directory.db").exists():
            continue
        with server:
            server.cli("rule", "add", HELD.partition("@")[2], "--kind", "hold")
        if server is pair.deep:
            began = time.perf_counter()
            fill(spool_of(pair), what)
            pair.tell(f"{what.messages:,} messages filled in in {time.perf_counter() - began:.1f} s")
            try:
                _settled_start(pair, server)
                server.stop(60)
            finally:
                server.kill()
    return pair


def spool_of(pair: Pair) -> Path:
    """The deep queue's partition."""
    return pair.deep.data / "spool" / "p0"


def _server(directory: Path) -> Gatepost:
    directory.mkdir(exist_ok=True)
    return Gatepost(directory, users=[ALICE], workers=1, listen={"smtp": [f"127.0.0.1:{free_port()}"]})


def _settled_start(pair: Pair, server: Gatepost) -> None:
    server.start()
    run(server, complete)
    quiet(server, pair)


def running(pair: Pair) -> None:
    """Both run, with their queues read and nothing going on in the background."""
    for server in (pair.deep, pair.empty):
        if server.process is None:
            _settled_start(pair, server)


def quiet(server: Gatepost, pair: Pair, seconds: float = 240) -> None:
    """Until the server does nothing any more: the history has read what was filled in, the disk is tidied."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = cpu_seconds([server.pid])
        time.sleep(1.5)
        if cpu_seconds([server.pid]) - before < 0.06:
            return
    pair.tell(f"still busy after {seconds:.0f} s; measured all the same")


def run(server: Gatepost, work: Callable[[GatepostClient], Awaitable[T]]) -> T:
    """What `work` returns when given a client of the server."""

    async def body() -> T:
        async with asyncio.timeout(CALL_SECONDS), GatepostClient(server.data) as client:
            return await work(client)

    return asyncio.run(body())


def timed(server: Gatepost, work: Callable[[GatepostClient], Awaitable[T]]) -> tuple[float, T]:
    """Seconds of a call over a connection that stands already, and its answer."""

    async def body(client: GatepostClient) -> tuple[float, T]:
        await client.queue.stats()
        began = time.perf_counter()
        answer = await work(client)
        return time.perf_counter() - began, answer

    return run(server, body)


async def complete(client: GatepostClient) -> int:
    """Wait until the worker has read its whole queue; the messages in it."""
    while True:
        missing: list[str] = []
        async for _ in client.queue.list(limit=1, warn=missing.append):
            pass
        if not missing:
            return (await client.queue.stats()).total.messages
        await asyncio.sleep(0.02)
