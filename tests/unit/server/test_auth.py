"""AUTH on submission: SCRAM against an independent client, limits, and what a login allows."""

import base64
import json
from collections.abc import Awaitable, Callable

import pytest
from scramp import ScramClient

from support.receiving import ALICE, BOB, PASSWORD, Client, Receiver, b64, plain

Receive = Callable[..., Awaitable[Receiver]]


async def scram(client: Client, user: str, password: str, *, initial: bool = True) -> str:
    """A whole exchange; the last reply."""
    exchange = ScramClient(["SCRAM-SHA-256"], user, password)
    first = b64(exchange.get_client_first())
    if initial:
        answer = await client.command(f"AUTH SCRAM-SHA-256 {first}")
    else:
        assert (await client.command("AUTH SCRAM-SHA-256")).strip() == "334"
        answer = await client.command(first)
    if answer[:3] != "334":
        return answer
    exchange.set_server_first(base64.b64decode(answer[4:]).decode())
    answer = await client.command(b64(exchange.get_client_final()))
    if answer[:3] != "334":
        return answer
    exchange.set_server_final(base64.b64decode(answer[4:]).decode())
    return await client.command("")


@pytest.mark.parametrize("initial", [True, False])
async def test_scram_logs_in_without_tls_and_proves_the_server(receive: Receive, initial: bool) -> None:
    running = await receive("submission")
    client = await running.hello()
    assert (await scram(client, ALICE, PASSWORD, initial=initial))[:3] == "235"
    assert (await client.send_mail(ALICE, "x@elsewhere.test", b"From: a\r\n\r\n.\r\n"))[:3] == "250"
    meta = running.queued()[0].meta
    assert meta.origin.user == ALICE
    assert meta.origin.protocol == "ESMTPA"
    await client.close()


async def test_scram_with_a_wrong_password_fails(receive: Receive) -> None:
    running = await receive("submission")
    client = await running.hello()
    assert (await scram(client, ALICE, "wrong"))[:9] == "535 5.7.8"
    assert (await client.command(f"MAIL FROM:<{ALICE}>"))[:3] == "530"
    await client.close()


async def test_implicit_tls_greets_under_tls_and_offers_plain(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.connect(tls=True)
    assert (await client.reply())[:3] == "220"
    answer = await client.command("EHLO client.test")
    assert "STARTTLS" not in answer
    assert "PLAIN" in answer
    assert await client.command(f"AUTH PLAIN {plain(ALICE, PASSWORD)}") == "235 2.7.0 authenticated"
    assert (await client.send_mail(ALICE, BOB, b"From: a\r\n\r\nhi\r\n.\r\n"))[:3] == "250"
    queued = running.queued()[0]
    assert queued.meta.origin.protocol == "ESMTPSA"
    assert queued.meta.origin.tls.startswith("TLSv1.3 ")
    assert b" with ESMTPSA id " in queued.octets
    assert b"\r\n\ttls TLS_AES_" in queued.octets
    await client.close()


async def test_a_disabled_user_cannot_log_in(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.hello(tls=True)
    assert (await client.command(f"AUTH PLAIN {plain('carol@example.test', PASSWORD)}"))[:3] == "535"
    await client.close()


async def test_the_third_failure_ends_the_session(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.hello(tls=True)
    for _ in range(3):
        assert (await client.command(f"AUTH PLAIN {plain(ALICE, 'wrong')}"))[:9] == "535 5.7.8"
    assert (await client.reply())[:3] == "421"
    assert await client.rest() == b""


async def test_a_client_that_leaves_in_the_middle_of_auth_leaves_nothing_behind(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.hello(tls=True)
    assert (await client.command("AUTH PLAIN"))[:3] == "334"
    await client.close()
    other = await running.hello(tls=True)
    assert len(running.server.sessions) == 1
    await other.close()


async def test_pipelined_auth_and_commands_are_worked_off_in_order(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.hello(tls=True)
    client.send(f"AUTH PLAIN\r\n{plain(ALICE, PASSWORD)}\r\nMAIL FROM:<{ALICE}>\r\nRSET\r\n".encode())
    assert [(await client.reply())[:3] for _ in range(4)] == ["334", "235", "250", "250"]
    await client.close()


async def test_an_overlong_response_line_is_refused_and_the_session_goes_on(receive: Receive) -> None:
    running = await receive("submissions")
    client = await running.hello(tls=True)
    assert (await client.command("AUTH PLAIN"))[:3] == "334"
    assert (await client.command("A" * 20_000))[:3] == "500"
    assert (await client.command("NOOP"))[:3] == "250"
    await client.close()


async def test_port_smtp_relays_for_a_user_who_logged_in(receive: Receive) -> None:
    running = await receive("smtp")
    client = await running.hello()
    assert (await scram(client, ALICE, PASSWORD))[:3] == "235"
    assert (await client.send_mail("any@sender.test", "x@elsewhere.test", b".\r\n"))[:3] == "250"
    await client.close()


async def test_plain_text_mechanisms_without_tls_need_the_setting(receive: Receive) -> None:
    running = await receive("submission", smtp=json.loads('{"require_tls_for_plaintext_auth": false}'))
    client = await running.hello()
    assert await client.command(f"AUTH PLAIN {plain(ALICE, PASSWORD)}") == "235 2.7.0 authenticated"
    await client.close()
