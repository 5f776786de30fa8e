"""A rehearsal of 100,000 recorded decisions, asked of a real server: seconds until the answer is there, and the flips it tells.

Run by hand: `PYTHONPATH=tests .venv/bin/python benches/rehearse.py [--decisions 100000] [--rules 1000] [--handlers 5000]`. The records are
written as workers write them, each another recipient, of 500 clients and senders, a tenth of them logged in. Three drafts are rehearsed:
rules alone, rules with a trust list and sender rules, and those with ten stage policies. Bar: 10 s.
"""

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import closing
from pathlib import Path

import accept_rules
from gatepost.client import GatepostClient
from gatepost.client.rulesets import Rehearsal, source
from gatepost.queue.recorded import Asking, Recorder
from rules_data import Running, fill, line
from support.gatepost import ALICE, Gatepost

LIMIT = 500
SENDERS = 500
RULES = '[rules."far7.test"]\nkind = "discard"\n[rules."far8.test"]\nkind = "reject"\n'
TRUST = (
    '[[trust]]\nname = "office"\naction = "trust"\nnetworks = ["192.0.2.0/28"]\n'
    '[[trust]]\nname = "printer"\naction = "distrust"\nnetworks = ["198.51.100.9/32"]\n'
    f'[[sender_rules]]\nname = "users"\nusers = ["{ALICE}"]\nhost = "smart.example.test"\nallowed_from = ["*"]\n'
    '[[sender_rules]]\nname = "far"\ndomains = ["s1.test"]\nhelo = "out.example.test"\n'
)


def _policies() -> str:
    made = []
    for n, (stage, when) in enumerate(accept_rules.CONDITIONS):
        made.append(f'[[stage_policies]]\nname = "p{n}"\nstage = "{stage}"\naction = "reject"\nwhen = "{when}"\n')
    return "".join(made)


def record(data: Path, decisions: int, rules: int) -> None:
    """As workers do, in files of some days."""
    drawn, recorder, now = random.Random(3), Recorder(data, 0), time.time()
    for part in range(5):
        taken = {}
        for n in range(part, decisions, 5):
            k = drawn.randrange(SENDERS)
            user = ALICE if n % 10 == 0 else ""
            sender = user or f"x@s{k}.test"
            to = drawn.choice([f"user{n % 5}+{n}@d{n % rules}.test", f"nobody{n}@d{n % rules}.test", f"x{n}@far{n % 900}.test"])
            client = f"192.0.2.{k % 200}"
            taken[Asking(sender, to, bool(user), client, user, bool(user), f"mx.s{k}.test", "submission" if user else "smtp")] = 1
        recorder._write(taken, now - part * 86_400)


async def _asked(server: Gatepost, draft: str) -> tuple[float, Rehearsal]:
    async with GatepostClient(server.data) as client:
        text = (await client.rulesets.document()).text + RULES
        begun = time.perf_counter()
        found = await client.rulesets.rehearse(source(text + draft), limit=LIMIT)
        return time.perf_counter() - begun, found


def main() -> None:
    """Fill, record, serve, rehearse."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--rules", type=int, default=1_000)
    parser.add_argument("--handlers", type=int, default=5_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="gatepost-rehearse-") as name:
        server = Gatepost(Path(name), users=[ALICE], workers=1)
        server.add_users()
        fill(server.data / "directory.db", given.rules, given.handlers)
        record(server.data, given.decisions, given.rules)
        with closing(Running(server)):
            drafts = (("rules alone", ""), ("with trust and sender rules", TRUST), ("with 10 stage policies, too", TRUST + _policies()))
            for what, draft in drafts:
                seconds, found = asyncio.run(_asked(server, draft))
                told = f"bar 10; {found.decisions:,} decisions, {found.flip_count:,} flips, {len(found.flips)} told with both traces"
                line(f"rehearse, {what}", seconds, "s", told)


if __name__ == "__main__":
    main()
