"""`make bench BENCH_ARGS="--only depth"`: what a million queued messages cost. Alone: `PYTHONPATH=tests python benches/depth.py`.

A real server with one worker stands beside one with an empty queue; both get the same loads in turn, so that rates are compared within
one run. Prints JSON lines in the form of benches/run.py: {"bench", "unit", "gatepost", "bar", "met", …}. It takes about eight minutes and
5 GB below --directory, which are given back; hence it is not among the benches that run by default. It fails on errors, never on a low
figure.

    restart     seconds from the start of the process to the 250 of the first message, and until all of the queue can be seen; memory
    rates       accept, relay and local delivery beside the deep queue
    filters     first pages and counts over gRPC
    down        100,000 messages become due for a host that refuses connections, while other mail goes on
    bulk        hold, release, remove all; then the space is back
    compaction  disk use of a partition in which one message of a hundred stays, at the real segment size; no server
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from rich.console import Console

from gatepost.api.queue.v1 import queue_pb2, queue_pb2_grpc  # noqa: TID251  # one request; the client goes on to the next page
from gatepost.client import GatepostClient
from gatepost.client.queue import ALL, filter_proto
from gatepost.client.values import QueueFilter
from load import Load, Sink, one_by_one
from sides import HELD, RELAYED
from support.deep_spool import DOWN_DOMAIN, Fill, disk_octets, fill, leave_one_percent
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import free_port
from support.programs import exists, imap
from usage import cpu_seconds, resident_kib

Line = dict[str, Any]
T = TypeVar("T")

PARTS = ("restart", "rates", "filters", "down", "bulk", "compaction")
CALL_SECONDS = 600.0
PAGE = 100
WITHIN = 0.8
MIB = 1 << 20
PACE = 100 * MIB
"""Octets a second of the compaction part: several times what a worker takes in."""


def line(bench: str, unit: str, value: float, bar: float | None, *, below: bool = True, **more: Any) -> Line:
    """A figure with its bar; `below`: less is better."""
    met = None if bar is None else value <= bar if below else value >= bar
    shown = {key: round(one, 4) if isinstance(one, float) else one for key, one in more.items()}
    empty: Line = {"peer": None, "ratio": None, "peers": {}}
    return {"bench": f"depth-{bench}", "unit": unit, "gatepost": round(value, 4), "bar": bar, "met": met, **empty, **shown}


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and with how much."""

    messages: int = 1_000_000
    runs: int = 3
    parts: tuple[str, ...] = PARTS
    compaction_mib: int = 4096


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


def prepare(directory: Path, options: Options, console: Console) -> Pair:
    """Both servers, stopped, the one filled."""
    what = Fill(options.messages, 2_000, max(1, options.messages // 100), options.messages // 10)
    pair = Pair(directory, what, options.runs, console, _server(directory / "deep"), _server(directory / "empty"))
    for server in (pair.deep, pair.empty):
        if (server.data / "directory.db").exists():
            continue
        with server:
            server.cli("rule", "add", HELD.partition("@")[2], "--kind", "hold")
        if server is pair.deep:
            began = time.perf_counter()
            fill(server.data / "spool" / "p0", what)
            pair.tell(f"{what.messages:,} messages filled in in {time.perf_counter() - began:.1f} s")
            _settled_start(pair, server)
            server.stop(60)
    return pair


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


# ---- restart


def part_restart(pair: Pair) -> list[Line]:
    """Ready and complete after a restart, clean and killed; memory."""
    lines: list[Line] = []
    for name, clean in (("", True), ("-killed", False)):
        taken: dict[str, list[tuple[float, float]]] = {"deep": [], "empty": []}
        for _ in range(min(pair.runs, 3)):
            for side, server in (("empty", pair.empty), ("deep", pair.deep)):
                _end(server, clean)
                taken[side].append(_restart(server))
                pair.tell(f"restart{name} {side}: first 250 after {taken[side][-1][0]:.2f} s, complete after {taken[side][-1][1]:.2f} s")
        ready, base = (statistics.median(one[0] for one in taken[side]) for side in ("deep", "empty"))
        lines.append(line(f"ready{name}", "s over empty", ready - base, 1.0, deep=ready, empty=base))
        whole = statistics.median(one[1] for one in taken["deep"])
        lines.append(line(f"complete{name}", "s", whole, 8.0, empty=statistics.median(one[1] for one in taken["empty"])))
    for server in (pair.deep, pair.empty):
        _end(server, True)
    running(pair)
    messages = run(pair.deep, complete)
    deep, empty = (resident_kib(server.worker_pids()) * 1024 for server in (pair.deep, pair.empty))
    lines.append(line("memory", "B/message", (deep - empty) / messages, 160, deep_mb=deep / MIB, empty_mb=empty / MIB, messages=messages))
    return lines


def _end(server: Gatepost, clean: bool) -> None:
    if server.process is not None:
        if clean:
            server.stop(60)
        else:
            server.kill()


def _restart(server: Gatepost) -> tuple[float, float]:
    """Seconds to the first 250, and until the queue is complete."""
    port, accepted = int(server.settings["listen"]["smtp"][0].rpartition(":")[2]), [0.0]
    began = time.perf_counter()

    def knock() -> None:
        while time.perf_counter() - began < 120:
            try:
                one_by_one(port, HELD, 1, 2_000, 0.002)
            except (OSError, AssertionError):
                continue
            accepted[0] = time.perf_counter() - began
            return

    knocking = threading.Thread(target=knock)
    knocking.start()
    server.start()
    run(server, complete)
    whole = time.perf_counter() - began
    knocking.join()
    return accepted[0], whole


# ---- rates


def part_rates(pair: Pair) -> list[Line]:
    """Each load on the empty and the deep server in turn."""
    running(pair)
    taken: dict[tuple[str, str], list[float]] = {}
    with Sink(pair.directory) as sink:
        for server in (pair.deep, pair.empty):
            _relay_rule(server, sink)
        for number in range(pair.runs + 1):
            for side, server in (("empty", pair.empty), ("deep", pair.deep)):
                for name, rate in _rates(server, sink).items():
                    if number:  # the first is the warm-up
                        taken.setdefault((name, side), []).append(rate)
                        pair.tell(f"{name} {number}/{pair.runs} {side}: {rate:.0f} msg/s")
    lines = []
    for name in ("accept", "relay", "local"):
        deep, empty = (statistics.median(taken[name, side]) for side in ("deep", "empty"))
        lines.append(line(f"rate-{name}", "of empty", deep / empty, WITHIN, below=False, deep=deep, empty=empty))
    return lines


def _relay_rule(server: Gatepost, sink: Sink) -> None:
    domain = RELAYED.partition("@")[2]
    verb = "set" if domain in server.cli("rule", "list") else "add"
    server.cli("rule", verb, domain, "--kind", "gateway", "--host", "127.0.0.1", "--port", str(sink.port))


def _rates(server: Gatepost, sink: Sink, messages: int = 4000) -> dict[str, float]:
    load, port = Load(messages), server.port("smtp")
    rates = {"accept": messages / load.send(port, HELD)}
    rates["relay"] = messages / load.send_until(port, RELAYED, sink.count, sink.count() + messages)
    with imap(server.port("imaps"), ALICE, PASSWORD) as client:
        rates["local"] = messages / load.send_until(port, ALICE, lambda: exists(client), exists(client) + messages)
    return rates


# ---- filters

FILTERS = {
    "everything": QueueFilter(),
    "sender glob, many": QueueFilter(sender="news1*@sender1.example"),
    "recipient, one": QueueFilter(recipient="user777777@*"),
    "recipient, none": QueueFilter(recipient="nobody@nowhere.test"),
    "domain, few": QueueFilter(domain="d00042.test"),
    "domain, none": QueueFilter(domain="nowhere.test"),
    "destination glob": QueueFilter(destination="smtp:d0004*"),
    "destination, none": QueueFilter(destination="lmtp:*"),
    "held, none of the old": QueueFilter(held=True, domain="d00042.test"),
    "older than a year": QueueFilter(older_than=timedelta(days=365)),
    "newer than a second": QueueFilter(newer_than=timedelta(seconds=1)),
    "larger than 1 MB": QueueFilter(min_size=1_000_000),
    "reply contains, none": QueueFilter(reply_contains="mailbox full"),
    "sender, recipient and size": QueueFilter(sender="*@sender7.example", recipient="user*7@*", max_size=5_000),
}


def part_filters(pair: Pair) -> list[Line]:
    """The first page of each filter, the whole search for a page of it, and its count."""
    running(pair)
    worst: dict[str, tuple[float, str]] = {}
    for name, wanted in FILTERS.items():
        page = statistics.median(asyncio.run(_pages(pair.deep, wanted, 5)))
        search, found = timed(pair.deep, lambda client, wanted=wanted: _search(client, wanted))  # type: ignore[misc]
        count, preview = timed(pair.deep, lambda client, wanted=wanted: _count(client, wanted))  # type: ignore[misc]
        pair.tell(f"{name}: first page {page * 1000:.0f} ms, {found} found in {search:.2f} s, counted {preview:,} in {count:.2f} s")
        for key, value in (("page", page), ("search", search), ("count", count)):
            worst[key] = max(worst.get(key, (0.0, "")), (value, name))
    return [
        line("first-page", "ms", worst["page"][0] * 1000, 100, worst=worst["page"][1]),
        line("full-page", "s", worst["search"][0], None, worst=worst["search"][1]),
        line("count", "s", worst["count"][0], 2.0, worst=worst["count"][1]),
    ]


async def _pages(server: Gatepost, wanted: QueueFilter, times: int) -> list[float]:
    """Seconds that one request for a first page takes, whatever it finds."""
    async with grpc.aio.insecure_channel(f"unix:{server.data / 'control.sock'}") as channel:
        stub = queue_pb2_grpc.QueueServiceStub(channel)
        request = queue_pb2.ListMessagesRequest(filter=filter_proto(wanted), page_size=PAGE)
        await stub.ListMessages(request)
        taken = []
        for _ in range(times):
            began = time.perf_counter()
            await stub.ListMessages(request)
            taken.append(time.perf_counter() - began)
        return taken


async def _search(client: GatepostClient, wanted: QueueFilter) -> int:
    return len([one async for one in client.queue.list(wanted, limit=PAGE, page_size=PAGE)])


async def _count(client: GatepostClient, wanted: QueueFilter) -> int:
    whole = wanted == QueueFilter()
    return (await client.queue.preview(ALL if whole else wanted, sample_size=1)).messages


# ---- a destination that is down


def part_down(pair: Pair) -> list[Line]:
    """Relay and local delivery, and one message at a time, while all the mail of a dead host becomes due."""
    running(pair)
    dead = QueueFilter(domain=DOWN_DOMAIN)
    taken: dict[tuple[str, str], list[float]] = {}
    with Sink(pair.directory) as sink:
        _relay_rule(pair.deep, sink)
        _rates(pair.deep, sink)
        for number in range(pair.runs):
            for side in ("calm", "down"):
                waking = threading.Thread(target=lambda: pair.tell(f"due at once: {_wake(pair.deep, dead):,}")) if side == "down" else None
                if waking is not None:
                    waking.start()
                for name, rate in _delivery_rates(pair.deep, sink).items():
                    taken.setdefault((name, side), []).append(rate)
                    pair.tell(f"{name} {number + 1}/{pair.runs} {side}: {rate:.0f} msg/s")
                if waking is not None:
                    waking.join()
                    quiet(pair.deep, pair)
        calm = sorted(one_by_one(pair.deep.port("smtp"), ALICE, 200, 2_000, 0.01))
        waking = threading.Thread(target=_wake, args=(pair.deep, dead))
        waking.start()
        down = sorted(one_by_one(pair.deep.port("smtp"), ALICE, 200, 2_000, 0.01))
        waking.join()
    lines = []
    for name in ("relay", "local"):
        usual, rates = statistics.median(taken[name, "calm"]), taken[name, "down"]
        # At first each message waits for its own time, and that it is to be retried is written down; later all wait for their host.
        for kind, rate in (("", statistics.median(rates)), ("-first", rates[0])):
            lines.append(line(f"down-{name}{kind}", "of usual", rate / usual, WITHIN, below=False, down=rate, usual=usual))
    lines.append(line("down-latency-p99", "ms", 1000 * down[198], None, usual=1000 * calm[198], longest=1000 * down[-1]))
    return lines


def _wake(server: Gatepost, dead: QueueFilter) -> int:
    return timed(server, lambda client: client.queue.retry(dead))[1].changed


def _delivery_rates(server: Gatepost, sink: Sink, messages: int = 4000) -> dict[str, float]:
    load, port = Load(messages), server.port("smtp")
    rates = {"relay": messages / load.send_until(port, RELAYED, sink.count, sink.count() + messages)}
    with imap(server.port("imaps"), ALICE, PASSWORD) as client:
        rates["local"] = messages / load.send_until(port, ALICE, lambda: exists(client), exists(client) + messages)
    return rates


# ---- bulk commands


def part_bulk(pair: Pair) -> list[Line]:
    """Hold, release, remove and their undo, all of it; then the space. Empties the deep queue."""
    running(pair)
    server, lines = pair.deep, []
    # What the loads left is held; released it would be tried.
    run(server, lambda client: client.queue.remove(QueueFilter(domain=HELD.partition("@")[2])))
    seconds, preview = timed(server, lambda client: client.queue.preview(ALL))
    lines.append(line("preview-all", "s", seconds, None, messages=preview.messages))
    for name, bar in (("hold", 5.0), ("release", 5.0), ("remove", 10.0)):
        seconds, done = timed(server, lambda client, name=name: getattr(client.queue, name)(ALL))  # type: ignore[misc]
        pair.tell(f"{name} all: {done.changed:,} in {seconds:.2f} s")
        lines.append(line(f"{name}-all", "s", seconds, bar, changed=done.changed))
        quiet(server, pair)
    seconds, undone = timed(server, lambda client: client.queue.undo())
    lines.append(line("undo-remove-all", "s", seconds, None, undone=undone.result.undone))
    quiet(server, pair)
    memory = resident_kib(server.worker_pids()) * 1024
    server.settings["queue"] = {"undo_seconds": 0}
    server.reload()
    time.sleep(2)
    spool, before = server.data / "spool" / "p0", disk_octets(server.data / "spool" / "p0")
    began = time.perf_counter()
    seconds, done = timed(server, lambda client: client.queue.remove(ALL))
    while (left := disk_octets(spool)) > 4 * 64 * MIB and time.perf_counter() - began < 120:
        time.sleep(0.1)
    freed = time.perf_counter() - began
    pair.tell(f"remove all for good: {done.changed:,} in {seconds:.2f} s, {before / MIB:.0f} → {left / MIB:.0f} MiB after {freed:.1f} s")
    lines.append(line("remove-all-for-good", "s", seconds, 10.0, changed=done.changed))
    lines.append(line("space-back", "s", freed, 10.0, before_mib=before / MIB, after_mib=left / MIB))
    quiet(server, pair)
    after = resident_kib(server.worker_pids()) * 1024
    lines.append(line("memory-after", "MB", after / MIB, None, before_removal=memory / MIB))
    return lines


# ---- compaction


def part_compaction(directory: Path, console: Console, octets: int) -> list[Line]:
    """No server: the spool alone, at a pace above what a server takes in, and as fast as it can."""
    partition, lines = directory / "compaction", []
    for name, pace in (("", PACE), ("-unbridled", 0)):
        done = leave_one_percent(partition, octets, 10_000, pace, lambda text: console.print(f"  depth: {text}", highlight=False))
        shutil.rmtree(partition, ignore_errors=True)
        more: Line = {"written_mib": done.written >> 20, "live_mib": done.live / MIB, "seconds": done.seconds}
        lines.append(line(f"compaction{name}", "MiB over 2 x live", done.excess / MIB, 256, **more))
        lines.append(line(f"compaction{name}-settled", "MiB over 2 x live", (done.settled_disk - 2 * done.live) / MIB, 256))
    return lines


# ---- all of it


def bench(directory: Path, options: Options, console: Console) -> list[Line]:
    """The parts asked for, in order. For benches/run.py and `main`."""
    lines: list[Line] = []
    with_server = [part for part in options.parts if part != "compaction"]
    if with_server:
        pair = prepare(directory, options, console)
        steps = {"restart": part_restart, "rates": part_rates, "filters": part_filters, "down": part_down, "bulk": part_bulk}
        try:
            for part in with_server:
                lines += steps[part](pair)
        finally:
            for server in (pair.deep, pair.empty):
                server.kill()
    if "compaction" in options.parts:
        lines += part_compaction(directory, console, options.compaction_mib * MIB)
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="this part only (may be repeated)")
    parser.add_argument("--messages", type=int, default=1_000_000, help="how deep the queue is (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="times each load is sent (default %(default)s)")
    parser.add_argument("--compaction-mib", type=int, default=4096, help="how much the compaction part writes (default %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where the data goes (default %(default)s)")
    parser.add_argument("--data", type=Path, help="use this directory, and keep it and what it is filled with for the next run")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for; JSON lines on stdout."""
    options = arguments()
    directory = options.data or Path(tempfile.mkdtemp(prefix="gatepost-depth-", dir=options.directory))
    directory.mkdir(exist_ok=True)
    os.chmod(directory, 0o755)
    try:
        chosen = Options(options.messages, options.runs, tuple(options.part or PARTS), options.compaction_mib)
        lines = bench(directory, chosen, Console(stderr=True, width=None if sys.stderr.isatty() else 130))
    finally:
        if options.data is None:
            shutil.rmtree(directory, ignore_errors=True)
    for one in lines:
        print(json.dumps(one), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
