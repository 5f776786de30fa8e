"""Two workers, one server: what happens through one is seen through the other within a second."""

import imaplib
import os
import re
import select
import smtplib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import wait_until
from support.programs import exists, imap, message, send, unverified

SOON = 1.0


def worker_of(client: imaplib.IMAP4, server: Gatepost) -> int:
    """Index of the worker that serves this session, found by the socket's peer in the kernel's table."""
    port = client.socket().getsockname()[1]
    shown = subprocess.run(["ss", "-tnpH", f"dport = :{port}"], capture_output=True, text=True, check=True).stdout
    pids = {int(pid) for pid in re.findall(r"pid=(\d+)", shown)}
    return next(index for index, pid in enumerate(server.worker_pids()) if pid in pids)


def sessions_on_both(server: Gatepost) -> tuple[imaplib.IMAP4, imaplib.IMAP4]:
    """Two logged-in sessions with INBOX selected, each served by another worker."""
    found: dict[int, imaplib.IMAP4] = {}
    for _ in range(60):
        client = imaplib.IMAP4_SSL("127.0.0.1", server.port("imaps"), ssl_context=unverified(), timeout=30)
        index = worker_of(client, server)
        if index in found:
            client.shutdown()
            continue
        client.login(ALICE, PASSWORD)
        client.select("INBOX")
        found[index] = client
        if len(found) == 2:
            return found[0], found[1]
    raise AssertionError("the kernel gave all sessions to one worker")


@pytest.fixture
def both(gatepost_factory: Any) -> Iterator[tuple[Gatepost, imaplib.IMAP4, imaplib.IMAP4]]:
    """A server with two messages in alice's INBOX, and a session through each worker."""
    server = gatepost_factory(workers=2)
    for number in range(2):
        send(server.port("smtp"), message(f"shared {number}"))

    def there() -> bool:
        with imap(server.port("imaps"), ALICE, PASSWORD) as client:
            return exists(client) == 2

    wait_until(there, 15, "two messages are there")
    one, two = sessions_on_both(server)
    yield server, one, two
    one.shutdown()
    two.shutdown()


def test_flags_set_through_one_are_seen_through_the_other(both):
    _, one, two = both
    one.store("1", "+FLAGS", r"(\Flagged)")

    def seen() -> bool:
        two.noop()
        return b"\\Flagged" in two.fetch("1", "(FLAGS)")[1][0]

    wait_until(seen, SOON, "the flag is seen by the other worker")


def test_expunge_and_append_through_one_are_seen_through_the_other(both):
    _, one, two = both
    one.store("1", "+FLAGS", r"(\Deleted)")
    one.expunge()

    def gone() -> bool:
        two.noop()
        return two.search(None, "ALL")[1] == [b"1"]

    wait_until(gone, SOON, "the message is gone for the other worker")
    one.append("INBOX", None, None, message("appended", sender=ALICE).as_bytes())

    def there() -> bool:
        two.noop()
        return two.search(None, "ALL")[1] == [b"1 2"]

    wait_until(there, SOON, "the appended message is seen by the other worker")


def test_folders_made_through_one_are_listed_by_the_other(both):
    _, one, two = both
    one.create("Shared")
    wait_until(lambda: any(b"Shared" in line for line in two.list()[1] if line), SOON, "the folder is listed by the other worker")


def test_idle_hears_of_new_mail_whichever_worker_took_it(both):
    server, *clients = both
    for client in clients:
        client.send(b"i1 IDLE\r\n")
        assert client.readline().startswith(b"+")
    for number in range(6):
        send(server.port("smtp"), message(f"news {number}"))
    deadline = time.monotonic() + SOON + 1.0
    for client in clients:
        heard = b""
        while b"* 8 EXISTS" not in heard:
            left = deadline - time.monotonic()
            ready = client.sock.pending() or (left > 0 and select.select([client.socket()], [], [], left)[0])
            assert ready, heard
            heard += client.sock.recv(4096)
        client.send(b"DONE\r\n")


def test_a_rule_changed_once_is_in_force_in_both(gatepost_factory):
    server = gatepost_factory(workers=2)
    server.cli("handler", "add", "example.test", "closed", "--kind", "reject", "--text", "closed now")

    def refused_everywhere() -> bool:
        for _ in range(12):
            with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
                client.ehlo()
                client.mail("sender@example.org")
                if b"closed now" not in client.rcpt("closed@example.test")[1]:
                    return False
        return True

    wait_until(refused_everywhere, SOON, "both workers refuse", 0.01)


def test_a_changed_password_is_refused_by_both_and_removed_users_too(gatepost_factory):
    server = gatepost_factory(workers=2)
    for _ in range(6):
        with imap(server.port("imaps"), ALICE, PASSWORD):
            pass
    server.cli("user", "passwd", ALICE, "--password-stdin", text="something else entirely\n")
    time.sleep(SOON)
    for _ in range(6):
        with pytest.raises(imaplib.IMAP4.error), imap(server.port("imaps"), ALICE, PASSWORD):
            pass


def test_both_workers_take_connections(gatepost_factory):
    server = gatepost_factory(workers=2)
    one, two = sessions_on_both(server)
    assert len({worker_of(one, server), worker_of(two, server)}) == 2
    assert all(os.path.exists(f"/proc/{pid}") for pid in server.worker_pids())
    one.logout()
    two.logout()
