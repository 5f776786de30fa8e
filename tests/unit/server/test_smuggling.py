"""End of data is CR LF . CR LF and nothing else, and bare line ends never pass (SMTP smuggling)."""

from collections.abc import Awaitable, Callable

import pytest

from support.receiving import ALICE, BOB, Receiver

Receive = Callable[..., Awaitable[Receiver]]

SMUGGLED = b"MAIL FROM:<evil@evil.test>\r\nRCPT TO:<" + BOB.encode() + b">\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n.\r\n"

FALSE_ENDS = {
    "lf-dot-lf": b"\n.\n",
    "lf-dot-crlf": b"\n.\r\n",
    "crlf-dot-lf": b"\r\n.\n",
    "cr-dot-cr": b"\r.\r",
    "cr-dot-crlf": b"\r.\r\n",
    "crlf-dot-cr": b"\r\n.\r",
    "lf-dot-cr": b"\n.\r",
    "crlf-dot-crcrlf": b"\r\n.\r\r\n",
    "crlfcr-dot-crlf": b"\r\n\r.\r\n",
    "crcrlf-dot-crlf": b"\r\r\n.\r\n",
    "crlf-nul-dot-crlf": b"\r\n\x00.\r\n",
    "crlf-dot-nul-crlf": b"\r\n.\x00\r\n",
    "crlf-dot-dot-crlf": b"\r\n..\r\n",
}
HARMLESS = {"crlf-nul-dot-crlf", "crlf-dot-nul-crlf", "crlf-dot-dot-crlf"}


@pytest.mark.parametrize("split", [False, True], ids=["one packet", "octet by octet"])
@pytest.mark.parametrize("name", FALSE_ENDS)
async def test_a_false_end_of_data_starts_no_second_transaction(receive: Receive, name: str, split: bool) -> None:
    running = await receive()
    client = await running.hello()
    for line in ("MAIL FROM:<a@b.test>", f"RCPT TO:<{ALICE}>", "DATA"):
        await client.command(line)
    octets = b"Subject: outer\r\n\r\nbody" + FALSE_ENDS[name] + SMUGGLED
    if split:
        for place in range(len(octets)):
            client.send(octets[place : place + 1])
            await client.writer.drain()
    else:
        client.send(octets)
    answer = await client.reply()
    if name in HARMLESS:
        assert answer[:3] == "250"
        assert running.queued()[0].recipients == (ALICE,)
        assert b"smuggled" in running.queued()[0].octets
        assert running.count() == 1
    else:
        assert answer[:9] in ("550 5.6.0", "500 5.5.2")
        await client.rest()
        assert running.count() == 0
    await client.close()


async def test_after_a_bare_newline_in_data_the_connection_is_closed_behind_the_reply(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    answer = await client.send_mail(
        "a@b.test", ALICE, b"a\nb\r\n.\r\nMAIL FROM:<x@y.test>\r\nRCPT TO:<" + ALICE.encode() + b">\r\nDATA\r\nz\r\n.\r\n"
    )
    assert answer[:9] == "550 5.6.0"
    assert await client.rest() == b""
    assert running.count() == 0


async def test_bare_newlines_pass_only_when_the_settings_allow_them(receive: Receive) -> None:
    running = await receive(smtp={"allow_bare_newlines": True})
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, b"Subject: x\n\na\nb\r\n.\r\n"))[:3] == "250"
    assert b"a\r\nb\r\n" in running.queued()[0].octets
    assert await client.command("NOOP\nNOOP") == "250 2.0.0 ok"
    assert await client.reply() == "250 2.0.0 ok"
    client.send(f"MAIL FROM:<a@b.test>\r\nRCPT TO:<{ALICE}>\r\nBDAT 5 LAST\r\na\n.\nb".encode())
    assert [(await client.reply())[:9] for _ in range(3)][2] == "550 5.6.0"
    await client.close()


@pytest.mark.parametrize(
    "line", [b"NOOP\n", b"NOOP\rRSET\r\n", b"NOOP\r\r\n", b"\rNOOP\r\n", b"MAIL FROM:<a@b.test>\nRCPT TO:<x@y.test>\r\n"]
)
async def test_bare_newlines_in_commands_end_the_session(receive: Receive, line: bytes) -> None:
    running = await receive()
    client = await running.hello()
    client.send(line)
    assert (await client.reply())[:9] == "500 5.5.2"
    assert (await client.reply())[:3] == "421"
    assert await client.rest() == b""
