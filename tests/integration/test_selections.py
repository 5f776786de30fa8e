"""Previews, bulk commands and undo through the real command line against a running server with two workers."""

import os
import signal
from typing import Any

import pytest

from support.gatepost import CommandFailed, Gatepost
from support.processes import wait_until
from support.programs import message, send

COUNT = 8


@pytest.fixture
def server(gatepost_factory: Any) -> Gatepost:
    """A server whose mail to later.test waits: nobody listens there."""
    made: Gatepost = gatepost_factory(workers=2, queue={"undo_seconds": 600})
    made.cli("rule", "add", "later.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", "9")
    arrive(made, COUNT)
    return made


def arrive(server: Gatepost, count: int) -> None:
    """More mail that waits."""
    before = len(server.queue())
    for number in range(count):
        send(server.port("smtp"), message(f"waits {number}"), recipients=f"x{number}@later.test")
    wait_until(lambda: len(server.queue()) == before + count, 15, "the mail is in the queue")


def states(server: Gatepost) -> dict[str, list[tuple[str, bool, str]]]:
    """(address, held, destination) of every recipient of every message."""
    return {
        entry["message_id"]: [(one["address"], one["held"], one["destination"]) for one in entry["recipients"]] for entry in server.queue()
    }


def test_a_frozen_selection_is_exactly_what_the_preview_showed(server: Gatepost):
    workers = {entry["worker"] for entry in server.queue()}
    assert workers == {0, 1}, "the kernel gave all sessions to one worker: repeat"
    found = server.json("queue", "preview", "--domain", "later.test", "--sample", "3")
    assert (found["messages"], found["recipients"], len(found["sample"])) == (COUNT, COUNT, 3)
    frozen = set(states(server))
    gone = min(frozen)
    server.cli("queue", "remove", gone, "--yes")
    arrive(server, 3)
    result = server.json("queue", "hold", "--frozen", found["token"])
    assert (result["matched"], result["changed"], result["gone"]) == (COUNT - 1, COUNT - 1, 1)
    assert {entry["message_id"] for entry in server.queue("--held")} == frozen - {gone}
    assert server.json("queue", "release", "--frozen", found["token"])["changed"] == COUNT - 1


def test_each_operation_is_undone_over_both_workers_also_after_a_restart(server: Gatepost):
    before = states(server)
    for command in (["hold", "--all"], ["remove", "--all", "--yes"], ["reroute", "--domain", "later.test", "--to", "y@later.test"]):
        operation = server.json("queue", *command)["operation_id"]
        assert states(server) != before
        assert len(server.queue("--state", "removed")) == (COUNT if command[0] == "remove" else 0)
        if command[0] == "remove":
            server.stop()
            server.start()
        undone = server.json("queue", "undo", operation)
        assert (undone["result"]["undone"], undone["result"]["recipients"]) == (COUNT, COUNT)
        assert states(server) == before
        listed = server.json("queue", "operations")[0]
        assert (listed["operation_id"], listed["state"], listed["changed"]) == (operation, "undone", COUNT)
        shown = server.json("queue", "show", next(iter(before)))
        assert "undone" in str(shown["history"][-1]["text"])
    with pytest.raises(CommandFailed, match="no operation"):
        server.cli("queue", "undo")


def test_after_a_worker_was_killed_its_token_is_refused_and_nothing_is_half_done(server: Gatepost):
    token = server.json("queue", "preview", "--all")["token"]
    operation = server.json("queue", "remove", "--all", "--yes")["operation_id"]
    old = server.worker_pids()
    os.kill(old[0], signal.SIGKILL)
    wait_until(lambda: len(server.worker_pids()) == 2 and old[0] not in server.worker_pids(), 30, "the worker is back")
    wait_until(lambda: len(server.queue("--state", "removed")) == COUNT, 30, "its partition is open")
    with pytest.raises(CommandFailed, match="preview the selection again"):
        server.cli("queue", "hold", "--frozen", token)
    assert server.json("queue", "undo", operation)["result"]["undone"] == COUNT
    assert not any(held for rows in states(server).values() for _, held, _ in rows)
    for bad in ("x", "0-" + "0" * 32, "9-" + "0" * 32, "0-" + "0" * 31, "." * 5000):
        with pytest.raises(CommandFailed):
            server.cli("queue", "hold", "--frozen", bad)


def test_causes_are_one_list_over_both_workers(server: Gatepost):
    wait_until(lambda: server.json("queue", "causes")["recipients"] == COUNT, 15, "every message was tried")
    (cause,) = server.json("queue", "causes")["causes"]
    assert (cause["kind"], cause["recipients"], cause["messages"]) == ("refused", COUNT, COUNT)
    assert "127.0.0.1" in cause["example_reason"]
    assert "8 recipients in 8 messages: refused" in server.cli("queue", "causes")
