"""`make bench`: Gatepost beside Postfix, Dovecot, Exim and OpenSMTPD on this machine, in one run, on one disk, under one load.

For each bench the sides take turns, each time freshly started; medians are compared. Prints a table on stderr and JSON lines on stdout:
{"bench", "unit", "gatepost", "peer", "ratio", "bar", "met", "peers", …}; what has no peer or was not measured is null. It fails on errors
of a server, never on a low figure. Needs tests/ on PYTHONPATH, where the servers' fixtures live; the Makefile sees to it.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import depth
import history
import idle
from load import Load, disk_rate
from peers import EximSide, OpenSmtpdSide
from sides import Figure, GatepostSide, PostfixSide
from support import dovecot, postfix
from support.processes import exit_on_sigterm, find

Side = PostfixSide | GatepostSide | EximSide | OpenSmtpdSide
Line = dict[str, Any]

RATES = {"accept": 5.0, "accept-kept": 5.0, "accept-1mb": 4.0, "accept-to-mailbox": 8.0, "relay": 4.0}
METHODS = {"accept-to-mailbox": "mailbox", "relay": "relay"}
BENCHES = (*RATES, "latency", "idle")
CPU_BAR = 0.25


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*BENCHES, "history", "depth"), action="append", help="this bench only (may be repeated)")
    parser.add_argument("--side", choices=("gatepost", "peer"), help="this side only")
    parser.add_argument("--runs", type=int, default=5, help="times each side is measured (default %(default)s)")
    parser.add_argument("--messages", type=int, default=5000, help="messages per run (default %(default)s)")
    parser.add_argument("--octets", type=int, default=10_000, help="size of a message (default %(default)s)")
    parser.add_argument("--sessions", type=int, default=20, help="connections at once (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Gatepost's workers (default: cores, %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where all keep their data (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one run of 1,000 messages, a tenth of the idle sessions")
    return parser.parse_args()


def load_for(bench: str, options: argparse.Namespace) -> Load:
    """What one run of a bench sends."""
    load = Load(1000 if options.quick else options.messages, options.octets, options.sessions)
    if bench == "accept-kept":
        return replace(load, kept=True)
    if bench == "accept-1mb":
        return replace(load, messages=max(load.messages // 10, 100), octets=1_000_000)
    return load


def sides_for(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Side]:
    """Who takes part; says who cannot."""
    found: list[Side] = []
    if options.side != "gatepost":
        if not postfix.available():
            console.print(f"{bench}: Postfix is not installed or we are not root: no peer")
        elif bench == "accept-to-mailbox" and not dovecot.available():
            console.print(f"{bench}: Dovecot 2.3 is not installed: no peer")
        else:
            found.append(PostfixSide(directory))
        if bench in ("accept", "accept-kept", "latency"):
            for peer in (EximSide, OpenSmtpdSide):
                if peer.available():
                    found.append(peer(directory))
                else:
                    console.print(f"{bench}: {peer.name} is not installed (see benches/peers.py): left out")
    if options.side != "peer":
        found.append(GatepostSide(directory, options.workers))
    return found


def compared(bench: str, unit: str, figures: dict[str, float], bar: float | None, *, below: bool = False) -> Line:
    """A JSON line from the sides' medians. `below`: less is better, and the bar is the most that the ratio may be."""
    ours, peer = figures.get("Gatepost"), figures.get("Postfix")
    ratio = round(ours / peer, 3) if ours and peer else None
    met = None if ratio is None or bar is None else ratio <= bar if below else ratio >= bar
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return {
        "bench": bench,
        "unit": unit,
        "gatepost": rounded.get("Gatepost"),
        "peer": rounded.get("Postfix"),
        "ratio": ratio,
        "bar": bar,
        "met": met,
        "peers": {name: value for name, value in rounded.items() if name not in ("Gatepost", "Postfix")},
    }


def bench_rate(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Line]:
    """Messages per second, and the CPU they took."""
    load = load_for(bench, options)
    taken: dict[str, list[Figure]] = {}
    sides = sides_for(bench, options, directory, console)
    for number in range(options.runs):
        for side in sides:
            measured: Callable[[Load], Figure] = getattr(side, METHODS.get(bench, "accept"))
            figure = measured(load if isinstance(side, PostfixSide | GatepostSide) else replace(load, messages=min(load.messages, 1000)))
            taken.setdefault(side.name, []).append(figure)
            console.print(
                f"  {bench} {number + 1}/{options.runs} {side.name:<9} {figure.rate:8.1f} msg/s   "
                f"CPU s/1000: server {figure.cpu:6.3f}, machine {figure.machine:6.3f}"
            )
    rates = {name: statistics.median(figure.rate for figure in figures) for name, figures in taken.items()}
    cpu = {name: statistics.median(figure.cpu for figure in figures) for name, figures in taken.items()}
    machine = {name: statistics.median(figure.machine for figure in figures) for name, figures in taken.items()}
    line = compared(bench, "msg/s", rates, RATES[bench])
    if bench == "accept-1mb":
        _against_the_disk(line, load, directory)
    bar = CPU_BAR if bench in ("accept", "relay") else None
    return [
        line,
        compared(f"{bench}-cpu", "CPU s/1000 msg", cpu, bar, below=True),
        compared(f"{bench}-cpu-machine", "CPU s/1000 msg", machine, None, below=True),
    ]


def _against_the_disk(line: Line, load: Load, directory: Path) -> None:
    """The bar is the lower of two: the peer's rate times four, or four fifths of what the disk writes in sequence."""
    rate = statistics.median(disk_rate(directory) for _ in range(3))
    line["disk_octets_per_second"] = round(rate)
    line["share_of_disk"] = round((line["gatepost"] or 0) * load.octets / rate, 3)
    line["met"] = None if line["gatepost"] is None else bool(line["met"]) or line["share_of_disk"] >= 0.8


def bench_latency(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Line]:
    """Milliseconds from connect to the acknowledgement of the data, one message at a time."""
    taken: dict[str, list[list[float]]] = {}
    sides = sides_for(bench, options, directory, console)
    for number in range(options.runs):
        for side in sides:
            milliseconds = sorted(1000 * one for one in side.latency())
            taken.setdefault(side.name, []).append([_rank(milliseconds, 0.50), _rank(milliseconds, 0.99)])
            p50, p99 = taken[side.name][-1]
            console.print(f"  {bench} {number + 1}/{options.runs} {side.name:<9} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms")
    lines = []
    for place, name in enumerate(("p50", "p99")):
        medians = {side: statistics.median(run[place] for run in runs) for side, runs in taken.items()}
        lines.append(compared(f"{bench}-{name}", "ms", medians, 1.0, below=True))
    return lines


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def bench_idle(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Line]:
    """KB of memory for each idle session."""
    if options.side == "peer":
        return []
    lines = []
    for kind in idle.KINDS:
        size = idle.measure(GatepostSide(directory, options.workers), kind, 10 if options.quick else 1)
        console.print(f"  {bench} {kind.name}: {size:.1f} KB each")
        line = compared(kind.name, "KB/session", {"Gatepost": size}, kind.bar, below=True)
        line["met"] = None if kind.bar is None else size <= kind.bar
        lines.append(line)
    return lines


def bench_history(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Line]:
    """What the history costs, and its first pages; there is no peer that keeps one."""
    if options.side == "peer":
        return []
    messages = history.MESSAGES // 20 if options.quick else history.MESSAGES
    return history.bench(load_for(bench, options), options.runs, options.workers, directory, console, messages)


def bench_depth(bench: str, options: argparse.Namespace, directory: Path, console: Console) -> list[Line]:
    """A million queued messages beside none; there is no peer whose queue can be filled in time."""
    if options.side == "peer":
        return []
    return depth.bench(directory, depth.Options(100_000, 1) if options.quick else depth.Options(), console)


RUNS = {"latency": bench_latency, "idle": bench_idle, "history": bench_history, "depth": bench_depth}


def show(lines: list[Line], options: argparse.Namespace, console: Console) -> None:
    """The table, then the JSON lines."""
    table = Table(title=f"{options.messages} messages of {options.octets} octets, {options.sessions} sessions; medians of {options.runs}")
    for heading in ("bench", "unit", "Gatepost", "Postfix", "ratio", "bar", "met", "others"):
        table.add_column(heading, justify="left" if heading in ("bench", "unit", "others") else "right")
    for line in lines:
        cells = [f"{line[key]:,}" if line[key] is not None else "-" for key in ("gatepost", "peer", "ratio", "bar")]
        met = {None: "", True: "yes", False: "no"}[line["met"]]
        table.add_row(line["bench"], line["unit"], *cells, met, ", ".join(f"{name} {value:,}" for name, value in line["peers"].items()))
    console.print(table)
    for line in lines:
        print(json.dumps(line), flush=True)


def main() -> int:
    """Run what was asked for."""
    exit_on_sigterm()
    options = arguments()
    if options.quick:
        options.runs, options.messages = 1, 1000
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 130)
    if find("smtp-source") is None or find("smtp-sink") is None:
        console.print("smtp-source and smtp-sink are missing; they come with Postfix (on Debian: apt-get install postfix)")
        return 1
    directory = Path(tempfile.mkdtemp(prefix="gatepost-bench-", dir=options.directory))
    directory.chmod(0o755)
    lines: list[Line] = []
    try:
        for bench in options.only or BENCHES:
            lines += RUNS.get(bench, bench_rate)(bench, options, directory, console)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(lines, options, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
