"""Streaming: a 50 MB message passes in and out of the spool while the process grows by at most 2 MB (a fresh process is measured)."""

import json
import os
import subprocess
import sys
from pathlib import Path

MEASURE = """
import asyncio, json, re, sys
from pathlib import Path
from gatepost.spool import AsyncSpool
from support.spool import ENVELOPE, commit, planned

def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

async def main():
    spool = await AsyncSpool.open(Path(sys.argv[1]))
    line = b"x" * 76 + b"\\r\\n"
    piece = line * 840
    small = await commit(spool, piece)
    for _ in range(2):
        incoming = spool.receive(b"", 0)
        incoming.feed(piece)
        incoming.abort()
    spool.open_message(small).read()
    reset_peak()
    before = memory("VmRSS")
    incoming = spool.receive(b"Received: x\\r\\n", 0)
    for _ in range(800):
        incoming.feed(piece)
        await spool.drain()
    incoming.feed(b".\\r\\n")
    await spool.commit(incoming, ENVELOPE, [planned()], 1)
    received = memory("VmHWM") - before
    size = incoming.size
    message_id = incoming.message_id
    del incoming
    reset_peak()
    before, total = memory("VmRSS"), 0
    reader = spool.open_message(message_id)
    while data := reader.read(65536):
        total += len(data)
    read = memory("VmHWM") - before
    reader = spool.open_message(message_id)
    while data := reader.read_dotted(65536):
        total += len(data)
    dotted = memory("VmHWM") - before
    print(json.dumps({"size": size, "total": total, "received": received, "read": read, "dotted": dotted}))
    await spool.close()

asyncio.run(main())
"""


def test_fifty_megabytes_in_and_out_grow_the_process_by_two_at_most(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "p0")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["size"] > 50_000_000 and figures["total"] > 2 * figures["size"]
    for what in ("received", "read", "dotted"):
        assert figures[what] <= 2 << 20, figures
