"""What rules cause, as an administrator sets it up: a rule file, the real server, a neighbour that listens, and mailboxes.

A forward and its bounce, a list with a member elsewhere, an automatic answer, a program, a disclaimer.
"""

import asyncio
import re
import smtplib
import sys
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from pathlib import Path

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import exists, fetched, imap, message, send
from support.smtp_peer import Heard, SmtpPeer

FAR = "x@far.test"

RULES = """
format = 1

[rules."example.test"]
kind = "hosted"

[rules."example.test".handlers]
sales = {{ kind = "forward", targets = ["agency@far.test"], options = {{ srs = true }} }}
info = {{ kind = "auto-reply", options = {{ reply = {{ text = "We are closed.", interval_days = 1 }} }} }}

[rules."example.test".handlers.robot]
kind = "transport"
[rules."example.test".handlers.robot.options.transport]
kind = "pipe"
program = {{ argv = ["{program}", "-I", "-c", "{code}"] }}

[rules."example.test".handlers.team]
kind = "list"
targets = ["alice@example.test", "bob@example.test", "member@far.test"]
[rules."example.test".handlers.team.options.list]
name = "The Team"
owners = ["bob@example.test"]
subject_tag = "[team]"
footer_text = "-- the team"
verp = true

[rules."far.test"]
kind = "gateway"
host = "127.0.0.1"
port = {port}

[rules."far.test".settings]
disclaimer = {{ footer_text = "Example Ltd." }}
"""


class Neighbour:
    """An SmtpPeer with a thread of its own."""

    def __enter__(self) -> "Neighbour":
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.peer = SmtpPeer()
        asyncio.run_coroutine_threadsafe(self.peer.__aenter__(), self.loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.peer.__aexit__(None, None, None), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    def heard(self, fits: Callable[[Heard], bool], what: str) -> Heard:
        """Wait for a transaction that fits."""
        return wait_until(lambda: next((one for one in list(self.peer.transactions) if one.data and fits(one)), None), 20, what)


@pytest.fixture(scope="module")
def neighbour() -> Iterator[Neighbour]:
    with Neighbour() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, neighbour: Neighbour) -> Iterator[Gatepost]:
    place = tmp_path_factory.mktemp("actions")
    code = f"import sys; open('{place}/robot', 'wb').write(sys.stdin.buffer.read())"
    with start_gatepost(place, pipe={"programs": [sys.executable]}) as one:
        (place / "rules.toml").write_text(RULES.format(port=neighbour.peer.port, program=sys.executable, code=code))
        one.cli("rules", "apply", str(place / "rules.toml"), "--yes")
        yield one


def inbox(server: Gatepost, user: str, count: int) -> list[bytes]:
    def found() -> list[bytes] | None:
        with imap(server.port("imaps"), user, PASSWORD) as client:
            return fetched(client, "BODY.PEEK[]") if exists(client) >= count else None

    return wait_until(found, 20, f"{count} messages for {user}")


def test_a_forward_keeps_spf_and_signatures_whole_and_its_bounce_finds_the_sender(server: Gatepost, neighbour: Neighbour) -> None:
    send(server.port("smtp"), message("forward me", to="sales@example.test"), FAR, "sales@example.test")
    heard = neighbour.heard(lambda one: "agency@far.test" in one.rcpts[0], "the forward")
    path = heard.mail.partition("<")[2].partition(">")[0]
    assert path.startswith("SRS0=") and path.endswith("=far.test=x@example.test")
    send(server.port("smtp"), message("it bounced", to=path), "", path)
    back = neighbour.heard(lambda one: FAR in one.rcpts[0] and b"it bounced" in one.data, "the bounce")
    assert back.mail.startswith("MAIL FROM:<>")
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(server.port("smtp"), message("forged"), "", path.replace("=far.test=x@", "=far.test=victim@"))
    assert b"5.7.1" in next(iter(refused.value.recipients.values()))[1]


def test_a_post_reaches_the_members_here_and_elsewhere_and_a_bounce_the_owner(server: Gatepost, neighbour: Neighbour) -> None:
    send(server.port("smtp"), message("news", sender=ALICE, to="team@example.test"), ALICE, "team@example.test")
    heard = neighbour.heard(lambda one: "member@far.test" in one.rcpts[0], "the post")
    assert re.search(r"FROM:<team-bounces\+member=far\.test\+[a-z2-7]{8}@example\.test>", heard.mail)
    for octets in (heard.data, inbox(server, ALICE, 1)[0]):
        post = message_from_bytes(octets)
        assert post["Subject"] == "[team] news"
        assert post["List-Id"] == "The Team <team.example.test>"
        assert "-- the team" in post.get_payload()
    send(server.port("smtp"), message("undeliverable"), "", "team-bounces+member=far.test@example.test")
    assert any(b"undeliverable" in octets for octets in inbox(server, BOB, 2))
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(server.port("smtp"), message("spam"), FAR, "team@example.test")


def test_a_writer_is_answered_once(server: Gatepost, neighbour: Neighbour) -> None:
    server.cli("user", "add", "info@example.test", "--password-stdin", text=PASSWORD)
    for number in range(2):
        send(server.port("smtp"), message(f"question {number}", sender=FAR, to="info@example.test"), FAR, "info@example.test")
    answer = neighbour.heard(lambda one: b"We are closed." in one.data, "the answer")
    assert answer.mail.startswith("MAIL FROM:<>") and FAR in answer.rcpts[0]
    assert message_from_bytes(answer.data)["Auto-Submitted"] == "auto-replied"
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")
    assert sum(b"We are closed." in one.data for one in neighbour.peer.transactions) == 1


def test_a_program_gets_its_mail(server: Gatepost) -> None:
    send(server.port("smtp"), message("to the robot", to="robot@example.test"), FAR, "robot@example.test")
    file = Path(server.data).parent / "robot"
    wait_until(lambda: file.exists() and b"Hello.\n" in file.read_bytes(), 20, "the program has run")
    octets = file.read_bytes()
    assert octets.startswith(b"Return-Path: <x@far.test>\nDelivered-To: robot@example.test\n") and b"\r" not in octets


def test_what_leaves_for_a_domain_carries_its_disclaimer(server: Gatepost, neighbour: Neighbour) -> None:
    send(server.port("smtp"), message("hello", to="y@far.test"), "stranger@else.test", "y@far.test")
    assert neighbour.heard(lambda one: "y@far.test" in one.rcpts[0], "the message").data.endswith(b"Hello.\r\n\r\nExample Ltd.\r\n")
