"""The quarantine of a running server with two workers: by the SDK, the command line and digest links, with and without the right role."""

import asyncio
import json
import re
import smtplib
import ssl
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as email_policy
from typing import Any

import pytest

from gatepost.client import ALL, GatepostClient, NotFoundError, PermissionDeniedError, QuarantineFilter, RefusedError, find_target
from gatepost.client.errors import InvalidRequestError
from gatepost.config import load_settings
from gatepost.control.digest import Digests, newest_moment
from gatepost.control.errors import ControlError, unavailable
from gatepost.control.workers import WorkerLinks
from gatepost.directory import Directory
from support.gatepost import ALICE, BOB, Gatepost
from support.quarantine import INFECTED, fill


@pytest.fixture
def server(gatepost_factory: Any) -> Gatepost:
    """Nine messages in quarantine: in p0 three programs for alice, in p1 three for alice and bob and three infected ones for bob."""
    made: Gatepost = gatepost_factory(workers=2, queue={"undo_seconds": 600})
    made.stop()
    made.ids = {  # type: ignore[attr-defined]
        "alice": fill(made.data / "spool" / "p0", 3, [ALICE]),
        "both": fill(made.data / "spool" / "p1", 3, [ALICE, BOB]),
        "infected": fill(
            made.data / "spool" / "p1", 3, [BOB], verdict=INFECTED, sender="eve@evil.test", subject="<b>virus</b> http://x.test"
        ),
    }
    return made.start()


def ids(server: Gatepost, name: str) -> list[str]:
    found: dict[str, list[str]] = server.ids  # type: ignore[attr-defined]
    return found[name]


async def listed(client: GatepostClient, wanted: QuarantineFilter | None = None, **more: Any) -> list[str]:
    return [one.message.message_id.replace("-", "") async for one in client.quarantine.list(wanted, **more)]


async def inbox(server: Gatepost, user: str, count: int) -> list[str]:
    """Subjects in a mailbox, once there are so many."""
    import imaplib

    def look() -> list[str]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with imaplib.IMAP4_SSL("127.0.0.1", server.port("imaps"), ssl_context=context) as imap:
            imap.login(user, "correct horse battery staple")
            imap.select()
            _, found = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            return [part[1].decode().strip().removeprefix("Subject: ") for part in found if isinstance(part, tuple)]

    for _ in range(100):
        subjects = await asyncio.to_thread(look)
        if len(subjects) >= count:
            return sorted(subjects)
        await asyncio.sleep(0.1)
    raise AssertionError(f"{subjects} in {user}'s mailbox, not {count}")


async def test_messages_are_listed_over_both_workers_searched_shown_and_told_in_trace_and_queue(server: Gatepost) -> None:
    everything = sorted(ids(server, "alice") + ids(server, "both") + ids(server, "infected"))
    async with GatepostClient(server.data) as client:
        assert await listed(client, page_size=2) == everything
        assert await listed(client, QuarantineFilter(text="eicar")) == ids(server, "infected")
        assert await listed(client, QuarantineFilter(recipient="bob@*", sender="mallory@*")) == ids(server, "both")
        assert await listed(client, QuarantineFilter(state="waiting")) == []
        details = await client.quarantine.get(ids(server, "infected")[0])
        assert details.found.verdict is not None and details.found.verdict.answers[0].name == "Eicar"
        assert details.found.subject == "<b>virus</b> http://x.test 1" and details.found.expires is not None
        text = "scanned: quarantine, policy default, rule infected, clamd infected Eicar"
        assert [entry.text for entry in details.history if entry.kind == "scanned"] == [text]
        assert text in await asyncio.to_thread(server.cli, "trace", ids(server, "infected")[0])
        assert "quarantined" in await asyncio.to_thread(server.cli, "queue", "list")
        assert "a.zip / b.exe" in await asyncio.to_thread(server.cli, "quarantine", "show", ids(server, "infected")[0])
        assert "invoice" in await asyncio.to_thread(server.cli, "quarantine", "list", "--recipient", "alice@*")
        with pytest.raises(NotFoundError):
            await client.quarantine.get("ffffffffffff")


async def test_queue_commands_on_everything_let_nothing_out_and_say_so(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        preview = await client.queue.preview(ALL)
        assert preview.messages == 0 and any("in quarantine are left out" in text for text in preview.warnings)
        for act in (client.queue.release, client.queue.retry, client.queue.hold, client.queue.remove):
            result = await act(ALL)
            assert (result.matched, result.changed, result.withheld) == (0, 0, 9)
        one = ids(server, "infected")[0]
        released = await client.queue.release(one)
        assert (released.changed, released.withheld) == (0, 1)
        with pytest.raises(RefusedError, match="quarantine release"):
            await client.queue.reroute(one, new_address=ALICE)
        with pytest.raises(RefusedError, match="quarantine"):
            [part async for part in client.queue.download(one)]
        assert len(await listed(client)) == 9


async def test_released_mail_arrives_and_deleted_mail_comes_back_by_undo(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        first, *rest = ids(server, "both")
        done = await client.quarantine.release(first, recipients=[BOB])
        assert (done.result.changed, done.refused) == (1, 0)
        assert await inbox(server, BOB, 1) == ["your invoice 1"]
        rows = (await asyncio.to_thread(server.cli, "quarantine", "list")).splitlines()
        assert [f"{ALICE} +1" in row for row in rows if "mallory@evil.test" in row] == [False] * 4 + [True] * 2, "bob has got the first"
        done = await client.quarantine.release(QuarantineFilter(recipient=ALICE))
        assert (done.result.matched, done.result.changed) == (6, 6)
        assert len(await inbox(server, ALICE, 6)) == 6 and len(await inbox(server, BOB, 3)) == 3
        history = await client.history.get(rest[0])
        assert any(event.kind == "rerouted" and "local:" in event.text for event in history.events)
        deleted = await client.quarantine.delete(ALL)
        assert deleted.changed == 3 and await listed(client) == []
        assert (await client.queue.undo(deleted.operation_id)).operation.kind == "quarantine_delete"
        assert await listed(client) == ids(server, "infected")
        with pytest.raises(NotFoundError):
            await client.quarantine.release([ids(server, "infected")[0], first])
        assert await listed(client) == ids(server, "infected")
        with pytest.raises(NotFoundError, match=f"no message in quarantine {first}: .* not any more; its history"):
            await client.quarantine.release(first)


async def test_a_sender_that_is_allowed_is_in_the_rules_until_taken_back(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        done = await client.quarantine.allow(ids(server, "both")[:1], for_recipients_only=True)
        assert [(one.sender, one.recipient) for one in done.allowed] == [("mallory@evil.test", ALICE), ("mallory@evil.test", BOB)]
        assert done.result.changed == 1
        await client.quarantine.allow_sender("News@Shop.example")
        assert "news@shop.example" in await asyncio.to_thread(server.cli, "quarantine", "allowed")
        await asyncio.to_thread(server.cli, "quarantine", "disallow", "news@shop.example")
        assert [one.sender async for one in client.quarantine.allowed_senders()] == ["mallory@evil.test"] * 2
        with pytest.raises(NotFoundError):
            await client.quarantine.disallow_sender("news@shop.example")


async def test_mail_of_an_allowed_sender_passes_policy_at_once_and_no_longer_when_that_is_taken_back(server: Gatepost) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "tools@shop.example", ALICE, "the tool"
    mail.set_content("hello")
    mail.add_attachment(b"MZ" + bytes(500), maintype="application", subtype="octet-stream", filename="tool.exe")

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=20) as client:
            client.send_message(mail)

    async with GatepostClient(server.data) as client:
        with pytest.raises(smtplib.SMTPDataError):
            await asyncio.to_thread(send)
        await client.quarantine.allow_sender("tools@shop.example", ALICE)
        await asyncio.to_thread(send)
        assert await inbox(server, ALICE, 1) == ["the tool"]
        await client.quarantine.disallow_sender("tools@shop.example", ALICE)
        with pytest.raises(smtplib.SMTPDataError):
            await asyncio.to_thread(send)


async def test_an_operator_tries_a_policy_on_a_message_that_is_in_quarantine(server: Gatepost) -> None:
    text = '[[rules]]\nname = "seen"\naction = "reject"\nwhen = "mail.header(\\"subject\\").exists(one, one == \\"your invoice 1\\")"\n'
    async with GatepostClient(server.data) as client:
        trial = await client.policies.try_on(ids(server, "both")[0], text=text)
        assert (trial.action, trial.rule) == ("reject", "seen")
        assert [(one.address, one.fate) for one in trial.recipients] == [(ALICE, "reject"), (BOB, "reject")]
    assert await asyncio.to_thread(server.cli, "scan", "--queue", ids(server, "alice")[0])
    assert ids(server, "both")[0] in await _listed(server), "nothing was changed"


async def _listed(server: Gatepost) -> list[str]:
    async with GatepostClient(server.data) as client:
        return await listed(client)


async def test_a_digest_lists_what_waits_for_a_mailbox_and_its_links_act_for_its_owner_only(server: Gatepost) -> None:
    async with GatepostClient(server.data) as client:
        found = await client.quarantine.digest(BOB)
        assert (found.listed, found.omitted) == (6, 0)
        mail = message_from_bytes(found.message, policy=email_policy)
        assert mail["To"] == BOB and mail["Auto-Submitted"] == "auto-generated"
        html = mail.get_body(("html",)).get_content()
        assert "&lt;b&gt;virus" in html and "<b>virus" not in html and "http://x.test" not in html
        text = mail.get_body(("plain",)).get_content()
        tokens = dict(
            zip(ids(server, "both")[::-1], re.findall(r"Release: https://gatepost.example.test/quarantine/(\S+)", text), strict=True)
        )
        removals = re.findall(r"Delete: \S+/quarantine/(\S+)", text)
        assert len(removals) == 6
        token = tokens[ids(server, "both")[0]]
        told = await client.quarantine.resolve_link(token, dry_run=True)
        assert (told.action, told.recipient, told.done) == ("release", BOB, False)
        for broken in (token[:40] + ("A" if token[40] != "A" else "B") + token[41:], token[:-6], "x", ""):
            with pytest.raises(InvalidRequestError):
                await client.quarantine.resolve_link(broken)
        assert (await client.quarantine.resolve_link(token)).done
        assert await inbox(server, BOB, 1) == ["your invoice 1"]
        with pytest.raises((RefusedError, NotFoundError)):
            await client.quarantine.resolve_link(token)
        assert ids(server, "both")[0] in await listed(client), "alice's copy stays"
        assert (await client.quarantine.resolve_link(removals[0])).action == "delete"
        assert ids(server, "infected")[-1] not in await listed(client)
        with pytest.raises(RefusedError, match="not in quarantine any more: it was released or deleted"):
            await client.quarantine.resolve_link(removals[0])
        history = (await client.quarantine.get(ids(server, "both")[0])).history
        assert any(entry.text == f"released from quarantine (by link:{BOB})" for entry in history)
        printed = await asyncio.to_thread(server.cli, "quarantine", "digest", "--mailbox", BOB, "--dry-run")
        assert "messages in quarantine for you" in printed
        with pytest.raises(NotFoundError):
            await client.quarantine.digest("nobody@example.test")
    assert token not in (server.data / "audit.log").read_text()


Try = Callable[[GatepostClient, str], Awaitable[object]]

MAY: dict[str, list[tuple[str, Try]]] = {
    "viewer": [
        ("ListQuarantined", lambda client, one: listed(client)),
        ("GetQuarantined", lambda client, one: client.quarantine.get(one)),
        ("ListAllowedSenders", lambda client, one: anext(aiter(client.quarantine.allowed_senders()), None)),
    ],
    "operator": [
        ("ReleaseQuarantined", lambda client, one: client.quarantine.release(one, dry_run=True)),
        ("DeleteQuarantined", lambda client, one: client.quarantine.delete(one, dry_run=True)),
        ("ReleaseAndAllow", lambda client, one: client.quarantine.allow([one])),
        ("AllowSender", lambda client, one: client.quarantine.allow_sender("a@b.example")),
        ("DisallowSender", lambda client, one: client.quarantine.disallow_sender("a@b.example")),
        ("PreviewDigest", lambda client, one: client.quarantine.digest(ALICE)),
        ("ResolveDigestLink", lambda client, one: client.quarantine.resolve_link("x")),
        ("RescanQuarantined", lambda client, one: client.quarantine.rescan(one)),
    ],
    "admin": [("ReadContent", lambda client, one: anext(aiter(client.quarantine.content(one))))],
}
MAY_FAIL = (RefusedError, InvalidRequestError, NotFoundError)
"""What a call that was admitted may say."""


async def test_each_call_is_open_to_its_role_and_to_no_lesser_one(server: Gatepost) -> None:
    roles = list(MAY)
    authority = server.data / "tls" / "cert.pem"
    tokens = {role: (await asyncio.to_thread(server.json, "token", "add", f"a-{role}", "--role", role))["secret"] for role in roles}

    async def attempt(role: str, act: Try, one: str) -> bool:
        target = find_target(address=f"localhost:{server.port('control_tcp')}", token=tokens[role], ca_file=authority, server_name=NAME)
        async with GatepostClient(target) as client:
            try:
                await act(client, one)
            except PermissionDeniedError:
                return False
            except MAY_FAIL:
                pass
            return True

    for place, role in enumerate(roles):
        for name, act in MAY[role]:
            message = ids(server, "infected")[place]
            assert await attempt(role, act, message), f"{role} may {name}"
            assert not place or not await attempt(roles[place - 1], act, message), f"{roles[place - 1]} may not {name}"
    audit = (server.data / "audit.log").read_text()
    assert '"rpc":"/gatepost.api.quarantine.v1.QuarantineService/ReadContent"' in audit.replace('": "', '":"')


NAME = "gatepost.example.test"


async def nowhere() -> None:
    raise unavailable("no worker takes mail")


async def test_digests_are_sent_once_for_a_day_to_each_mailbox_that_has_something_new(
    server: Gatepost, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(data=server.data, overrides={"quarantine.digest": "daily", "hostname": NAME}, environ={})
    links = WorkerLinks({index: server.data / "run" / f"worker-{index}.sock" for index in range(2)})
    directory = Directory(server.data / "directory.db")
    digests = Digests(links, directory, directory.snapshot, lambda: settings)
    now = datetime.now().astimezone()
    try:
        assert await digests.send_due(now) == 0, "what was there when digests were switched on is of a former day"
        assert await digests.send_due(now + timedelta(days=1)) == 2
        assert await digests.send_due(now + timedelta(days=1)) == 0
        assert await inbox(server, ALICE, 1) == ["6 messages in quarantine for you"]
        assert await inbox(server, BOB, 1) == ["6 messages in quarantine for you"]
        # As after a stop in the middle of the next day's sending: alice has hers.
        moment = int(newest_moment(settings, now + timedelta(days=1)).timestamp())  # type: ignore[union-attr]
        (server.data / "digest.json").write_text(json.dumps({"format": 1, "moment": moment, "after": ALICE}))
        assert await digests.send_due(now + timedelta(days=1)) == 1
        assert len(await inbox(server, BOB, 2)) == 2 and len(await inbox(server, ALICE, 1)) == 1
        # As when no worker takes mail while bob's is due: tried again, and alice does not get hers twice.
        (server.data / "digest.json").write_text(json.dumps({"format": 1, "moment": moment, "after": ""}))
        submit = digests._submit
        monkeypatch.setattr(digests, "_submit", lambda mailbox, octets: submit(mailbox, octets) if mailbox == ALICE else nowhere())
        with pytest.raises(ControlError):
            await digests.send_due(now + timedelta(days=1))
        monkeypatch.undo()
        assert await digests.send_due(now + timedelta(days=1)) == 1
        assert len(await inbox(server, BOB, 3)) == 3 and len(await inbox(server, ALICE, 2)) == 2
        assert await digests.send_due(now + timedelta(days=3)) == 0, "nothing is new"
    finally:
        await links.close()
        directory.close()
