"""Messages in a row over one session, from the real spool to a scripted peer: what the machine finishes, and what it leaves to Python."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.delivery.smtp_row import Row, RowEnd
from gatepost.message.envelope import Notify
from gatepost.message.verdict import Action, Answer, Verdict
from integration.test_delivery_relay import RelayLab
from support.dns import DnsStub
from support.smtp_peer import CLOSE, SILENCE, SmtpPeer


@pytest.fixture
def dns() -> Iterator[DnsStub]:
    with DnsStub({("away.test", "MX"): ["10 mx.away.test."], ("mx.away.test", "A"): ["127.0.0.1"]}) as stub:
        yield stub


def received(peer: SmtpPeer) -> list[str]:
    """Who got a message, in order."""
    return [one.rcpts[0].split("<")[1].split("@")[0] for one in peer.transactions]


async def submit(lab: RelayLab, count: int, start: int = 0) -> None:
    """Messages to u0, u1 …"""
    for number in range(start, start + count):
        await lab.submit(f"u{number}@away.test", sender="")


async def test_messages_behind_the_first_go_in_a_row_each_once(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await submit(lab, 60)
        await lab.empty()
        assert sorted(received(peer)) == sorted(f"u{n}" for n in range(60))
        assert lab.scheduler.counters["delivered"] == 60
        assert peer.verbs().count("MAIL") == 60
        assert peer.connections < 20


async def test_refusals_in_the_middle_touch_only_their_own_message(tmp_path: Path, dns: DnsStub) -> None:
    refused = {"RCPT": ["250 Ok\r\n", "250 Ok\r\n", "550 5.1.1 no\r\n", "250 Ok\r\n"], "DATA": ["354 go\r\n"]}
    async with SmtpPeer(refused) as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await submit(lab, 8)
        await lab.empty()
        assert (lab.scheduler.counters["delivered"], lab.scheduler.counters["failed"]) == (7, 1)
    spam = {"end": ["250 Ok\r\n", "554 5.7.1 spam\r\n", "451 4.3.0 later\r\n", "250 Ok\r\n"]}
    async with SmtpPeer(spam) as peer, RelayLab(tmp_path / "b", peer.port, dns.port) as lab:
        await submit(lab, 8)
        await lab.empty(10)
        assert (lab.scheduler.counters["delivered"], lab.scheduler.counters["failed"]) == (7, 1)
        assert lab.scheduler.counters["deferred"] == 1


@pytest.mark.parametrize("answer", [CLOSE, "421 4.3.2 enough\r\n" + CLOSE, "nonsense\r\n"])
async def test_a_session_that_breaks_loses_no_message(tmp_path: Path, dns: DnsStub, answer: str) -> None:
    ends = {"end": ["250 Ok\r\n", "250 Ok\r\n", "250 Ok\r\n", answer, "250 Ok\r\n"]}
    async with SmtpPeer(ends) as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await submit(lab, 10)
        await lab.empty(10)
        assert lab.scheduler.counters["delivered"] == 10
        assert lab.scheduler.counters["deferred"] >= 1


async def test_a_session_closed_between_messages_costs_no_attempt(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        for round_ in range(3):
            await submit(lab, 5, round_ * 5)
            await lab.empty()
            peer.drop_connections()
        assert len(received(peer)) == 15
        assert lab.scheduler.counters["deferred"] == 0


async def test_a_peer_that_says_nothing_is_given_up(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer({"end": ["250 Ok\r\n", SILENCE, "250 Ok\r\n"]}) as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        lab.settings.delivery.__dict__.update(command_seconds=0.3, data_seconds=0.3)
        await submit(lab, 1)
        await lab.empty()
        await submit(lab, 1, 1)
        await lab.empty(10)
        assert (lab.scheduler.counters["delivered"], lab.scheduler.counters["deferred"]) == (2, 1)


async def test_what_needs_a_closer_look_goes_its_own_way(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await submit(lab, 2)
        await lab.empty()
        await lab.submit("two@away.test", "three@away.test", sender="")
        await lab.submit("large@away.test", sender="", body=b"Subject: large\r\n\r\n" + b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 20_000)
        await lab.submit("asked@away.test", sender="alice@here.test", notify=Notify.SUCCESS)
        await submit(lab, 2, 2)
        await lab.empty(10)
        assert sorted(received(peer)) == ["asked", "large", "two", "u0", "u1", "u2", "u3"]
        assert any("NOTIFY=SUCCESS" in one.rcpts[0] for one in peer.transactions)


async def test_mail_that_was_judged_needs_no_closer_look(tmp_path: Path, dns: DnsStub, monkeypatch: pytest.MonkeyPatch) -> None:
    fates: list[str] = []
    run = Row.run

    async def recorded(self: Row) -> RowEnd:
        end = await run(self)
        fates.extend(one.fate for one in end.left)
        return end

    monkeypatch.setattr(Row, "run", recorded)
    verdict = Verdict(Action.TAG, "default", 'a "rule", odd]', answers=(Answer("clamd", "clean"),))
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        for number in range(20):
            await lab.submit(f"u{number}@away.test", sender="", verdict=verdict)
        await lab.empty()
        assert sorted(received(peer)) == sorted(f"u{n}" for n in range(20))
    assert fates == []


async def test_whoever_watches_sees_every_delivery(tmp_path: Path, dns: DnsStub) -> None:
    async with SmtpPeer() as peer, RelayLab(tmp_path, peer.port, dns.port) as lab:
        await submit(lab, 1)
        await lab.empty()
        watcher = lab.scheduler.events.watch()
        first = asyncio.ensure_future(anext(watcher))
        await asyncio.sleep(0)
        await submit(lab, 3, 1)
        await lab.empty()
        seen = [(await first).kind]
        async with asyncio.timeout(5):
            while seen.count("delivered") < 3:
                seen.append((await anext(watcher)).kind)
        assert seen.count("accepted") == 3
