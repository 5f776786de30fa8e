"""The sides of the comparison. Each method starts a fresh server, warms it up, sends the load, checks the count, and returns a Figure.

Like is compared with like: all sides acknowledge only what is synced to the same disk, all keep their defaults (process and
concurrency limits, no tuning), all get the load over loopback as trusted clients. What the benches mean:

accept           The message is durable in the queue and stays there. Postfix puts it on hold at SMTP time, which is the cheapest thing
                 it can do with a message it must keep: no queue manager, no delivery attempt (deferring costs it twice as much).
                 Gatepost holds it by a domain rule; Exim has queue_only; OpenSMTPD's deliveries are paused.
mailbox          Until the last message is in the recipient's INBOX. Postfix hands over to Dovecot's LMTP server, which writes Maildir.
relay            Until the next hop, smtp-sink on loopback, has counted the last message.
latency          One message at a time on an idle server, accepted as in `accept`.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Load, Sink, one_by_one
from support.dovecot import Dovecot
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.postfix import Postfix
from support.programs import exists, imap
from usage import cpu_seconds, machine_seconds

HELD = "someone@held.test"
RELAYED = "someone@relay.test"
WARM_UP = Load(messages=200)
LATENCIES = 200
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: messages per second; CPU seconds per 1,000 messages of the server's processes, and of the whole machine."""

    rate: float
    cpu: float
    machine: float


def measure(load: Load, port: int, recipient: str, arrived: Callable[[], int], *, wait: bool, roots: list[int]) -> Figure:
    """Warm up, send, measure; `wait` for the arrival, or for the acknowledgement only. The CPU is taken when all has arrived."""
    WARM_UP.send_until(port, recipient, arrived, WARM_UP.messages)
    total = WARM_UP.messages + load.messages
    server, machine = cpu_seconds(roots), machine_seconds()
    seconds = load.send_until(port, recipient, arrived, total) if wait else load.send(port, recipient)
    server, machine = cpu_seconds(roots) - server, machine_seconds() - machine
    if arrived() != total:
        raise AssertionError(f"{total} messages were acknowledged, {arrived()} have arrived")
    return Figure(load.messages / seconds, server * 1000 / load.messages, machine * 1000 / load.messages)


def latencies(port: int, recipient: str) -> list[float]:
    """Seconds per message on an idle server, after a warm-up."""
    one_by_one(port, recipient, 20, 10_000, PAUSE)
    time.sleep(0.5)
    return one_by_one(port, recipient, LATENCIES, 10_000, PAUSE)


class PostfixSide:
    """Postfix, with Dovecot for mailboxes."""

    name = "Postfix"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def _holding(self) -> Postfix:
        return Postfix("smtpd_client_restrictions = static:hold\n", log=False, parent=self.directory)

    def accept(self, load: Load) -> Figure:
        """Into the hold queue."""
        with self._holding() as postfix:
            return measure(load, postfix.port, HELD, lambda: postfix.queued("hold"), wait=False, roots=[postfix.pid])

    def latency(self) -> list[float]:
        """Into the hold queue, one by one."""
        with self._holding() as postfix:
            return latencies(postfix.port, HELD)

    def mailbox(self, load: Load) -> Figure:
        """Over LMTP into Maildir."""
        with Dovecot(self.directory) as dovecot:
            settings = (
                "virtual_mailbox_domains = example.test\nvirtual_mailbox_maps = static:all\n"
                f"virtual_transport = lmtp:inet:127.0.0.1:{dovecot.lmtp_port}\n"
            )
            with Postfix(settings, log=False, parent=self.directory) as postfix:
                roots = [postfix.pid, dovecot.pid]
                return measure(load, postfix.port, ALICE, lambda: dovecot.messages(ALICE), wait=True, roots=roots)

    def relay(self, load: Load) -> Figure:
        """To smtp-sink."""
        with Sink(self.directory) as sink:
            settings = f"relayhost = [127.0.0.1]:{sink.port}\n"
            with Postfix(settings, log=False, parent=self.directory) as postfix:
                return measure(load, postfix.port, RELAYED, sink.count, wait=True, roots=[postfix.pid])


class GatepostSide:
    """Gatepost with its default settings."""

    name = "Gatepost"

    def __init__(self, directory: Path, workers: int) -> None:
        self.directory = directory
        self.workers = workers

    def server(self, **settings: Any) -> Gatepost:
        """A server that is not started yet, in a directory of its own."""
        return Gatepost(Path(tempfile.mkdtemp(prefix="gatepost-", dir=self.directory)), users=[ALICE], workers=self.workers, **settings)

    def accept(self, load: Load) -> Figure:
        """Into the queue, held by a rule."""
        with self.server() as server:
            server.cli("rule", "add", "held.test", "--kind", "hold")

            def queued() -> int:
                return int(server.json("status")["queue"]["messages"])

            return measure(load, server.port("smtp"), HELD, queued, wait=False, roots=[server.pid])

    def latency(self) -> list[float]:
        """Into the queue, held by a rule, one by one."""
        with self.server() as server:
            server.cli("rule", "add", "held.test", "--kind", "hold")
            return latencies(server.port("smtp"), HELD)

    def mailbox(self, load: Load) -> Figure:
        """Into a mailbox, counted by IMAP STATUS."""
        with self.server() as server, imap(server.port("imaps"), ALICE, PASSWORD) as client:
            return measure(load, server.port("smtp"), ALICE, lambda: exists(client), wait=True, roots=[server.pid])

    def relay(self, load: Load) -> Figure:
        """To smtp-sink by a gateway rule."""
        with Sink(self.directory) as sink, self.server() as server:
            server.cli("rule", "add", "relay.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(sink.port))
            return measure(load, server.port("smtp"), RELAYED, sink.count, wait=True, roots=[server.pid])
