"""What many rules cost, against the bars of docs/performance.md: load, decision, memory of a server with two workers, an update of one
handler until every worker has it, and what rules and policies take from the accept bench (accept_rules.py). Prints a table; `make bench`
runs it.

Run by hand: `PYTHONPATH=tests .venv/bin/python benches/rules.py [--rules 100000] [--handlers 1000000] [--no-accept]`. The directory is
filled by SQL. Decisions are asked over addresses drawn at random over all domains, each asked once, so that no remembered decision answers;
known ones, details, patterns and addresses that nobody has are mixed. The update goes through the control plane of a real server, and is
seen when every one of several SMTP connections, which were open before, gets another answer.
"""

import argparse
import asyncio
import gc
import random
import smtplib
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import accept_rules
from gatepost.app.worker import GC_THRESHOLD
from gatepost.client import GatepostClient, Handler
from gatepost.directory import Directory
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RuleSet
from rules_data import Running, fill, line
from support.gatepost import ALICE, Gatepost
from usage import resident_kib

DECISIONS = 20_000
CONNECTIONS = 12
UPDATES = 5


def questions(rules: int, per_rule: int) -> list[Question]:
    """Half of them exact, the others a detail, a prefix, an address without handler, or any of that at an alias domain."""
    drawn, made = random.Random(7), dict[str, Question]()
    while len(made) < DECISIONS:
        k, tail = drawn.randrange(per_rule), drawn.randrange(1_000_000)
        local = drawn.choice([f"user{k}"] * 3 + [f"user{k}+{tail}", f"team9-{tail}", f"nobody{tail}"])
        address = f"{local}@d{drawn.randrange(rules)}.test"
        made[address] = Question("", address, False)
    return list(made.values())


def decisions(rule_set: RuleSet, asked: list[Question]) -> list[float]:
    """Microseconds of each; the collector is set as workers set it."""
    gc.set_threshold(GC_THRESHOLD)
    gc.freeze()
    taken = []
    for question in asked:
        begun = time.perf_counter_ns()
        decide(rule_set, question)
        taken.append((time.perf_counter_ns() - begun) / 1000)
    return sorted(taken)


def load(path: Path) -> tuple[RuleSet, float]:
    """The rule set of a fresh look at the directory, and the seconds it took."""
    directory = Directory(path)
    begun = time.perf_counter()
    found = directory.snapshot()
    return found, time.perf_counter() - begun


def _refused(connections: list[smtplib.SMTP], address: str) -> bool:
    """Whether any of the sessions does not know the address yet."""
    answers = []
    for connection in connections:
        connection.rset()
        connection.mail("a@far.test")
        answers.append(connection.rcpt(address)[0])
    return any(code != 250 for code in answers)


async def _update(server: Gatepost, connections: list[smtplib.SMTP], n: int) -> float:
    domain = f"d{7 + 10 * n}.test"
    async with GatepostClient(server.data) as client:
        begun = time.perf_counter()
        await client.rules.create_handler(domain, Handler("updated", "discard"))
        while _refused(connections, f"updated@{domain}"):
            if time.perf_counter() - begun > 30:
                raise AssertionError("an update was not seen within 30 s")
        return time.perf_counter() - begun


def updates(server: Gatepost) -> float:
    """The longest of some updates, until every connection has seen it."""
    with ExitStack() as stack:
        port = server.port("smtp")
        connections = [stack.enter_context(smtplib.SMTP("127.0.0.1", port, timeout=30)) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.ehlo("bench.test")
        return max(asyncio.run(_update(server, connections, n)) for n in range(UPDATES))


def main() -> None:
    """Fill, load, ask, serve, change; then the accept bench in turns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rules", type=int, default=100_000)
    parser.add_argument("--handlers", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-accept", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="gatepost-rules-") as name:
        server = Gatepost(Path(name), users=[ALICE], workers=2)
        server.add_users()
        path = server.data / "directory.db"
        fill(path, given.rules, given.handlers)
        print(f"rules {given.rules:,}, handlers {given.handlers:,}, workers 2")
        line("load, from the tables", load(path)[1], "s", "bar 3")
        rule_set, seconds = load(path)
        line("load, the file being there", seconds, "s", "bar 3")
        taken = decisions(rule_set, questions(given.rules, max(1, given.handlers // given.rules)))
        line("decision, median", statistics.median(taken), "us", "bar 20")
        line("decision, 99 %", taken[len(taken) * 99 // 100], "us", "")
        del rule_set
        with closing(Running(server)):
            line("update, in every worker", updates(server), "s", "bar 1")
            line("memory, whole server", resident_kib([server.pid]) * 1024 / 1e6, "MB", "bar 600")
        if not given.no_accept:
            accept_rules.show(Path(name), given.rounds, given.messages)


if __name__ == "__main__":
    main()
