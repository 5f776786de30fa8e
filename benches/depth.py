"""`make bench BENCH_ARGS="--only depth"`: what a million queued messages cost. Alone: `PYTHONPATH=tests python benches/depth.py`.

A real server with one worker stands beside one with an empty queue; both get the same loads in turn, so that rates are compared within
one run. Prints JSON lines in the form of benches/run.py: {"bench", "unit", "gatepost", "bar", "met", …}. It takes about eight minutes and
5 GB below --directory, which are given back; hence it is not among the benches that run by default. It fails on errors, never on a low
figure.

    restart     seconds from the start of the process to the 250 of the first message, and until all of the queue can be seen; memory
    rates       accept, relay and local delivery beside the deep queue
    filters     first pages and counts over gRPC
    down        100,000 messages for a host that refuses connections are retried by an operator, while other mail goes on
    retry       the same when each of them has a time of its own
    timers      the same messages become due by their own times, at once and over five seconds
    reroute     they get another way, and that is undone
    bulk        hold and its undo, hold, release, remove all and its undo
    space       remove all, and the space when the grace is over
    causes      why a million deferred messages wait; the spool alone, no server
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import grpc.aio
from rich.console import Console

from deep_pair import Line, Pair, complete, line, prepare, quiet, run, running, spool_of, timed
from gatepost.api.queue.v1 import queue_pb2, queue_pb2_grpc  # noqa: TID251  # one request; the client goes on to the next page
from gatepost.client import GatepostClient
from gatepost.client.operations import RerouteTarget
from gatepost.client.queue import ALL, filter_proto
from gatepost.client.values import QueueFilter, Route
from gatepost.native import K_RETRY, Spool
from load import Load, Sink, one_by_one
from sides import HELD, RELAYED
from support.deep_spool import DOWN_DOMAIN, Fill, defer_all, disk_octets, leave_one_percent
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import exit_on_sigterm
from support.programs import exists, imap
from usage import forget_cache, resident_kib

PARTS = ("restart", "rates", "filters", "down", "retry", "timers", "reroute", "bulk", "space", "causes", "compaction")
PAGE = 100
WITHIN = 0.8
MIB = 1 << 20
TIMERS_AFTER = 60.0
"""Seconds from setting the times to the first of them: the server has to start, read its queue and be measured in the calm."""
GRACE = 5
"""Seconds of the last removal's grace."""
SETTLE = 15.0
"""Seconds that the history may take to follow a bulk command before the next; it goes on behind that if it must."""
PACE = 100 * MIB
"""Octets a second of the compaction part: several times what a worker takes in."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and with how much."""

    messages: int = 1_000_000
    runs: int = 3
    parts: tuple[str, ...] = PARTS
    compaction_mib: int = 4096


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
        lines.append(line(f"ready{name}", "s", ready, 1.0, empty=base))
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
    "recipient glob, many": QueueFilter(recipient="user*7@d000*"),
    "null sender": QueueFilter(sender="<>"),
    "reply contains, many": QueueFilter(reply_contains="refused"),
    "sender, recipient and size": QueueFilter(sender="*@sender7.example", recipient="user*7@*", max_size=5_000),
}


def part_filters(pair: Pair) -> list[Line]:
    """The first page of each filter, the search for a whole page, and its count; first page and count also from the disk."""
    running(pair)
    worst: dict[str, tuple[float, str]] = {}
    for name, wanted in FILTERS.items():
        for kind in ("count-cold", "page-cold"):
            forget_cache(spool_of(pair))
            if kind == "count-cold":
                cold = timed(pair.deep, partial(_count, wanted=wanted))[0]
            else:
                cold = asyncio.run(_pages(pair.deep, wanted, 1, warm=False))[0]
            pair.tell(f"{name}: {kind} {cold:.3f} s")
            worst[kind] = max(worst.get(kind, (0.0, "")), (cold, name))
        page = statistics.median(asyncio.run(_pages(pair.deep, wanted, 5)))
        search, found = timed(pair.deep, partial(_search, wanted=wanted))
        count, preview = timed(pair.deep, partial(_count, wanted=wanted))
        pair.tell(f"{name}: first page {page * 1000:.0f} ms, {found} found in {search:.2f} s, counted {preview:,} in {count:.2f} s")
        for key, value in (("page", page), ("search", search), ("count", count)):
            worst[key] = max(worst.get(key, (0.0, "")), (value, name))
    return [
        line("first-page", "ms", worst["page"][0] * 1000, 100, worst=worst["page"][1]),
        line("full-page", "s", worst["search"][0], None, worst=worst["search"][1]),
        line("count", "s", worst["count"][0], 2.0, worst=worst["count"][1]),
        line("first-page-cold", "ms", worst["page-cold"][0] * 1000, 100, worst=worst["page-cold"][1]),
        line("count-cold", "s", worst["count-cold"][0], 2.0, worst=worst["count-cold"][1]),
    ]


async def _pages(server: Gatepost, wanted: QueueFilter, times: int, *, warm: bool = True) -> list[float]:
    """Seconds that one request for a first page takes, whatever it finds; `warm`: after another one."""
    async with grpc.aio.insecure_channel(f"unix:{server.data / 'control.sock'}") as channel:
        stub = queue_pb2_grpc.QueueServiceStub(channel)
        request = queue_pb2.ListMessagesRequest(filter=filter_proto(wanted), page_size=PAGE)
        if warm:
            await stub.ListMessages(request)
        else:
            await stub.GetStats(queue_pb2.GetStatsRequest())  # the connection stands
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


DEAD = QueueFilter(domain=DOWN_DOMAIN)
Rates = dict[str, float]


def part_down(pair: Pair) -> list[Line]:
    """Relay and local delivery, and one message at a time, while all the mail of a dead host is retried by an operator."""
    running(pair)
    taken: list[tuple[Rates, Rates]] = []
    with Sink(pair.directory) as sink:
        _relay_rule(pair.deep, sink)
        _rates(pair.deep, sink)
        for _ in range(pair.runs):
            calm = _told_rates(pair, sink, "calm")
            waking = threading.Thread(target=lambda: pair.tell(f"due at once: {_wake(pair.deep):,}"))
            waking.start()
            taken.append((calm, _told_rates(pair, sink, "down")))
            waking.join()
            quiet(pair.deep, pair)
        calm_ms = sorted(one_by_one(pair.deep.port("smtp"), ALICE, 200, 2_000, 0.01))
        waking = threading.Thread(target=_wake, args=(pair.deep,))
        waking.start()
        down_ms = sorted(one_by_one(pair.deep.port("smtp"), ALICE, 200, 2_000, 0.01))
        waking.join()
    # At first each message waits for its own time, and that it is to be retried is written down; later all wait for their host.
    lines = _shares("down-first", taken[:1]) + _shares("down", taken[1:])
    lines.append(line("down-latency-p99", "ms", 1000 * down_ms[198], None, usual=1000 * calm_ms[198], longest=1000 * down_ms[-1]))
    return lines


def _shares(name: str, taken: list[tuple[Rates, Rates]]) -> list[Line]:
    """Of rounds calm and not, what is left of the usual rates: each round against its own calm, the median of rounds."""
    lines = []
    for kind in ("relay", "local") if taken else ():
        shares = [busy[kind] / calm[kind] for calm, busy in taken]
        calm, busy = (statistics.median(pair[side][kind] for pair in taken) for side in (0, 1))
        more = {"down": busy, "usual": calm, "lowest": min(shares), "rounds": len(shares)}
        lines.append(line(f"{name}-{kind}", "of usual", statistics.median(shares), WITHIN, below=False, **more))
    return lines


def _told_rates(pair: Pair, sink: Sink, side: str) -> Rates:
    rates = _delivery_rates(pair.deep, sink)
    pair.tell(f"{side}: relay {rates['relay']:.0f}, local {rates['local']:.0f} msg/s")
    return rates


def part_timers(pair: Pair) -> list[Line]:
    """The same while they become due by themselves: all in one moment, and over some seconds."""
    lines = []
    for name, spread in (("at-once", 0.0), ("spread", 5.0)):
        taken = []
        for _ in range(pair.runs):
            due = _set_times(pair, TIMERS_AFTER, spread)
            with _calm(pair) as (sink, calm):
                if time.time() > due:
                    raise AssertionError("the moment was over before all was ready")
                time.sleep(due - time.time())
                taken.append((calm, _told_rates(pair, sink, f"due {name}")))
                pair.tell(f"wait for their host now: {_count_refused(pair.deep):,}")
        lines += _shares(f"timers-{name}", taken)
    return lines


def part_retry(pair: Pair) -> list[Line]:
    """An operator retries them when each has a time of its own, so that each retry is written down."""
    taken = []
    for _ in range(pair.runs):
        _set_times(pair, 3600, 0)
        with _calm(pair) as (sink, calm):
            waking = threading.Thread(target=_wake, args=(pair.deep,))
            waking.start()
            taken.append((calm, _told_rates(pair, sink, "retried")))
            waking.join()
    return _shares("retry-own-times", taken)


@contextmanager
def _calm(pair: Pair) -> Iterator[tuple[Sink, Rates]]:
    """Both servers run and are warm; a sink, and the rates of other mail."""
    running(pair)
    with Sink(pair.directory) as sink:
        _relay_rule(pair.deep, sink)
        _rates(pair.deep, sink)
        yield sink, _told_rates(pair, sink, "calm")


def _set_times(pair: Pair, after: float, spread: float) -> float:
    """With the server stopped: all mail of the dead host is due so many seconds from now on. Returns that as Unix seconds."""
    if pair.deep.process is not None:
        pair.deep.stop(60)
    spool, due = Spool(str(spool_of(pair))), time.time() + after
    try:
        ids = spool.select({"domain": DOWN_DOMAIN}, pair.what.down)
        slices = [ids[at : at + 16 * 500] for at in range(0, len(ids), 16 * 500)]
        for number, some in enumerate(slices):
            at = due + spread * number / len(slices)
            spool.change_all(0, some, K_RETRY, int(at * 1_000_000), b'{"by":"bench","action":"retry"}')
    finally:
        spool.close()
    return due


def _count_refused(server: Gatepost) -> int:
    return timed(server, lambda client: client.queue.preview(QueueFilter(domain=DOWN_DOMAIN, reply_contains="refused")))[1].messages


def _wake(server: Gatepost) -> int:
    return timed(server, lambda client: client.queue.retry(DEAD))[1].changed


def _delivery_rates(server: Gatepost, sink: Sink, messages: int = 4000) -> dict[str, float]:
    load, port = Load(messages), server.port("smtp")
    rates = {"relay": messages / load.send_until(port, RELAYED, sink.count, sink.count() + messages)}
    with imap(server.port("imaps"), ALICE, PASSWORD) as client:
        rates["local"] = messages / load.send_until(port, ALICE, lambda: exists(client), exists(client) + messages)
    return rates


# ---- bulk commands


def part_reroute(pair: Pair) -> list[Line]:
    """The dead host's mail is sent elsewhere, where nobody listens either; then that is undone."""
    running(pair)
    target = RerouteTarget(route=Route("smtp", host="127.0.0.1", port=2))
    seconds, done = timed(pair.deep, lambda client: client.queue.reroute_all(DEAD, target))
    lines = [line("reroute", "s", seconds, None, changed=done.result.changed)]
    pair.tell(f"reroute: {done.result.changed:,} in {seconds:.2f} s")
    quiet(pair.deep, pair)
    seconds, undone = timed(pair.deep, lambda client: client.queue.undo())
    lines.append(line("undo-reroute", "s", seconds, None, undone=undone.result.undone))
    pair.tell(f"undo of it: {undone.result.undone:,} in {seconds:.2f} s")
    quiet(pair.deep, pair)
    return lines


def part_bulk(pair: Pair) -> list[Line]:
    """Hold, release, remove and their undo, all of it."""
    running(pair)
    server, lines = pair.deep, []
    # What the loads left is held; released it would be tried.
    run(server, lambda client: client.queue.remove(QueueFilter(domain=HELD.partition("@")[2])))
    seconds, preview = timed(server, lambda client: client.queue.preview(ALL))
    lines.append(line("preview-all", "s", seconds, None, messages=preview.messages))
    for name, bar in (("hold", 5.0), ("undo", None), ("hold", 5.0), ("release", 5.0), ("remove", 10.0), ("undo", None)):
        lines.append(_bulk(pair, name, bar))
    return lines


def part_space(pair: Pair) -> list[Line]:
    """Remove all, with a short grace, and the space when it is over. Empties the deep queue."""
    running(pair)
    server, lines = pair.deep, []
    server.settings["queue"] = {"undo_seconds": GRACE}
    server.reload()
    time.sleep(2)
    memory, before = resident_kib(server.worker_pids()) * 1024, disk_octets(spool_of(pair))
    lines.append(_bulk(pair, "remove", 10.0, settle=False))
    over = time.perf_counter() + GRACE
    while (left := disk_octets(spool_of(pair))) > before // 10 and time.perf_counter() < over + 120:
        time.sleep(0.1)
    freed = time.perf_counter() - over
    pair.tell(f"{before / MIB:.0f} → {left / MIB:.0f} MiB {freed:.1f} s after the grace was over")
    quiet(server, pair, 60)
    rest = disk_octets(spool_of(pair)) / MIB  # what is never given back, and what the history has not read
    lines.append(line("space-back", "s after the grace", freed, 10.0, before_mib=before / MIB, after_mib=left / MIB, at_rest_mib=rest))
    after = resident_kib(server.worker_pids()) * 1024
    lines.append(line("memory-after", "MB", after / MIB, None, before_removal=memory / MIB))
    return lines


def _bulk(pair: Pair, name: str, bar: float | None, *, settle: bool = True) -> Line:
    """One command on all messages, or the undo of the one before."""
    if name == "undo":
        seconds, undone = timed(pair.deep, lambda client: client.queue.undo())
        kind, changed = f"undo-{undone.operation.kind}-all", undone.result.undone
    else:
        seconds, done = timed(pair.deep, lambda client: getattr(client.queue, name)(ALL))
        kind, changed = f"{name}-all", done.changed
    pair.tell(f"{kind}: {changed:,} in {seconds:.2f} s")
    if settle:
        quiet(pair.deep, pair, SETTLE)
    return line(kind, "s", seconds, bar, changed=changed)


# ---- causes


def part_causes(directory: Path, console: Console, messages: int) -> list[Line]:
    """No server: each message was deferred once, by one of 500 hosts."""
    partition = directory / "causes"
    defer_all(partition, messages)
    spool, taken = Spool(str(partition)), []
    try:
        for _ in range(3):
            began = time.perf_counter()
            groups, _, found = spool.causes(100)
            taken.append(time.perf_counter() - began)
    finally:
        spool.close()
        shutil.rmtree(partition, ignore_errors=True)
    console.print(f"  depth: causes of {found:,} in {statistics.median(taken):.2f} s", highlight=False)
    return [line("causes", "s", statistics.median(taken), None, messages=found, groups=len(groups))]


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

STEPS = {
    "restart": part_restart,
    "rates": part_rates,
    "filters": part_filters,
    "down": part_down,
    "retry": part_retry,
    "timers": part_timers,
    "reroute": part_reroute,
    "bulk": part_bulk,
    "space": part_space,
}


def bench(directory: Path, options: Options, console: Console) -> list[Line]:
    """The parts asked for, in order. For benches/run.py and `main`."""
    lines: list[Line] = []
    with_server = [part for part in options.parts if part not in ("causes", "compaction")]
    if with_server:
        what = Fill(options.messages, 2_000, max(1, options.messages // 100), options.messages // 10)
        pair = prepare(directory, what, options.runs, console)
        try:
            for part in with_server:
                lines += STEPS[part](pair)
        finally:
            for server in (pair.deep, pair.empty):
                server.kill()
    if "causes" in options.parts:
        lines += part_causes(directory, console, options.messages)
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
    exit_on_sigterm()
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
