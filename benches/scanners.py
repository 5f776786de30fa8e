"""What asking a scanner costs: clamd over its Unix socket, against nothing, a remembered answer and a session of clamd's own.

    PYTHONPATH=tests python benches/scanners.py [--messages N]

A private clamd with one signature: it compares next to nothing, so what is left is the way there and back. Time is by the wall, CPU is
this process's alone, both per message, of the best of three rounds. One message after the other, then 16 at once.
"""

import argparse
import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import uvloop

from gatepost.config.scan import Scan, ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import MemoryBlob
from gatepost.scan.scanners.pool import ScannerPool
from support.scan_daemons import Daemon, clamd

FACTS = MailFacts("sender@example.org", ("alice@example.test",))
SIZES = (10_000, 1_000_000)
ROUNDS = 3
AT_ONCE = 16


def messages(count: int, size: int) -> list[MemoryBlob]:
    """All different."""
    filler = b"Nothing of interest is said in this line of the message.\r\n" * (size // 58 + 1)
    return [MemoryBlob(b"Subject: %d\r\n\r\n" % number + filler[:size]) for number in range(count)]


async def alone(ask: Callable[[MemoryBlob], Awaitable[object]], blobs: list[MemoryBlob]) -> None:
    """One after the other."""
    for blob in blobs:
        await ask(blob)


async def together(ask: Callable[[MemoryBlob], Awaitable[object]], blobs: list[MemoryBlob]) -> None:
    """AT_ONCE side by side."""
    left = iter(blobs)

    async def work() -> None:
        for blob in left:
            await ask(blob)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def measure(pool: ScannerPool, blobs: list[MemoryBlob], *, warm: bool) -> None:
    """Print a line for each way."""

    async def ask(blob: MemoryBlob) -> None:
        (answer,) = await pool.ask(blob, FACTS, ("clamd",))
        if answer.outcome != "clean":
            raise SystemExit(f"clamd says {answer}")

    if warm:
        await alone(ask, blobs)
    for way in (alone, together):
        best = (float("inf"), 0.0)
        for _ in range(ROUNDS):
            wall, cpu = time.perf_counter(), time.process_time()
            await way(ask, blobs)
            best = min(best, ((time.perf_counter() - wall) / len(blobs), (time.process_time() - cpu) / len(blobs)))
        what = "remembered" if warm else "asked"
        print(f"  {what:11} {way.__name__:9} {best[0] * 1e6:9.0f} us a message, {best[1] * 1e6:7.0f} us CPU of ours")


def session(daemon: Daemon, blobs: list[MemoryBlob]) -> None:
    """IDSESSION on one connection, in plain blocking code: what a session would save at the most."""
    best = float("inf")
    for _ in range(ROUNDS):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(f"{daemon.root}/clamd.sock")
            line.sendall(b"zIDSESSION\0")
            begun = time.perf_counter()
            for blob in blobs:
                line.sendall(b"zINSTREAM\0" + struct.pack("!I", blob.size) + blob.data + b"\0\0\0\0")
                line.recv(100)
            best = min(best, (time.perf_counter() - begun) / len(blobs))
    print(f"  {'IDSESSION':11} {'alone':9} {best * 1e6:9.0f} us a message")


async def run(daemon: Daemon, count: int) -> None:
    """All lines."""
    for size in SIZES:
        blobs = messages(max(count * 10_000 // size, 20), size)
        print(f"{size:,} octets, {len(blobs)} messages")
        for cache in (False, True):
            table = ScannerSettings(name="clamd", kind="clamd", address=f"unix:{daemon.root}/clamd.sock", cache=cache)
            pool = ScannerPool(Scan(scanners=(table,)))
            await pool.start()
            while not pool.states()[0].signatures:
                await asyncio.sleep(0.01)
            await measure(pool, blobs, warm=cache)
            await pool.close()
        session(daemon, blobs)


def main() -> None:
    """Parse, start clamd, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000, help="messages of 10 KB in a round")
    given = parser.parse_args()
    daemon = clamd().start()
    try:
        uvloop.run(run(daemon, given.messages))
    finally:
        daemon.stop()


if __name__ == "__main__":
    main()
