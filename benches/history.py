"""What the history costs and how quickly it answers. Run by itself, or by `run.py --only history`; prints JSON lines as run.py does.

Search: a partition with so many finished messages (1,000,000) is made once in --data and kept for the next run; then the first page of
every kind of question is asked five times of a freshly opened history, as the server asks it; the slowest of the five is the figure.
Cost: two real servers take the same load into mailboxes, in turns, one with history and one without; the CPU is that of all of the
server's processes until everything is delivered and written. Needs tests/ on PYTHONPATH.
"""

import argparse
import json
import select
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from gatepost.native import K_DEFERRED, K_DELIVERED, K_FAILED, History, HistoryFilter, Spool, TracePage
from load import Load
from sides import GatepostSide, measure
from support.gatepost import ALICE, PASSWORD
from support.processes import exit_on_sigterm
from support.programs import exists, imap
from usage import forget_cache

Line = dict[str, Any]

MESSAGES = 1_000_000
BATCH = 500
BODY = b"x" * 2000 + b"\r\n"
MILLISECONDS = 200.0
COST = 0.05
ASKED = 5
PAGE = 100
AGE = 14 * 86_400
OCTETS = 4 << 30


class Partition:
    """A spool that is followed, with messages that come and go in batches."""

    def __init__(self, data: Path) -> None:
        self.spool = Spool(str(data / "spool"), segment_bytes=64 << 20, tailed=True)
        self.history = History(str(data / "history"), self.spool, age_seconds=AGE, max_bytes=OCTETS)
        self._ticket = 0

    def batch(self, number: int) -> None:
        """Accept BATCH messages, and finish all but one in a thousand; one in fifty is deferred first, one in a hundred fails."""
        ids = [self._accept(number * BATCH + n) for n in range(BATCH)]
        self._settle()
        details = [
            b'{"t":1,"outcome":"x","ms":3,"host":"mx%d.rcpt.example[198.51.100.7]:25","code":250,"text":"ok"}' % (number % 500)
        ] * BATCH
        changes = [(one, 0, K_DEFERRED, 0, detail) for one, detail in list(zip(ids, details, strict=True))[::50]]
        for n, (one, detail) in enumerate(zip(ids, details, strict=True)):
            if (number * BATCH + n) % 1000 != 77:
                changes.append((one, 0, K_FAILED if n % 100 == 50 else K_DELIVERED, 0, detail))
        self._ticket += 1
        self.spool.change(self._ticket, changes)
        self._settle()

    def _accept(self, n: int) -> bytes:
        message = self.spool.receive(prefix=b"Received: from x by y with ESMTP\r\n", max_bytes=0)
        head = b"Subject: weekly report number %d for the team\r\nMessage-ID: <m%d@mail.example.org>\r\n\r\n" % (n, n)
        message.feed_raw(head + BODY)
        message.finish()
        meta = b'[["ESMTP","192.0.2.%d",4711,"client%d.example","","","smtp"],"","","7BIT",false,3]' % (n % 250, n % 3000)
        self._ticket += 1
        recipient = (f"user{n % 20_000}@rcpt{n % 1000}.example", "", "local:main", 0, b"[]", 0, False)
        self.spool.commit(self._ticket, message, f"sender{n % 5000}@dom{n % 100}.example", [recipient], meta)
        return bytes(message.message_id)

    def _settle(self) -> None:
        """Until the newest ticket is back."""
        while self._ticket not in {ticket for ticket, _ in self.spool.completions()[0]}:
            select.select([self.spool.event_fd], [], [], 1)

    def close(self) -> dict[str, int]:
        """Everything written; the history's figures."""
        while not self.history.catch_up(60_000):
            time.sleep(0.1)
        figures = self.history.stats()
        self.history.close(60_000)
        self.spool.close()
        return figures


def build(data: Path, messages: int, console: Console) -> None:
    """Make the partition, unless it is there."""
    marker = data / "made.json"
    if marker.exists() and json.loads(marker.read_text())["messages"] == messages:
        return
    data.mkdir(parents=True, exist_ok=True)
    partition, began = Partition(data), time.time()
    moments = []
    for number in range(messages // BATCH):
        partition.batch(number)
        if number % 20 == 19:
            moments.append(time.time_ns() // 1000)
            partition.history.catch_up(60_000)
    figures = partition.close()
    console.print(f"  made {messages} messages in {time.time() - began:.0f} s")
    made = {"messages": messages, "moments": moments, "cpu_us": figures["cpu_us"] / messages, "octets": figures["bytes"] / messages}
    marker.write_text(json.dumps(made))


def questions(messages: int, moments: list[int]) -> Iterator[tuple[str, HistoryFilter, dict[str, Any]]]:
    """Name, filter, and what else the search is given."""
    third, middle, later = messages // 3, moments[len(moments) // 2], moments[len(moments) // 2 + max(1, len(moments) // 10)]
    yield "newest", {}, {}
    yield "message-id", {"header_id": f"<m{third}@mail.example.org>"}, {}
    yield "sender", {"sender": "sender7@dom7.example"}, {}
    yield "sender-domain", {"sender": "dom7.example"}, {}
    yield "recipient", {"recipient": "user77@rcpt77.example"}, {}
    yield "recipient-nobody", {"recipient": "nobody@nowhere.example"}, {}
    yield "subject-common", {"subject": "weekly report"}, {}
    yield "subject-rare", {"subject": f"report {third}"}, {}
    yield "host", {"host": "mx3.rcpt.example"}, {}
    yield "client", {"host": "192.0.2.7"}, {}
    yield "time", {"since": middle, "until": middle + 1_000_000}, {}
    yield "outcome-failed", {"outcome": "FAILED"}, {}
    yield "outcome-pending", {"outcome": "PENDING"}, {}
    yield "outcome-none", {"outcome": "EXPIRED"}, {}
    yield "glob-local-part", {"sender": "sender7@*"}, {}
    yield "glob-own-domain", {"recipient": "user19*@rcpt77.example"}, {}
    yield "glob-inner", {"recipient": "*r1777@*"}, {}
    yield "glob-single", {"recipient": "user?7@rcpt*"}, {}
    yield "glob-nobody", {"recipient": "nobody*"}, {}
    yield "glob-all", {"sender": "*@*"}, {}
    yield "combined", {"sender": "dom7.example", "outcome": "DELIVERED", "host": "192.0.2.7"}, {}
    yield "combined-glob", {"sender": "sender7*", "recipient": "*@rcpt7.example", "outcome": "FAILED"}, {}
    yield "at", {}, {"at": middle, "ascending": True}
    yield "at-first", {}, {"at": moments[0], "ascending": True}
    yield "at-recipient", {"recipient": "rcpt77.example"}, {"at": middle, "ascending": True}
    yield "diff", {}, {"at": middle, "later": later, "ascending": True}
    yield "diff-all", {}, {"at": moments[0], "later": moments[-1], "ascending": True}
    yield "diff-passed", {}, {"at": middle, "later": later, "passed": True, "ascending": True}


def bench_search(data: Path, messages: int, console: Console) -> list[Line]:
    """Milliseconds to the first page, over all that is there: first with the files out of the system's cache, then from it."""
    build(data, messages, console)
    made = json.loads((data / "made.json").read_text())
    history = History(str(data / "history"), None, age_seconds=AGE, max_bytes=OCTETS)
    lines = []
    for name, wanted, more in questions(messages, made["moments"]):

        def ask(wanted: HistoryFilter = wanted, more: dict[str, Any] = more) -> TracePage:
            return history.search(wanted, limit=PAGE, milliseconds=10_000, **more)

        forget_cache(data / "history")
        lines.append(_asked(f"history-{name}", ask, console))
    one = history.search({}, limit=1)[0][0][0]
    lines.append(_asked("history-id", lambda: history.find(one, one, 2), console))
    lines.append(line("history-writer", "us/msg", made["cpu_us"], None))
    console.print(f"  writer {made['cpu_us']:.1f} us of CPU and {made['octets']:.0f} octets a message")
    return lines


def _asked(name: str, ask: Callable[[], TracePage], console: Console) -> Line:
    taken = []
    for _ in range(ASKED):
        began = time.perf_counter()
        page = ask()
        taken.append((time.perf_counter() - began) * 1000)
    made = line(name, "ms", max(taken), MILLISECONDS)
    made["cold"], made["median"], made["rows"] = round(taken[0], 2), round(statistics.median(taken), 2), len(page[0])
    console.print(f"  {name:<26} first {taken[0]:7.1f} ms, median {made['median']:7.1f} ms, {made['rows']} rows")
    return made


def bench_cost(load: Load, runs: int, workers: int, directory: Path, console: Console) -> list[Line]:
    """CPU seconds per 1,000 messages into mailboxes, with and without history."""
    taken: dict[str, list[float]] = {"on": [], "off": []}
    for number in range(runs):
        for name, days in (("on", 14), ("off", 0)):
            figure = _delivered(GatepostSide(directory, workers), load, days)
            taken[name].append(figure)
            console.print(f"  cost {number + 1}/{runs} history {name:<3} CPU s/1000: {figure:.3f}")
    on, off = statistics.median(taken["on"]), statistics.median(taken["off"])
    made = line("history-cost", "share of CPU", on / off - 1, COST)
    made["on"], made["off"] = round(on, 4), round(off, 4)
    return [made]


def _delivered(side: GatepostSide, load: Load, days: int) -> float:
    """CPU seconds per 1,000; a question at the end makes the history write what it has not written yet."""
    with side.server(history={"days": days}) as server, imap(server.port("imaps"), ALICE, PASSWORD) as client:

        def arrived() -> int:
            count = exists(client)
            if days and count >= load.messages:
                server.json("trace", "--limit", "1")
            return count

        return measure(load, server.port("smtp"), ALICE, arrived, wait=True, roots=[server.pid]).cpu


def line(name: str, unit: str, value: float, bar: float | None) -> Line:
    """As run.py prints it; there is no peer that keeps a history."""
    met = None if bar is None else value <= bar
    return {"bench": name, "unit": unit, "gatepost": round(value, 4), "peer": None, "ratio": None, "bar": bar, "met": met, "peers": {}}


def bench(load: Load, runs: int, workers: int, directory: Path, console: Console, messages: int = MESSAGES) -> list[Line]:
    """Both halves, in a directory that is the caller's to remove."""
    return bench_search(directory / "history-data", messages, console) + bench_cost(load, runs, workers, directory, console)


def main() -> int:
    """Run it alone."""
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="finished messages to search (default %(default)s)")
    parser.add_argument(
        "--data", type=Path, default=Path("/var/tmp/gatepost-history-data"), help="where they are kept (default %(default)s)"
    )
    parser.add_argument("--only", choices=("search", "cost"), help="one half")
    parser.add_argument("--runs", type=int, default=5, help="times each server is measured (default %(default)s)")
    parser.add_argument("--load", type=int, default=5000, help="messages each server takes (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="their workers (default %(default)s)")
    options = parser.parse_args()
    console, lines = Console(stderr=True), []
    if options.only != "cost":
        lines += bench_search(options.data, options.messages, console)
    if options.only != "search":
        with tempfile.TemporaryDirectory(prefix="gatepost-bench-", dir="/var/tmp") as directory:
            lines += bench_cost(Load(options.load), options.runs, options.workers, Path(directory), console)
    for one in lines:
        print(json.dumps(one), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
