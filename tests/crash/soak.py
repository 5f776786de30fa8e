"""The process soak: the real server under mixed load, killed at random moments, round after round; then every message is accounted for.

    PYTHONPATH=tests python tests/crash/soak.py --rounds 100 --seed 7

A round: some load, then SIGKILL to a worker, to all workers, to the supervisor or to everything, or a restart with another number of
workers. At the end the remote side that took nothing opens, the queue runs empty, and the ledger judges: nothing acknowledged is lost,
nothing local is there twice, nothing removed comes back. Prints its seed, a line per round and every fault with the message's id and what
the server's log says of it. The seed repeats the choices, not the timing. Exit status 1 when there is a fault. `run` is what
tests/crash/test_soak.py calls for a few rounds.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from soak_ledger import Ledger, Verdict, Word
from soak_load import FAST, SLOW, Operator, Sender
from soak_sink import Sink

from gatepost.client import GatepostError
from gatepost.client.values import QueueFilter
from support.gatepost import ALICE, BOB, PASSWORD, Gatepost
from support.processes import wait_until
from support.programs import imap
from support.sdk import call, queue

SENDERS = 3
DRAIN_SECONDS = 150.0
PROGRESS_SECONDS = 20.0
LOG_LINES = 12


@dataclass(slots=True)
class Result:
    """What a run found, and how much it did."""

    seed: int
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    doubtful: int = 0
    removed: int = 0
    actions: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    notes: list[str] = field(default_factory=list)
    """Faults that concern no single message."""

    @property
    def faults(self) -> list[str]:
        """All of them, in words."""
        return self.notes + [f"{text} [{queue_id or 'no id'}]" for queue_id, text in self.verdict.faults]

    def summary(self) -> str:
        """One line of figures."""
        kills = ", ".join(f"{count} × {what}" for what, count in sorted(self.kills.items()))
        return (
            f"seed {self.seed}: {self.rounds} rounds ({kills}); {self.acknowledged} acknowledged, {self.doubtful} in doubt, "
            f"{self.removed} removed, {self.actions} operator actions, {self.verdict.remote_repeats} remote repeats, "
            f"{len(self.faults)} faults"
        )


class Soak:
    """One server and its tormentor."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._ledger = Ledger()
        self.result = Result(seed)
        queue_settings = {"retry_initial_seconds": 1, "retry_max_seconds": 3, "undo_seconds": 3}
        self._server = Gatepost(
            directory, workers=2, spool={"segment_bytes": 1 << 20, "min_free_bytes": 0}, queue=queue_settings, log={"level": "info"}
        )

    def run(self, rounds: int, until: float) -> Result:
        """At most so many rounds, none begun after `until` (monotonic)."""
        seed = self.result.seed
        with Sink(seed) as fast, Sink(seed + 1, closed=True) as slow, self._server as server:
            for domain, sink in ((FAST, fast), (SLOW, slow)):
                server.cli("rule", "add", domain, "--kind", "gateway", "--host", "127.0.0.1", "--port", str(sink.port))
            threads = self._start_load()
            try:
                while self.result.rounds < rounds and time.monotonic() < until:
                    self._round()
            finally:
                self._over.set()
                for thread in threads:
                    thread.join(60)
            self.result.actions = threads[0].actions if isinstance(threads[0], Operator) else 0
            self._finish(fast, slow)
        return self.result

    def _start_load(self) -> list[threading.Thread]:
        def port() -> int:
            return self._server.port("smtp")

        chance = self._chance
        threads: list[threading.Thread] = [Operator(lambda: str(self._server.data), self._ledger, self._over, chance.randrange(1 << 30))]
        threads += [
            Sender(f"s{number}", port, (ALICE, BOB), self._ledger, self._over, chance.randrange(1 << 30)) for number in range(SENDERS)
        ]
        for thread in threads:
            thread.start()
        return threads

    # ---- one round

    def _round(self) -> None:
        self.result.rounds += 1
        began = time.monotonic()
        if self._chance.random() < 0.75:
            self._wait_for_mail()
        time.sleep(self._chance.uniform(0.0, 1.0))
        kind = self._chance.choices(["worker", "workers", "supervisor", "everything", "restart"], [8, 2, 2, 2, 1])[0]
        getattr(self, f"_kill_{kind}")()
        self.result.kills[kind] += 1
        acknowledged = self._ledger.count(Word.YES)
        print(f"round {self.result.rounds}: {kind}, {acknowledged} acknowledged, {time.monotonic() - began:.1f} s", flush=True)

    def _wait_for_mail(self) -> None:
        """Most rounds begin with a server that takes mail again; the others kill while it recovers."""
        before, until = self._ledger.count(Word.YES), time.monotonic() + PROGRESS_SECONDS
        while self._ledger.count(Word.YES) < before + 10 and time.monotonic() < until:
            time.sleep(0.05)

    def _kill_worker(self) -> None:
        pids = self._pids()
        if pids:
            _kill(self._chance.choice(pids))
        if self._chance.random() < 0.3:  # sometimes again while it recovers
            time.sleep(self._chance.uniform(0, 1.0))
            for pid in self._pids()[:1]:
                _kill(pid)

    def _kill_workers(self) -> None:
        for pid in self._pids():
            _kill(pid)

    def _kill_supervisor(self) -> None:
        assert self._server.process is not None
        self._server.process.kill()  # its workers drain and leave by themselves
        self._server.process.wait(10)
        self._start()

    def _kill_everything(self) -> None:
        self._server.kill()
        self._start()

    def _kill_restart(self) -> None:
        self._server.stop()
        self._start()

    def _start(self) -> None:
        self._server.settings["workers"] = self._chance.choice([1, 2, 2, 3])
        self._server.start(90)

    def _pids(self) -> list[int]:
        with contextlib.suppress(OSError, ValueError):
            return [pid for pid in self._server.worker_pids() if pid]
        return []

    # ---- the end

    def _finish(self, fast: Sink, slow: Sink) -> None:
        """Let everything out, then judge."""
        slow.closed = False
        server, result = self._server, self.result
        self._settle("all workers are back", server.cli_ready, 60)
        self._settle("the queue is empty", self._emptied, DRAIN_SECONDS)
        boxes = {user: subjects(server, user) for user in (ALICE, BOB)}
        result.acknowledged, result.doubtful = self._ledger.count(Word.YES), self._ledger.count(Word.DOUBT)
        result.removed = self._ledger.removals()
        result.verdict = self._ledger.judge(boxes, fast.received + slow.received)
        self._read_log()

    def _settle(self, what: str, probe: Callable[[], bool], seconds: float) -> None:
        try:
            wait_until(probe, seconds, what, 0.5)
        except AssertionError as problem:
            self.result.notes.append(str(problem))

    def _emptied(self) -> bool:
        waiting = queue(self._server)
        if not waiting:
            return True
        with contextlib.suppress(GatepostError):  # a message may be gone by now
            call(self._server, lambda client: client.queue.release(QueueFilter(held=True)))
            call(self._server, lambda client: client.queue.retry([one.message_id for one in waiting[:20]]))
        return False

    def _read_log(self) -> None:
        """Damage after mere kills, and traces, are faults too; each lost message gets the log lines that name it."""
        lines = self._server.log().splitlines()
        damaged = [line for line in lines if re.search(r"""damaged["']?: ?\[["']""", line)]
        if damaged:
            self.result.notes.append(f"recovery found damage after mere kills: {damaged[0][:600]}")
        traces = [number for number, line in enumerate(lines) if _is_trace(line, "".join(lines[number + 1 : number + 2]))]
        if traces:
            self.result.notes.append(f"{len(traces)} traces in the log, the first: {' | '.join(lines[traces[0] : traces[0] + 20])[:1500]}")
        for queue_id, text in self.result.verdict.faults[:20]:
            print(f"fault: {text} [{queue_id}]")
            for line in [line for line in lines if queue_id and queue_id in line][:LOG_LINES]:
                print(f"    {line[:300]}")


def subjects(server: Gatepost, user: str) -> Counter[str]:
    """How often each subject is in the user's INBOX."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        if int(client.select("INBOX", readonly=True)[1][0] or 0) == 0:
            return Counter()
        _, answers = client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    lines = [answer[1] for answer in answers if isinstance(answer, tuple)]
    return Counter(match[1].decode() for line in lines if (match := re.search(rb"Subject: (\S+)", line)))


def _is_trace(line: str, following: str) -> bool:
    """A trace of ours; grpc prints one of its own for each call that a stop cancels."""
    return '"exception"' in line or (line.startswith("Traceback") and "grpc/_cython" not in following)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run(directory: Path, *, rounds: int, seed: int, seconds: float) -> Result:
    """Soak in `directory`; no round begins after `seconds`."""
    print(f"soak: seed {seed}, {rounds} rounds, data in {directory}", flush=True)
    return Soak(directory, seed).run(rounds, time.monotonic() + seconds)


def main() -> int:
    """Command line. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Kill the real server under load, then account for every message.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 30)))
    parser.add_argument("--seconds", type=float, default=1800, help="no round begins after so many seconds")
    parser.add_argument("--keep", type=Path, help="leave the data here instead of in a temporary directory")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        place = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-soak-")))
        place.mkdir(parents=True, exist_ok=True)
        result = run(place, rounds=options.rounds, seed=options.seed, seconds=options.seconds)
    for fault in result.faults:
        print(f"FAULT {fault}")
    print(result.summary())
    if result.rounds < options.rounds:
        print(f"time was up: {result.rounds} of {options.rounds} rounds")
    return 1 if result.faults else 0


if __name__ == "__main__":
    sys.exit(main())
