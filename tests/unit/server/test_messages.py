"""What becomes of a message between the end of data and the queue: trace field, added fields, limits, DSN parameters, replies."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatepost.message.envelope import Notify
from gatepost.native import DiskFullError, SyncFailedError
from support.receiving import ALICE, BOB, PASSWORD, Client, Receiver, plain

Receive = Callable[..., Awaitable[Receiver]]


async def logged_in(running: Receiver) -> Client:
    client = await running.hello(tls=True)
    assert (await client.command(f"AUTH PLAIN {plain(ALICE, PASSWORD)}"))[:3] == "235"
    return client


async def test_the_trace_field_has_the_form_of_rfc_5321(receive: Receive) -> None:
    running = await receive()
    client = await running.hello("client.test")
    answer = await client.send_mail("a@b.test", ALICE, b"Subject: x\r\n\r\nbody\r\n.\r\n")
    identity = answer.split()[2]
    octets = running.queued()[0].octets.decode()
    form = (
        r"Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n\tby mx\.example\.test with ESMTP id (\S+)\r\n"
        r"\tfor <alice@example\.test>;\r\n\t\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\nSubject: x\r\n\r\nbody\r\n"
    )
    found = re.fullmatch(form, octets)
    assert found is not None, octets
    assert found[1] == identity
    await client.close()


async def test_several_recipients_do_not_show_in_the_trace_field(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    await client.command(f"RCPT TO:<{ALICE}>")
    await client.command(f"RCPT TO:<{BOB}>")
    await client.command("DATA")
    client.send(b".\r\n")
    await client.reply()
    assert b"for <" not in running.queued()[0].octets
    await client.close()


async def test_one_mailbox_reached_twice_is_one_recipient_of_the_message(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    for address in (ALICE, "list@example.test", "Alice@Example.Test"):
        assert (await client.command(f"RCPT TO:<{address}>"))[:3] == "250"
    await client.command("DATA")
    client.send(b".\r\n")
    await client.reply()
    assert sorted(running.queued()[0].recipients) == [ALICE, BOB]
    await client.close()


async def test_envelope_and_dsn_parameters_arrive_in_the_queue(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<A.b@Elsewhere.TEST> RET=HDRS ENVID=QQ+2B314 BODY=8BITMIME")
    assert (await client.command(f"RCPT TO:<{ALICE}> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old+2Bx@b.test"))[:3] == "250"
    await client.command("DATA")
    client.send(b".\r\n")
    await client.reply()
    queued = running.queued()[0]
    assert queued.reverse_path == "A.b@elsewhere.test"
    assert (queued.meta.ret, queued.meta.envid, queued.meta.body) == ("HDRS", "QQ+314", "8BITMIME")
    assert queued.notify == (int(Notify.SUCCESS | Notify.DELAY),)
    assert queued.orcpts == ("rfc822;old+x@b.test",)
    assert queued.meta.origin.client_address == "127.0.0.1"
    await client.close()


async def test_dots_are_unstuffed_and_nothing_else_is_changed(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, b"..a\r\n...\r\n\r\n.b\r\n \x00\xff\t\r\n.\r\n"))[:3] == "250"
    assert running.queued()[0].body == b".a\r\n..\r\n\r\nb\r\n \x00\xff\t\r\n"
    await client.close()


@pytest.mark.parametrize("octets", [b".\r\n", b"\r\n.\r\n"])
async def test_an_empty_message_is_taken(receive: Receive, octets: bytes) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, octets))[:3] == "250"
    assert running.queued()[0].body == octets[:-3]
    await client.close()


async def test_submission_adds_date_and_message_id_when_missing(receive: Receive) -> None:
    running = await receive("submissions")
    client = await logged_in(running)
    assert (await client.send_mail(ALICE, BOB, b"From: a\r\nSubject: Message-ID: no\r\n\r\nDate: in the body\r\n.\r\n"))[:3] == "250"
    body = running.queued()[0].body.decode()
    assert re.match(r"Date: [^\r]+ \+0000\r\nMessage-ID: <[0-9a-f-]{36}@mx\.example\.test>\r\nFrom: a\r\n", body)
    await client.close()


@pytest.mark.parametrize("pieces", [1, 7, 100])
async def test_submission_leaves_complete_messages_as_they_are(receive: Receive, pieces: int) -> None:
    running = await receive("submissions")
    client = await logged_in(running)
    octets = b"from: a\r\nDATE : now\r\nmessage-id: <x@y>\r\n\r\n..body\r\n.\r\n"
    for line in (f"MAIL FROM:<{ALICE}>", f"RCPT TO:<{BOB}>", "DATA"):
        await client.command(line)
    step = max(1, len(octets) // pieces)
    for start in range(0, len(octets), step):
        client.send(octets[start : start + step])
        await asyncio.sleep(0.001)
    client.send(b"NOOP\r\n")
    assert (await client.reply())[:3] == "250"
    assert await client.reply() == "250 2.0.0 ok"
    assert running.queued()[0].body == b"from: a\r\nDATE : now\r\nmessage-id: <x@y>\r\n\r\n.body\r\n"
    await client.close()


async def test_submission_by_bdat_and_without_any_header_works_too(receive: Receive) -> None:
    running = await receive("submissions")
    client = await logged_in(running)
    client.send(f"MAIL FROM:<{ALICE}>\r\nRCPT TO:<{BOB}>\r\nBDAT 3\r\nSubBDAT 9 LAST\r\nject: x\r\n".encode())
    assert [(await client.reply())[:3] for _ in range(4)] == ["250"] * 4
    assert running.queued()[0].body.endswith(b"\r\nSubject: x\r\n")
    assert b"\r\nMessage-ID: <" in running.queued()[0].body
    client.send(f"MAIL FROM:<{ALICE}>\r\nRCPT TO:<{BOB}>\r\nBDAT 24\r\nSubject: y\r\n\r\n0123456789BDAT 4 LAST\r\nab\r\n".encode())
    assert [(await client.reply())[:3] for _ in range(4)] == ["250"] * 4
    assert running.queued()[1].body.endswith(b"\r\nSubject: y\r\n\r\n0123456789ab\r\n")
    await client.close()


async def test_a_header_that_never_ends_is_streamed_on(receive: Receive) -> None:
    running = await receive("submissions")
    client = await logged_in(running)
    octets = b"X: y\r\n" * 40_000
    assert (await client.send_mail(ALICE, BOB, octets + b".\r\n"))[:3] == "250"
    assert running.queued()[0].body == octets
    assert (await client.send_mail(ALICE, BOB, octets * 2 + b".\r\n"))[:9] == "552 5.3.4"
    assert running.count() == 1
    await client.close()


async def test_a_message_over_the_limit_is_refused_after_its_end_and_the_session_goes_on(receive: Receive) -> None:
    running = await receive(smtp={"max_message_bytes": 2000})
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, b"x" * 60 + b"\r\n" + (b"y" * 98 + b"\r\n") * 2000 + b".\r\n"))[:9] == "552 5.3.4"
    assert (await client.send_mail("a@b.test", ALICE, b"z" * 1998 + b"\r\n.\r\n"))[:3] == "250"
    assert running.count() == 1
    await client.close()


async def test_a_message_with_too_many_hops_is_refused(receive: Receive) -> None:
    running = await receive(smtp={"max_hops": 5})
    client = await running.hello()
    hop = b"Received: from a by b; now\r\n"
    assert (await client.send_mail("a@b.test", ALICE, hop * 6 + b"\r\n.\r\n"))[:9] == "554 5.4.6"
    assert (await client.send_mail("a@b.test", ALICE, hop * 5 + b"\r\n.\r\n"))[:3] == "250"
    await client.close()


async def test_messages_per_session_can_be_limited(receive: Receive) -> None:
    running = await receive(smtp={"max_messages_per_session": 1})
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, b".\r\n"))[:3] == "250"
    assert (await client.command("MAIL FROM:<a@b.test>"))[:9] == "421 4.7.0"
    assert await client.rest() == b""


async def test_a_full_disk_is_told_at_mail(receive: Receive) -> None:
    running = await receive(spool={"min_free_bytes": 1 << 60})
    await asyncio.sleep(1.2)
    client = await running.hello()
    assert (await client.command("MAIL FROM:<a@b.test>"))[:9] == "452 4.3.1"
    await client.close()


@pytest.mark.parametrize(("fault", "code"), [(DiskFullError("full"), "452 4.3.1"), (SyncFailedError("EIO"), "421 4.3.0")])
async def test_a_commit_that_fails_is_never_answered_250(
    receive: Receive, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str
) -> None:
    running = await receive()

    def fail(*args: Any) -> None:
        asyncio.get_running_loop().call_later(0.01, args[-1], fault)

    monkeypatch.setattr(type(running.spool), "commit_then", fail)
    client = await running.hello()
    await client.command("NOOP")  # so that the session has the say: the native side's own commits are in test_plain.py
    assert (await client.send_mail("a@b.test", ALICE, b".\r\n"))[:9] == code
    await client.close()


async def test_settings_take_effect_for_the_next_connection(receive: Receive) -> None:
    running = await receive()
    running.change(smtp={"max_message_bytes": 4321})
    client = await running.connect()
    await client.reply()
    assert "SIZE 4321" in await client.command("EHLO c.test")
    await client.close()


async def test_stop_lets_a_message_under_way_finish_and_tells_idle_clients(receive: Receive) -> None:
    running = await receive()
    idle, busy = await running.hello(), await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await busy.command(line)
    stopping = asyncio.create_task(running.server.stop(5))
    assert (await idle.reply())[:9] == "421 4.3.2"
    await asyncio.sleep(0.1)
    with pytest.raises(OSError):
        await running.connect()
    busy.send(b"late\r\n.\r\n")
    assert (await busy.reply())[:3] == "250"
    assert (await busy.reply())[:3] == "421"
    await busy.close()
    await idle.close()
    await asyncio.wait_for(stopping, 3)
    assert running.count() == 1


async def test_stop_cuts_off_what_does_not_finish_in_time(receive: Receive) -> None:
    running = await receive()
    busy = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await busy.command(line)
    await asyncio.wait_for(running.server.stop(0.3), 2)
    assert await busy.rest() == b""
    assert running.count() == 0
