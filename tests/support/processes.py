"""Small things every peer needs: free ports, waits with a deadline, processes that are surely gone at the end."""

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


@cache
def _own_ports() -> Iterator[int]:
    """Ports that neither the kernel hands out by itself nor another process of this test run, from a random one on, again and again."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 20_000 + worker % 12 * 1000
    skipped = random.SystemRandom().randrange(1000)
    return (first + number % 1000 for number in itertools.count(skipped))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody holds now, for a peer that binds it itself."""
    for port in itertools.islice(_own_ports(), 1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def wait_until(probe: Callable[[], T | None], seconds: float, what: str, interval: float = 0.02) -> T:
    """Call `probe` until it gives something true. AssertionError naming `what` after `seconds`; errors of the last call are its cause."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while True:
        try:
            found = probe()
            error = None
        except (OSError, AssertionError, ValueError) as problem:
            found, error = None, problem
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}") from error
        time.sleep(interval)


def accepts(host: str, port: int) -> bool:
    """True when something listens there."""
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def need(*programs: str) -> None:
    """Skip, visibly, unless all programs are installed. In CI the skip is a failure."""
    missing = [program for program in programs if find(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def need_root() -> None:
    """Skip, visibly, unless we are root: Postfix and Dovecot start as nobody else."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to start Postfix or Dovecot")


def find(program: str) -> str | None:
    """Path of a program, also of those in the administrator's directories."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run(
    command: Sequence[str], *, seconds: float = 30, text: str | None = None, check: bool = True, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program with a deadline, output as text (both streams in `stdout`). `more` is added to the environment."""
    full = [find(command[0]) or command[0], *command[1:]]
    done = subprocess.run(
        full,
        input=text,
        stdin=subprocess.DEVNULL if text is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        env={**os.environ, **more},
        check=False,
    )
    if check:
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    return done


def end(process: subprocess.Popen[bytes], seconds: float = 10) -> int:
    """SIGTERM, wait, SIGKILL if it must be. Returns the exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(10)


def exit_on_sigterm() -> None:
    """For programs that start servers: SIGTERM ends this one as Ctrl-C does, by an exception, so that what it started is ended too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def resident_kib(pid: int) -> int:
    """VmRSS of a process in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} has no VmRSS")


def has_user(name: str) -> bool:
    """True when the system has an account of that name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
