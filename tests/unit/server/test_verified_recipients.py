"""Recipients of a gateway that is asked: refused, taken and put off at RCPT, pipelined or not; other recipients are not asked for."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gatepost.message.reply import Reply
from gatepost.routing.model import Check, DomainRule, RuleKind
from gatepost.routing.settings import RuleSettings, Verify
from support.receiving import ALICE, Receiver

Receive = Callable[..., Awaitable[Receiver]]

ASKED = DomainRule("asked.test", RuleKind.GATEWAY, host="10.0.0.1", settings=RuleSettings(verify=Verify.KNOWN, verify_negative=60))


class Answers:
    """Answers after a moment, as a network does."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    async def ask(self, check: Check) -> Reply | None:
        self.checks.append(check)
        await asyncio.sleep(0.02)
        return Reply(550, "5.1.1", "not there") if check.route.address.startswith("nobody") else None


async def test_the_next_hops_word_is_the_reply_to_rcpt(receive: Receive) -> None:
    running, answers = await receive(), Answers()
    running.server.context.verifier = answers
    running.put_rules(rules={**running.rules[0].rules, "asked.test": ASKED})
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    assert (await client.command("MAIL FROM:<a@b.test>")).startswith("250")
    assert (await client.command("RCPT TO:<nobody@asked.test>")) == "550 5.1.1 not there"
    assert (await client.command("RCPT TO:<x@asked.test>")).startswith("250")
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("250")
    assert [(one.route.address, one.when_down, one.positive, one.negative) for one in answers.checks] == [
        ("nobody@asked.test", Verify.KNOWN, 86_400, 60),
        ("x@asked.test", Verify.KNOWN, 86_400, 60),
    ]
    await client.command("RSET")
    client.send(b"MAIL FROM:<a@b.test>\r\nRCPT TO:<nobody@asked.test>\r\nRCPT TO:<y@asked.test>\r\nDATA\r\n")
    assert [(await client.reply())[:3] for _ in range(4)] == ["250", "550", "250", "354"]
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
    assert (await client.reply()).startswith("250")
    (queued,) = running.queued()
    assert queued.recipients == ("y@asked.test",)


async def test_nobody_is_asked_where_the_rule_does_not_say_so(receive: Receive) -> None:
    running, answers = await receive(), Answers()
    running.server.context.verifier = answers
    silent = replace(ASKED, settings=RuleSettings())
    running.put_rules(rules={**running.rules[0].rules, "asked.test": silent})
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    assert (await client.send_mail("a@b.test", "nobody@asked.test", b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith("250")
    assert answers.checks == []
    assert running.server.wire.plain[2] == 1


async def test_a_client_that_goes_away_while_its_recipient_is_asked_for_leaves_nothing(receive: Receive) -> None:
    running, answers = await receive(), Answers()
    running.server.context.verifier = answers
    running.put_rules(rules={**running.rules[0].rules, "asked.test": ASKED})
    client = await running.connect()
    await client.reply()
    await client.command("EHLO client.test")
    await client.command("MAIL FROM:<a@b.test>")
    client.send(b"RCPT TO:<x@asked.test>\r\n")
    await client.close()
    async with asyncio.timeout(10):
        while running.server.stats["sessions"]:
            await asyncio.sleep(0.02)
    assert running.count() == 0
