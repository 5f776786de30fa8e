"""A folder of 10,000 messages: opening it and asking for all flags must be quick; a mark for regressions, not a benchmark."""

import time

import pytest

from support.access import ALICE, AccessHost, RawImap

COUNT = 10_000


def fill(client: RawImap) -> None:
    """10,000 messages, by copying what is there onto itself."""
    client.ok("CREATE Big")
    for n in range(10):
        client.append(b"Subject: number %d\r\n\r\nbody\r\n" % n, "Big")
    client.ok("SELECT Big")
    have = 10
    while have < COUNT:
        more = min(have, COUNT - have)
        client.ok(f"COPY 1:{more} Big")
        have += more


def timed(client: RawImap, command: str) -> tuple[float, int]:
    began = time.perf_counter()
    lines = client.ok(command)
    return time.perf_counter() - began, len(lines)


@pytest.mark.timeout(180)
def test_ten_thousand_messages(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        fill(client)
        client.ok("UNSELECT")
        times = {}
        times["select"], _ = timed(client, "SELECT Big")
        times["flags"], lines = timed(client, "FETCH 1:* (FLAGS UID)")
        assert lines == COUNT
        times["envelopes"], lines = timed(client, "FETCH 1:* (UID ENVELOPE RFC822.SIZE)")
        times["search"], _ = timed(client, "UID SEARCH UNSEEN SUBJECT 7")
        times["store"], _ = timed(client, "STORE 1:* +FLAGS.SILENT (\\Seen)")
        times["noop"], _ = timed(client, "NOOP")
        times["delete"], _ = timed(client, "STORE 1:5000 +FLAGS.SILENT (\\Deleted)")
        times["expunge"], lines = timed(client, "EXPUNGE")
        assert lines == 5000
        times["status"], _ = timed(client, "STATUS Big (MESSAGES UNSEEN SIZE)")
    shown = {name: f"{seconds * 1000:.0f} ms" for name, seconds in times.items()}
    assert times["select"] < 0.5, shown
    assert times["flags"] < 1.0, shown
    assert times["noop"] < 0.1, shown
    assert max(times.values()) < 10, shown
