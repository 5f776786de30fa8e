"""Guards against: an acknowledged message lost, half a message, or a finished message that comes back, after SIGKILL at any moment."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gatepost.native import NotFoundError, Spool

ROUNDS = int(os.environ.get("GATEPOST_KILL_ROUNDS", "20"))
WRITER = Path(__file__).with_name("spool_writer.py")


class Ledger:
    """What the killed processes said."""

    def __init__(self) -> None:
        self.acked: dict[bytes, tuple[str, int]] = {}
        self.doubtful: set[bytes] = set()
        self.finished: set[bytes] = set()

    def take(self, output: bytes) -> None:
        for line in output.decode().splitlines():
            kind, *words = line.split()
            if kind == "R":
                assert words == ["0"], "recovery found damage after a mere kill"
                continue
            message_id = bytes.fromhex(words[0])
            if kind == "A":
                self.acked[message_id] = (words[1], int(words[2]))
            elif kind == "d":
                self.doubtful.add(message_id)
            else:
                self.finished.add(message_id)

    def check(self, spool: Spool) -> None:
        live = set(spool.list_ids(None, 1_000_000))
        assert not self.finished & live, "a finished message came back"
        missing = self.acked.keys() - live - self.doubtful - self.finished
        assert not missing, f"{len(missing)} acknowledged messages are gone"
        for message_id in live:
            octets = read(spool, message_id)
            if message_id in self.acked:
                digest, size = self.acked[message_id]
                assert (hashlib.sha256(octets).hexdigest(), len(octets)) == (digest, size)
            else:
                # Durable, but the kill came before it was acknowledged: whole or not at all.
                assert octets.startswith(b"P: x\r\n") and octets.endswith(b"\r\n")
            assert len(spool.history(message_id)) >= 1


def read(spool: Spool, message_id: bytes) -> bytes:
    reader = spool.open(message_id)
    octets = b"".join(iter(reader.read, b""))
    assert len(octets) == reader.size
    return octets


def run_and_kill(directory: Path, seed: int, chance: random.Random) -> bytes:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(directory), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()
    time.sleep(chance.random() * 0.35)
    assert process.poll() is None, process.stderr.read().decode()
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=30)
    return first + output


def test_nothing_acknowledged_is_lost_and_nothing_finished_returns_after_kills(tmp_path: Path) -> None:
    seed = int(os.environ.get("GATEPOST_KILL_SEED", "1"))
    chance = random.Random(seed)
    ledger = Ledger()
    for number in range(ROUNDS):
        ledger.take(run_and_kill(tmp_path / "p0", seed * 1000 + number, chance))
        if chance.random() < 0.4:
            (tmp_path / "p0" / "checkpoint").unlink(missing_ok=True)
        if number % 4 == 3 or number == ROUNDS - 1:
            spool = Spool(str(tmp_path / "p0"), segment_bytes=2 << 20)
            try:
                ledger.check(spool)
            finally:
                spool.close()
    assert len(ledger.acked) > 20 * ROUNDS / 2
    assert ledger.finished


def test_what_does_not_exist_is_said_so_after_a_kill(tmp_path: Path) -> None:
    run_and_kill(tmp_path / "p0", 7, random.Random(7))
    spool = Spool(str(tmp_path / "p0"))
    try:
        with pytest.raises(NotFoundError, match="00000000-0000"):
            spool.open(bytes(16))
    finally:
        spool.close()
