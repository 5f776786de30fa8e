"""The two sides of the comparison. Each method starts a fresh server, warms it up, sends the load, checks the count, and returns msg/s.

Like is compared with like: both sides acknowledge only what is synced to the same disk, both keep their defaults (process and
concurrency limits, no tuning), both get the load over loopback as trusted clients. What the three benches mean:

accept           The message is durable in the queue and stays there. Postfix puts it on hold at SMTP time, which is the cheapest thing
                 it can do with a message it must keep: no queue manager, no delivery attempt (deferring costs it twice as much).
                 Gatepost holds it by a domain rule.
accept-to-mailbox Until the last message is in the recipient's INBOX. Postfix hands over to Dovecot's LMTP server, which writes Maildir.
relay            Until the next hop, smtp-sink on loopback, has counted the last message.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from load import Load, Sink
from support.dovecot import Dovecot
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.postfix import Postfix
from support.programs import exists, imap

HELD = "someone@held.test"
RELAYED = "someone@relay.test"
WARM_UP = Load(messages=200)


def measure(load: Load, port: int, recipient: str, arrived: Callable[[], int], *, wait: bool) -> float:
    """Warm up, send, and return messages per second; `wait` for the arrival, or for the acknowledgement only."""
    WARM_UP.send_until(port, recipient, arrived, WARM_UP.messages)
    total = WARM_UP.messages + load.messages
    if wait:
        return load.messages / load.send_until(port, recipient, arrived, total)
    seconds = load.send(port, recipient)
    if arrived() != total:
        raise AssertionError(f"{total} messages were acknowledged, {arrived()} are in the queue")
    return load.messages / seconds


class PostfixSide:
    """Postfix, with Dovecot for mailboxes."""

    name = "Postfix"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def accept(self, load: Load) -> float:
        """Into the hold queue."""
        with Postfix("smtpd_client_restrictions = static:hold\n", log=False, parent=self.directory) as postfix:
            return measure(load, postfix.port, HELD, lambda: postfix.queued("hold"), wait=False)

    def mailbox(self, load: Load) -> float:
        """Over LMTP into Maildir."""
        with Dovecot(self.directory) as dovecot:
            settings = (
                "virtual_mailbox_domains = example.test\nvirtual_mailbox_maps = static:all\n"
                f"virtual_transport = lmtp:inet:127.0.0.1:{dovecot.lmtp_port}\n"
            )
            with Postfix(settings, log=False, parent=self.directory) as postfix:
                return measure(load, postfix.port, ALICE, lambda: dovecot.messages(ALICE), wait=True)

    def relay(self, load: Load) -> float:
        """To smtp-sink."""
        with Sink(self.directory) as sink:
            settings = f"relayhost = [127.0.0.1]:{sink.port}\n"
            with Postfix(settings, log=False, parent=self.directory) as postfix:
                return measure(load, postfix.port, RELAYED, sink.count, wait=True)


class GatepostSide:
    """Gatepost with its default settings."""

    name = "Gatepost"

    def __init__(self, directory: Path, workers: int) -> None:
        self.directory = directory
        self.workers = workers

    def _server(self) -> Gatepost:
        return Gatepost(Path(tempfile.mkdtemp(prefix="gatepost-", dir=self.directory)), users=[ALICE], workers=self.workers)

    def accept(self, load: Load) -> float:
        """Into the queue, held by a rule."""
        with self._server() as server:
            server.cli("rule", "add", "held.test", "--kind", "hold")
            return measure(load, server.port("smtp"), HELD, lambda: int(server.json("status")["queue"]["messages"]), wait=False)

    def mailbox(self, load: Load) -> float:
        """Into a mailbox, counted by IMAP STATUS."""
        with self._server() as server, imap(server.port("imaps"), ALICE, PASSWORD) as client:
            return measure(load, server.port("smtp"), ALICE, lambda: exists(client), wait=True)

    def relay(self, load: Load) -> float:
        """To smtp-sink by a gateway rule."""
        with Sink(self.directory) as sink, self._server() as server:
            server.cli("rule", "add", "relay.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(sink.port))
            return measure(load, server.port("smtp"), RELAYED, sink.count, wait=True)
