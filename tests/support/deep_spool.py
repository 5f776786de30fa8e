"""A spool filled without SMTP, as the server itself would have filled it. Also the workload for compaction of benches/depth.py.

The messages go through the same native calls, with routes, envelopes and trace fields as reception writes them. The partition must not
be open elsewhere. Takes about ten microseconds a message.
"""

import os
import random
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gatepost.message.envelope import Meta, Origin
from gatepost.message.ids import format_message_id
from gatepost.native import K_DEFERRED, K_DELIVERED, Spool, new_message_id
from gatepost.routing.model import Route, RouteKind

DOWN_DOMAIN = "down.test"
DAY_US = 86_400_000_000
DRAIN = 2000
LINE = b"0123456789 abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ .\r\n"


@dataclass(frozen=True, slots=True)
class Fill:
    """How many messages of which size to how many domains; `down` of them go to DOWN_DOMAIN, whose host refuses connections."""

    messages: int = 1_000_000
    octets: int = 2_000
    domains: int = 10_000
    down: int = 100_000

    def recipients(self) -> Iterator[str]:
        """The recipient of each message, domains mixed."""
        every = self.messages // self.down if self.down else 0
        for number in range(self.messages):
            if every and number % every == 0 and number // every < self.down:
                yield f"user{number}@{DOWN_DOMAIN}"
            else:
                yield f"user{number}@d{number * 7919 % self.domains:05}.test"


def route(address: str) -> Route:
    """By MX; for DOWN_DOMAIN a gateway at a port nobody listens on."""
    if address.endswith("@" + DOWN_DOMAIN):
        return Route(RouteKind.SMTP, address, host="127.0.0.1", port=1)
    return Route(RouteKind.SMTP, address)


class Committer:
    """Commits into a native spool with few waits; `settled` raises the first error."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ticket = 0
        self._open: set[int] = set()

    def commit(self, body: bytes, sender: str, address: str, way: Route, due_us: int, meta: bytes) -> bytes:
        """One message; its id."""
        message_id = new_message_id()
        text = format_message_id(message_id)
        trace = f"Received: from client.example by mail.example with ESMTP id {text};\r\n\tSun, 22 Nov 2026 12:00:00 +0000\r\n"
        incoming = self._spool.receive(prefix=trace.encode(), max_bytes=0, message_id=message_id)
        incoming.feed_raw(body)
        incoming.finish()
        self._ticket += 1
        self._open.add(self._ticket)
        self._spool.commit(self._ticket, incoming, sender, [(address, "", way.destination, 0, way.encode(), due_us, False)], meta)
        if self._ticket % DRAIN == 0:
            self._drain()
        return message_id

    def _drain(self) -> None:
        for ticket, error in self._spool.completions()[0]:
            if error is not None:
                raise error
            self._open.discard(ticket)

    def settled(self) -> None:
        """All is on the disk."""
        while self._open:
            select.select([self._spool.event_fd], [], [], 1)
            self._drain()


def fill(partition: Path, what: Fill) -> None:
    """Make the partition and fill it; nothing is due before tomorrow."""
    spool = Spool(str(partition))
    try:
        committer = Committer(spool)
        meta = Meta(Origin("ESMTP", "192.0.2.1", 40_000, "client.example", listener="smtp")).encode()
        due = time.time_ns() // 1000 + DAY_US
        for number, address in enumerate(what.recipients()):
            head = f"Subject: message {number}\r\nMessage-ID: <{number}@sender.example>\r\nFrom: <news@sender.example>\r\n\r\n".encode()
            body = head + LINE * ((what.octets - len(head)) // len(LINE))
            committer.commit(body, f"news{number % 1000}@sender{number % 50}.example", address, route(address), due, meta)
        committer.settled()
    finally:
        spool.close()


def defer_all(partition: Path, messages: int) -> None:
    """Small messages, each deferred once: by one of 500 hosts, in one of two ways, with an id of its own in the text."""
    spool = Spool(str(partition))
    try:
        committer, due, meta = Committer(spool), time.time_ns() // 1000 + DAY_US, Meta(Origin("ESMTP")).encode()
        ways = [Route(RouteKind.SMTP, f"user@d{number:03}.test") for number in range(500)]
        text = (
            '{"t":1,"outcome":"deferred","host":"mx.d%03d.test[198.51.100.7]:25","code":451,"enhanced":"4.7.1","text":"%s %d, come later"}'
        )
        ids: list[bytes] = []
        for number in range(messages):
            way = ways[number % 500]
            ids.append(committer.commit(LINE, f"news{number}@sender.example", way.address, way, due, meta))
            if len(ids) == DRAIN or number == messages - 1:
                committer.settled()
                details = [(text % (n % 500, ("greylisted", "too busy")[n % 2], n)).encode() for n in range(len(ids))]
                spool.change(0, [(one, -1, K_DEFERRED, due, detail) for one, detail in zip(ids, details, strict=True)])
                ids = []
    finally:
        spool.close()


def disk_octets(path: Path) -> int:
    """What the files below take, as the file system counts it."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


@dataclass(slots=True)
class Scattered:
    """What the compaction workload came to: octets written and live at the end, and the worst disk use beyond twice what was live."""

    written: int = 0
    live: int = 0
    disk: int = 0
    excess: int = 0
    seconds: float = 0.0
    settled_seconds: float = 0.0
    settled_disk: int = 0


def leave_one_percent(partition: Path, octets: int, size: int, pace: int, tell: Callable[[str], None]) -> Scattered:
    """Write `octets` in messages of `size`, at most `pace` octets a second (0: as fast as it goes); finish all but every hundredth a little
    later, and look at the disk all the time.
    """
    result, spool, rng = Scattered(), Spool(str(partition)), random.Random(1)
    try:
        committer, body, way = Committer(spool), LINE * (size // len(LINE)), Route(RouteKind.SMTP, "a@d.test")
        due, meta, began = time.time_ns() // 1000 + DAY_US, Meta(Origin("ESMTP")).encode(), time.perf_counter()
        waiting: list[bytes] = []
        for number in range(octets // size):
            waiting.append(committer.commit(body, "s@example.org", "a@d.test", way, due, meta))
            if len(waiting) >= 2000:
                rng.shuffle(waiting)
                committer.settled()
                spool.change(0, [(one, -1, K_DELIVERED, 0, b"{}") for one in waiting[:1000] if one[-1] * 256 + one[-2] >= 655])
                del waiting[:1000]
                _look(spool, partition, result)
                if pace:
                    time.sleep(max(0.0, began + number * size / pace - time.perf_counter()))
                if number % 100_000 < 1000:
                    tell(f"{number * size >> 20} MiB written, live {result.live >> 20}, on disk {result.disk >> 20} MiB")
        spool.change(0, [(one, -1, K_DELIVERED, 0, b"{}") for one in waiting if one[-1] * 256 + one[-2] >= 655])
        result.seconds = time.perf_counter() - began
        result.written = octets // size * size
        _settle(spool, partition, result)
    finally:
        spool.close()
    return result


def _look(spool: Spool, partition: Path, result: Scattered) -> None:
    result.live, result.disk = spool.stats()["bytes"], disk_octets(partition)
    result.excess = max(result.excess, result.disk - 2 * result.live)


def _settle(spool: Spool, partition: Path, result: Scattered, seconds: float = 30) -> None:
    """Until the disk use has not changed for three seconds."""
    began = changed = time.perf_counter()
    _look(spool, partition, result)
    while time.perf_counter() - changed < 3 and time.perf_counter() - began < seconds:
        before = result.disk
        time.sleep(0.2)
        _look(spool, partition, result)
        if result.disk != before:
            changed = time.perf_counter()
    result.settled_disk, result.settled_seconds = result.disk, changed - began
