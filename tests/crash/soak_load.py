"""The load of the soak: senders over SMTP, and an operator over gRPC who holds, releases, retries and removes what waits.

Threads that go on until `over` is set, whatever happens to the server: it is killed under them all the time. All of it is written to the
ledger.
"""

import asyncio
import contextlib
import random
import re
import smtplib
import threading
import time
from collections.abc import Callable

from soak_ledger import Ledger, Sent, Word

from gatepost.client import GatepostClient, GatepostError, NotFoundError
from gatepost.client.values import QueueMessage

FAST, SLOW = "relay.test", "slow.test"
"""Domains of the two remote sides: the second one takes nothing until the end."""
PAUSE = 0.01
OPERATOR_PAUSE = 0.2
LISTED = 200


class Sender(threading.Thread):
    """Sends numbered messages, a few per connection."""

    def __init__(
        self, prefix: str, port: Callable[[], int], users: tuple[str, ...], ledger: Ledger, over: threading.Event, seed: int
    ) -> None:
        super().__init__(name=f"sender {prefix}", daemon=True)
        self._prefix = prefix
        self._port = port
        self._users = users
        self._ledger = ledger
        self._over = over
        self._chance = random.Random(seed)
        self._number = 0

    def run(self) -> None:
        """Until `over`."""
        while not self._over.wait(PAUSE):
            try:
                with smtplib.SMTP("127.0.0.1", self._port(), timeout=15) as client:
                    client.ehlo("soak.example.org")
                    for _ in range(self._chance.randint(1, 6)):
                        self._send(client)
                        time.sleep(PAUSE)
            except (OSError, smtplib.SMTPException, ValueError, KeyError):
                time.sleep(0.05)  # it is being killed or started

    def _send(self, client: smtplib.SMTP) -> None:
        self._number += 1
        sent = self._plan(f"{self._prefix}-{self._number:06d}")
        client.mail("soak@sender.example.org")
        for address in (*sent.users, *sent.remote):
            code, text = client.rcpt(address)
            if code != 250:
                raise smtplib.SMTPResponseException(code, text)
        if client.docmd("DATA")[0] != 354:
            raise smtplib.SMTPServerDisconnected("no DATA now")
        self._ledger.add(sent)
        self._ledger.accepted(sent, Word.DOUBT)
        body = "x" * 76 + "\r\n"
        lines = self._chance.choice([1, 10, 40, 130, 130, 1500])
        client.send(f"Subject: {sent.name}\r\nFrom: soak@sender.example.org\r\n\r\n{body * lines}.\r\n".encode())
        code, text = client.getreply()
        if code == 250:
            found = re.search(rb"[0-9a-f]{8}-[0-9a-f-]{27}", text)
            self._ledger.accepted(sent, Word.YES, found[0].decode() if found else "")
        else:
            self._ledger.accepted(sent, Word.NO)

    def _plan(self, name: str) -> Sent:
        alice, bob = self._users[:2]
        kind = self._chance.random()
        if kind < 0.35:
            return Sent(name, (alice,), ())
        if kind < 0.5:
            return Sent(name, (alice, bob), ())
        if kind < 0.65:
            return Sent(name, (), (f"{name}@{FAST}",))
        if kind < 0.75:
            return Sent(name, (bob,), (f"{name}@{FAST}",))
        return Sent(name, (), (f"{name}@{SLOW}",))


class Operator(threading.Thread):
    """Acts on random messages that wait for the slow side."""

    def __init__(self, place: Callable[[], str], ledger: Ledger, over: threading.Event, seed: int) -> None:
        super().__init__(name="operator", daemon=True)
        self._place = place
        self._ledger = ledger
        self._over = over
        self._chance = random.Random(seed)
        self.actions = 0

    def run(self) -> None:
        """Until `over`."""
        asyncio.run(self._work())

    async def _work(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(GatepostError, OSError, TimeoutError):
                async with asyncio.timeout(10), GatepostClient(self._place()) as client:
                    await self._act(client)
            await asyncio.sleep(OPERATOR_PAUSE)

    async def _act(self, client: GatepostClient) -> None:
        waiting: list[QueueMessage] = []
        async for one in client.queue.list():
            if one.recipients and one.recipients[0].address.endswith(f"@{SLOW}"):
                waiting.append(one)
            if len(waiting) >= LISTED:
                break
        for _ in range(5):
            if not waiting:
                return
            ids = [one.message_id for one in self._chance.sample(waiting, min(len(waiting), self._chance.randint(1, 4)))]
            action = self._chance.choice(["hold", "release", "retry", "remove"])
            with contextlib.suppress(NotFoundError):  # one of them is gone by now, so nothing was done
                if action == "remove":
                    await self._remove(client, ids)
                else:
                    await getattr(client.queue, action)(ids)
                self.actions += 1

    async def _remove(self, client: GatepostClient, ids: list[str]) -> None:
        self._ledger.removed(ids, Word.DOUBT)
        done = await client.queue.remove(ids)
        if done.changed == len(ids):
            self._ledger.removed(ids, Word.YES)
