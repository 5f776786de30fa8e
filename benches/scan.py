"""What inspecting attachments costs: octets a second by container, bombs, and how long a large message keeps an event loop waiting.

    python benches/scan.py [--seconds N] [--part rates|bombs|delay]

Everything is made here. The delay is that of a timer of 1 ms on an event loop while a thread inspects messages of 50 MB one after the
other; the same without inspection stands beside it. How long sessions of a server wait is told by
`benches/beside.py`. Peak memory of a bomb is that of a process of its own.
"""

import argparse
import asyncio
import base64
import bz2
import gzip
import io
import lzma
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gatepost.scan.report import Limits, inspect

LARGE = 50_000_000
PATIENT = Limits(milliseconds=60_000)


def text(size: int) -> bytes:
    """Text that compresses about as logs do."""
    source = random.Random(1)
    words = [bytes(source.choices(b"abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 10))) for _ in range(5_000)]
    out = bytearray()
    while len(out) < size:
        out += b" ".join(source.choices(words, k=12)) + b"\n"
    return bytes(out[:size])


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def message(name: str, content: bytes) -> bytes:
    """A message with one attachment in base64."""
    head = b"From: a@example.test\r\nTo: b@example.test\r\nMIME-Version: 1.0\r\n"
    head += b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n"
    part = f'--b\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"\r\n'
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    return head + part.encode() + b"Content-Transfer-Encoding: base64\r\n\r\n" + encoded + b"--b--\r\n"


def rates() -> None:
    """Octets a second, in the octets that came out."""
    plain = text(20_000_000)
    cases: dict[str, bytes] = {
        "text": plain,
        "random": random.Random(2).randbytes(20_000_000),
        "zip": zipped({"a.txt": plain}),
        "gzip": gzip.compress(plain),
        "bzip2": bz2.compress(plain[:5_000_000]),
        "xz": lzma.compress(plain[:5_000_000], preset=1),
        "message of a zip": message("a.zip", zipped({"a.txt": plain})),
        "text message of 3 KB": b"From: a@example.test\r\nTo: b@example.test\r\n\r\n" + plain[:3_000],
    }
    print(f"{'what':24} {'in':>12} {'out':>12} {'ms':>9} {'MB/s':>8}")
    for name, data in cases.items():
        started = time.thread_time()
        rounds = 200 if len(data) < 10_000 else 1
        for _ in range(rounds):
            report = inspect(data, "", limits=PATIENT)
        spent = (time.thread_time() - started) / rounds
        out = max(report.produced, len(data))
        print(f"{name:24} {len(data):12,} {out:12,} {spent * 1000:9.2f} {out / spent / 1e6:8.0f}")


BOMBS: dict[str, Callable[[], bytes]] = {
    "gzip of 1 GB of zeros": lambda: gzip.compress(bytes(1 << 30), 9),
    "xz of 1 GB of zeros": lambda: lzma.compress(bytes(1 << 30), preset=0),
    "bzip2 of 200 MB of zeros": lambda: bz2.compress(bytes(200 << 20)),
    "zip in zip, 16 x 5 deep": lambda: _nest(),
}


def _nest() -> bytes:
    inner = zipped({"0.bin": bytes(4 << 20)})
    for level in range(5):
        inner = zipped({f"{level}-{number}.zip": inner for number in range(16)})
    return inner


def bombs() -> None:
    """Time and memory of each, in a process of its own."""
    print(f"\n{'bomb':28} {'verdict':12} {'ms':>8} {'memory MB':>10}")
    for name, make in BOMBS.items():
        done = subprocess.run([sys.executable, __file__, "--one"], input=make(), capture_output=True, check=True)
        verdict, spent, memory = done.stdout.decode().split()
        print(f"{name:28} {verdict:12} {float(spent):8.1f} {float(memory):10.1f}")


def one() -> None:
    """Inspect standard input; verdict, milliseconds, memory it took beyond what the process had."""
    data = sys.stdin.buffer.read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    report = inspect(data)
    spent = time.perf_counter() - started
    print(f"{report.verdict}/{report.stop or '-'}", spent * 1000, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


async def _delays(seconds: float, work: Callable[[], None] | None) -> tuple[float, float, int]:
    """Longest and 99.9th percentile lateness of a timer of 1 ms, in ms, and how often the work was done."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    done = 0
    with ThreadPoolExecutor(1) as threads:
        running = loop.run_in_executor(threads, work) if work else None
        until = loop.time() + seconds
        while loop.time() < until:
            due = loop.time() + 0.001
            await asyncio.sleep(0.001)
            late.append(loop.time() - due)
            if running is not None and work is not None and running.done():
                done += 1
                running = loop.run_in_executor(threads, work)
        if running is not None:
            await running
    late.sort()
    return late[-1] * 1000, late[int(len(late) * 0.999)] * 1000, done


def delay(seconds: float) -> None:
    """How long other work waits."""
    body = text(2_000_000)
    large = message("a.zip", zipped({f"{number}.txt": b"%d " % number + body for number in range(30)}))
    many = message("many.zip", zipped({f"{number}.txt": b"x" for number in range(15_000)}))
    noise = message("a.bin", random.Random(3).randbytes(LARGE * 3 // 4))
    print(f"\n{'while a thread inspects':34} {'longest ms':>11} {'99.9 % ms':>10} {'inspected':>10}")
    cases: dict[str, bytes | None] = {
        "nothing": None,
        f"{len(noise):,} octets of noise": noise,
        f"{len(large):,} octets, 60 MB of text": large,
        "a zip of 15,000 files": many,
    }
    for name, data in cases.items():
        work = None if data is None else lambda data=data: _inspect(data)
        longest, high, done = asyncio.run(_delays(seconds, work))
        print(f"{name:34} {longest:11.1f} {high:10.1f} {done:10}")


def _inspect(data: bytes) -> None:
    inspect(data, "message.eml", limits=PATIENT)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description="What inspecting attachments costs.")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement of delay")
    parser.add_argument("--part", choices=("rates", "bombs", "delay"), help="only this")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one()
        return
    parts: dict[str, Callable[[], None]] = {
        "rates": rates,
        "bombs": bombs,
        "delay": lambda: delay(options.seconds),
    }
    for name, run in parts.items():
        if options.part in (None, name):
            run()


if __name__ == "__main__":
    main()
