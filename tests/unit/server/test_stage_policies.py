"""Stage policies in a running server: each stage and action on a real connection; plain mail that none concerns stays native."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import part_checks
from gatepost.events.bus import FAULT, NOTICE, EventBus
from gatepost.message.verdict import QUARANTINE
from gatepost.policy.counters import Counters
from gatepost.queue.jobs import decode_route
from gatepost.routing.model import AddressHandler, HandlerKind, HandlerOptions
from gatepost.routing.senders import SenderRule
from gatepost.routing.settings import AutoReply
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.receiving import ALICE, BOB, Receiver

Receive = Callable[..., Awaitable[Receiver]]

MAIL = b"From: <a@b.test>\r\nSubject: Good morning\r\nX-Old: 1\r\nX-Old: 2\r\n folded\r\n\r\nbody\r\n.\r\n"


def put(running: Receiver, *policies: tuple[str, str, str, dict[str, Any]]) -> None:
    """(stage, condition, action, more) each."""
    made = (
        StagePolicy(name=f"p{n}", stage=Stage(stage), when=when, action=StageAction(action), **more)
        for n, (stage, when, action, more) in enumerate(policies)
    )
    running.put_rules(stage_policies=tuple(part_checks.entry("stage_policies", one) for one in made))


def recipients(running: Receiver) -> list[Any]:
    """Of the newest message."""
    (*_, found) = running.spool.get(running.spool.list_ids(None, 100)[-1])
    return list(found)


async def test_connections_are_refused_and_put_off(receive: Receive) -> None:
    running = await receive()
    put(running, ("connect", "client.within('127.0.0.0/8')", "reject", {"code": 554, "text": "not you"}))
    client = await running.connect()
    assert await client.rest() == b"554 5.7.1 not you\r\n"
    put(running, ("connect", "client.address == '127.0.0.1' && client.listener == 'smtp'", "defer", {"text": "not now"}))
    client = await running.connect()
    assert await client.rest() == b"421 4.7.1 not now\r\n"


async def test_helo_mail_and_rcpt_are_refused_with_the_policys_words(receive: Receive) -> None:
    running = await receive()
    put(
        running,
        ("helo", "client.helo.startsWith('bad')", "reject", {}),
        ("mail", "sender.domain == 'bad.test'", "reject", {"code": 553, "text": "bad domain"}),
        ("mail", "sender.address == 'accepted@worse.test'", "accept", {}),
        ("mail", "sender.domain == 'worse.test'", "defer", {}),
        ("rcpt", "recipient.local == 'bob' && !client.tls", "reject", {"text": "bob wants TLS"}),
    )
    client = await running.connect()
    await client.reply()
    assert (await client.command("EHLO bad.client")).startswith("550 5.7.1 refused by policy")
    assert (await client.command("MAIL FROM:<a@b.test>")).startswith("503")
    assert (await client.command("EHLO good.client")).startswith("250")
    assert (await client.command("MAIL FROM:<a@bad.test>")) == "553 5.7.1 bad domain"
    assert (await client.command("MAIL FROM:<a@worse.test>")).startswith("451 4.7.1")
    assert (await client.command("MAIL FROM:<accepted@worse.test>")).startswith("250")
    assert (await client.command(f"RCPT TO:<{BOB}>")) == "550 5.7.1 bob wants TLS"
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("250")


async def test_the_header_is_changed_as_policies_want(receive: Receive) -> None:
    running = await receive()
    put(
        running,
        ("data", "message.header('subject')[0].startsWith('Good')", "tag", {"text": "[seen]"}),
        ("mail", "sender.domain == 'b.test'", "add-header", {"header": "X-New", "text": "here"}),
        ("data", "true", "remove-header", {"header": "x-old"}),
    )
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, MAIL)).startswith("250")
    (queued,) = running.queued()
    header = queued.octets.partition(b"\r\n\r\n")[0]
    assert header.startswith(b"X-New: here\r\n")
    assert b"\r\nSubject: [seen]\r\n Good morning" in header
    assert b"X-Old" not in header
    assert b"folded" not in header
    assert queued.octets.endswith(b"\r\n\r\nbody\r\n")


async def test_messages_are_refused_after_their_data_and_the_session_goes_on(receive: Receive) -> None:
    running = await receive()
    put(running, ("data", "message.header('subject').exists(s, s.contains('morning'))", "reject", {"text": "not in the morning"}))
    client = await running.hello()
    assert await client.send_mail("a@b.test", ALICE, MAIL) == "550 5.7.1 not in the morning"
    assert (await client.send_mail("a@b.test", ALICE, MAIL.replace(b"morning", b"evening"))).startswith("250")
    assert running.count() == 1


@pytest.mark.parametrize(("action", "destination"), [("hold", "local:main"), ("quarantine", QUARANTINE)])
async def test_a_message_is_held_or_quarantined_as_a_whole(receive: Receive, action: str, destination: str) -> None:
    running = await receive()
    put(running, ("data", "message.recipients.size() == 2", action, {"comment": "two at once"}))
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    for one in (ALICE, BOB):
        await client.command(f"RCPT TO:<{one}>")
    await client.command("DATA")
    client.send(MAIL)
    assert (await client.reply()).startswith("250")
    assert [(one[2], one[6]) for one in recipients(running)] == [(destination, True)] * 2
    verdict = running.queued()[-1].meta.verdict
    assert verdict is not None
    assert (verdict.action, verdict.policy, verdict.rule, verdict.reason) == (action, "stage:data", "p0", "two at once")


async def test_one_recipient_is_held_another_rerouted_and_a_third_gets_a_copy(receive: Receive) -> None:
    running = await receive(trust={"networks": ["127.0.0.0/8"]})
    put(
        running,
        ("rcpt", "recipient.local == 'bob'", "hold", {}),
        ("route", "route.kind == 'smtp' && recipient.domain == 'far.test'", "reroute", {"host": "filter.test", "port": 2525}),
        ("rcpt", "recipient.local == 'bob'", "copy", {"address": ALICE}),
    )
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    for one in (BOB, "x@far.test", "y@near.test"):
        assert (await client.command(f"RCPT TO:<{one}>")).startswith("250")
    await client.command("DATA")
    client.send(MAIL)
    assert (await client.reply()).startswith("250")
    found = {one[0]: (one[6], decode_route(one[4])) for one in recipients(running)}
    assert found[BOB][0]
    assert (found["x@far.test"][0], found["x@far.test"][1].host, found["x@far.test"][1].port) == (False, "filter.test", 2525)
    assert found["y@near.test"][1].host == ""
    assert found[ALICE][1].kind == "local"


async def test_a_limit_counts_over_sessions_and_says_when_to_come_back(receive: Receive, tmp_path: Path) -> None:
    running = await receive()
    running.server.context.counters = Counters(tmp_path / "limits.db")
    put(running, ("rcpt", "recipient.local == 'bob'", "limit", {"most": 2, "seconds": 600}))
    for _ in range(2):
        client = await running.hello()
        assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("250")
    client = await running.hello()
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("451 4.7.1 you have sent as much as you may, come back in 10 minutes")
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("250")


async def test_what_cannot_be_worked_out_makes_the_client_come_back(receive: Receive) -> None:
    running = await receive()
    put(running, ("data", "int(message.header('x-count')[0]) > 3", "reject", {}))
    client = await running.hello()
    answer = await client.send_mail("a@b.test", ALICE, MAIL)
    assert answer == "451 4.7.1 policy p0 cannot be worked out now, try again later"
    assert (await client.send_mail("a@b.test", ALICE, b"X-Count: 1\r\n" + MAIL)).startswith("250")
    assert (await client.send_mail("a@b.test", ALICE, b"X-Count: 9\r\n" + MAIL)).startswith("550")


async def test_mail_that_no_policy_can_concern_is_taken_natively(receive: Receive) -> None:
    running = await receive()
    put(
        running,
        ("connect", "client.within('10.0.0.0/8')", "reject", {}),
        ("helo", "client.within('10.0.0.0/8') && client.helo == 'x'", "reject", {}),
        ("mail", "sender.domain == 'bad.test'", "reject", {}),
        ("mail", "sender.domain == 'slow.test' && time.hour >= 0", "notify", {}),
        ("rcpt", "recipient.domain == 'closed.test' && client.helo == 'x'", "reject", {}),
        ("route", "recipient.local == 'carol' && route.kind == 'smtp'", "hold", {}),
        ("data", "sender.domain == 'news.test' && message.size > 10", "tag", {"text": "[news]"}),
    )
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    natively = 0
    for sender, plain in (("a@b.test", True), ("a@slow.test", False), ("a@news.test", False), ("a@b.test", True)):
        natively += plain
        assert (await client.send_mail(sender, BOB, MAIL)).startswith("250")
        assert running.server.wire.plain[2] == natively, sender
    assert b"[news]" in running.queued()[2].octets
    put(running, ("data", "message.header('subject').size() > 0", "tag", {"text": "[all]"}))
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("250")
    assert (running.server.wire.plain[2], b"[all]" in running.queued()[-1].octets) == (natively, True)


async def test_a_rate_counts_over_sessions_workers_and_all_mail(receive: Receive, tmp_path: Path) -> None:
    running = await receive()
    running.server.context.counters = Counters(tmp_path / "limits.db")
    put(
        running,
        ("rcpt", "recipient.local == 'bob' && rate.client(600) >= 2", "reject", {"text": "two are enough"}),
        ("mail", "rate.sender_domain(60) >= 3 && rate.sender(60) < 3", "defer", {"text": "many of you"}),
        ("rcpt", "rate.recipient_domain(60) >= 100 || rate.user(60) >= 1", "reject", {}),
    )
    for sender in ("a@b.test", "x@b.test"):
        client = await running.hello()
        assert (await client.send_mail(sender, ALICE, MAIL)).startswith("250")
    assert running.server.wire.plain[2] == 2  # what is taken natively is counted, too
    client = await running.hello()
    assert await client.send_mail("a@b.test", BOB, MAIL) == "550 5.7.1 two are enough"
    await client.command("RSET")
    assert (await client.send_mail("a@b.test", ALICE, MAIL)).startswith("250")
    assert await client.send_mail("y@b.test", ALICE, MAIL) == "451 4.7.1 many of you"
    running.server.context.counters.flush()
    running.server.context.counters = Counters(tmp_path / "limits.db")  # as another worker sees it
    assert await client.send_mail("z@b.test", ALICE, MAIL) == "451 4.7.1 many of you"
    assert (await client.send_mail("a@c.test", ALICE, MAIL)).startswith("250")


async def test_without_counts_a_rate_has_no_answer_and_the_client_comes_back(receive: Receive) -> None:
    running = await receive()
    put(running, ("mail", "rate.client(60) > 5", "reject", {}))
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, MAIL)).startswith("451 4.7.1 policy p0 cannot be worked out now")


async def test_a_notice_is_an_event(receive: Receive) -> None:
    running = await receive()
    running.server.context.events = bus = EventBus(1)
    put(
        running,
        ("rcpt", "recipient.local == 'alice'", "notify", {"text": "mail for alice"}),
        ("data", "message.header('x-count')[0] == '1'", "tag", {"text": "[x]"}),
    )
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, MAIL)).startswith("451")
    fault, notice = bus.newest(10)
    assert (notice.kind, notice.text, notice.worker) == (NOTICE, "mail for alice", 1)
    assert notice.fields == {"policy": "p0", "stage": "rcpt", "client": "127.0.0.1", "sender": "a@b.test", "recipient": ALICE}
    assert (fault.kind, fault.fields["policy"]) == (FAULT, "p1")


async def test_mail_leaves_the_fast_path_for_no_policy_at_delivery(receive: Receive) -> None:
    running = await receive()
    put(running, ("deliver", "true", "reject", {}))
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("250")
    assert running.server.wire.plain[2] == 1


async def test_what_is_rerouted_keeps_its_return_path_and_answers_stay_where_they_are(receive: Receive) -> None:
    running = await receive()
    away = AddressHandler("away", HandlerKind.FORWARD, ("x@gateway.test",), options=HandlerOptions(srs=True))
    reply = AddressHandler("holiday", HandlerKind.AUTO_REPLY, options=HandlerOptions(reply=AutoReply("away")))
    rule = running.rules[0].rules["example.test"]
    rules = {**running.rules[0].rules, "example.test": replace(rule, handlers=(*rule.handlers, away, reply))}
    mailboxes = dict(running.rules[0].mailboxes)
    mailboxes["holiday@example.test"] = replace(mailboxes[ALICE], address="holiday@example.test")
    running.put_rules(rules=rules, mailboxes=mailboxes, srs_key=b"k" * 32)
    put(running, ("route", "true", "reroute", {"host": "filter.test"}))
    client = await running.hello()
    for one in ("away@example.test", "holiday@example.test"):
        assert (await client.send_mail("a@b.test", one, MAIL)).startswith("250")
    queued = [[decode_route(one[4]) for one in running.spool.get(each)[6]] for each in running.spool.list_ids(None, 10)]
    assert [(one.kind, one.host, one.return_path) for one in queued[0]] == [("smtp", "filter.test", "srs:example.test")]
    assert sorted((one.kind, one.host) for one in queued[1]) == [("auto-reply", ""), ("smtp", "filter.test")]


async def test_a_policy_at_connect_takes_no_other_rule_out_of_force(receive: Receive) -> None:
    running = await receive()
    only = SenderRule(name="only", networks=("127.0.0.0/8",), allowed_from=("*@example.test",))
    running.put_rules(sender_rules=(only,))
    put(running, ("connect", "client.address == '127.0.0.1'", "hold", {}), ("connect", "client.address == '127.0.0.1'", "notify", {}))
    client = await running.hello()
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("550 5.7.1 you may not use the sender address")
    assert (await client.send_mail("a@example.test", BOB, MAIL)).startswith("550 5.7.1 you may not use the From address")
    running.put_rules(sender_rules=())
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("250")
    assert [one[6] for one in recipients(running)] == [True]
    assert running.queued()[0].meta.origin.client_address == "127.0.0.1"


async def test_what_a_policy_at_connect_wants_holds_over_starttls(receive: Receive) -> None:
    running = await receive()
    put(running, ("connect", "client.within('127.0.0.0/8')", "hold", {}), ("helo", "client.helo == 'first.test'", "quarantine", {}))
    client = await running.hello("first.test")
    assert (await client.command("STARTTLS")).startswith("220")
    await client.start_tls()
    await client.command("EHLO second.test")
    assert (await client.send_mail("a@b.test", BOB, MAIL)).startswith("250")
    assert [(one[2][:6], one[6]) for one in recipients(running)] == [
        ("local:", True)
    ]  # held, and what was greeted in the clear is forgotten
