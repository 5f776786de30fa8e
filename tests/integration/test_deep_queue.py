"""A queue that is twenty thousand messages deep, in the real server: what an operator and other mail notice of it.

Speed is measured by benches/depth.py.
"""

import time
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from gatepost.client import GatepostClient
from gatepost.client.queue import ALL
from gatepost.client.values import BulkResult, QueueFilter, QueueMessage
from support.deep_spool import DOWN_DOMAIN, Fill, disk_octets, fill
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import wait_until
from support.programs import exists, imap, send
from support.sdk import call

WHAT = Fill(messages=20_000, octets=1_000, domains=200, down=5_000)
DEAD = QueueFilter(domain=DOWN_DOMAIN)


def mail(subject: str) -> EmailMessage:
    """A message of a line."""
    message = EmailMessage()
    message["Subject"] = subject
    message.set_content("hello\n")
    return message


def counted(server: Gatepost, wanted: QueueFilter) -> int:
    """How many messages match."""
    return call(server, lambda client: client.queue.preview(wanted)).messages


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    """The server, with its queue filled before it started."""
    server = Gatepost(tmp_path_factory.mktemp("deep"), queue={"undo_seconds": 0, "retry_initial_seconds": 60})
    server.add_users()
    (server.data / "spool").mkdir(mode=0o700, exist_ok=True)
    fill(server.data / "spool" / "p0", WHAT)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def test_mail_is_taken_beside_a_deep_queue_and_all_of_both_is_seen(deep: Gatepost) -> None:
    send(deep.port("smtp"), mail("hello"))
    with imap(deep.port("imaps"), ALICE, PASSWORD) as client:
        wait_until(lambda: exists(client) == 1, 20, "the message is in the mailbox")
    wait_until(lambda: call(deep, lambda client: client.queue.stats()).total.messages == WHAT.messages, 20, "the whole queue is seen")
    assert counted(deep, DEAD) == WHAT.down
    assert counted(deep, QueueFilter(recipient="user12345@*")) == 1
    assert counted(deep, QueueFilter(domain="nowhere.test")) == 0


def test_a_dead_host_with_thousands_of_messages_waits_as_one_while_other_mail_goes_on(deep: Gatepost) -> None:
    async def retry(client: GatepostClient) -> BulkResult:
        return await client.queue.retry(DEAD)

    assert call(deep, retry).changed == WHAT.down
    with imap(deep.port("imaps"), ALICE, PASSWORD) as client:
        before = exists(client)
        for number in range(5):
            send(deep.port("smtp"), mail(f"meanwhile {number}"))
        wait_until(lambda: exists(client) == before + 5, 20, "other mail is delivered meanwhile")
    all_wait(deep)
    # Nothing is written of them: another retry of all is one more attempt.
    assert call(deep, retry).changed == WHAT.down
    all_wait(deep)


def test_mail_of_a_dead_host_waits_again_after_a_restart(deep: Gatepost) -> None:
    deep.kill()
    deep.start()
    wait_until(lambda: call(deep, lambda client: client.queue.stats()).total.messages == WHAT.messages, 20, "the whole queue is seen")
    all_wait(deep)


def all_wait(server: Gatepost) -> None:
    """All mail of the dead host shows the host's fault and next attempt, and hardly any of it was tried."""

    async def every(client: GatepostClient) -> list[QueueMessage]:
        return [one async for one in client.queue.list(DEAD)]

    refused = QueueFilter(domain=DOWN_DOMAIN, reply_contains="refused")
    wait_until(lambda: counted(server, refused) == WHAT.down, 30, "all wait for the host")
    now, attempts = time.time(), 0
    for message in call(server, every):
        (recipient,) = message.recipients
        assert "refused" in recipient.last_reason and recipient.next_attempt is not None
        assert recipient.next_attempt.timestamp() > now + 20
        attempts += recipient.attempts
    assert 1 <= attempts <= 10
    causes = call(server, lambda client: client.queue.causes())
    assert [(cause.kind, cause.recipients) for cause in causes.causes] == [("refused", WHAT.down)]


def test_all_of_it_is_held_released_and_removed_and_the_disk_is_given_back(deep: Gatepost) -> None:
    assert call(deep, lambda client: client.queue.hold(ALL)).changed == WHAT.messages
    assert call(deep, lambda client: client.queue.stats()).total.held == WHAT.messages
    assert call(deep, lambda client: client.queue.release(ALL)).changed == WHAT.messages
    assert call(deep, lambda client: client.queue.remove(ALL)).changed == WHAT.messages
    assert call(deep, lambda client: client.queue.stats()).total.messages == 0
    # A segment that is written to, one or two spare ones, and the reserve.
    wait_until(lambda: disk_octets(deep.data / "spool" / "p0") < 3.5 * (64 << 20), 30, "the disk space is given back")
