"""No acknowledged message is lost, none is delivered twice, when workers are killed at random moments under load.

Guards against: a 250 before the data is on disk; a local delivery repeated after a death between mailbox commit and queue record;
a partition that does not recover. 5,000 messages go in, part of them by Postfix's smtp-source, part by senders of our own that write down
each message a 250 was given for, so that those can be looked for one by one.
"""

import contextlib
import os
import random
import re
import signal
import smtplib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, Gatepost
from support.processes import find, need, wait_until
from support.programs import imap

OWN_MESSAGES = int(os.environ.get("GATEPOST_KILL_MESSAGES", "2500"))
SOURCE_MESSAGES = OWN_MESSAGES
SENDERS = 6
SOURCE_BATCH = 25
KILLS = 12
LEAST_KILLS = 3
BODY = "x" * 70 + "\r\n"


@dataclass
class Ledger:
    """What was sent, and how each ended: acknowledged, refused for now, or unknown because the connection broke after the data."""

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, name: str, *, acknowledged: bool) -> None:
        """Write down the end of one message."""
        with self.lock:
            (self.acknowledged if acknowledged else self.unknown).add(name)


def send_numbered(port: int, names: list[str], ledger: Ledger, until: float) -> None:
    """Send each name as the subject of a message, one connection for a few of them, again until it was acknowledged or is unknown."""
    waiting = list(names)
    while waiting and time.monotonic() < until:
        with contextlib.suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            client.ehlo("sender.example.org")
            for _ in range(5):
                if waiting:
                    send_one(client, waiting, ledger)


def send_one(client: smtplib.SMTP, waiting: list[str], ledger: Ledger) -> None:
    """The next message in one transaction. It leaves `waiting` as soon as its end can be in doubt."""
    client.mail("sender@example.org")
    client.rcpt(ALICE)
    if client.docmd("DATA")[0] != 354:
        raise smtplib.SMTPServerDisconnected("no DATA now")
    name = waiting.pop()
    try:
        client.send(f"Subject: {name}\r\nFrom: sender@example.org\r\n\r\n{BODY * 30}.\r\n".encode())
        code, _ = client.getreply()
    except (OSError, smtplib.SMTPException):
        ledger.note(name, acknowledged=False)
        raise
    if code == 250:
        ledger.note(name, acknowledged=True)
    else:
        waiting.append(name)


def run_sources(port: int, messages: int, enough: threading.Event, until: float) -> int:
    """smtp-source in small batches, since it gives up at the first broken connection: so many messages, and on until workers were killed
    often `enough`. Returns the messages of whole batches.
    """
    whole, tried = 0, 0
    while (tried < messages or not enough.is_set()) and time.monotonic() < until:
        command = [find("smtp-source") or "smtp-source", "-s", "5", "-m", str(SOURCE_BATCH), "-l", "10000", "-f", "source@example.org"]
        done = subprocess.run([*command, "-t", BOB, f"127.0.0.1:{port}"], capture_output=True, timeout=60, check=False)
        tried += SOURCE_BATCH
        whole += SOURCE_BATCH if done.returncode == 0 else 0
    return whole


def kill_at_random(server: Gatepost, over: threading.Event, enough: threading.Event, seed: int) -> int:
    """SIGKILL a worker at random moments until `over`; tells when it was `enough`. Returns how often."""
    chance = random.Random(seed)
    kills = 0
    while not over.wait(chance.uniform(0.2, 2.5)):
        pids = [pid for pid in server.worker_pids() if pid] if (server.data / "run" / "endpoints.json").exists() else []
        if pids and kills < KILLS:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1
        if kills >= LEAST_KILLS:
            enough.set()
    return kills


def subjects(server: Gatepost) -> Counter[str]:
    """How often each subject is in alice's INBOX."""
    with imap(server.port("imaps"), ALICE, PASSWORD) as client:
        _, answers = client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    lines = [answer[1] for answer in answers if isinstance(answer, tuple)]
    return Counter(match[1].decode() for line in lines if (match := re.search(rb"Subject: (\S+)", line)))


def box_size(server: Gatepost, user: str) -> int:
    """Messages in the user's INBOX."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        return int(client.select("INBOX", readonly=True)[1][0])


def settled(server: Gatepost) -> Callable[[], bool]:
    """True when the queue is empty."""
    return lambda: server.cli_ready() and server.queue() == []


@pytest.mark.timeout(420)
def test_every_acknowledged_message_is_in_the_mailbox_exactly_once_after_workers_were_killed(gatepost_factory):
    need("smtp-source")
    server = gatepost_factory(workers=2)
    port, ledger, over, enough = server.port("smtp"), Ledger(), threading.Event(), threading.Event()
    names = [f"kill-{number:05d}" for number in range(OWN_MESSAGES)]
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    until = time.monotonic() + 180  # a bound for slow machines; about 70 s on two idle cores
    with ThreadPoolExecutor(SENDERS + 3) as pool:
        own = [pool.submit(send_numbered, port, names[part::SENDERS], ledger, until) for part in range(SENDERS)]
        sources = [pool.submit(run_sources, port, SOURCE_MESSAGES // 2, enough, until) for _ in range(2)]
        killer = pool.submit(kill_at_random, server, over, enough, seed)
        for sender in own:
            sender.result()
        whole = sum(source.result() for source in sources)
        over.set()
        kills = killer.result()
    assert kills >= LEAST_KILLS, "the load was over before workers were killed"
    wait_until(lambda: server.cli_ready(), 30, "all workers are back")
    server.stop()
    server.start()
    wait_until(settled(server), 60, "the queue is empty after the restart", 0.5)

    found = subjects(server)
    assert {name: times for name, times in found.items() if times > 1} == {}, "delivered more than once"
    assert ledger.acknowledged - set(found) == set(), "acknowledged, then lost"
    assert set(found) <= ledger.acknowledged | ledger.unknown
    assert box_size(server, BOB) >= whole
    print(f"{kills} kills, {len(ledger.acknowledged)} acknowledged, {len(ledger.unknown)} in doubt, {whole} by whole runs of smtp-source")
    assert len(ledger.acknowledged) + len(ledger.unknown) == OWN_MESSAGES, "not all could be sent in time"
