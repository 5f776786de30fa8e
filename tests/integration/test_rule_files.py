"""The rule set as a whole on a running server: what explain says is what live mail gets; a change reaches every open session at once."""

import random
import smtplib
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gatepost.client import GatepostClient, InvalidRequestError
from gatepost.client.rulesets import MailExplanation, source
from gatepost.routing.document import Document, render
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind
from support.gatepost import ALICE, BOB, PASSWORD, Gatepost
from support.processes import wait_until
from support.sdk import call, queue

SETS = 10
NOWHERE = "gateway.invalid"
DOMAINS = ("example.test", "sub.example.test", "partner.test", "far.test")
LOCALS = ("alice", "bob", "sales", "sales-1", "nobody", "bob+list")
ADDRESSES = tuple(f"{local}@{domain}" for local in LOCALS for domain in DOMAINS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatepost]:
    smtp = {"require_tls_for_plaintext_auth": False}
    dns = {"nameservers": ["127.0.0.1"], "port": 9, "timeout_seconds": 1, "lifetime_seconds": 1}
    with Gatepost(tmp_path_factory.mktemp("rule-files"), workers=2, smtp=smtp, dns=dns) as running:
        yield running


# ---- explain and live mail --------------------------------------------------------------------------------------------


def some_rules(dice: random.Random) -> Document:
    """A rule set nobody thought of; example.test, which has users, stays hosted."""
    made = [DomainRule("example.test", RuleKind.HOSTED, handlers=some_handlers(dice))]
    for domain in ("*.example.test", "partner.test", "far.test", "*"):
        if dice.random() < 0.6:
            kind = dice.choice(list(RuleKind))
            host = NOWHERE if kind in (RuleKind.GATEWAY, RuleKind.HOLD) else ""
            text = "no" if kind is RuleKind.REJECT else ""
            untrusted = kind is RuleKind.MX and domain != "*" and dice.random() < 0.5
            made.append(DomainRule(domain, kind, host, text=text, accept_untrusted=untrusted, handlers=some_handlers(dice)))
    return Document(tuple(made))


def some_handlers(dice: random.Random) -> tuple[AddressHandler, ...]:
    made = {}
    for pattern in dice.sample(["alice", "sales", "sales*", "*-1", "*", "bob+list"], dice.randint(0, 4)):
        kind = dice.choice([HandlerKind.MAILBOX, HandlerKind.FORWARD, HandlerKind.COPY, HandlerKind.REJECT, HandlerKind.DISCARD])
        several = kind in (HandlerKind.FORWARD, HandlerKind.COPY)
        targets = tuple(dice.sample(ADDRESSES, dice.randint(1, 3))) if several else (ALICE,) if kind is HandlerKind.MAILBOX else ()
        made[pattern] = AddressHandler(pattern, kind, targets)
    return tuple(made.values())


def apply_some(server: Gatepost, dice: random.Random) -> None:
    """Put one of the random rule sets in force: one that is refused (a loop, a target nobody has) makes room for the next."""

    async def attempt(client: GatepostClient) -> bool:
        with suppress(InvalidRequestError):
            await client.rulesets.apply(source(render(some_rules(dice))))
            return True
        return False

    assert any(call(server, attempt) for _ in range(40)), "no random rule set is taken any more"


def asked(server: Gatepost, recipients: tuple[str, ...], user: str) -> list[MailExplanation]:
    async def ask(client: GatepostClient) -> list[MailExplanation]:
        return [
            await client.rulesets.explain(one, sender=ALICE if user else "x@y.test", client_address="127.0.0.1", user=user, offline=True)
            for one in recipients
        ]

    return call(server, ask)


def lived(server: Gatepost, recipients: tuple[str, ...], user: str) -> tuple[list[tuple[int, str]], str]:
    """Send one message to all that are taken: the reply to each RCPT, and the message's id ('' when nobody was)."""
    with smtplib.SMTP("127.0.0.1", server.port("submission" if user else "smtp"), timeout=30) as client:
        client.ehlo("client.test")
        if user:
            client.login(user, PASSWORD)
        client.mail(ALICE if user else "x@y.test")
        replies = [(code, text.decode()) for code, text in (client.rcpt(one) for one in recipients)]
        if not any(code == 250 for code, _ in replies):
            return replies, ""
        code, text = client.data(f"From: {ALICE}\r\nTo: {BOB}\r\nSubject: x\r\n\r\nhello\r\n")
        assert code == 250, text
        return replies, text.decode().split()[1]


def routed(server: Gatepost, message_id: str) -> set[tuple[str, str]]:
    """Where the message went or waits to go: address and destination."""
    trace = call(server, lambda client: client.history.get(message_id))
    return {(one.address.lower(), one.destination) for one in trace.recipients}


@pytest.mark.parametrize("user", ["", ALICE], ids=["stranger", "logged-in"])
def test_what_explain_says_is_what_live_mail_gets(server: Gatepost, user: str) -> None:
    dice = random.Random(f"explain {user}")
    accepted = refused = 0
    for _ in range(SETS):
        apply_some(server, dice)
        recipients = tuple(dice.sample(ADDRESSES, 6))
        told = asked(server, recipients, user)
        replies, message_id = lived(server, recipients, user)
        for recipient, answer, (code, text) in zip(recipients, told, replies, strict=True):
            expected = (250, "2.1.5") if answer.reply is None else (answer.reply.code, f"{answer.reply.enhanced} {answer.reply.text}")
            assert (code, text[: len(expected[1])]) == expected, recipient
        taken = [answer for answer in told if answer.reply is None]
        accepted, refused = accepted + len(taken), refused + len(told) - len(taken)
        if message_id:
            expected_routes = {(route.address.lower(), route.destination) for answer in taken for route in answer.routes}
            assert routed(server, message_id) == expected_routes
    assert accepted > SETS, "the random rule sets refuse too much to say anything"
    assert refused > SETS


# ---- a change while mail is under way ---------------------------------------------------------------------------------


def rules(kind: str, more: str = "") -> str:
    return f'[rules."example.test"]\nkind = "hosted"\n[rules."moving.test"]\nkind = "{kind}"\n{more}'


def applied(server: Gatepost, text: str) -> int:
    return call(server, lambda client: client.rulesets.apply(source(text))).version


def test_apply_and_restore_reach_every_open_session_at_once_and_drop_none(server: Gatepost) -> None:
    first = applied(server, rules("discard"))
    clients = [smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) for _ in range(8)]
    try:
        for client in clients:
            client.ehlo("client.test")
            client.mail("x@y.test")

        def answers() -> set[int]:
            return {client.rcpt("x@moving.test")[0] for client in clients}

        assert answers() == {250}
        applied(server, rules("reject"))
        assert answers() == {550}
        call(server, lambda client: client.rulesets.apply(source(version=first)))
        assert answers() == {250}
        for client in clients:
            assert client.data("Subject: x\r\n\r\nhello\r\n")[0] == 250
    finally:
        for client in clients:
            client.close()


def test_a_message_under_way_keeps_the_route_it_was_decided_with(server: Gatepost) -> None:
    applied(server, rules("gateway", f'host = "{NOWHERE}"\nport = 2601\n'))
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("x@y.test")
        assert client.rcpt("x@moving.test")[0] == 250
        applied(server, rules("gateway", f'host = "{NOWHERE}"\nport = 2602\n'))
        code, text = client.data("Subject: decided before\r\n\r\nhello\r\n")
        assert code == 250
    kept = next(one for one in queue(server) if one.message_id == text.decode().split()[1])
    assert [one.route.port for one in kept.recipients] == [2601]
    applied(server, rules("discard"))
    kept = next(one for one in queue(server) if one.message_id == kept.message_id)
    assert [one.route.port for one in kept.recipients] == [2601]


def port_of(server: Gatepost, message_id: str) -> int:
    return next(one for one in queue(server) if one.message_id == message_id).recipients[0].route.port


def test_queued_mail_is_replanned_by_the_new_rules_and_that_is_undone(server: Gatepost) -> None:
    applied(server, rules("gateway", f'host = "{NOWHERE}"\nport = 2611\n'))
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("x@y.test")
        client.rcpt("replan@moving.test")
        message_id = client.data("Subject: x\r\n\r\nhello\r\n")[1].decode().split()[1]
    applied(server, rules("gateway", f'host = "{NOWHERE}"\nport = 2612\n'))
    shown = server.cli("rules", "replan")
    assert "would now route differently" in shown
    assert port_of(server, message_id) == 2611
    server.cli("rules", "replan", "--reroute", "0", "--yes")
    assert port_of(server, message_id) == 2612
    assert message_id not in str(call(server, lambda client: client.rulesets.replan()))
    server.cli("queue", "undo")
    assert port_of(server, message_id) == 2611


def test_mail_that_a_sender_rule_sends_its_way_does_not_count_as_going_another(server: Gatepost) -> None:
    lists = (
        '[[trust]]\nname = "here"\naction = "trust"\nnetworks = ["127.0.0.0/8"]\n'
        f'[[sender_rules]]\nname = "smart"\nnetworks = ["127.0.0.0/8"]\nhost = "{NOWHERE}"\nport = 2613\n'
    )
    applied(server, rules("discard") + lists)
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("x@y.test")
        client.rcpt("smart@elsewhere.test")
        message_id = client.data("Subject: x\r\n\r\nhello\r\n")[1].decode().split()[1]
    assert port_of(server, message_id) == 2613
    assert message_id not in str(call(server, lambda client: client.rulesets.replan()))


def test_live_mail_is_recorded_and_a_draft_is_rehearsed_over_it(server: Gatepost) -> None:
    applied(server, rules("discard"))
    for recipient in ("rehearsed@moving.test", "refused@far.test"):
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
            client.ehlo("client.test")
            client.mail("x@y.test")
            client.rcpt(recipient)
    draft = rules("reject") + '[rules."far.test"]\nkind = "discard"\n'

    def flips() -> set[str]:
        found = call(server, lambda client: client.rulesets.rehearse(source(draft), limit=500))
        return {one.recipient for one in found.flips}

    wait_until(lambda: flips() >= {"rehearsed@moving.test", "refused@far.test"}, 30, "both decisions are recorded", 0.5)
    found = call(server, lambda client: client.rulesets.rehearse(source(draft), limit=500))
    told = {(one.recipient, one.sender, one.client_address) for one in found.flips}
    for recipient in ("rehearsed@moving.test", "refused@far.test"):  # taken natively, and refused by a session
        assert (recipient, "x@y.test", "127.0.0.1") in told
    assert not any(one.endswith("@example.test") for one in flips())


def test_mail_that_a_stage_policy_reroutes_is_replanned_by_the_policy(server: Gatepost) -> None:
    def put(port: int) -> None:
        policy = '[[stage_policies]]\nname = "filter"\nstage = "route"\nwhen = "recipient.local == \'staged\'"\naction = "reroute"\n'
        applied(server, rules("gateway", f'host = "{NOWHERE}"\nport = 2614\n') + policy + f'host = "{NOWHERE}"\nport = {port}\n')

    put(2615)
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("x@y.test")
        client.rcpt("staged@moving.test")
        message_id = client.data("Subject: x\r\n\r\nhello\r\n")[1].decode().split()[1]
    assert port_of(server, message_id) == 2615
    assert message_id not in str(call(server, lambda client: client.rulesets.replan()))
    put(2616)
    assert message_id in str(call(server, lambda client: client.rulesets.replan()))
    server.cli("queue", "reroute", message_id, "--by-rules")
    assert port_of(server, message_id) == 2616
