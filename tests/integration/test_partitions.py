"""Partitions and workers: the number of workers changes between starts, workers and servers are killed, and every message stays.

Guards against: a surplus partition whose mail is stuck or lost, a pause forgotten by new workers, a half removed directory that hurts.
"""

import os
import signal
from collections import Counter
from pathlib import Path

from support.gatepost import ALICE, BOB, PASSWORD, Gatepost
from support.processes import wait_until
from support.programs import fetched, imap, message, send
from support.sdk import call, queue, status, worker

HELD = "held.test"


def partitions(server: Gatepost) -> set[str]:
    """What is in DIR/spool."""
    return {one.name for one in (server.data / "spool").iterdir()}


def restart(server: Gatepost, workers: int, *, kill: bool = False) -> None:
    """Stop or kill it, start it with so many workers."""
    if kill:
        server.kill()
    else:
        server.stop()
    server.settings["workers"] = workers
    server.start()


def held_domain(server: Gatepost) -> None:
    """Mail for it stays in the queue."""
    server.cli("rule", "add", HELD, "--kind", "hold")


def hold(server: Gatepost, count: int, start: int = 0) -> None:
    """Put held messages into the queue, over many connections so that each worker gets some."""
    for number in range(start, start + count):
        send(server.port("smtp"), message(f"held {number}"), recipients=f"someone{number}@{HELD}")


def hold_on_each(server: Gatepost, workers: int) -> int:
    """Put held messages into the queue until each worker has some: where a connection goes is the kernel's choice. Their number."""
    for count in range(8, 80, 8):
        hold(server, 8, start=count)
        if len(by_worker(server)) == workers:
            return count
    raise AssertionError(f"the kernel never chose each of {workers} workers")


def by_worker(server: Gatepost) -> Counter[int]:
    return Counter(one.worker for one in queue(server))


def ids_of(server: Gatepost) -> set[str]:
    return {one.message_id for one in queue(server)}


def shown(server: Gatepost, user: str) -> int:
    """Messages in the user's INBOX."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        return len(fetched(client, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]"))


def test_a_surplus_partition_with_held_mail_stays_and_status_says_why(gatepost_factory):
    server = gatepost_factory(workers=3)
    held_domain(server)
    hold_on_each(server, 3)
    before = by_worker(server)
    restart(server, 1)
    wait_until(lambda: by_worker(server) == before, 20, "every partition shows its mail")
    assert worker(server, 0).state == "running"
    assert worker(server, 2).state == "retiring"
    assert f"{before[2]} messages left, {before[2]} held" in worker(server, 2).detail
    assert partitions(server) == {"p0", "p1", "p2"}


def test_a_surplus_partition_takes_no_new_mail(gatepost_factory):
    server = gatepost_factory(workers=2)
    held_domain(server)
    held = hold_on_each(server, 2)
    restart(server, 1)
    wait_until(lambda: len(queue(server)) == held, 20, "both partitions answer")
    before = by_worker(server)
    hold(server, 10, start=100)
    for _ in range(3):
        call(server, lambda client: client.queue.submit(ALICE, [f"one@{HELD}"], b"Subject: x\r\n\r\nx\r\n"))
    assert by_worker(server) == {0: before[0] + 13, 1: before[1]}


def test_what_is_released_is_delivered_and_the_empty_partition_is_removed(gatepost_factory):
    server = gatepost_factory(workers=2)
    for number in range(12):
        send(server.port("smtp"), message(f"local {number}"))  # so that the volume has a stream of worker 1 too
    wait_until(lambda: queue(server) == [], 20, "Alice's mail is delivered, none of it is paused")
    call(server, lambda client: client.queue.pause("local:main"))
    paused = 0
    while len(by_worker(server)) < 2 or paused < 12:
        send(server.port("smtp"), message(f"paused {paused}"), recipients=BOB)
        paused += 1
        assert paused < 80, "the kernel never chose one of the two workers"
    restart(server, 1)
    wait_until(lambda: len(queue(server)) == paused, 20, "both partitions answer")
    call(server, lambda client: client.queue.resume("local:main"))
    wait_until(lambda: partitions(server) == {"p0"}, 20, "the surplus partition is gone")
    wait_until(lambda: len(server.endpoints()["workers"]) == 1, 10, "its worker is no longer listed")
    assert queue(server) == []
    assert (shown(server, ALICE), shown(server, BOB)) == (12, paused)
    found = status(server)
    assert [one.index for one in found.workers] == [0]
    assert not found.partial
    assert not (server.data / "run" / "worker-1.sock").exists()
    call(server, lambda client: client.queue.pause("smtp:mx:example.net"))  # reaches every worker there is


def test_a_killed_drain_worker_comes_back_and_an_operator_reaches_its_mail(gatepost_factory):
    server = gatepost_factory(workers=2)
    held_domain(server)
    held = hold_on_each(server, 2)
    restart(server, 1, kill=True)
    wait_until(lambda: len(queue(server)) == held, 20, "both partitions answer")
    drain = next(one["pid"] for one in server.endpoints()["workers"] if one.get("drains"))
    os.kill(drain, signal.SIGKILL)
    wait_until(lambda: worker(server, 1).pid not in (0, drain) and worker(server, 1).state == "retiring", 20, "the drain worker is back")
    ids = ids_of(server)
    assert len(ids) == held
    call(server, lambda client: client.queue.remove(sorted(ids)))
    assert queue(server) == []


def test_the_number_of_workers_goes_up_and_down_between_kills_and_nothing_is_lost(gatepost_factory):
    server = gatepost_factory(workers=2)
    held_domain(server)
    hold(server, 12)
    ids = ids_of(server)
    for number, count in enumerate((3, 1)):
        restart(server, count, kill=True)
        hold(server, 8, start=1000 + 100 * number)
        wait_until(lambda earlier=ids: earlier <= ids_of(server), 20, "all earlier messages are there")
        ids = ids_of(server)
        assert len(ids) == 12 + 8 * (number + 1)


def test_a_paused_destination_stays_paused_in_workers_that_are_new(gatepost_factory):
    server = gatepost_factory(workers=1)
    call(server, lambda client: client.queue.pause("local:main"))
    restart(server, 3, kill=True)
    sent = 0
    while len(by_worker(server)) < 3:
        send(server.port("smtp"), message(f"paused {sent}"))
        sent += 1
        assert sent < 80, "the kernel never chose one of the three workers"
    call(server, lambda client: client.queue.resume("local:main"))
    wait_until(lambda: queue(server) == [], 20, "all is delivered")
    restart(server, 1)
    wait_until(lambda: partitions(server) == {"p0"}, 20, "the surplus partitions are gone")


def test_what_a_crash_left_of_a_removed_partition_is_deleted_at_the_next_start(gatepost_factory):
    server = gatepost_factory(users=[])
    server.stop()
    spool: Path = server.data / "spool"
    tomb = spool / "removed-p7-1700000000000000"
    tomb.mkdir()
    (tomb / "00000001.seg").write_bytes(b"x")
    kept = spool / "damaged-p7-1700000000000000"
    kept.mkdir()
    server.start()
    assert not tomb.exists()
    assert kept.exists()
    assert (spool / "p0").exists()
