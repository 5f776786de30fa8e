"""`make bench`: Gatepost beside Postfix (and Dovecot) on this machine, in one run, on one disk, under one load.

For each bench the two servers take turns, each time freshly started; the medians are compared. Prints a table and one JSON line per bench:
{"bench": "accept", "gatepost": msg/s, "peer": msg/s, "ratio": …}. Without the peers, or without root to start them, only Gatepost is
measured ("peer" and "ratio" are null). It fails on errors, never on a low figure. Bars of this version: accept 2, mailbox 3, relay 1.5.
Needs tests/ on PYTHONPATH, where the servers' fixtures live; the Makefile sees to it.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from load import Load
from sides import GatepostSide, PostfixSide
from support import dovecot, postfix
from support.processes import find

BENCHES = ("accept", "accept-to-mailbox", "relay")
METHODS = {"accept": "accept", "accept-to-mailbox": "mailbox", "relay": "relay"}
BARS = {"accept": 2.0, "accept-to-mailbox": 3.0, "relay": 1.5}
Side = PostfixSide | GatepostSide


@dataclass(slots=True)
class Result:
    """Figures of one bench, messages per second, in the order they were taken."""

    bench: str
    gatepost: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, str | float | None]:
        """The JSON line."""
        ours = round(statistics.median(self.gatepost), 1) if self.gatepost else None
        peers = round(statistics.median(self.peer), 1) if self.peer else None
        ratio = round(ours / peers, 2) if ours and peers else None
        return {"bench": self.bench, "gatepost": ours, "peer": peers, "ratio": ratio}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHES, action="append", help="this bench only (may be repeated)")
    parser.add_argument("--side", choices=("gatepost", "peer"), help="this side only")
    parser.add_argument("--runs", type=int, default=3, help="times each side is measured (default %(default)s)")
    parser.add_argument("--messages", type=int, default=5000, help="messages per run (default %(default)s)")
    parser.add_argument("--octets", type=int, default=10_000, help="size of a message (default %(default)s)")
    parser.add_argument("--sessions", type=int, default=20, help="connections at once (default %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="Gatepost's workers (default: cores, %(default)s)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where both keep their data (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one run of 1,000 messages")
    return parser.parse_args()


def peer_for(bench: str, directory: Path, console: Console) -> PostfixSide | None:
    """The peer, or None after saying why there is none."""
    if not postfix.available():
        console.print(f"{bench}: Postfix is not installed or we are not root: no peer")
        return None
    if bench == "accept-to-mailbox" and not dovecot.available():
        console.print(f"{bench}: Dovecot 2.3 is not installed: no peer")
        return None
    return PostfixSide(directory)


def take_turns(bench: str, sides: list[Side], load: Load, runs: int, console: Console) -> Result:
    """Measure every side `runs` times, one after the other."""
    result = Result(bench)
    for number in range(runs):
        for side in sides:
            measured: Callable[[Load], float] = getattr(side, METHODS[bench])
            rate = measured(load)
            (result.gatepost if isinstance(side, GatepostSide) else result.peer).append(rate)
            console.print(f"  {bench} {number + 1}/{runs} {side.name:<9} {rate:8.0f} msg/s")
    return result


def show(results: list[Result], load: Load, console: Console) -> None:
    """The table, then the JSON lines."""
    table = Table(title=f"{load.messages} messages of {load.octets} octets, {load.sessions} sessions, a connection each; msg/s, medians")
    for heading in ("bench", "Gatepost", "peer", "ratio", "bar"):
        table.add_column(heading, justify="left" if heading == "bench" else "right")
    for result in results:
        line = result.summary()
        cells = [f"{line[key]:,}" if line[key] is not None else "-" for key in ("gatepost", "peer", "ratio")]
        table.add_row(result.bench, *cells, str(BARS[result.bench]))
    console.print(table)
    for result in results:
        print(json.dumps(result.summary()), flush=True)


def main() -> int:
    """Run what was asked for."""
    options = arguments()
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 110)
    if find("smtp-source") is None or find("smtp-sink") is None:
        console.print("smtp-source and smtp-sink are missing; they come with Postfix (on Debian: apt-get install postfix)")
        return 1
    load = Load(1000 if options.quick else options.messages, options.octets, options.sessions)
    directory = Path(tempfile.mkdtemp(prefix="gatepost-bench-", dir=options.directory))
    directory.chmod(0o755)
    results = []
    try:
        for bench in options.only or BENCHES:
            sides: list[Side] = []
            if options.side != "gatepost" and (peer := peer_for(bench, directory, console)) is not None:
                sides.append(peer)
            if options.side != "peer":
                sides.append(GatepostSide(directory, options.workers))
            results.append(take_turns(bench, sides, load, 1 if options.quick else options.runs, console))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(results, load, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
