"""What many rules cost, against the bars of docs/performance.md: load, decision, memory of a server with two workers, an update of one
handler until every worker has it, and what rules and policies take from the accept bench. Prints a table; `make bench` runs it.

Run by hand: `PYTHONPATH=tests .venv/bin/python benches/rules.py [--rules 100000] [--handlers 1000000] [--no-accept]`. The directory is
filled by SQL. Decisions are asked over addresses drawn at random, none of them asked before. The update goes through the control plane of
a real server, and is seen when every one of several SMTP connections, which were open before, gets another answer.
"""

import argparse
import asyncio
import random
import smtplib
import sqlite3
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from gatepost.client import GatepostClient, Handler
from gatepost.directory import Directory
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RuleSet
from load import Load
from sides import HELD, measure
from support.gatepost import ALICE, Gatepost
from usage import resident_kib

DECISIONS = 20_000
CONNECTIONS = 12
UPDATES = 5
POLICIES = 10
ACCEPT_RULES = 1_000
_RULE = (
    "INSERT INTO domain_rules (domain, kind, host, port, tls, implicit_tls, lmtp, username, password_ref, text, accept_untrusted, revision,"
    " settings) VALUES (?, ?, ?, 25, 'opportunistic', 0, 0, '', '', '', 0, 1, ?)"
)
_HANDLER = "INSERT INTO handlers (rule_id, pattern, kind, targets, text) SELECT id, ?, 'forward', ?, '' FROM domain_rules WHERE domain = ?"


def _rule(n: int) -> tuple[str, str, str, str]:
    """Seven of ten gateways, two hosted domains, one alias of the gateway before it."""
    if n % 10 == 9:
        return f"d{n}.test", "alias", "", f'{{"alias_of": "d{n - 9}.test"}}'
    return (f"d{n}.test", "hosted", "", "") if n % 10 > 6 else (f"d{n}.test", "gateway", "mx.example.test", "")


def fill(path: Path, rules: int, handlers: int) -> None:
    """Rules of each kind, with handlers spread over those that are no alias; one handler in ten is a prefix."""
    own = [n for n in range(rules) if n % 10 != 9]
    with sqlite3.connect(path) as connection:
        connection.executemany(_RULE, map(_rule, range(rules)))
        places = ((n, own[n % len(own)], n // len(own)) for n in range(handlers))
        rows = ((f"team{k}-*" if k % 10 == 9 else f"user{k}", f"user{n}@far.test", f"d{d}.test") for n, d, k in places)
        connection.executemany(_HANDLER, rows)


def questions(rules: int, per_rule: int) -> list[Question]:
    """Half of them exact, the others a detail, a prefix, an address without handler, or any of that at an alias domain."""
    drawn, made = random.Random(7), []
    for _ in range(DECISIONS):
        k, tail = drawn.randrange(per_rule), drawn.randrange(1_000_000)
        local = drawn.choice([f"user{k}"] * 5 + [f"user{k}+{tail}", f"team9-{tail}", f"nobody{tail}"])
        made.append(Question("", f"{local}@d{drawn.randrange(rules)}.test", False))
    return made


def decisions(rule_set: RuleSet, asked: list[Question]) -> list[float]:
    """Microseconds of each."""
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


class _Running:
    """A server on a directory that is there already, until it is closed."""

    def __init__(self, server: Gatepost) -> None:
        self.close = server.kill
        server.start()


def accept(place: Path, *, ruled: bool, messages: int) -> float:
    """Messages per second that a server takes, with rules and policies or without."""
    place.mkdir()
    server = Gatepost(place, users=[ALICE], workers=2)
    server.add_users()
    directory = Directory(server.data / "directory.db", migrate=True)
    if ruled:
        for n in range(POLICIES):
            directory.put_policy(f"p{n}", f'[[rules]]\nname = "r"\naction = "reject"\nextensions = ["x{n}"]\n', author="bench")
        fill(server.data / "directory.db", ACCEPT_RULES, 10 * ACCEPT_RULES // 2)
        with sqlite3.connect(server.data / "directory.db") as connection:
            connection.execute(f"UPDATE domain_rules SET policy = 'p' || (id % {POLICIES}) WHERE kind <> 'alias'")
    directory.close()
    with closing(_Running(server)):
        server.cli("rule", "add", HELD.rpartition("@")[2], "--kind", "hold")
        arrived = lambda: int(server.json("status")["queue"]["messages"])  # noqa: E731  # as short as it is
        return measure(Load(messages), server.port("smtp"), HELD, arrived, wait=False, roots=[server.pid]).rate


def line(what: str, seen: float, unit: str, bar: str) -> None:
    """One row of the table."""
    print(f"{what:<34} {seen:10.3f} {unit:<4} {bar}")


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
        with closing(_Running(server)):
            line("update, in every worker", updates(server), "s", "bar 1")
            line("memory, whole server", resident_kib([server.pid]) * 1024 / 1e6, "MB", "bar 600")
        if not given.no_accept:
            rates: dict[bool, list[float]] = {False: [], True: []}
            for n in range(2 * given.rounds):
                ruled = bool(n % 2)
                rates[ruled].append(accept(Path(name) / f"accept{n}", ruled=ruled, messages=given.messages))
            plain, ruled_rate = statistics.median(rates[False]), statistics.median(rates[True])
            line("accept, no rules", plain, "/s", "")
            line("accept, 1,000 rules, 10 policies", ruled_rate, "/s", "")
            line("accept loses", 100 * (1 - ruled_rate / plain), "%", "bar 3")


if __name__ == "__main__":
    main()
