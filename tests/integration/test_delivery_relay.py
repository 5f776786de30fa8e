"""From the real spool over real sockets: Postfix's smtp-sink, MX records from a real DNS server, a crash in the middle, large messages."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost.config import Settings
from gatepost.config.settings import Delivery, Dns, Queue
from gatepost.delivery.next_hop import Own
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp import SmtpTransport
from gatepost.message.envelope import Notify
from gatepost.queue.views import Filter
from support.dns import DnsStub
from support.queue_lab import QueueLab
from support.smtp_peer import CLOSE, SmtpPeer
from support.smtp_sink import smtp_sink


class RelayLab(QueueLab):
    """A lab whose remote transport is the real one; `zone` is its DNS, every MX is at `port` on loopback."""

    def __init__(self, path: Path, port: int, dns_port: int, **queue: Any) -> None:
        super().__init__(path, start=False, **queue)
        fast = {"retry_initial_seconds": 0.2, "retry_max_seconds": 0.4, "retry_jitter": 0.0, **queue}
        self.settings = Settings(
            hostname="mail.here.test",
            data=path,
            queue=Queue(**fast),
            delivery=Delivery(mx_port=port, connect_seconds=2, command_seconds=5, data_seconds=20),
            dns=Dns(nameservers=("127.0.0.1",), port=dns_port, timeout_seconds=1, lifetime_seconds=2),
        )
        self.resolver = Resolver(lambda: self.settings)

    async def __aenter__(self) -> "RelayLab":
        await super().__aenter__()
        own = Own(frozenset({"mail.here.test"}))
        self.scheduler._transports["smtp"] = SmtpTransport(  # type: ignore[index]
            lambda: self.settings, self.resolver, self.spool.open_message, own=lambda: own
        )
        await self.scheduler.start()
        return self


@pytest.fixture
def dns() -> Iterator[DnsStub]:
    zone = {
        ("away.test", "MX"): ["10 mx.away.test."],
        ("mx.away.test", "A"): ["127.0.0.1"],
        ("backup.test", "MX"): ["10 dead.away.test.", "20 mx.away.test."],
        ("dead.away.test", "A"): ["127.0.0.9"],
        ("null.test", "MX"): ["0 ."],
    }
    with DnsStub(zone, failing=["servfail.test"]) as stub:
        yield stub


@pytest.fixture
def sink() -> Iterator[int]:
    """Port of a running smtp-sink."""
    with smtp_sink() as running:
        yield running.port


async def test_five_hundred_messages_reach_smtp_sink(tmp_path: Path, dns: DnsStub, sink: int) -> None:
    async with RelayLab(tmp_path, sink, dns.port) as lab:
        await asyncio.gather(*(lab.submit(f"user{number}@away.test") for number in range(500)))
        await lab.empty(30)
        assert lab.scheduler.counters["delivered"] == 500
        assert dns.questions.count(("away.test", "MX")) == 1


async def test_the_next_exchanger_takes_over(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await lab.submit("x@backup.test")
        await lab.empty()
        assert peer.transactions[0].rcpts[0].startswith("RCPT TO:<x@backup.test>")


async def test_what_arrives_is_what_was_queued_with_a_trace_field_in_front(tmp_path: Path, dns: DnsStub) -> None:
    body = b"From: alice@here.test\nDate: Sun, 1 Nov 2026 10:00:00 +0000\nMessage-ID: <1@here.test>\n\n.a\n..b\n.\n\nc"
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await lab.submit("x@away.test", body=body)
        await lab.empty()
        data = peer.transactions[0].data
        assert data.startswith(b"Received: by mail.here.test with GRPC id ")
        assert data.endswith(body.replace(b"\n", b"\r\n") + b"\r\n")


async def test_dns_faults_end_in_a_report_or_a_retry(tmp_path: Path, dns: DnsStub) -> None:
    async with RelayLab(tmp_path, 1, dns.port, retry_initial_seconds=600, retry_max_seconds=600) as lab:
        await lab.submit("x@null.test", "y@missing.test")
        await lab.submit("z@servfail.test", sender="")
        await lab.until(lambda: len(lab.reports()) == 2)
        page = await lab.service.list(Filter(domain="servfail.test"))
        await lab.until(lambda: lab.scheduler.counters["deferred"] == 1)
        page = await lab.service.list(Filter(domain="servfail.test"))
        assert page.messages[0].recipients[0].last["enhanced"] == "4.4.3"


async def test_a_connection_lost_after_the_data_sends_the_message_again(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer({"end": [CLOSE, "250 2.0.0 Ok\r\n"]}) as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await lab.submit("x@away.test")
        await lab.empty()
        assert peer.verbs().count("DATA") == 2
        assert len(peer.transactions) == 1
        assert lab.reports() == []


async def test_a_success_report_is_left_to_a_next_hop_with_dsn(tmp_path: Path, dns: DnsStub) -> None:
    for capabilities, reports in ((("PIPELINING", "DSN"), 0), (("PIPELINING",), 1)):
        path = tmp_path / str(reports)
        path.mkdir()
        async with SmtpPeer(capabilities=capabilities) as peer, RelayLab(path, peer.port, dns.port) as lab:
            await lab.submit("x@away.test", notify=Notify.SUCCESS, envid="E1")
            await lab.empty()
            assert len(lab.reports()) == reports
            assert ("NOTIFY=SUCCESS" in peer.transactions[0].rcpts[0]) == (not reports)


async def test_nothing_is_lost_when_the_queue_restarts_in_the_middle(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer:
        async with RelayLab(tmp_path, peer.port, dns.port, destination_concurrency=2) as lab:
            await asyncio.gather(*(lab.submit(f"u{number}@away.test") for number in range(200)))
            await lab.until(lambda: len(peer.transactions) > 20)
            await lab.scheduler.stop(0)
        assert len(peer.transactions) < 200
        async with RelayLab(tmp_path, peer.port, dns.port) as lab:
            await lab.empty(20)
        arrived = [heard.rcpts[0].split("<")[1].split(">")[0] for heard in peer.transactions]
        assert set(arrived) == {f"u{number}@away.test" for number in range(200)}
        assert len(arrived) <= 202  # at most the two attempts that were cut off came again


def resident_kib() -> int:
    """RSS of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


async def test_a_large_message_passes_through_in_little_memory(tmp_path: Path, dns: DnsStub, sink: int) -> None:
    line = b"0123456789" * 7 + b"\r\n"

    async def large() -> AsyncIterator[bytes]:
        yield b"Subject: large\r\n\r\n"
        for _ in range(800):
            yield line * 900  # 64 KB

    async with RelayLab(tmp_path, sink, dns.port) as lab:
        await lab.submit("warm@away.test", body=b"Subject: x\r\n\r\n" + line * 20_000)
        await lab.empty(20)
        before = resident_kib()
        await lab.submit("x@away.test", body=large())
        received = resident_kib()
        peak = before
        while lab.spool.stats()["messages"]:
            peak = max(peak, resident_kib())
            await asyncio.sleep(0.005)
        assert lab.scheduler.counters["delivered"] == 2
        assert received - before < 4096, f"{received - before} KiB while receiving"
        assert peak - before < 4096, f"{peak - before} KiB while delivering"
