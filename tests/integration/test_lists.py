"""Mailing lists as members and owners use them: the real server, mail in and out, the command line."""

import re
import smtplib
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, CommandFailed, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import exists, fetched, imap, message, send

TEAM = "team@example.test"
REQUEST = "team-request@example.test"
BASE = "https://lists.example.test/l/"

RULES = """
format = 1

[rules."example.test"]
kind = "hosted"

[rules."example.test".handlers.team]
kind = "list"
targets = ["alice@example.test", "bob@example.test", "gone@example.test"]
[rules."example.test".handlers.team.options.list]
name = "The Team"
owners = ["bob@example.test"]
verp = true
bounce_limit = 2
self_subscribe = true
digest_octets = 1024

[rules."example.test".handlers.slow]
kind = "list"
targets = ["alice@example.test"]
[rules."example.test".handlers.slow.options.list]
owners = ["bob@example.test"]
may_post = "anyone"
moderated = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    place = tmp_path_factory.mktemp("lists")
    with start_gatepost(place, lists={"link_base": BASE}) as one:
        for name in ("gone", "carol", "dora"):
            one.cli("user", "add", f"{name}@example.test", "--password-stdin", text=PASSWORD)
        (place / "rules.toml").write_text(RULES)
        one.cli("rules", "apply", str(place / "rules.toml"), "--yes")
        yield one


def mailbox(server: Gatepost, user: str) -> list[EmailMessage]:
    with imap(server.port("imaps"), user, PASSWORD) as client:
        octets = fetched(client, "BODY.PEEK[]") if exists(client) else []
    return [one for one in (message_from_bytes(each, policy=policy.default) for each in octets) if isinstance(one, EmailMessage)]


def found(server: Gatepost, user: str, text: str, what: str = "Subject") -> EmailMessage:
    """Wait for a message whose field holds the text."""
    return wait_until(lambda: next((one for one in mailbox(server, user) if text in str(one[what])), None), 20, f"{text!r} for {user}")


def members(server: Gatepost, address: str = TEAM) -> dict[str, dict[str, object]]:
    return {one["address"]: one for one in server.json("list", "members", address)}


def post(server: Gatepost, subject: str, sender: str = ALICE, to: str = TEAM, author: str = "") -> None:
    send(server.port("smtp"), message(subject, sender=author or sender, to=to), sender, to)


def test_who_asks_and_answers_becomes_a_member_and_who_clicks_is_none_any_more(server: Gatepost) -> None:
    carol = "carol@example.test"
    send(server.port("smtp"), message("please", sender=carol, to="team-subscribe@example.test"), carol, "team-subscribe@example.test")
    question = found(server, carol, "confirm ")
    assert carol not in members(server)  # asking alone does nothing
    reply = message(f"Re: {question['Subject']}", sender=carol, to=REQUEST)
    send(server.port("smtp"), reply, carol, REQUEST)
    found(server, carol, f"{carol} gets the posts of")
    assert members(server)[carol]["in_handler"] is False
    post(server, "for carol too")
    mail = found(server, carol, "for carol too")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    way = re.search(r"<(https://[^>]+)>", str(mail["List-Unsubscribe"]))
    assert way is not None and way[1].startswith(BASE) and "<mailto:team-unsubscribe@example.test>" in mail["List-Unsubscribe"]
    token = way[1].removeprefix(BASE)
    assert "unsubscribe: carol@example.test" in server.cli("list", "follow", token, "--dry-run")
    assert members(server)[carol]["state"] == "subscribed"
    server.cli("list", "follow", token)
    assert members(server)[carol]["state"] == "unsubscribed"
    assert "5.7.2" in server.cli("explain", TEAM, "--from", carol)
    with pytest.raises(CommandFailed, match="was changed"):
        server.cli("list", "follow", token[:-3] + "AAA")


def test_a_word_that_was_changed_is_not_obeyed_and_a_program_gets_no_answer(server: Gatepost) -> None:
    dora = "dora@example.test"
    send(
        server.port("smtp"), message("confirm " + "A" * 90, sender=dora, to="team-request@example.test"), dora, "team-request@example.test"
    )
    assert "was changed" in found(server, dora, "team@example.test")["Subject"]
    before = len(mailbox(server, dora))
    robot = message("subscribe", sender=dora, to=REQUEST)
    robot["Auto-Submitted"] = "auto-replied"
    send(server.port("smtp"), robot, dora, REQUEST)
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")
    assert len(mailbox(server, dora)) == before and dora not in members(server)


def test_a_post_waits_for_its_owner_who_approves_or_rejects_it(server: Gatepost) -> None:
    slow = "slow@example.test"
    for number in (1, 2):
        post(server, f"wait {number}", "stranger@far.test", slow)
    notice = found(server, BOB, f"A post to {slow} waits")
    text = notice.get_content()
    assert "stranger@far.test" in text and BASE in text
    held = {one["subject"]: one["message_id"] for one in wait_until(lambda: _held(server, slow, 2), 20, "both wait")}
    server.cli("list", "approve", slow, str(held["wait 1"]))
    found(server, ALICE, "wait 1")
    links = dict(line.split(": ", 1) for line in _notices(server, held["wait 2"]).splitlines() if ": https" in line)
    reject = links["Reject"].removeprefix(BASE)
    server.cli("list", "follow", reject)
    assert _held(server, slow, 0) == []
    assert not any("wait 2" in str(one["Subject"]) for one in mailbox(server, ALICE))
    with pytest.raises(CommandFailed, match="waits no longer"):
        server.cli("list", "follow", reject)


def _held(server: Gatepost, address: str, count: int) -> list[dict[str, object]] | None:
    posts = server.json("list", "held", address)
    return posts if len(posts) == count else None


def _notices(server: Gatepost, identity: object) -> str:
    def text() -> str | None:
        all_of_them = [one.get_content() for one in mailbox(server, BOB) if "waits" in str(one["Subject"])]
        return next((one for one in all_of_them if str(identity) in one), None)

    return wait_until(text, 20, "the notice")


def test_a_post_in_the_name_of_somebody_else_waits_too(server: Gatepost) -> None:
    post(server, "forged author", ALICE, author="mallory@far.test")
    waiting = wait_until(lambda: _held(server, TEAM, 1), 20, "it waits")
    assert waiting[0]["author"] == "mallory@far.test"
    server.cli("list", "reject", TEAM, str(waiting[0]["message_id"]))
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        post(server, "nor with the envelope of a stranger", "mallory@far.test", author=ALICE)


def test_a_member_whose_mail_comes_back_is_disabled_and_the_owner_is_told(server: Gatepost) -> None:
    gone = "gone@example.test"
    post(server, "to all")
    path = str(found(server, gone, "to all")["Return-Path"]).strip("<>")
    assert re.fullmatch(r"team-bounces\+gone=example\.test\+[a-z2-7]{8}@example\.test", path)
    for number, to in enumerate((path, path.replace("gone=", "alice="), path, path)):  # a tag is good for its own member only
        if number < 3:
            send(server.port("smtp"), _report(number), "", to)
    found(server, BOB, "gone@example.test gets no more posts")
    assert members(server)[gone]["state"] == "disabled"
    assert members(server)[ALICE]["bounces"] == 0
    server.cli("list", "set", TEAM, gone, "--state", "subscribed")
    assert members(server)[gone]["state"] == "subscribed"


def _report(number: int) -> EmailMessage:
    report = message_from_bytes(REPORT % number, policy=policy.default)
    assert isinstance(report, EmailMessage)
    return report


REPORT = (
    b"From: mailer-daemon@far.test\r\nSubject: failed %d\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
    b"--b\r\n\r\nsorry\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
    b"Reporting-MTA: dns; far.test\r\n\r\nFinal-Recipient: rfc822; x@far.test\r\nAction: failed\r\nStatus: 5.1.1\r\n--b--\r\n"
)


def test_a_member_may_have_the_posts_together(server: Gatepost) -> None:
    dora = "dora@example.test"
    server.cli("list", "set", TEAM, dora, "--digest")
    for number in range(3):
        post(server, f"digested {number} " + "x" * 400)
    mail = wait_until(lambda: next((one for one in mailbox(server, dora) if "digest" in str(one["Subject"])), None), 60, "the digest")
    contents, posts = mail.iter_parts()
    assert posts.get_content_type() == "multipart/digest"
    subjects = [str(each.get_payload()[0]["Subject"]) for each in posts.get_payload()]  # type: ignore[union-attr,index]
    assert "digested 0" in subjects[0] and "digested 0" in contents.get_content()
    assert mail["List-Unsubscribe-Post"] and mail["Return-Path"].startswith("<team-bounces+dora=")
    assert not any(str(one["Subject"]).startswith("digested") for one in mailbox(server, dora))


def test_help_is_sent_to_people(server: Gatepost) -> None:
    send(server.port("smtp"), message("help", sender=ALICE, to=REQUEST), ALICE, REQUEST)
    assert "unsubscribe" in found(server, ALICE, "Commands of").get_content()


def test_owners_are_reached_by_an_address_of_the_list(server: Gatepost, tmp_path: Path) -> None:
    send(server.port("smtp"), message("a question", to="team-owner@example.test"), "x@far.test", "team-owner@example.test")
    found(server, BOB, "a question")
