"""What rules and policies take from the accept bench: no rules; 1,000 rules and 10 attachment policies, 10 stage policies, 10 open ones.

Called by rules.py; by hand: `PYTHONPATH=tests .venv/bin/python benches/accept_rules.py [--rounds 5] [--messages 4000]`. They take turns,
each with a fresh server. The stage policies are two of each stage from connect to data, mixed as they are in practice, and none holds for
the load: what is measured is being asked. Of the open ones four cannot be ruled out by client, name, sender, recipient, size and needed
texts, so that their conditions are worked out for each message: a rate, sender and recipient together, two of the subject. Rates are
noisy on a small machine; the processor time of the server per message is less so.
"""

import argparse
import sqlite3
import statistics
import tempfile
from contextlib import closing
from pathlib import Path

from gatepost.directory import Directory
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from load import Load
from rules_data import Running, fill, line
from sides import HELD, Figure, measure
from support.gatepost import ALICE, Gatepost

RULES, HANDLERS = 1_000, 5_000
POLICIES = 10
KINDS = ("no rules", "10 attachment policies", "10 stage policies", "10 open stage policies")
CONDITIONS = (
    (Stage.CONNECT, "client.within('203.0.113.0/24')"),
    (Stage.CONNECT, "client.address in ['198.51.100.7', '198.51.100.8', '198.51.100.9']"),
    (Stage.HELO, "client.helo == 'friend' && !client.trusted"),
    (Stage.HELO, "client.helo.startsWith('dsl-') || client.helo.endsWith('.dynamic.test')"),
    (Stage.MAIL, "sender.domain in ['spam.test', 'junk.test', 'offers.test', 'prizes.test']"),
    (Stage.MAIL, "sender.address == 'promo@b.test' && !client.tls"),
    (Stage.RCPT, "recipient.local.startsWith('trap-') && !client.trusted"),
    (Stage.RCPT, "recipient.domain.endsWith('.closed.test') && sender.domain != 'partner.test'"),
    (Stage.DATA, "message.size > 20000000 && !client.trusted"),
    (Stage.DATA, "message.header('subject').exists(s, s.matches('(?i)casino|lottery'))"),
)
OPEN = (
    *CONDITIONS[:4],
    CONDITIONS[4],
    (Stage.MAIL, "rate.client(60) > 1000000"),
    CONDITIONS[6],
    (Stage.RCPT, "sender.domain == recipient.domain && sender.domain != ''"),
    (Stage.DATA, "message.header('subject').exists(s, s.matches('^[A-Z !]{10,}$'))"),
    (Stage.DATA, "message.header('subject').exists(s, s.size() > 500) && sender.domain != 'partner.test'"),
)


def _policies(kind: str, directory: Directory) -> None:
    if kind == KINDS[1]:
        for n in range(POLICIES):
            directory.put_policy(f"p{n}", f'[[rules]]\nname = "r"\naction = "reject"\nextensions = ["x{n}"]\n', author="bench")
    if kind in KINDS[2:]:
        for n, (stage, when) in enumerate(CONDITIONS if kind == KINDS[2] else OPEN):
            entry = StagePolicy(name=f"p{n}", stage=stage, when=when, action=StageAction.REJECT)
            directory.put_entry("stage_policies", entry, author="bench")


def accept(place: Path, kind: str, messages: int) -> Figure:
    """What a server takes with rules and policies of a kind."""
    place.mkdir()
    server = Gatepost(place, users=[ALICE], workers=2)
    server.add_users()
    path = server.data / "directory.db"
    with closing(Directory(path, migrate=True)) as directory:
        _policies(kind, directory)
    if kind != KINDS[0]:
        fill(path, RULES, HANDLERS)
    if kind == KINDS[1]:
        with sqlite3.connect(path) as connection:
            connection.execute(f"UPDATE domain_rules SET policy = 'p' || (id % {POLICIES}) WHERE kind <> 'alias'")
    with closing(Running(server)):
        server.cli("rule", "add", HELD.rpartition("@")[2], "--kind", "hold")
        arrived = lambda: int(server.json("status")["queue"]["messages"])  # noqa: E731  # as short as it is
        return measure(Load(messages), server.port("smtp"), HELD, arrived, wait=False, roots=[server.pid])


def show(place: Path, rounds: int, messages: int) -> None:
    """Measure in turns, print the medians and what is lost."""
    seen: dict[str, list[Figure]] = {kind: [] for kind in KINDS}
    for n in range(rounds):
        for kind in KINDS:
            seen[kind].append(accept(place / f"accept-{n}-{KINDS.index(kind)}", kind, messages))
    rates = {kind: statistics.median(one.rate for one in seen[kind]) for kind in KINDS}
    costs = {kind: statistics.median(one.cpu for one in seen[kind]) for kind in KINDS}
    for kind in KINDS:
        told = "" if kind == KINDS[0] else "1,000 rules, "
        line(f"accept, {told}{kind}", rates[kind], "/s", f"{costs[kind]:.3f} ms of processor time a message")
    for kind in KINDS[1:]:
        more = 100 * (costs[kind] / costs[KINDS[0]] - 1)
        line(f"accept loses, {kind}", 100 * (1 - rates[kind] / rates[KINDS[0]]), "%", f"bar 3; processor time {more:+.1f} %")


def main() -> None:
    """The accept part alone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="gatepost-rules-") as name:
        show(Path(name), given.rounds, given.messages)


if __name__ == "__main__":
    main()
