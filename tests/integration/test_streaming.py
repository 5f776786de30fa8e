"""A message of 50 MB passes through in chunks: the worker's memory grows by at most 2 MiB for it, coming in and going out."""

import socket
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gatepost.scan.gate import ROOM
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import resident_kib, wait_until
from support.programs import exists, imap

SIZE = 50_040_000
LINE = b"0123456789" * 7 + b"\r\n"
ALLOWED_KIB = 2048


class Peak:
    """The highest VmRSS of a process while the block runs, above what it was before."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.before = int(statistics.median(self._sample() for _ in range(5)))
        self.highest = self.before
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _sample(self) -> int:
        time.sleep(0.01)
        return resident_kib(self.pid)

    def _watch(self) -> None:
        while not self._over.is_set():
            self.highest = max(self.highest, self._sample())

    @property
    def growth(self) -> int:
        """In KiB."""
        return self.highest - self.before

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def send_big(port: int, recipient: str, octets: int) -> None:
    """One message of `octets` over a plain socket, without keeping it in our memory either."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        file = connection.makefile("rb")

        def say(line: str, code: bytes) -> None:
            connection.sendall(line.encode() + b"\r\n")
            while (answer := file.readline())[3:4] == b"-":
                pass
            assert answer.startswith(code), answer

        file.readline()
        say("EHLO client.example", b"250")
        say(f"MAIL FROM:<sender@example.org> SIZE={octets}", b"250")
        say(f"RCPT TO:<{recipient}>", b"250")
        say("DATA", b"354")
        connection.sendall(b"Subject: big\r\n\r\n")
        chunk = LINE * 1000
        for _ in range(octets // len(chunk)):
            connection.sendall(chunk)
        say(".", b"250")


class Drain:
    """A next hop that takes one message slowly and counts its octets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.octets = 0
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self.done.is_set():
            connection, _ = self.listener.accept()
            with connection:
                self._session(connection)

    def _session(self, connection: socket.socket) -> None:
        file = connection.makefile("rb")
        connection.sendall(b"220 drain.example ESMTP\r\n")
        while line := file.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                connection.sendall(b"354 go on\r\n")
                while (body := file.readline()) != b".\r\n":
                    self.octets += len(body)
                connection.sendall(b"250 2.0.0 taken\r\n")
                self.done.set()
            elif verb == b"EHLO":
                connection.sendall(b"250-drain.example\r\n250 SIZE 100000000\r\n")
            else:
                connection.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")


def measured(server: Gatepost, work: Callable[[], Any]) -> int:
    """Growth of the only worker's memory, in KiB, while `work` runs."""
    (pid,) = server.worker_pids()
    with Peak(pid) as peak:
        work()
    return peak.growth


def test_receiving_fifty_megabytes_takes_little_memory(gatepost_factory):
    server = gatepost_factory(scan={"enabled": False})
    server.cli("rule", "add", "held.test", "--kind", "hold")
    send_big(server.port("smtp"), "warm@held.test", 2_000_000)
    # What is loaded once by the first message of that size is not growth by session: the lower of two counts.
    growths = [measured(server, lambda: send_big(server.port("smtp"), "big@held.test", SIZE)) for _ in range(2)]
    assert min(growths) <= ALLOWED_KIB, f"grew by {growths} KiB"


def test_five_sessions_at_once_take_no_more_than_their_share_each(gatepost_factory):
    server = gatepost_factory(scan={"enabled": False})
    server.cli("rule", "add", "held.test", "--kind", "hold")
    send_big(server.port("smtp"), "warm@held.test", SIZE)

    def five() -> None:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda n: send_big(server.port("smtp"), f"big{n}@held.test", SIZE), range(5)))

    growth = measured(server, five)
    assert growth <= 5 * ALLOWED_KIB, f"grew by {growth} KiB"


def test_inspecting_five_large_messages_at_once_takes_no_more_than_the_room_for_it(gatepost_factory):
    server = gatepost_factory()
    server.cli("rule", "add", "held.test", "--kind", "hold")
    send_big(server.port("smtp"), "warm@held.test", 2_000_000)

    def five() -> None:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda n: send_big(server.port("smtp"), f"big{n}@held.test", SIZE), range(5)))

    growth = measured(server, five)
    assert growth <= ROOM // 1024 + 5 * ALLOWED_KIB, f"grew by {growth} KiB"


def test_relaying_fifty_megabytes_takes_little_memory(gatepost_factory):
    server, drain = gatepost_factory(), Drain()
    options = ["--kind", "gateway", "--host", "127.0.0.1", "--port", str(drain.port), "--tls", "none"]
    server.cli("rule", "add", "relay.test", *options)
    send_big(server.port("smtp"), "warm@relay.test", 2_000_000)
    assert drain.done.wait(30)
    drain.done.clear()
    wait_until(lambda: server.queue() == [], 20, "the warm-up has left")
    server.cli("queue", "pause", f"smtp:[127.0.0.1]:{drain.port}:none")
    send_big(server.port("smtp"), "big@relay.test", SIZE)
    before = drain.octets

    def deliver() -> None:
        drain.done.clear()
        server.cli("queue", "resume", f"smtp:[127.0.0.1]:{drain.port}:none")
        assert drain.done.wait(60), "the message was not relayed"

    growth = measured(server, deliver)
    assert drain.octets - before > SIZE
    assert growth <= ALLOWED_KIB, f"grew by {growth} KiB"


def test_delivering_fifty_megabytes_into_a_mailbox_and_fetching_it_takes_little_memory(gatepost_factory):
    server = gatepost_factory()
    with imap(server.port("imaps"), ALICE, PASSWORD) as client:

        def deliver(octets: int, number: int) -> Callable[[], None]:
            """Have a message ready in the queue; the work is to let it go and to see it arrive."""
            server.cli("queue", "pause", "local:main")
            send_big(server.port("smtp"), ALICE, octets)

            def work() -> None:
                server.cli("queue", "resume", "local:main")
                wait_until(lambda: exists(client) == number, 30, "the message is in the mailbox")

            return work

        def fetch(number: int, octets: int) -> None:
            client.select("INBOX", readonly=True)
            assert len(client.fetch(str(number), "(BODY.PEEK[])")[1][0][1]) > octets - 100_000

        # As above: the first messages load code and fill caches once, which is not growth by session.
        deliver(2_000_000, 1)()
        fetch(1, 2_000_000)
        growths = [measured(server, deliver(SIZE, number)) for number in (2, 3)]
        assert min(growths) <= ALLOWED_KIB, f"delivery grew it by {growths} KiB"
        growths = [measured(server, lambda: fetch(2, SIZE)) for _ in range(2)]
        assert min(growths) <= ALLOWED_KIB, f"FETCH grew it by {growths} KiB"
