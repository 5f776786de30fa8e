"""Gatepost between real neighbours: to a Postfix and back, to an LMTP server, and by handlers from one address to another."""

from collections.abc import Iterator
from typing import Any

import pytest

from gatepost.directory import Directory
from gatepost.routing.model import DomainRule, RuleKind, TlsPolicy
from support.dovecot import Dovecot
from support.gatepost import ALICE, BOB, PASSWORD, CommandFailed, Gatepost
from support.postfix import Postfix
from support.processes import need, need_root, wait_until
from support.programs import exists, fetched, imap, message, send

PARTNER = "friend@partner.test"


def inbox(server: Gatepost, user: str) -> list[str]:
    """The messages in the user's INBOX, as text."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        return [text.decode() for text in fetched(client, "BODY.PEEK[]")] if exists(client) else []


def arrived(server: Gatepost, user: str, count: int = 1) -> list[str]:
    """Wait for `count` messages in the INBOX, then return them."""
    return wait_until(lambda: found if len(found := inbox(server, user)) >= count else None, 20, f"{count} messages for {user}")


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    """A Postfix that keeps partner.test in its own mailboxes' place: everything for it is held, so that we can look at it."""
    need("postfix", "postconf", "postcat")
    need_root()
    with Postfix("relay_domains = partner.test\nsmtpd_client_restrictions = static:hold\n") as server:
        yield server


def test_a_gateway_rule_hands_over_to_a_real_postfix(gatepost_factory: Any, postfix: Postfix) -> None:
    server = gatepost_factory()
    server.cli("rule", "add", "partner.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(postfix.port))
    send(server.port("smtp"), message("to the partner", to=PARTNER), recipients=PARTNER)
    wait_until(lambda: postfix.queued("hold") == 1, 20, "Postfix has the message")
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")
    assert f"to=<{PARTNER}>" in postfix.log()
    assert "helo=<gatepost.example.test>" in postfix.log()


def test_mail_goes_to_a_real_postfix_and_comes_back_into_a_mailbox(gatepost_factory: Any) -> None:
    need("postfix", "postconf")
    need_root()
    server = gatepost_factory()
    settings = (
        "virtual_alias_domains = partner.test\nvirtual_alias_maps = inline:{ friend@partner.test=alice@example.test }\n"
        f"relayhost = [127.0.0.1]:{server.port('smtp')}\n"
    )
    with Postfix(settings) as postfix:
        server.cli("rule", "add", "partner.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(postfix.port))
        send(server.port("smtp"), message("there and back", to=PARTNER), recipients=PARTNER)
        text = arrived(server, ALICE)[0]
        assert "by peer.example.net (Postfix)" in text
        assert text.count("by gatepost.example.test") == 2
        assert text.index("by gatepost.example.test") < text.index("by peer.example.net")
        assert f"Delivered-To: {ALICE}" in text
        assert "Return-Path: <sender@example.org>" in text
        wait_until(lambda: postfix.queued() == 0, 10, "Postfix is rid of it")


def test_tls_is_required_from_a_neighbour_that_has_none_and_the_mail_waits(gatepost_factory: Any, postfix: Postfix) -> None:
    server = gatepost_factory()
    options = ["--kind", "gateway", "--host", "127.0.0.1", "--port", str(postfix.port), "--tls", "required"]
    server.cli("rule", "add", "partner.test", *options)
    send(server.port("smtp"), message("secret"), recipients=PARTNER)

    def tried() -> str | None:
        shown = server.cli("queue", "list", "--json")
        return shown if "STARTTLS" in shown.upper() else None

    wait_until(tried, 20, "the queue says why the message waits")
    assert postfix.queued() == 0


def test_a_recipient_that_postfix_refuses_comes_back_as_a_report(gatepost_factory: Any) -> None:
    need("postfix", "postconf")
    need_root()
    server = gatepost_factory()
    refusing = "relay_domains = partner.test\nrelay_recipient_maps = inline:{ known@partner.test=yes }\ndefer_transports = smtp relay\n"
    with Postfix(refusing) as postfix:
        server.cli("rule", "add", "partner.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(postfix.port))
        letter = message("to nobody there", sender=ALICE, to="unknown@partner.test")
        send(server.port("smtp"), letter, ALICE, ["unknown@partner.test", "known@partner.test"])
        report = arrived(server, ALICE)[0]
    assert "multipart/report" in report
    assert "unknown@partner.test" in report
    assert "Status: 5.1.1" in report
    assert "known@partner.test" not in report.replace("unknown@partner.test", "")
    assert "Return-Path: <>" in report


def test_an_lmtp_gateway_delivers_into_dovecot(gatepost_factory: Any) -> None:
    need("dovecot")
    need_root()
    server = gatepost_factory()
    with Dovecot() as dovecot:
        options = ["--kind", "gateway", "--host", "127.0.0.1", "--port", str(dovecot.lmtp_port), "--lmtp", "--tls", "none"]
        server.cli("rule", "add", "store.test", *options)
        send(server.port("smtp"), message("into dovecot"), recipients=["one@store.test", "two@store.test"])
        wait_until(lambda: dovecot.messages("one@store.test") == dovecot.messages("two@store.test") == 1, 20, "Dovecot has both")
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")


def test_two_servers_of_ours_relay_to_each_other_over_tls_and_lmtp(gatepost_factory: Any) -> None:
    inner = gatepost_factory(users=["carol@inner.test", "dave@inner.test"])
    outer = gatepost_factory()
    options = ["--kind", "gateway", "--host", "127.0.0.1", "--tls", "required", "--port", str(inner.port("smtp"))]
    outer.cli("rule", "add", "inner.test", *options)
    send(outer.port("smtp"), message("through two"), recipients=["carol@inner.test", "dave@inner.test"])
    text = arrived(inner, "carol@inner.test")[0]
    assert arrived(inner, "dave@inner.test")
    assert text.count("\nReceived: from ") + text.startswith("Received: ") == 2
    assert "with ESMTPS" in text


def test_handlers_forward_copy_reject_and_discard(gatepost_factory: Any) -> None:
    server = gatepost_factory(users=[ALICE, BOB, "carol@example.test"])
    server.cli("handler", "add", "example.test", "team", "--kind", "forward", "--target", ALICE, "--target", BOB)
    server.cli("handler", "add", "example.test", "carol", "--kind", "copy", "--target", BOB)
    server.cli("handler", "add", "example.test", "closed", "--kind", "reject", "--text", "this address is closed")
    server.cli("handler", "add", "example.test", "nothing", "--kind", "discard")
    port = server.port("smtp")
    send(port, message("to the team"), recipients="team@example.test")
    send(port, message("to carol"), recipients="carol@example.test")
    send(port, message("to nothing"), recipients="nothing@example.test")
    with pytest.raises(Exception, match="this address is closed"):
        send(port, message("to closed"), recipients="closed@example.test")
    assert "Subject: to the team" in arrived(server, ALICE)[0]
    bobs = arrived(server, BOB, 2)
    assert sorted("to carol" in text for text in bobs) == [False, True]
    assert "Subject: to carol" in arrived(server, "carol@example.test")[0]
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")
    assert len(inbox(server, ALICE)) == 1


def test_detail_addresses_and_postmaster_reach_the_user(gatepost_factory: Any) -> None:
    server = gatepost_factory()
    port = server.port("smtp")
    send(port, message("with detail"), recipients="alice+lists@example.test")
    send(port, message("for the postmaster"), recipients="postmaster@example.test")
    texts = "".join(arrived(server, ALICE, 2))
    assert "Delivered-To: alice+lists@example.test" in texts or f"Delivered-To: {ALICE}" in texts
    assert "for the postmaster" in texts


def test_a_loop_between_two_neighbours_ends(gatepost_factory: Any) -> None:
    server = gatepost_factory(smtp={"max_hops": 10})
    port = server.port("smtp")
    with pytest.raises(CommandFailed, match="is this server"):
        server.cli("rule", "add", "loop.test", "--kind", "gateway", "--host", "127.0.0.1", "--port", str(port))
    # Past the check, as through a neighbour that sends everything back: the server reads the directory each second.
    directory = Directory(server.data / "directory.db", migrate=True)
    loop = DomainRule("loop.test", RuleKind.GATEWAY, "127.0.0.1", port, TlsPolicy.NONE)
    directory.put_rule(loop, create=True, author="test")
    directory.close()
    wait_until(lambda: "would go" in server.cli("explain", "anyone@loop.test", "--offline"), 10, "the rule is in force", 0.2)
    send(server.port("smtp"), message("round and round", sender=ALICE), ALICE, "anyone@loop.test")
    report = arrived(server, ALICE)[0]
    assert "5.4.6" in report
    wait_until(lambda: server.queue() == [], 10, "the queue is empty")
