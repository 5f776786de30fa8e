"""Opening a partition after things went wrong: locks, versions, damage, lost checkpoints, full disks."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.native import K_DELIVERED, DamagedError, DiskFullError, FormatVersionError, LockedError, Spool
from support.spool import filled, wait_native

SEGMENT = 1 << 20
TO = [("a@b", "", "local:main", 0, b"route", 0, False)]


def put(spool: Spool, body: bytes = b"body\r\n") -> bytes:
    incoming = filled(spool, body)
    spool.commit(1, incoming, "s@x", TO, b"meta")
    error, _ = wait_native(spool, 1)
    if error is not None:
        raise error
    return incoming.message_id


def in_process(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=False)


def test_a_second_process_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "p0"))
    code = "import sys; from gatepost.native import *\ntry: Spool(sys.argv[1])\nexcept LockedError as e: print(e)"
    assert f"pid {os.getpid()}" in in_process(code, str(tmp_path / "p0")).stdout
    with pytest.raises(LockedError):
        Spool(str(tmp_path / "p0"))
    spool.close()
    Spool(str(tmp_path / "p0")).close()


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    put(spool)
    spool.close()
    (tmp_path / "p0" / "checkpoint").write_bytes(b"GPSTCKP\n" + (99).to_bytes(4, "little") + b"\0\0\0\0")
    before = {path.name: path.read_bytes() for path in (tmp_path / "p0").iterdir() if path.name != "lock"}
    with pytest.raises(FormatVersionError, match="99"):
        Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "p0").iterdir() if path.name != "lock"}


def test_a_flipped_bit_costs_one_message_and_is_reported_with_its_place(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    ids = [put(spool, b"Subject: %d\r\n\r\n" % n + b"NEEDLE-%d\r\n" % n) for n in range(20)]
    spool.close()
    path = tmp_path / "p0" / "00000001.seg"
    octets = bytearray(path.read_bytes())
    octets[octets.index(b"NEEDLE-7\r\n")] ^= 4
    path.write_bytes(octets)
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    with pytest.raises(DamagedError, match=r"00000001.seg:\d+"):
        spool.open(ids[7]).read()
    assert spool.open(ids[8]).read().endswith(b"NEEDLE-8\r\n")
    spool.close()
    (tmp_path / "p0" / "checkpoint").unlink()
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    damaged = spool.recovery["damaged"]
    assert isinstance(damaged, list) and len(damaged) == 1 and damaged[0].startswith("00000001.seg:")
    assert spool.list_ids(None, 99) == ids[:7] + ids[8:]
    assert b"EEDLE-7" in next((tmp_path / "p0" / "damaged").iterdir()).read_bytes()
    spool.close()


def test_without_its_checkpoint_the_state_is_the_same(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    ids = [put(spool, bytes([65 + n % 26]) * 20_000) for n in range(200)]
    spool.change(2, [(message_id, 0, K_DELIVERED, 0, b"") for message_id in ids[:190]])
    wait_native(spool, 2)
    spool.close()
    states = []
    for keep in (True, False):
        if not keep:
            (tmp_path / "p0" / "checkpoint").unlink()
        spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
        assert spool.recovery["checkpoint"] == keep
        states.append((spool.list_ids(None, 999), [spool.get(one) for one in ids[190:]], spool.destinations()))
        spool.close()
    assert states[0] == states[1]
    assert states[0][0] == ids[190:]


FILL = """
import resource, sys
from support.spool import filled, wait_native
from gatepost.native import DiskFullError, K_DELIVERED, Spool
spool = Spool(sys.argv[1], segment_bytes=1 << 20)
to = [("a@b", "", "local:main", 0, b"route", 0, False)]
if sys.argv[2] != "-":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
acked, ticket = [], 0
while True:
    ticket += 1
    incoming = filled(spool, b"x" * 30_000)
    try:
        spool.commit(ticket, incoming, "s@x", to, b"")
        error, _ = wait_native(spool, ticket)
        if error: raise error
    except DiskFullError as e:
        print("full after", len(acked), file=sys.stderr)
        break
    acked.append(incoming.message_id)
if sys.argv[2] == "-":
    spool.change(ticket + 1, [(one, 0, K_DELIVERED, 0, b"") for one in acked[:5]])
    error, _ = wait_native(spool, ticket + 1)
    if error: raise error
    acked = acked[5:]
print(*(one.hex() for one in acked))
assert spool.fatal is None
spool.close()
"""


def fill(directory: Path, limit: str) -> list[bytes]:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(directory), limit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "full after" in done.stderr
    return [bytes.fromhex(one) for one in done.stdout.split()]


def test_when_files_cannot_grow_mail_is_refused_and_what_was_acknowledged_stays(tmp_path: Path) -> None:
    acked = fill(tmp_path / "p0", str(700_000))
    assert len(acked) > 10
    spool = Spool(str(tmp_path / "p0"), segment_bytes=SEGMENT)
    assert spool.list_ids(None, 999) == acked
    assert spool.recovery["damaged"] == []
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "disk"
    target.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(target)], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield target
    subprocess.run(["umount", str(target)], check=True)


def test_a_full_disk_refuses_mail_keeps_what_was_acknowledged_and_recovers_with_space(small_disk: Path) -> None:
    acked = fill(small_disk / "p0", "-")
    assert len(acked) > 80
    spool = Spool(str(small_disk / "p0"), segment_bytes=SEGMENT)
    assert spool.list_ids(None, 999) == acked
    spool.change(1, [(one, 0, K_DELIVERED, 0, b"") for one in acked])
    assert wait_native(spool, 1)[0] is None
    for _ in range(50):
        try:
            put(spool, b"x" * 30_000)
        except DiskFullError:
            time.sleep(0.1)
            continue
        break
    else:
        pytest.fail("freed space never came back")
    spool.close()
