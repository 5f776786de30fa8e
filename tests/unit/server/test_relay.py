"""Not an open relay: every known way to ask for relaying without being trusted, and what trust and rules do allow."""

from collections.abc import Awaitable, Callable

import pytest

from support.receiving import ALICE, Receiver

Receive = Callable[..., Awaitable[Receiver]]

RELAY_ATTEMPTS = {
    "plain": ("spammer@evil.test", "victim@elsewhere.test"),
    "percent hack": ("spammer@evil.test", "victim%elsewhere.test@example.test"),
    "percent hack to our name": ("spammer@evil.test", "victim%elsewhere.test@mx.example.test"),
    "percent hack to our address": ("spammer@evil.test", "victim%elsewhere.test@[127.0.0.1]"),
    "bang path": ("spammer@evil.test", "elsewhere.test!victim@example.test"),
    "bang path without domain": ("spammer@evil.test", "elsewhere.test!victim"),
    "mixed bang and percent": ("spammer@evil.test", "elsewhere.test!victim%other.test@example.test"),
    "quoted local part": ("spammer@evil.test", '"victim@elsewhere.test"@example.test'),
    "quoted local part without domain": ("spammer@evil.test", '"victim@elsewhere.test"'),
    "quoted percent": ("spammer@evil.test", '"victim%elsewhere.test"@example.test'),
    "two ats": ("spammer@evil.test", "victim@elsewhere.test@example.test"),
    "source route through us": ("spammer@evil.test", "@example.test:victim@elsewhere.test"),
    "source route through our address": ("spammer@evil.test", "@mx.example.test,@example.test:victim@elsewhere.test"),
    "spoofed local sender": (ALICE, "victim@elsewhere.test"),
    "spoofed postmaster": ("postmaster@example.test", "victim@elsewhere.test"),
    "sender is our address": ("x@[127.0.0.1]", "victim@elsewhere.test"),
    "null sender": ("", "victim@elsewhere.test"),
    "address literal": ("spammer@evil.test", "victim@[192.0.2.1]"),
    "our own literal": ("spammer@evil.test", "victim@[127.0.0.1]"),
    "IPv6 literal": ("spammer@evil.test", "victim@[IPv6:2001:db8::1]"),
    "bare address as domain": ("spammer@evil.test", "victim@192.0.2.1"),
    "mixed case": ("spammer@evil.test", "victim@ElseWhere.TEST"),
    "trailing dot": ("spammer@evil.test", "victim@elsewhere.test."),
    "trailing dot behind a hosted domain": ("spammer@evil.test", "victim@example.test.elsewhere.test."),
    "subdomain of a hosted domain": ("spammer@evil.test", "victim@sub.example.test"),
    "hosted domain as a suffix": ("spammer@evil.test", "victim@notexample.test"),
    "hosted domain in the local part": ("spammer@evil.test", "victim+example.test@elsewhere.test"),
    "localhost": ("spammer@evil.test", "victim@localhost"),
    "unknown local user": ("spammer@evil.test", "victim@example.test"),
}


@pytest.mark.parametrize("listener", ["smtp", "lmtp"])
async def test_an_untrusted_client_cannot_relay_by_any_known_trick(receive: Receive, listener: str) -> None:
    running = await receive(listener, smtp={"max_bad_commands": 1000})
    client = await running.hello(verb="LHLO" if listener == "lmtp" else "EHLO")
    for name, (sender, recipient) in RELAY_ATTEMPTS.items():
        assert (await client.command(f"MAIL FROM:<{sender}>"))[:3] == "250", name
        answer = await client.command(f"RCPT TO:<{recipient}>")
        assert answer[0] == "5", f"{name}: {answer}"
        assert (await client.command("DATA"))[0] == "5", name
        await client.command("RSET")
    assert running.count() == 0
    await client.close()


async def test_mail_between_strangers_cannot_ride_on_an_accepted_recipient(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    assert (await client.command(f"RCPT TO:<{ALICE}>"))[:3] == "250"
    assert (await client.command("RCPT TO:<victim@elsewhere.test>"))[:3] == "554"
    await client.command("DATA")
    client.send(b"x\r\n.\r\n")
    assert (await client.reply())[:3] == "250"
    assert running.queued()[0].recipients == (ALICE,)
    await client.close()


async def test_a_spoofed_local_sender_still_reaches_local_mailboxes(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("bob@example.test", ALICE, b".\r\n"))[:3] == "250"
    await client.close()


async def test_a_trusted_network_may_relay_on_port_smtp(receive: Receive) -> None:
    running = await receive(trust={"networks": ["127.0.0.0/8"]})
    client = await running.hello()
    assert (await client.send_mail("a@b.test", "someone@elsewhere.test", b".\r\n"))[:3] == "250"
    await client.close()


async def test_a_trusted_network_still_has_to_log_in_on_submission(receive: Receive) -> None:
    running = await receive("submission", trust={"networks": ["127.0.0.0/8"]})
    client = await running.hello()
    assert (await client.command("MAIL FROM:<a@b.test>"))[:9] == "530 5.7.0"
    await client.close()


async def test_a_named_gateway_domain_is_taken_from_anyone(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.send_mail("a@b.test", "x@gateway.test", b".\r\n"))[:3] == "250"
    await client.close()
