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

from support.gatepost import ALICE, CommandFailed, Gatepost
from support.processes import wait_until
from support.programs import message, send
from support.smtp_peer import SmtpPeer

WAIT = 20


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


def traces(server: Gatepost, *conditions: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.json("trace", *conditions)
    return found


def subjects(server: Gatepost, *conditions: str) -> list[str]:
    return [one["subject"] for one in traces(server, *conditions)]


def answers(server: Gatepost) -> bool:
    try:
        return len(traces(server)) == 6
    except CommandFailed:
        return False


def kinds(server: Gatepost, message_id: str) -> list[str]:
    return [event["kind"] for event in server.json("trace", message_id)["events"]]


def now() -> str:
    return datetime.now(UTC).isoformat()


def deliver(server: Gatepost, count: int, name: str) -> None:
    """Local mail that is delivered at once."""
    for number in range(count):
        send(server.port("smtp"), message(f"{name} {number}"))
    wait_until(lambda: len(traces(server, "--subject", name, "--outcome", "delivered", "--limit", "0")) == count, WAIT, f"{name} is traced")


@pytest.fixture
def server(gatepost_factory: Any) -> Gatepost:
    """One worker; mail to down.test waits for a host that is down."""
    made: Gatepost = gatepost_factory()
    made.cli("rule", "add", "down.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", "9")
    return made


def test_delivered_failed_and_waiting_mail_is_found_by_what_is_known_of_it(server):
    with refusing_host() as port:
        server.cli("rule", "add", "fail.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(port))
        send(server.port("smtp"), message("will fail"), recipients="x@fail.test")
        wait_until(lambda: traces(server, "--outcome", "failed"), WAIT, "the failure is traced")
    deliver(server, 1, "fine")
    send(server.port("smtp"), message("waits"), recipients="y@down.test")
    wait_until(lambda: traces(server, "--recipient", "down.test")[0]["recipients"][0]["attempts"], WAIT, "an attempt is traced")
    (failed,) = traces(server, "--subject", "fail", "--sender", "sender@example.org")
    assert subjects(server, "--recipient", ALICE) == ["fine 0"]
    assert subjects(server, "--outcome", "pending") == ["waits"]
    assert subjects(server, "--message-id", f"<{failed['header_message_id']}>") == ["will fail"]
    assert "will fail" in subjects(server, "--host", "127.0.0.1")
    assert subjects(server, "--since", now()) == []
    shown = server.json("trace", failed["message_id"][:18])
    assert shown["finished"]
    assert [event["kind"] for event in shown["events"]] == ["accepted", "failed"]
    assert shown["events"][1]["reply"]["code"] == 550
    assert "no such user here" in server.cli("trace", failed["message_id"])
    with pytest.raises(CommandFailed) as gone:
        server.cli("trace", "ffffffff-ffff")
    assert gone.value.status == 3


def test_what_operators_do_is_told_with_their_name(server):
    send(server.port("smtp"), message("handled"), recipients="x@down.test")
    (entry,) = server.queue()
    server.cli("queue", "hold", entry["message_id"])
    server.cli("queue", "reroute", entry["message_id"], "--to", ALICE)
    wait_until(lambda: traces(server, "--subject", "handled", "--outcome", "delivered"), WAIT, "it is delivered")
    shown = server.json("trace", entry["message_id"])
    told = [event["kind"] for event in shown["events"]]
    assert told[0] == "accepted"
    assert {"held", "rerouted", "delivered"} <= set(told)
    (hold,) = (event for event in shown["events"] if event["kind"] == "held")
    assert "by" in hold["text"]
    assert shown["recipients"][0]["address"] == ALICE
    send(server.port("smtp"), message("unwanted"), recipients="x@down.test")
    server.cli("queue", "remove", "--recipient", "x@down.test", "--yes")
    assert subjects(server, "--outcome", "removed") == ["unwanted"]


def test_nothing_is_missing_or_doubled_after_a_restart_and_after_a_kill(server):
    deliver(server, 3, "first")
    server.stop()
    server.start()
    deliver(server, 3, "second")
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    wait_until(lambda: answers(server), WAIT, "the worker is back")
    deliver(server, 3, "third")
    server.kill()
    server.start()
    wanted = sorted(f"{name} {number}" for name in ("first", "second", "third") for number in range(3))
    assert sorted(subjects(server, "--recipient", ALICE)) == wanted
    assert all(kinds(server, one["message_id"]) == ["accepted", "delivered"] for one in traces(server))


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
    assert "damaged" in server.log()


def test_a_history_that_cannot_be_written_stops_no_mail(gatepost_factory):
    server = gatepost_factory()
    history = server.data / "history"
    server.stop()
    shutil.rmtree(history)
    history.write_bytes(b"in the way")
    server.start()
    send(server.port("smtp"), message("goes on"))
    wait_until(lambda: server.queue() == [], WAIT, "mail is delivered")
    history.unlink()
    wait_until(lambda: subjects(server) == ["goes on"], WAIT, "the history has caught up")


def test_the_queue_of_a_past_moment_and_the_difference_of_two(server):
    empty = now()
    for name in ("stays", "goes", "held"):
        send(server.port("smtp"), message(name), recipients=f"{name}@down.test")
    ids = {entry["recipients"][0]["address"]: entry["message_id"] for entry in server.queue()}
    first = now()
    server.cli("queue", "hold", ids["held@down.test"])
    server.cli("queue", "remove", ids["goes@down.test"], "--yes")
    send(server.port("smtp"), message("comes"), recipients="comes@down.test")
    second = now()
    server.cli("queue", "remove", "--all", "--yes")
    assert subjects(server, "--at", empty) == []
    assert subjects(server, "--at", first) == ["stays", "goes", "held"]
    assert subjects(server, "--at", first, "--recipient", "goes@down.test") == ["goes"]
    assert subjects(server, "--at", second) == ["stays", "held", "comes"]
    assert subjects(server, "--at", second, "--held") == ["held"]
    assert subjects(server, "--at", "now") == []
    found = {one["trace"]["subject"]: one["kind"] for one in server.json("queue", "diff", first, second)}
    assert found | {"stays": "changed"} == {"stays": "changed", "goes": "left", "held": "changed", "comes": "arrived"}
    assert "held" in server.cli("queue", "diff", first, second)
    assert server.json("queue", "diff", second, "now", "--recipient", "comes@down.test")[0]["trace"]["recipients"][0]["state"] == "REMOVED"


def test_old_history_is_dropped_and_none_is_kept_when_it_is_switched_off(gatepost_factory):
    server = gatepost_factory(history={"days": 0.00001})
    deliver_by = message("brief")
    send(server.port("smtp"), deliver_by)
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
    for number in range(12):
        send(server.port("smtp"), message(f"many {number}"))
    wait_until(lambda: len(traces(server, "--outcome", "delivered")) == 12, WAIT, "all are traced")
    assert len({one["worker"] for one in traces(server)}) == 2
    ids = [one["message_id"] for one in traces(server)]
    assert ids == sorted(ids, reverse=True)
    server.stop()
    shutil.rmtree(server.data / "spool" / "p1")
    server.settings["workers"] = 1
    server.start()
    assert sorted(subjects(server)) == sorted(f"many {number}" for number in range(12))
