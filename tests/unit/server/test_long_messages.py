"""Messages that do not stay in memory: the same octets in the queue however they were sent, and nothing of one that was broken off."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from support.receiving import ALICE, BOB, Receiver

Receive = Callable[..., Awaitable[Receiver]]

SIZES = (1, 2, 3, 70, 1_460, 4_096, 12_287, 12_288, 65_536, 100_000, 300_000)


def text(rng: random.Random, octets: int) -> bytes:
    """Lines of all lengths, some of which begin with dots, or are nothing else."""
    lines = [b"Subject: long\r\n\r\n"]
    total = 0
    while total < octets:
        length = rng.choice((0, 1, 70, 70, 70, 900, 5_000))
        lines.append(rng.choice((b"", b"", b"", b".", b"..", b".x")) + b"y" * length + b"\r\n")
        total += len(lines[-1])
    return b"".join(lines)


def stuffed(body: bytes) -> bytes:
    """As DATA wants it (RFC 5321 4.5.2)."""
    return body.replace(b"\r\n.", b"\r\n..") + b".\r\n"


@pytest.mark.parametrize("recipients", [(ALICE,), (ALICE, BOB)], ids=["plain", "session"])
async def test_a_long_message_arrives_octet_for_octet_however_it_is_cut(receive: Receive, recipients: tuple[str, ...]) -> None:
    running = await receive()
    rng = random.Random(len(recipients))
    sent = []
    for _ in range(4):
        body = text(rng, rng.choice((270_000, 800_000, 1_500_000)))
        client = await running.hello()
        for line in ("MAIL FROM:<a@b.test>", *(f"RCPT TO:<{one}>" for one in recipients), "DATA"):
            await client.command(line)
        octets, at = stuffed(body), 0
        while at < len(octets):
            # Cuts before, in and behind the dots, too.
            end = octets.find(b"\r\n.", at + rng.choice(SIZES)) + rng.randrange(5) if rng.random() < 0.5 else at + rng.choice(SIZES)
            end = max(end, at + 1)
            client.send(octets[at:end])
            at = end
            await client.writer.drain()
            if rng.random() < 0.2:
                await asyncio.sleep(0.001)
        assert (await client.reply())[:3] == "250"
        await client.close()
        sent.append(body)
    assert [one.octets.partition(b"Subject: long")[2] for one in running.queued()] == [body.partition(b"Subject: long")[2] for body in sent]


async def test_commands_behind_a_long_message_are_answered(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await client.command(line)
    client.send(stuffed(text(random.Random(5), 700_000)) + b"NOOP\r\n")
    assert [(await client.reply())[:3], (await client.reply())[:3]] == ["250", "250"]
    await client.close()
    assert running.count() == 1


@pytest.mark.parametrize("wrong", [b"\nbare\r\n", b"\rbare\r\n"], ids=["LF", "CR"])
async def test_a_bare_newline_far_into_a_long_message_is_refused_and_nothing_is_kept(receive: Receive, wrong: bytes) -> None:
    running = await receive()
    client = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await client.command(line)
    body = text(random.Random(6), 600_000)
    client.send(stuffed(body + b"x" + wrong + body))
    assert (await client.reply())[:3] in ("550", "554")
    await client.close()
    assert running.count() == 0
