"""Queue, rules and addresses through the real command line against a running server with two workers."""

import json
import subprocess
import threading
from typing import Any

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, PROGRAM, CommandFailed, Gatepost
from support.processes import wait_until
from support.programs import exists, imap, message, send


@pytest.fixture
def held(gatepost_factory: Any) -> tuple[Gatepost, list[str]]:
    """A server with four held messages; their ids."""
    server = gatepost_factory(workers=2)
    server.cli("rule", "add", "held.test", "--kind", "hold")
    for number in range(4):
        send(server.port("smtp"), message(f"held {number}"), recipients=f"someone{number}@held.test")
    return server, [entry["message_id"] for entry in server.queue()]


def count(server: Gatepost, user: str) -> int:
    """Messages in the user's INBOX."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        return exists(client)


def test_the_queue_of_all_workers_is_listed_as_one_and_shown_in_detail(held):
    server, ids = held
    assert len(ids) == 4
    shown = json.dumps(server.json("queue", "show", ids[0]))
    assert "someone" in shown
    assert "sender@example.org" in shown
    assert "held.test" in server.cli("queue", "list")


def test_messages_are_filtered_by_recipient(held):
    server, _ = held
    assert len(server.queue("--recipient", "someone2@*")) == 1
    assert server.queue("--recipient", "nobody@*") == []


def test_a_released_message_is_delivered_after_the_rule_has_changed(held):
    server, ids = held
    server.cli("queue", "release", ids[0])
    wait_until(lambda: len(server.queue("--held")) == 3, 10, "one is released")


def test_messages_held_by_hand_stay_until_they_are_released(gatepost_factory):
    server = gatepost_factory()
    server.cli("rule", "add", "later.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", "9")
    send(server.port("smtp"), message("wait"), recipients="x@later.test")
    (entry,) = server.queue()
    server.cli("queue", "hold", entry["message_id"])
    assert len(server.queue("--held")) == 1
    server.cli("queue", "retry", entry["message_id"])
    server.cli("queue", "release", entry["message_id"])
    assert server.queue("--held") == []


def test_removed_messages_are_gone_and_an_unknown_id_fails_with_a_clear_line(held):
    server, ids = held
    server.cli("queue", "remove", ids[0], ids[1], "--yes")
    assert sorted(entry["message_id"] for entry in server.queue()) == sorted(ids[2:])
    with pytest.raises(CommandFailed) as failure:
        server.cli("queue", "show", ids[0])
    assert failure.value.status != 0
    assert "Traceback" not in failure.value.output


def test_a_message_can_be_rerouted_into_a_mailbox(held):
    server, ids = held
    server.cli("queue", "reroute", ids[0], "--to", BOB)
    wait_until(lambda: count(server, BOB) == 1, 15, "the message is in bob's mailbox")


def test_watch_shows_a_message_as_it_passes(gatepost_factory):
    server = gatepost_factory(workers=2)
    watch = subprocess.Popen(
        [str(PROGRAM), "queue", "watch", "--json", "--data", str(server.data)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    seen: list[str] = []

    def read() -> None:
        assert watch.stdout is not None
        seen.extend(watch.stdout)  # line by line, while it runs

    reader = threading.Thread(target=read)
    reader.start()

    def shown() -> bool:
        assert watch.poll() is None, f"the watch has ended: {seen}"
        send(server.port("smtp"), message("watched"))  # again and again: what passed before it watched is not shown
        return "DELIVERED" in "".join(seen).upper()

    try:
        wait_until(shown, 60, "a delivery is shown", 0.5)
        assert ALICE in "".join(seen)
    finally:
        watch.kill()
        watch.wait(10)
        reader.join(10)


def test_explain_says_the_same_as_live_mail_does(gatepost_factory):
    server = gatepost_factory()
    server.cli("handler", "add", "example.test", "team", "--kind", "forward", "--target", ALICE)
    explained = server.cli("explain", "team@example.test")
    assert ALICE in explained
    assert "forward" in explained
    refused = server.cli("explain", "nobody@example.test")
    assert "550" in refused
    foreign = server.cli("explain", "someone@elsewhere.example")
    assert "554" in foreign


def test_send_puts_a_message_into_the_queue_and_it_arrives(gatepost_factory):
    server = gatepost_factory()
    server.cli("send", "-", "--from", ALICE, "--to", BOB, text=message("by the command", sender=ALICE, to=BOB).as_string())
    wait_until(lambda: count(server, BOB) == 1, 15, "the message is in bob's mailbox")


def test_users_domains_volumes_and_tokens_come_and_go(gatepost_factory):
    server = gatepost_factory()
    server.cli("domain", "add", "other.test")
    server.cli("user", "add", "carol@other.test", "--password-stdin", text="a long enough password\n")
    assert "carol@other.test" in server.cli("user", "list")
    server.cli("user", "passwd", "carol@other.test", "--password-stdin", text="another long password\n")
    with imap(server.port("imaps"), "carol@other.test", "another long password") as client:
        assert exists(client) == 0
    server.cli("user", "remove", "carol@other.test", "--yes")
    assert "carol@other.test" not in server.cli("user", "list")
    server.cli("domain", "remove", "other.test", "--yes")
    assert "other.test" not in server.cli("domain", "list")
    assert "main" in server.cli("volume", "list")
    token = server.cli("token", "add", "viewer-of-ours", "--role", "viewer")
    assert token.strip()
    assert "viewer-of-ours" in server.cli("token", "list")


def test_every_change_leaves_an_audit_record(gatepost_factory):
    server = gatepost_factory()
    server.cli("rule", "add", "audited.test", "--kind", "discard")
    records = [json.loads(line) for line in (server.data / "audit.log").read_text().splitlines()]
    assert any("audited.test" in json.dumps(record) for record in records)
    assert PASSWORD not in (server.data / "audit.log").read_text()
