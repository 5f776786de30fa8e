"""What became of mail: `gatepost trace` and `queue diff` against the real server, over restarts, kills, lost files, retired partitions."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from gatepost.client import GatepostClient, GatepostError
from gatepost.client.history import Trace, TraceFilter
from support.gatepost import ALICE, CommandFailed, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import message, send
from support.smtp_peer import SmtpPeer

WAIT = 60
INCOMPLETE = "history incomplete"


@contextmanager
def refusing_host() -> Iterator[int]:
    """A mail server on a thread of its own that refuses every recipient; its port."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def serve() -> None:
        async with SmtpPeer({"RCPT": ["550 5.1.1 no such user here\r\n"]}) as peer:
            ports.append(peer.port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(WAIT)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(WAIT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    """One worker for all tests, which know their own mail by its subject; mail to down.test and past.test waits for a host that is down."""
    with start_gatepost(tmp_path_factory.mktemp("history")) as made:
        for domain in ("down.test", "past.test"):
            made.cli("rule", "add", domain, "--kind", "gateway", "--host", "127.0.0.1", "--port", "9")
        yield made


async def ask(server: Gatepost, at: datetime | None, wanted: TraceFilter) -> list[Trace] | None:
    """What is found; None when a part of the answer is missing."""
    missing: list[str] = []
    async with GatepostClient(server.data) as client:
        history = client.history
        found = history.queue_at(at, wanted, warn=missing.append) if at else history.search(wanted, limit=None, warn=missing.append)
        traces = [one async for one in found]
    return None if [text for text in missing if INCOMPLETE not in text] else traces


def traces(server: Gatepost, at: datetime | None = None, **wanted: Any) -> list[Trace]:
    """The whole answer: a worker may be on its way up, and the newest events on their way into the database."""
    whole: list[list[Trace]] = []

    def is_whole() -> bool:
        try:
            answer = asyncio.run(ask(server, at, TraceFilter(**wanted)))
        except GatepostError:
            return False
        whole.extend([answer] if answer is not None else [])
        return bool(whole)

    wait_until(is_whole, WAIT, f"the whole history of {wanted}")
    return whole[0]


def subjects(server: Gatepost, at: datetime | None = None, **wanted: Any) -> list[str]:
    return [one.subject for one in traces(server, at, **wanted)]


def kinds(server: Gatepost, message_id: str) -> list[str]:
    return [event["kind"] for event in server.json("trace", message_id)["events"]]


def now() -> datetime:
    return datetime.now(UTC)


def deliver(server: Gatepost, count: int, name: str) -> None:
    """Local mail that is delivered at once."""
    for number in range(count):
        send(server.port("smtp"), message(f"{name} {number}"))
    wait_until(lambda: len(traces(server, subject=name, outcome="delivered")) == count, WAIT, f"{name} is traced")


def test_delivered_failed_and_waiting_mail_is_found_by_what_is_known_of_it(server):
    with refusing_host() as port:
        server.cli("rule", "add", "fail.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(port))
        send(server.port("smtp"), message("will fail"), recipients="x@fail.test")
        wait_until(lambda: traces(server, subject="will fail", outcome="failed"), WAIT, "the failure is traced")
    deliver(server, 1, "fine")
    send(server.port("smtp"), message("waits"), recipients="y@down.test")
    wait_until(lambda: traces(server, recipient="y@down.test")[0].recipients[0].attempts, WAIT, "an attempt is traced")
    (failed,) = traces(server, subject="fail", sender="sender@example.org")
    assert subjects(server, recipient=ALICE, subject="fine") == ["fine 0"]
    assert subjects(server, recipient="y@down.test", outcome="pending") == ["waits"]
    assert subjects(server, header_message_id=f"<{failed.header_message_id}>") == ["will fail"]
    assert "will fail" in subjects(server, host="127.0.0.1")
    assert subjects(server, sender="sender@example.org", since=now()) == []
    assert [one["subject"] for one in server.json("trace", "--recipient", "y@down.test", "--outcome", "pending")] == ["waits"]
    shown = server.json("trace", failed.message_id[:18])
    assert shown["finished"]
    assert [event["kind"] for event in shown["events"]] == ["accepted", "scanned", "failed"]
    assert shown["events"][1]["text"] == "scanned: accept"
    assert shown["events"][2]["reply"]["code"] == 550
    assert "no such user here" in server.cli("trace", failed.message_id)
    with pytest.raises(CommandFailed) as gone:
        server.cli("trace", "ffffffff-ffff")
    assert gone.value.status == 3


def test_what_operators_do_is_told_with_their_name(server):
    send(server.port("smtp"), message("handled"), recipients="x@down.test")
    (entry,) = server.queue("--recipient", "x@down.test")
    server.cli("queue", "hold", entry["message_id"])
    server.cli("queue", "reroute", entry["message_id"], "--to", ALICE)
    wait_until(lambda: traces(server, subject="handled", outcome="delivered"), WAIT, "it is delivered")
    shown = server.json("trace", entry["message_id"])
    told = [event["kind"] for event in shown["events"]]
    assert told[0] == "accepted"
    assert {"held", "rerouted", "delivered"} <= set(told)
    (hold,) = (event for event in shown["events"] if event["kind"] == "held")
    assert "by" in hold["text"]
    assert shown["recipients"][0]["address"] == ALICE
    send(server.port("smtp"), message("unwanted"), recipients="x@down.test")
    server.cli("queue", "remove", "--recipient", "x@down.test", "--yes")
    assert subjects(server, recipient="x@down.test", outcome="removed") == ["unwanted"]


def test_the_queue_of_a_past_moment_and_the_difference_of_two(server):
    empty = now()
    for name in ("stays", "goes", "held"):
        send(server.port("smtp"), message(name), recipients=f"{name}@past.test")
    ids = {entry["recipients"][0]["address"]: entry["message_id"] for entry in server.queue("--domain", "past.test")}
    first = now()
    server.cli("queue", "hold", ids["held@past.test"])
    server.cli("queue", "remove", ids["goes@past.test"], "--yes")
    send(server.port("smtp"), message("comes"), recipients="comes@past.test")
    second = now()
    server.cli("queue", "remove", "--domain", "past.test", "--yes")
    assert subjects(server, empty, recipient="past.test") == []
    assert subjects(server, first, recipient="past.test") == ["stays", "goes", "held"]
    assert subjects(server, first, recipient="goes@past.test") == ["goes"]
    assert subjects(server, second, recipient="past.test") == ["stays", "held", "comes"]
    assert subjects(server, second, recipient="past.test", held=True) == ["held"]
    assert subjects(server, now(), recipient="past.test") == []
    one, other = first.isoformat(), second.isoformat()
    assert [held["subject"] for held in server.json("trace", "--at", other, "--held")] == ["held"]
    differences = server.json("queue", "diff", one, other, "--recipient", "past.test")
    found = {one["trace"]["subject"]: one["kind"] for one in differences}
    assert found | {"stays": "changed"} == {"stays": "changed", "goes": "left", "held": "changed", "comes": "arrived"}
    assert "held" in server.cli("queue", "diff", one, other)
    assert server.json("queue", "diff", other, "now", "--recipient", "comes@past.test")[0]["trace"]["recipients"][0]["state"] == "REMOVED"


def test_nothing_is_missing_or_doubled_after_a_restart_and_after_a_kill(server):
    deliver(server, 3, "kept first")
    server.stop()
    server.start()
    deliver(server, 3, "kept second")
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    assert len(traces(server, subject="kept")) == 6
    deliver(server, 3, "kept third")
    server.kill()
    server.start()
    wanted = sorted(f"kept {name} {number}" for name in ("first", "second", "third") for number in range(3))
    found = traces(server, recipient=ALICE, subject="kept")
    assert sorted(one.subject for one in found) == wanted
    assert all(kinds(server, one.message_id) == ["accepted", "scanned", "delivered"] for one in found[::4])


def test_a_deleted_or_damaged_history_stops_no_mail(server):
    deliver(server, 2, "before")
    history = server.data / "history" / "p0"
    shutil.rmtree(history)
    deliver(server, 2, "between")
    server.stop()
    for path in history.glob("*.db*"):
        path.write_bytes(b"dust" * 3000)
    server.start()
    deliver(server, 2, "after")
    assert list(history.glob("*.damaged*"))
    wait_until(lambda: "damaged" in server.log(), WAIT, "it is said in the log")


def test_a_history_that_cannot_be_written_stops_no_mail(server):
    history = server.data / "history"
    server.stop()
    shutil.rmtree(history)
    history.write_bytes(b"in the way")
    server.start()
    send(server.port("smtp"), message("goes on"))
    wait_until(lambda: server.queue("--recipient", ALICE) == [], WAIT, "mail is delivered")
    history.unlink()
    wait_until(lambda: subjects(server, subject="goes on", outcome="delivered") == ["goes on"], WAIT, "the history has caught up")


def test_old_history_is_dropped_and_none_is_kept_when_it_is_switched_off(gatepost_factory):
    server = gatepost_factory(history={"days": 0.00001})
    send(server.port("smtp"), message("brief"))
    wait_until(lambda: subjects(server) == ["brief"], WAIT, "it is traced")
    server.stop()
    server.settings["history"] = {"days": 0}
    server.start()
    with pytest.raises(CommandFailed) as off:
        server.cli("trace")
    assert "history.days" in off.value.output
    send(server.port("smtp"), message("unseen"))
    wait_until(lambda: server.queue() == [], WAIT, "mail is delivered")


def test_the_histories_of_all_workers_are_one_also_of_a_partition_that_is_gone(gatepost_factory):
    server = gatepost_factory(workers=2)
    sent: list[str] = []

    def both_have_some() -> bool:
        """Which worker takes a connection is the kernel's choice."""
        sent.extend(f"many {len(sent) + number}" for number in range(6))
        for name in sent[-6:]:
            send(server.port("smtp"), message(name))
        return {one.worker for one in traces(server)} == {0, 1}

    wait_until(both_have_some, WAIT, "both workers have mail")
    wait_until(lambda: len(traces(server, outcome="delivered")) == len(sent), WAIT, "all are traced")
    ids = [one.message_id for one in traces(server)]
    assert ids == sorted(ids, reverse=True)
    server.stop()
    shutil.rmtree(server.data / "spool" / "p1")
    server.settings["workers"] = 1
    server.start()
    assert sorted(subjects(server)) == sorted(sent)
