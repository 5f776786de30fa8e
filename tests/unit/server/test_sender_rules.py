"""Sender rules in a running server: allowed addresses, limits, other addresses, the way out; plain mail of others stays native."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gatepost.directory import part_checks
from gatepost.policy.counters import Counters
from gatepost.queue.jobs import decode_route
from gatepost.routing.senders import SenderRule
from support.receiving import ALICE, BOB, PASSWORD, Receiver, plain

Receive = Callable[..., Awaitable[Receiver]]

FAR = "x@far.test"
MAIL = b"From: Alice <%b>\r\nSender: <%b>\r\nSubject: x\r\n\r\nFrom: body@example.test\r\n.\r\n"


def put(running: Receiver, *rules: SenderRule) -> None:
    running.put_rules(sender_rules=tuple(part_checks.entry("sender_rules", one) for one in rules))


async def submitting(running: Receiver, user: str = ALICE) -> Any:
    client = await running.hello()
    assert (await client.command("STARTTLS")).startswith("220")
    await client.start_tls()
    await client.command("EHLO client.test")
    assert (await client.command(f"AUTH PLAIN {plain(user, PASSWORD)}")).startswith("235")
    return client


async def test_a_user_may_use_the_allowed_addresses_only_in_envelope_and_from(receive: Receive) -> None:
    running = await receive("submission")
    put(running, SenderRule(name="own", users=("*",), allowed_from=(ALICE, "*@example.test")))
    client = await submitting(running)
    assert (await client.command("MAIL FROM:<alice@private.test>")).startswith("550 5.7.1 you may not use the sender address")
    own = ALICE.encode()
    assert (await client.send_mail(ALICE, BOB, MAIL % (own, own))).startswith("250")
    forged = b"From: Boss <boss@private.test>\r\n\r\nx\r\n.\r\n"
    assert (await client.send_mail(ALICE, BOB, forged)).startswith("550 5.7.1 you may not use the From address boss@private.test")
    two = b"From: <alice@example.test>,\r\n <boss@private.test>\r\n\r\nx\r\n.\r\n"
    assert (await client.send_mail(ALICE, BOB, two)).startswith("550 5.7.1")
    assert (await client.send_mail("", BOB, MAIL % (own, own))).startswith("250")
    assert running.count() == 2


async def test_limits_hold_per_user_and_say_when_to_come_back(receive: Receive, tmp_path: Path) -> None:
    running = await receive("submission")
    running.server.context.counters = Counters(tmp_path / "limits.db")
    put(running, SenderRule(name="few", users=("*",), messages_per_hour=2, recipients_per_day=3))
    own = ALICE.encode()
    client = await submitting(running)
    assert (await client.send_mail(ALICE, BOB, MAIL % (own, own))).startswith("250")
    await client.command(f"MAIL FROM:<{ALICE}>")
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("250")
    assert (await client.command(f"RCPT TO:<{BOB}>")).startswith("250")
    over = await client.command("RCPT TO:<list@example.test>")
    assert over.startswith("451 4.7.1 you have sent as much as you may, come back in 1440 minutes")
    await client.command("DATA")
    client.send(MAIL % (own, own))
    assert (await client.reply()).startswith("250")
    assert (await client.command(f"MAIL FROM:<{ALICE}>")).startswith("451 4.7.1")
    other = await submitting(running, BOB)
    assert (await other.command(f"MAIL FROM:<{BOB}>")).startswith("250")


async def test_limits_that_cannot_be_counted_make_the_limited_wait_and_nobody_else(receive: Receive, tmp_path: Path) -> None:
    running = await receive()
    running.server.context.counters = Counters(tmp_path / "nowhere" / "limits.db")
    put(running, SenderRule(name="few", domains=("limited.test",), messages_per_hour=2))
    client = await running.hello()
    assert (await client.command("MAIL FROM:<a@limited.test>")).startswith("451 4.3.0")
    assert (await client.send_mail("a@free.test", BOB, b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith("250")


async def test_a_masqueraded_sender_has_the_other_domain_in_envelope_and_header_and_nowhere_else(receive: Receive) -> None:
    running = await receive()
    put(running, SenderRule(name="one-face", networks=("127.0.0.0/8",), domains=("host7.test",), masquerade="example.test"))
    client = await running.hello()
    own = b"root@Host7.test"
    assert (await client.send_mail("root@host7.test", BOB, MAIL % (own, own) + b"")).startswith("250")
    (queued,) = running.queued()
    assert queued.reverse_path == "root@example.test"
    header, _, body = queued.body.partition(b"\r\n\r\n")
    assert b"From: Alice <root@example.test>\r\nSender: <root@example.test>" in header
    assert body == b"From: body@example.test\r\n"


async def test_mail_leaves_by_the_smart_host_of_its_user(receive: Receive) -> None:
    running = await receive("submission")
    put(running, SenderRule(name="smart", users=(ALICE,), host="smart.test", port=587, tls=part_checks.TlsPolicy.REQUIRED))
    own = ALICE.encode()
    for user, host in ((ALICE, "smart.test"), (BOB, "")):
        client = await submitting(running, user)
        assert (await client.send_mail(user, FAR, MAIL % (own, own))).startswith("250")
        (*_, recipients) = running.spool.get(running.spool.list_ids(None, 100)[-1])
        assert decode_route(recipients[0][4]).host == host, user


async def test_plain_mail_that_no_rule_fits_is_taken_natively(receive: Receive) -> None:
    running = await receive()
    put(
        running,
        SenderRule(name="users", users=("*",), messages_per_hour=1),
        SenderRule(name="domain", domains=("other.test",), masquerade="example.test"),
        SenderRule(name="network", networks=("10.0.0.0/8",), domains=("b.test",), helo="a.test"),
    )
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    for sender, natively in (("a@b.test", 1), ("a@other.test", 1), ("a@b.test", 2)):
        assert (await client.send_mail(sender, BOB, b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith("250")
        assert running.server.wire.plain[2] == natively
