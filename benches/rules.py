"""What many rules cost: load, memory of two workers, decision, and an update until it is in force. Prints a table.

Run by hand: `.venv/bin/python benches/rules.py [--rules 100000] [--handlers 1000000]`. The directory is filled by SQL, then read as a
worker reads it, in two processes at once; decisions are asked in one of them, over addresses drawn at random, none of them remembered.
"""

import argparse
import multiprocessing
import random
import sqlite3
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from gatepost.directory import Directory
from gatepost.routing.decide import decide
from gatepost.routing.model import AddressHandler, HandlerKind, Question, RouteKind
from usage import resident_kib

DECISIONS = 20_000
WORKERS = 2
_RULE = (
    "INSERT INTO domain_rules"
    " (id, domain, kind, host, port, tls, implicit_tls, lmtp, username, password_ref, text, accept_untrusted, revision)"
    " VALUES (?, ?, 'gateway', 'mx.example.test', 25, 'opportunistic', 0, 0, '', '', '', 0, 1)"
)
_HANDLER = "INSERT INTO handlers (rule_id, pattern, kind, targets, text) VALUES (?, ?, 'forward', ?, '')"


def fill(path: Path, rules: int, handlers: int) -> None:
    """A directory of `rules` gateway domains with `handlers` forwards spread over them."""
    Directory(path, migrate=True).close()
    with sqlite3.connect(path) as connection:
        connection.executemany(_RULE, ((n + 1, f"d{n}.test") for n in range(rules)))
        rows = ((n % rules + 1, f"user{n // rules}", f"user{n}@far.test") for n in range(handlers))
        connection.executemany(_HANDLER, rows)


def worker(path: str, rules: int, per_rule: int, wire: Connection) -> None:
    """Load, tell how long it took, then decide or reload as told."""
    directory = Directory(Path(path))
    begun = time.perf_counter()
    rule_set = directory.snapshot()
    wire.send(time.perf_counter() - begun)
    while (order := wire.recv()) != "end":
        if order == "decide":
            wire.send(_decisions(rule_set, rules, per_rule))
            continue
        begun = time.perf_counter()
        rule_set = directory.snapshot()
        decision = decide(rule_set, Question("", "updated@d0.test", False))
        assert decision.routes[0].kind is RouteKind.DISCARD
        wire.send(time.perf_counter() - begun)


def _decisions(rule_set: object, rules: int, per_rule: int) -> list[float]:
    """Microseconds of each decision."""
    drawn = random.Random(7)
    asked = [f"user{drawn.randrange(2 * per_rule)}@d{drawn.randrange(rules)}.test" for _ in range(DECISIONS)]
    taken = []
    for recipient in asked:
        begun = time.perf_counter_ns()
        decide(rule_set, Question("", recipient, False))  # type: ignore[arg-type]
        taken.append((time.perf_counter_ns() - begun) / 1000)
    return taken


def main() -> None:
    """Fill, load twice, ask, change."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", type=int, default=100_000)
    parser.add_argument("--handlers", type=int, default=1_000_000)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        path = Path(place) / "directory.db"
        fill(path, given.rules, given.handlers)
        started = []
        for _ in range(WORKERS):
            ours, theirs = context.Pipe()
            process = context.Process(target=worker, args=(str(path), given.rules, max(1, given.handlers // given.rules), theirs))
            process.start()
            started.append((process, ours))
        loads = [wire.recv() for _, wire in started]
        memory = resident_kib([process.pid or 0 for process, _ in started]) / 1024
        started[0][1].send("decide")
        taken = sorted(started[0][1].recv())
        directory = Directory(path, migrate=True)
        begun = time.perf_counter()
        directory.put_handler("d0.test", AddressHandler("updated", HandlerKind.DISCARD), create=True, author="bench")
        for _, wire in started:
            wire.send("reload")
        for _, wire in started:
            wire.recv()
        visible = time.perf_counter() - begun
        for process, wire in started:
            wire.send("end")
            process.join()
    print(f"rules {given.rules:,}, handlers {given.handlers:,}, workers {WORKERS}")
    print(f"load               {max(loads):8.2f} s      bar 3")
    print(f"memory, both       {memory:8.0f} MiB    bar 600 MB")
    print(f"decision, median   {statistics.median(taken):8.1f} us     bar 20")
    print(f"decision, 99 %     {taken[len(taken) * 99 // 100]:8.1f} us")
    print(f"update in force in {visible:8.2f} s      bar 1")


if __name__ == "__main__":
    main()
