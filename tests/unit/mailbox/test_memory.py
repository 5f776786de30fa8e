"""A large message passes through in pieces: memory of the process must not grow with it."""

import json
import subprocess
import sys
from pathlib import Path

SIZE = 50 << 20
LIMIT = 2 << 20

PROGRAM = """
import json, select, sys
sys.path.insert(0, {tests!r})
from gatepost.native import Spool, Store
from support.mailstore import MAILBOX, deliver, mail, spooled

def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024

def rest():
    open("/proc/self/clear_refs", "w").write("5")

def send(size):
    incoming = spool.receive(prefix=b"", max_bytes=1 << 30)
    incoming.feed_raw(mail("large"))
    line = b"x" * 76 + b"\\r\\n"
    block = line * 800
    for _ in range(size // len(block)):
        incoming.feed_raw(block)
        while spool.congested():
            spool.sync(9)
            select.select([spool.event_fd], [], [], 1)
            spool.completions()
    incoming.finish()
    spool.commit(1, incoming, "s", [("a@b", "", "local:main", 0, b"", 0, False)], b"")
    while True:
        select.select([spool.event_fd], [], [], 10)
        if any(t == 1 for t, _ in spool.completions()[0]):
            return incoming.message_id

spool = Spool(sys.argv[1] + "/spool")
store = Store(sys.argv[1] + "/volume", stream="w0")

def pass_through(size):
    grown = {{}}
    def step(name, work):
        rest()
        before = peak()
        work()
        grown[name] = peak() - before
    ids = [send(size)]
    step("deliver", lambda: deliver(store, spool, ids))
    folder, uid = store.folder(MAILBOX, "INBOX")[0], store.folder(MAILBOX, "INBOX")[5] - 1
    def fetch(*items):
        stream = store.fetch(folder, [(1, uid)], items)
        total = 0
        while piece := stream.read():
            total += len(piece)
        return total
    step("fetch", lambda: fetch("BODY.PEEK[]"))
    step("structure", lambda: fetch("ENVELOPE", "BODYSTRUCTURE", "BODY.PEEK[1]<1000.100>"))
    step("search", lambda: store.search(folder, [uid], ["BODY", "not in it"]))
    def pop3():
        message = store.message(folder, uid)
        while message.read_dotted():
            pass
    step("pop3", pop3)
    return grown

pass_through(1 << 20)
print(json.dumps(pass_through({size})))
"""


def test_a_50_mb_message_is_delivered_fetched_and_searched_in_two_megabytes(tmp_path: Path) -> None:
    tests = str(Path(__file__).resolve().parents[2])
    program = PROGRAM.format(tests=tests, size=SIZE)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert all(octets <= LIMIT for octets in grown.values()), grown
