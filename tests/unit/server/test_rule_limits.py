"""What an address asks for besides a sender who may: size at RCPT and at the end of data, encryption, who may post to a list."""

from collections.abc import Awaitable, Callable

from support.receiving import ALICE, BOB, Receiver

Receive = Callable[..., Awaitable[Receiver]]
SMALL, SECRET, TEAM = "small@example.test", "secret@example.test", "team@example.test"
LARGE = b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 100 + b".\r\n"
SHORT = b"Subject: x\r\n\r\nbody\r\n.\r\n"
POST = f"From: {BOB}\r\n".encode() + SHORT


async def test_a_size_that_is_said_is_refused_at_the_recipient_who_takes_less(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test> SIZE=1001")
    assert (await client.command(f"RCPT TO:<{SMALL}>"))[:9] == "552 5.3.4"
    assert (await client.command(f"RCPT TO:<{ALICE}>"))[:3] == "250"
    await client.close()


async def test_a_size_that_is_not_said_is_refused_at_the_end_of_data(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("a@b.test", SMALL, LARGE))[:9] == "552 5.3.4"
    assert running.count() == 0
    assert (await client.send_mail("a@b.test", SMALL, SHORT))[:3] == "250"
    assert (await client.send_mail("a@b.test", ALICE, LARGE))[:3] == "250"
    assert running.count() == 2
    await client.close()


async def test_chunks_are_held_to_the_size_of_the_recipient_too(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    await client.command(f"RCPT TO:<{SMALL}>")
    body = LARGE[: -len(b".\r\n")]
    client.send(f"BDAT {len(body)} LAST\r\n".encode() + body)
    assert (await client.reply())[:9] == "552 5.3.4"
    assert running.count() == 0
    await client.close()


async def test_an_address_that_wants_encryption_refuses_an_open_session(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    assert (await client.command(f"RCPT TO:<{SECRET}>"))[:10] == "550 5.7.10"
    await client.close()
    client = await running.hello()
    await client.command("STARTTLS")
    await client.start_tls()
    await client.command("EHLO client.test")
    assert (await client.send_mail("a@b.test", SECRET, SHORT))[:3] == "250"
    await client.close()


async def test_who_may_post_to_a_list_is_asked_of_each_sender(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    for sender, code in ((BOB, "250"), ("stranger@far.test", "550"), (BOB, "250"), ("", "550")):
        assert (await client.send_mail(sender, TEAM, POST))[:3] == code, sender
        await client.command("RSET")
    assert [message.recipients for message in running.queued()] == [(ALICE, BOB)] * 2
    await client.close()
