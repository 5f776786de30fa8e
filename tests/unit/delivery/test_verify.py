"""Recipients asked for at a next hop: a scripted peer on loopback, connections used again, answers remembered, and a peer that is down."""

import asyncio
from pathlib import Path
from typing import Any

from gatepost.config import load_settings
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp import SmtpTransport
from gatepost.delivery.verify import DOWN_SECONDS, MOST, NOT_NOW, Known, RecipientVerifier
from gatepost.routing.model import Check, Route, RouteKind
from gatepost.routing.settings import Verify
from support.smtp_peer import CLOSE, SILENCE, SmtpPeer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def verifier(path: Path, clock: Clock | None = None, **delivery: Any) -> tuple[RecipientVerifier, SmtpTransport]:
    settings = load_settings(None, path, {})
    settings = settings.model_copy(update={"delivery": settings.delivery.model_copy(update=delivery)})
    transport = SmtpTransport(lambda: settings, Resolver(lambda: settings), lambda _: None)  # type: ignore[arg-type,return-value]  # no mail
    return RecipientVerifier({"smtp": transport}, lambda: settings, clock or Clock()), transport


def check(peer: SmtpPeer, address: str, when_down: Verify = Verify.DEFER) -> Check:
    return Check(Route(RouteKind.SMTP, address, host="127.0.0.1", port=peer.port), when_down, 100, 10)


def unknown(command: str) -> str:
    return "550 5.1.1 who is that?\r\n" if "nobody" in command else "250 2.1.5 ok\r\n"


async def test_yes_and_no_are_the_next_hops_over_one_connection_from_the_null_sender(tmp_path: Path) -> None:
    for capabilities in (("PIPELINING", "ENHANCEDSTATUSCODES"), ("ENHANCEDSTATUSCODES",)):
        async with SmtpPeer({"RCPT": [unknown]}, capabilities=capabilities) as peer:
            asks, transport = verifier(tmp_path)
            assert await asks.ask(check(peer, "alice@a.test")) is None
            reply = await asks.ask(check(peer, "nobody@a.test"))
            assert reply is not None
            assert (reply.code, reply.enhanced) == (550, "5.1.1")
            assert "who is that?" in reply.text
            assert await asks.ask(check(peer, "bob@a.test")) is None
            assert peer.connections == 1
            assert [one for one in peer.commands if one.startswith("MAIL")] == ["MAIL FROM:<>"] * 3
            assert "DATA" not in peer.verbs()
            await transport.close()


async def test_answers_hold_as_long_as_the_rule_says_and_no_longer(tmp_path: Path) -> None:
    clock = Clock()
    async with SmtpPeer({"RCPT": [unknown]}) as peer:
        asks, transport = verifier(tmp_path, clock)
        for address in ("alice@a.test", "nobody@a.test", "Alice@A.test", "nobody@a.test"):
            await asks.ask(check(peer, address))
        assert peer.verbs().count("RCPT") == 2
        clock.now += 11
        await asks.ask(check(peer, "nobody@a.test"))
        await asks.ask(check(peer, "alice@a.test"))
        assert peer.verbs().count("RCPT") == 3, "a no holds for 10 seconds, a yes for 100"
        clock.now += 100
        await asks.ask(check(peer, "alice@a.test"))
        assert peer.verbs().count("RCPT") == 4
        await transport.close()


async def test_who_asks_at_once_for_the_same_recipient_shares_the_question(tmp_path: Path) -> None:
    async with SmtpPeer() as peer:
        asks, transport = verifier(tmp_path)
        answers = await asyncio.gather(*(asks.ask(check(peer, "alice@a.test")) for _ in range(20)))
        assert answers == [None] * 20
        assert peer.verbs().count("RCPT") == 1
        await transport.close()


async def test_a_next_hop_that_is_down_defers_or_what_was_known_holds(tmp_path: Path) -> None:
    clock = Clock()
    async with SmtpPeer({"RCPT": [unknown]}) as peer:
        asks, transport = verifier(tmp_path, clock)
        assert await asks.ask(check(peer, "alice@a.test")) is None
        refused = await asks.ask(check(peer, "nobody@a.test"))
        await transport.close()
    clock.now += 1000
    for when_down, alice, nobody in ((Verify.DEFER, NOT_NOW, NOT_NOW), (Verify.KNOWN, None, refused)):
        assert await asks.ask(check(peer, "alice@a.test", when_down)) == alice
        assert await asks.ask(check(peer, "nobody@a.test", when_down)) == nobody
        assert await asks.ask(check(peer, "stranger@a.test", when_down)) == NOT_NOW
    async with SmtpPeer(port=peer.port) as back:
        assert await asks.ask(check(peer, "alice@a.test")) == NOT_NOW, "it is left alone for a while"
        clock.now += DOWN_SECONDS + 1
        assert await asks.ask(check(peer, "alice@a.test")) is None
        assert back.connections == 1
        await transport.close()


async def test_what_is_no_answer_about_the_recipient_defers(tmp_path: Path) -> None:
    for answers in (
        {"RCPT": ["450 4.2.0 greylisted\r\n"]},
        {"MAIL": ["550 5.7.1 no bounces here\r\n"]},
        {"RCPT": [CLOSE]},
        {"greeting": ["554 5.3.2 no\r\n"]},
        {"RCPT": ["what?\r\n"]},
    ):
        async with SmtpPeer(answers, capabilities=("ENHANCEDSTATUSCODES",)) as peer:  # type: ignore[arg-type]  # texts are answers
            asks, transport = verifier(tmp_path)
            assert await asks.ask(check(peer, "alice@a.test")) == NOT_NOW, answers
            await transport.close()


async def test_a_peer_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async with SmtpPeer({"MAIL": [SILENCE]}, capabilities=()) as peer:
        asks, transport = verifier(tmp_path, command_seconds=1)
        assert await asyncio.wait_for(asks.ask(check(peer, "alice@a.test")), 10) == NOT_NOW
        await transport.close()


async def test_an_address_that_would_be_another_command_is_not_sent(tmp_path: Path) -> None:
    async with SmtpPeer() as peer:
        asks, transport = verifier(tmp_path)
        assert await asks.ask(check(peer, "a@b.test>\r\nDATA")) == NOT_NOW
        assert peer.commands == []
        await transport.close()


async def test_what_is_remembered_has_a_bound(tmp_path: Path) -> None:
    async with SmtpPeer() as peer:
        asks, transport = verifier(tmp_path)
        for n in range(MOST):
            asks._known[("smtp:x", f"user{n}")] = Known(None, 1e9)
        await asks.ask(check(peer, "alice@a.test"))
        assert len(asks._known) == MOST
        assert ("smtp:x", "user0") not in asks._known
        await transport.close()
