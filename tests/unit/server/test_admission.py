"""Who may connect, and what a refused connection costs. Peers from elsewhere are made up: a test machine has none."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.receiving import ALICE, Receiver

Receive = Callable[..., Awaitable[Receiver]]


class Peer:
    def __init__(self, address: str) -> None:
        self.client = address


def peer(address: str) -> Any:
    return Peer(address)


async def test_lmtp_is_closed_to_clients_from_untrusted_networks(receive: Receive) -> None:
    running = await receive("lmtp", trust={"networks": ["192.0.2.0/24"]})
    assert running.server.admit(peer("198.51.100.1")).code == 421
    assert running.server.context.connections.total == 0
    near, trusted = peer("127.0.0.1"), peer("192.0.2.9")
    assert running.server.admit(near) is None
    assert running.server.admit(trusted) is None
    running.server.forget(near)
    running.server.forget(trusted)


@pytest.mark.parametrize(("address", "limited"), [("198.51.100.1", True), ("192.0.2.9", False), ("127.0.0.1", False)])
async def test_the_limit_per_client_spares_loopback_and_trusted_networks(receive: Receive, address: str, limited: bool) -> None:
    running = await receive(trust={"networks": ["192.0.2.0/24"]}, smtp={"max_connections_per_client": 2})
    peers = [peer(address) for _ in range(3)]
    answers = [running.server.admit(one) for one in peers]
    assert (answers[2] is not None) is limited
    for one in peers:
        running.server.forget(one)
    assert running.server.context.connections.total == 0


async def test_temporary_refusals_and_recipients_all_refused_do_not_count_as_errors(receive: Receive) -> None:
    running = await receive(smtp={"max_bad_commands": 2, "max_recipients": 1})
    client = await running.hello()
    for _ in range(3):
        await client.command("MAIL FROM:<a@b.test>")
        assert (await client.command("RCPT TO:<nobody@example.test>"))[:3] == "550"
        assert (await client.command("DATA"))[:3] == "554"
        assert (await client.command(f"RCPT TO:<{ALICE}>"))[:3] == "250"
        assert (await client.command(f"RCPT TO:<{ALICE}>"))[:3] == "452"
        assert (await client.command("RSET"))[:3] == "250"
    await client.close()
