"""How long other sessions of a server wait while large messages are handed over.

    python benches/beside.py [--seconds N] [--only WORD] [--no-foreign]

A real server with one worker takes messages of 50 MB, one after the other, from processes of low priority; two more processes ask it
meanwhile, one command every 2 ms: how long a NOOP takes, and how long a mail of 1 KB takes from MAIL to its 250, which waits for
the disk. The machine's own share stands beside it: the same with nothing else to do (idle), and the same while a process that is not ours
receives the same messages, writes them to the same disk, syncs them and inspects them as the server would (foreign).
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import scan
from gatepost.scan.report import inspect

LARGE = 50_000_000
SENDER_NICE = 19
PROBE_SECONDS = 0.002
MAIL = b"From: a@b.test\r\nTo: c@held.test\r\nSubject: small\r\n\r\n" + b"One line of a small mail, as people write them.\r\n" * 20
GREETING_SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """What is handed over beside the probes: the message, by how many senders at once, and whether the server looks into it."""

    name: str
    kind: str
    senders: int = 1
    inspected: bool = True


CASES = (
    Case("idle", ""),
    Case("text, not inspected", "text", inspected=False),
    Case("text", "text"),
    Case("base64", "base64"),
    Case("zip", "zip"),
    Case("base64, 5 at once", "base64", 5),
)


def large(kind: str) -> bytes:
    """A message of about 50 MB whose lines never begin with a dot."""
    if kind == "text":
        lines = scan.text(LARGE).replace(b"\n", b"\r\n")
        return b"From: a@example.test\r\nTo: b@example.test\r\nSubject: text\r\n\r\n" + lines + b"\r\n"
    if kind == "base64":
        return scan.message("a.bin", random.Random(3).randbytes(LARGE * 73 // 100))
    body = scan.text(2_000_000)
    return scan.message("a.zip", scan.zipped({f"{n}.txt": b"%d " % n + body for n in range(37)}))


# ---- clients, each a process of its own ------------------------------------------------------------------------------


class Session:
    """A client that says one thing and waits for the reply."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=GREETING_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = self.socket.makefile("rb")
        self.hear()
        self.say(b"EHLO client.test\r\n")

    def say(self, octets: bytes, replies: int = 1) -> None:
        """Send it, wait for that many replies. AssertionError for a refusal."""
        self.socket.sendall(octets)
        for _ in range(replies):
            self.hear()

    def hear(self) -> None:
        """One reply, of however many lines."""
        while (line := self.replies.readline())[3:4] == b"-":
            pass
        assert line[:1] in (b"2", b"3"), line

    def mail(self, recipient: bytes, octets: bytes) -> None:
        """One message."""
        self.say(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<" + recipient + b">\r\nDATA\r\n", 3)
        self.say(octets)


def send(port: int, path: str) -> None:
    """Hands the message of that file over until standard input ends; prints how often."""
    os.nice(SENDER_NICE)
    octets = Path(path).read_bytes() + b".\r\n"
    session, ended = Session(port), threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    count = 0
    while not ended.is_set():
        session.mail(b"big@held.test", octets)
        count += 1
    print(count)


def probe(port: int, what: str, seconds: float) -> None:
    """Prints the sorted seconds that each NOOP, or each mail, took."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # the server is measured, not how long this process waits for a core
    session, taken = Session(port), list[float]()
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        if what == "noop":
            session.say(b"NOOP\r\n")
        else:
            session.mail(b"small@held.test", MAIL + b".\r\n")
        taken.append(time.perf_counter() - began)
        time.sleep(PROBE_SECONDS)
    print(json.dumps(sorted(taken)))


def sink(directory: str, inspected: bool) -> None:
    """The foreign process: takes what `send` sends, writes and syncs it as it comes, inspects it if asked. Prints its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        threading.Thread(target=_end_with_input, daemon=True).start()
        while True:
            client, _ = server.accept()
            threading.Thread(target=_swallow, args=(client, Path(directory), inspected), daemon=True).start()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _swallow(client: socket.socket, directory: Path, inspected: bool) -> None:
    client.sendall(b"220 sink\r\n")
    lines = client.makefile("rb")
    while line := lines.readline():
        client.sendall(b"354 go\r\n" if line == b"DATA\r\n" else b"250 ok\r\n")
        if line == b"DATA\r\n":
            _store(client, directory, inspected)


def _store(client: socket.socket, directory: Path, inspected: bool) -> None:
    data, synced = bytearray(), 0
    with tempfile.TemporaryFile(dir=directory) as file:
        while data[-5:] != b"\r\n.\r\n":
            data += client.recv(131_072)
            if len(data) - synced >= 524_288:
                os.write(file.fileno(), memoryview(data)[synced:])
                os.fdatasync(file.fileno())
                synced = len(data)
    if inspected:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        inspect(bytes(data), "message.eml", limits=scan.PATIENT)
    client.sendall(b"250 ok\r\n")


# ---- the measurement -------------------------------------------------------------------------------------------------


def _start(*arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _times(process: subprocess.Popen[str]) -> list[float]:
    assert process.stdout is not None
    return list(json.loads(process.stdout.read()))


@contextlib.contextmanager
def _target(case: Case, place: Path, port: int, foreign: bool) -> Iterator[int]:
    """Where the large messages go."""
    if not foreign:
        yield port
        return
    process = _start("--sink", place, *(["--inspect"] if case.inspected else []))
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate()


def measure(case: Case, path: Path, seconds: float, *, foreign: bool) -> None:
    """One line of the table."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from support.gatepost import Gatepost

    settings = {"enabled": case.inspected, "max_milliseconds": 60_000}
    with (
        tempfile.TemporaryDirectory(prefix="gp-beside-", dir="/var/tmp") as scratch,
        Gatepost(Path(scratch), scan=settings) as server,
    ):
        server.cli("rule", "add", "held.test", "--kind", "hold")
        port = server.port("smtp")
        with _target(case, Path(scratch), port, foreign) as target:
            senders = [_start("--send", target, path) for _ in range(case.senders if case.kind else 0)]
            time.sleep(1.0)
            probes = {what: _start("--probe", port, what, "--seconds", seconds) for what in ("noop", "mail")}
            taken = {what: _times(process) for what, process in probes.items()}
            handed = sum(int(sender.communicate()[0]) for sender in senders)
    print(f"{case.name:22} {'foreign' if foreign else 'ours' if case.kind else '':8}", end="")
    for times in taken.values():
        high = [times[-1], times[int(len(times) * 0.999)], times[int(len(times) * 0.99)]]
        print("  " + " ".join(f"{value * 1000:7.1f}" for value in high), end="")
    print(f"  {len(taken['mail']):6} {handed:6}", flush=True)


def sessions(seconds: float, only: str = "", *, foreign: bool = True) -> None:
    """The table."""
    print(f"\n{'large messages beside':31}  {'NOOP: longest, 99.9, 99 %':>23}  {'mail: the same, ms':>23}  {'mails':>6} {'large':>6}")
    with tempfile.TemporaryDirectory(prefix="gp-beside-", dir="/var/tmp") as scratch:
        for case in CASES:
            if only not in case.name:
                continue
            path = Path(scratch) / (case.kind or "none")
            if case.kind and not path.exists():
                path.write_bytes(large(case.kind))
            for elsewhere in (False, True) if foreign and case.kind else (False,):
                measure(case, path, seconds, foreign=elsewhere)


def main() -> None:
    """Run all, or be one of the processes."""
    parser = argparse.ArgumentParser(description="How long other sessions wait beside large messages.")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--no-foreign", action="store_true", help="without the comparison with a foreign process")
    parser.add_argument("--send", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--sink", help=argparse.SUPPRESS)
    parser.add_argument("--inspect", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        send(int(options.send[0]), options.send[1])
    elif options.probe:
        probe(int(options.probe[0]), options.probe[1], options.seconds)
    elif options.sink:
        sink(options.sink, options.inspect)
    else:
        sessions(options.seconds, options.only, foreign=not options.no_foreign)


if __name__ == "__main__":
    main()
