"""Guards against the loss or doubling of local mail when a worker dies between mailbox commit and queue record.

A process delivers batches from a spool into a volume and is killed with SIGKILL at random moments. It never notes what was delivered, as if
every queue record had been lost; the next process delivers everything again. At the end each message is in the mailbox exactly once.
"""

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from gatepost.native import Spool, Store
from support.mailstore import MAILBOX, deliver, octets, spooled

MESSAGES = 600
ROUNDS = 8

PROGRAM = """
import select, sys
from gatepost.native import Spool, Store
spool = Spool(sys.argv[1] + "/spool")
store = Store(sys.argv[1] + "/volume", stream="w0")
ids = spool.list_ids(None, 100_000)
print("ready", flush=True)
for at in range(0, len(ids), 10):
    store.deliver(at + 1, spool, [(i, 0, {mailbox!r}, "INBOX", b"", ()) for i in ids[at : at + 10]])
done = 0
while done < len(ids):
    select.select([store.event_fd], [], [], 1)
    for ticket, error, each in store.completions():
        done += 10
        print(ticket, flush=True)
print("all", flush=True)
sys.stdin.read()
"""


def test_every_message_is_in_the_mailbox_once_however_often_its_deliverer_is_killed(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool"))
    bodies = [f"Subject: {n}\r\n\r\n".encode() + b"x" * (300_000 if n % 100 == 0 else 200) + b"\r\n" for n in range(MESSAGES)]
    spooled(spool, *bodies)
    spool.close()
    chance = random.Random(20240229)
    for _ in range(ROUNDS):
        _deliver_and_kill(tmp_path, chance.random() * 0.25)
    spool, store = Spool(str(tmp_path / "spool")), Store(str(tmp_path / "volume"), stream="w0")
    assert store.recovery["damaged"] == []
    ids = spool.list_ids(None, 100_000)
    assert len(ids) == MESSAGES
    for at in range(0, MESSAGES, 100):
        assert deliver(store, spool, ids[at : at + 100]) == [None] * 100
    folder = store.folder(MAILBOX, "INBOX")
    found = Counter(octets(store, folder[0], m[0]).removeprefix(b"Delivered-To: x\r\n") for m in store.messages(folder[0]))
    assert folder[6] == MESSAGES
    assert found == Counter(bodies)
    store.close()
    spool.close()


def _deliver_and_kill(place: Path, seconds: float) -> None:
    program = PROGRAM.format(mailbox=MAILBOX)
    child = subprocess.Popen([sys.executable, "-c", program, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
    finally:
        child.kill()
        child.communicate()
