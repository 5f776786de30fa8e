"""Stage policies asked natively and by sessions: the same replies, messages, verdicts, journals and notices for the same mail."""

import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatepost.directory import part_checks
from gatepost.events.bus import EventBus
from gatepost.message.fields import HeaderView
from gatepost.policy.counters import Counters
from gatepost.routing.model import RuleSet
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from gatepost.routing.trust import TrustAction, TrustEntry
from gatepost.scan.gate import Gate
from gatepost.scan.policies import Defaults, Policies
from gatepost.scan.policy import DEFAULT
from gatepost.server.smtp.stages import Fields
from support.receiving import ALICE, BOB, HOST, Client, Receiver

Receive = Callable[..., Awaitable[Receiver]]

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
DATE = re.compile(r"\w{3}, \d+ \w{3} \d{4} \d\d:\d\d:\d\d \+0000")
SETS = 30
"""Rule sets that each server gets, one after the other; three sessions each."""
CONDITIONS = {
    Stage.CONNECT: ("client.address == '192.0.2.1'", "client.tls", "!client.trusted && client.helo == ''", "client.within('127.0.0.0/8')"),
    Stage.HELO: (
        "client.helo == 'bad.test'",
        "client.helo.endsWith('.dyn.test') && !client.trusted",
        "client.helo == 'x' || client.tls",
        "client.within('10.0.0.0/8') != client.helo.contains('.')",
    ),
    Stage.MAIL: (
        "sender.domain == 'b.test' && client.helo == 'bad.test'",
        "sender.address == ''",
        "sender.local == 'y' && !client.tls",
        "time.hour > 24 || rate.messages > 1",
        "rate.refused > 0",
    ),
    Stage.RCPT: (
        "recipient.local == 'bob' && sender.domain == 'b.test'",
        "recipient.domain == 'x.test'",
        "client.helo == 'one.dyn.test'",
        "sender.domain == recipient.domain",
        "!client.trusted && sender.local == recipient.local",
    ),
    Stage.ROUTE: (
        "route.kind == 'smtp'",
        "route.count > 1 && sender.local == 'y'",
        "route.kind == 'local' && route.host != ''",
        "sender.local + route.kind == 'xsmtp'",
    ),
    Stage.DATA: (
        "message.size > 200 && !client.trusted",
        "message.size > 20000000",
        "message.header('subject').exists(s, s.matches('(?i)casino|lottery'))",
        "message.header('subject').exists(s, s.matches('^(cheap|dear) '))",
        "message.header('x-count')[0] == '1' && sender.domain == 'b.test'",
        "scan.action == 'reject' || scan.score > 5.0",
        "message.recipients.size() == 2",
        "message.header('x-no').size() > 0 && time.hour >= 0",
        "client.helo == 'bad.test' && message.header('subject')[0].startsWith('Cheap')",
        "rate.messages > 0 && message.size > 100",
        "rate.client(3600) == 3 && message.header('subject').size() > 0",
    ),
}
ACTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("accept", {}),
    ("reject", {"text": "no"}),
    ("defer", {}),
    ("hold", {}),
    ("quarantine", {}),
    ("tag", {"text": "[x]"}),
    ("add-header", {"header": "X-Seen", "text": "yes"}),
    ("remove-header", {"header": "x-count"}),
    ("copy", {"address": BOB}),
    ("notify", {"text": "look"}),
)
NAMES = ("client.test", "bad.test", "one.dyn.test", "x")
SENDERS = ("", "x@b.test", "y@partner.test", "bob@example.test")
BODIES = (
    b"Subject: Good morning\r\n\r\nbody\r\n",
    b"Subject: Cheap lottery tickets\r\nX-Count: 1\r\n\r\n" + b"body\r\n" * 40,
    b"Subject: =?utf-8?q?casino?=\r\n\r\n..dots\r\n",
    b"subject : dear friend\r\nX-Count: 2\r\nX-No: 1\r\n folded\r\n\r\n",
    b"no header at all\r\n",
)


def gate(rule_set: RuleSet) -> Gate:
    policies = Policies(rule_set, {"test": DEFAULT}, Defaults("test"))
    return Gate(lambda: policies, HOST)


def rules(dice: random.Random) -> dict[str, Any]:
    made = []
    for n in range(dice.choice((1, 2, 4, 10, 40))):
        stage = dice.choice(list(CONDITIONS) + [Stage.DATA] * 4)
        action, more = dice.choice(ACTIONS)
        policy = StagePolicy(name=f"p{n}", stage=stage, when=dice.choice(CONDITIONS[stage]), action=StageAction(action), **more)
        made.append(part_checks.entry("stage_policies", policy))
    trusted = TrustEntry(TrustAction.TRUST, "net", networks=("127.0.0.0/8",), senders=dice.choice(((), ("*@partner.test",))))
    return {"stage_policies": tuple(made), "trust": dice.choice(((), (trusted,)))}


async def conversation(running: Receiver, dice: random.Random) -> list[str]:
    """One session; its replies, ids left out."""
    client = await running.connect()
    replies = [await client.reply()]
    for _ in range(dice.choice((1, 2, 3))):
        replies.append(await said(client, f"EHLO {dice.choice(NAMES)}"))
        if dice.random() < 0.2:
            replies.append(await said(client, "RSET"))
        for _ in range(dice.choice((1, 2))):
            await send(client, dice, replies)
    await client.close()
    return [ID.sub("ID", one) for one in replies]


async def send(client: Client, dice: random.Random, replies: list[str]) -> None:
    """One transaction."""
    sender, chosen = dice.choice(SENDERS), dice.sample((ALICE, BOB, "x@gateway.test", "nobody@example.test"), dice.choice((1, 1, 1, 2)))
    lines = (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in chosen), "DATA")
    replies += [await said(client, line) for line in lines]
    octets = dice.choice(BODIES)
    if replies[-1].startswith("354"):
        client.send(octets + b".\r\n")
        replies.append(await client.reply())
    else:
        replies.append(await said(client, "RSET"))


async def said(client: Client, line: str) -> str:
    try:
        return await client.command(line)
    except ConnectionError:
        return ""


def shapes(running: Receiver, bus: EventBus) -> list[object]:
    """All that is kept of the mail since the last call, but for ids, times and ports."""
    made: list[object] = []
    for message_id, queued in zip(running.spool.list_ids(None, 100_000), running.queued(), strict=True):
        octets = DATE.sub("DATE", ID.sub("ID", queued.octets.decode("latin-1")))
        verdict = queued.meta.verdict and replace(queued.meta.verdict, at=0)
        meta = replace(queued.meta, origin=replace(queued.meta.origin, client_port=0), verdict=verdict)
        journal = [(kind, recipient) for _, kind, recipient, _ in running.spool.native.history(message_id)]
        rows = [(one[0], one[2], one[4], one[6]) for one in running.spool.get(message_id)[6]]
        made.append((queued.reverse_path, rows, meta, octets, journal))
    return [*made, *((one.kind, one.text, one.fields) for one in bus.newest(1000))]


@pytest.mark.parametrize("looks", [False, True])
async def test_mail_is_the_same_whether_policies_are_asked_natively_or_by_a_session(receive: Receive, tmp_path: Path, looks: bool) -> None:
    more: dict[str, Any] = {"gate": gate} if looks else {}
    native, sessions = (
        await receive(smtp={"max_messages_per_session": 0}, **more),
        await receive(smtp={"max_messages_per_session": 0}, **more),
    )
    buses = EventBus(1), EventBus(1)
    native.server.context.events, sessions.server.context.events = buses
    native.server.context.counters, sessions.server.context.counters = Counters(tmp_path / "a"), Counters(tmp_path / "b")
    sessions.server.plain = False
    sessions.server.wire.agree(None, None)
    for seed in range(SETS):
        put = rules(random.Random(seed))
        for one in (native, sessions):
            one.put_rules(**put)
        for turn in range(3):
            both = [await conversation(one, random.Random(f"{seed} {turn}")) for one in (native, sessions)]
            assert both[0] == both[1], f"seed {seed}, {turn}: {put}"
    assert shapes(native, buses[0]) == shapes(sessions, buses[1])
    taken = native.server.wire.plain[2]
    assert min(taken, native.count() - taken) > 20, f"{taken} of {native.count()} natively"
    assert sessions.server.wire.plain == (0, 0, 0)


async def test_mail_is_native_where_no_policy_holds_though_each_may_hold_for_client_sender_and_recipient(receive: Receive) -> None:
    running = await receive()
    when = (
        (Stage.HELO, "client.within('127.0.0.0/8') && client.helo == 'client.test' && time.hour > 24"),
        (Stage.MAIL, "!client.trusted && sender.local == client.helo"),
        (Stage.RCPT, "!client.trusted && sender.domain == recipient.domain"),
        (Stage.ROUTE, "route.kind == 'local' && sender.local == recipient.local"),
        (Stage.DATA, "message.header('subject').exists(s, s.trim() == sender.local)"),
    )
    policies = tuple(StagePolicy(name=f"p{n}", stage=stage, when=one, action=StageAction.REJECT) for n, (stage, one) in enumerate(when))
    running.put_rules(stage_policies=policies)
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    answers = [
        await client.send_mail(sender, ALICE, BODIES[0] + b".\r\n") for sender in ("a@b.test", "client.test@b.test", "x@example.test")
    ]
    assert [one[:3] for one in answers] == ["250", "550", "550"]
    await client.command("RSET")
    assert (await client.send_mail("a@b.test", ALICE, b"Subject: a\r\n\r\n.\r\n"))[:3] == "550"
    assert running.server.wire.plain[2] == 1


@pytest.mark.parametrize(
    "header", [b"", b"A: 1\r\na : 2\r\n folded\r\n", b" odd\r\nA: 1\r\n", b"A:\x0b1 \r\nnone\r\nA: =?utf-8?q?x?=\r\n", b"A: \xff\r\n"]
)
async def test_fields_are_those_of_the_header(receive: Receive, header: bytes) -> None:
    running = await receive()
    incoming = running.spool.native.receive(prefix=b"", max_bytes=10_000)
    incoming.feed_raw(header + b"\r\nbody\r\n")
    incoming.finish()
    assert [Fields(incoming)(name) for name in ("a", "A", "b", "ä")] == [HeaderView(header).texts(name) for name in ("a", "A", "b", "ä")]
    incoming.abort()
