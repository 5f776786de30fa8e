"""Plain mail is answered natively, without a session: the same answers and the same messages as by the session's methods."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gatepost.message.envelope import Origin
from gatepost.policy.received import received_field
from gatepost.routing.model import DomainRule, RuleKind, RuleSet
from support.receiving import ALICE, BOB, HOST, Receiver

Receive = Callable[..., Awaitable[Receiver]]

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
COMMANDS = (
    "EHLO client.test",
    "EHLO client.test",
    "HELO client.test",
    "HELO [192.0.2.7]",
    "helo  spaced.test",
    'EHLO a"b',
    "EHLO",
    "MAIL FROM:<a@b.test>",
    "MAIL FROM:<a@b.test>",
    "mail from:<a@b.test>",
    "MAIL FROM:<>",
    "MAIL FROM:<a@b.test> SIZE=100 BODY=8BITMIME",
    "MAIL FROM:<a@b.test> SIZE=99999999999",
    "MAIL FROM:<a@b.test> RET=HDRS ENVID=x",
    "MAIL FROM:<a@b.test> NONSENSE=1",
    "MAIL FROM:<bücher@b.test>",
    "MAIL FROM: a@b.test",
    f"RCPT TO:<{ALICE}>",
    f"RCPT TO:<{ALICE}>",
    f"rcpt to:<{ALICE}>",
    f"RCPT TO:<{BOB}>",
    f"RCPT TO:<{BOB}> NOTIFY=NEVER",
    "RCPT TO:<list@example.test>",
    "RCPT TO:<nobody@example.test>",
    "RCPT TO:<a@elsewhere.test>",
    "RCPT TO:<a@gateway.test>",
    "RCPT TO:<postmaster>",
    "RCPT TO:<>",
    "DATA",
    "DATA",
    "DATA",
    "DATA now",
    "RSET",
    "NOOP",
    "VRFY alice",
    "BDAT 6 LAST",
    "FROBNICATE",
    "HELP",
)
PROPER = ("EHLO client.test", "MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA")
BODIES = (
    b"Subject: one\r\n\r\nbody\r\n.\r\n",
    b"..dots\r\n.\r\n",
    b".\r\n",
    b"Received: x\r\n" * 40 + b"\r\nlooped\r\n.\r\n",
    b"bare\nnewline\r\n.\r\n",
)


async def conversation(running: Receiver, seed: int) -> list[str]:
    """Say what the seed says; the replies, ids and host left out."""
    rng = random.Random(seed)
    client = await running.connect()
    replies = [await client.reply()]
    for place in range(rng.randrange(4, 24)):
        command = rng.choice(COMMANDS) if rng.random() < 0.25 else PROPER[place % len(PROPER)]
        client.send(command.encode() + b"\r\n" + (b"chunk\n" if command.startswith("BDAT") else b""))
        replies.append(f"{command} -> {await client.reply()}")
        if "-> 354" in replies[-1]:
            client.send(rng.choice(BODIES))
            replies.append(await client.reply())
        if not replies[-1] or "-> 421" in replies[-1]:
            break
    client.send(b"QUIT\r\n")
    replies.append(await client.reply())
    await client.close()
    return [ID.sub("ID", reply) for reply in replies]


def shape(running: Receiver) -> list[object]:
    """The queue, without what differs from run to run: ids, dates, ports."""
    shapes: list[object] = []
    for one in running.queued():
        trace = re.sub(r";\r\n\t.*", "", ID.sub("ID", one.octets.decode("latin-1").split("\r\n.", 1)[0][:300]), flags=re.DOTALL)
        meta = one.meta
        origin = replace(meta.origin, client_port=0)
        about = (meta.envid, meta.ret, meta.body, meta.smtputf8, meta.rule_version)
        shapes.append((one.reverse_path, one.recipients, one.orcpts, one.notify, origin, about, trace, one.body))
    return shapes


async def test_any_conversation_has_the_same_answers_and_leaves_the_same_mail_with_and_without_a_session(receive: Receive) -> None:
    native, sessions = await receive(), await receive()
    sessions.server.plain = False
    sessions.server.wire.agree(None, None)
    for seed in range(250):
        assert await conversation(native, seed) == await conversation(sessions, seed), f"seed {seed}"
    assert shape(native) == shape(sessions)
    assert native.count() > 30
    assert native.server.wire.plain[2] > 10
    assert sessions.server.wire.plain == (0, 0, 0)


async def test_plain_mail_needs_no_session_and_its_trace_is_the_one_the_policy_writes(receive: Receive) -> None:
    running = await receive()
    client = await running.hello("client.test")
    reply = await client.send_mail("a@b.test", ALICE, b"Subject: x\r\n\r\nbody\r\n.\r\n")
    assert running.server.wire.plain[0] == 1
    message_id = ID.findall(reply)[0]
    (queued,) = running.queued()
    port = queued.meta.origin.client_port
    assert queued.meta.origin == Origin("ESMTP", "127.0.0.1", port, "client.test", "", "", "smtp")
    assert port == client.writer.get_extra_info("sockname")[1]
    expected = received_field(queued.meta.origin, by=HOST, message_id=message_id, recipient=ALICE)
    assert queued.octets.partition(b";")[0] == expected.partition(b";")[0]
    assert re.search(rb";\r\n\t\w{3}, \d+ \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\nSubject", queued.octets)
    assert running.server.stats == {"sessions": 1, "connected": 1, "accepted": 1, "refused": 0}
    await client.close()


async def test_a_command_that_is_not_plain_finds_all_that_was_said_before(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test> BODY=8BITMIME")
    await client.command(f"RCPT TO:<{ALICE}>")
    assert (await client.command("MAIL FROM:<c@b.test>"))[:3] == "503"
    assert running.server.wire.plain[0] == 0
    await client.command("RCPT TO:<list@example.test>")
    await client.command("DATA")
    client.send(b"x\r\n.\r\n")
    assert (await client.reply())[:3] == "250"
    (queued,) = running.queued()
    assert (queued.reverse_path, queued.meta.body, set(queued.recipients)) == ("a@b.test", "8BITMIME", {ALICE, BOB})
    await client.close()


async def test_after_it_plain_mail_is_plain_again_and_all_messages_of_the_session_are_counted(receive: Receive) -> None:
    running = await receive(smtp={"max_messages_per_session": 3})
    client = await running.hello()
    await client.send_mail("a@b.test", ALICE, b".\r\n")
    await client.command("NOOP")
    await client.send_mail("a@b.test", ALICE, b".\r\n")
    await client.send_mail("a@b.test", ALICE, b".\r\n")
    assert running.server.wire.plain[2] == 2
    assert (await client.command("MAIL FROM:<a@b.test>"))[:9] == "421 4.7.0"
    assert running.count() == 3
    await client.close()


async def test_a_change_of_the_rules_is_seen_by_the_next_recipient(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("a@b.test", "x@gateway.test", b".\r\n"))[:3] == "250"
    before = running.server.context.rule_set()
    closed = DomainRule("gateway.test", RuleKind.REJECT)
    rules = {**before.rules, "gateway.test": closed}
    changed = RuleSet(before.version + 1, rules, before.mailboxes)
    running.server.context.rule_set = lambda: changed
    await client.command("MAIL FROM:<a@b.test>")
    assert (await client.command("RCPT TO:<x@gateway.test>"))[:1] == "5"
    await client.close()


async def test_when_the_spool_is_closed_a_plain_message_is_refused_and_never_acknowledged(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await client.command(line)
    await running.spool.close()
    client.send(b"late\r\n.\r\n")
    assert (await asyncio.wait_for(client.reply(), 5))[:3] in ("421", "451")
    await client.close()


async def test_a_client_that_leaves_while_its_plain_message_is_being_written_leaves_no_trace(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await client.command(line)
    client.send(b"half a message\r\n")
    await client.close()
    for _ in range(200):
        if running.server.context.connections.total == 0:
            break
        await asyncio.sleep(0.01)
    assert running.server.context.connections.total == 0
    assert running.server.stats["sessions"] == 0
    assert running.count() == 0


async def test_a_plain_client_that_falls_silent_is_told_and_let_go(receive: Receive) -> None:
    running = await receive(smtp={"idle_seconds": 1})
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    assert (await asyncio.wait_for(client.reply(), 10))[:9] == "421 4.4.2"
    assert await client.rest() == b""
    await client.close()
