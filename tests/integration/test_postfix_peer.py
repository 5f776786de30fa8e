"""Against a real Postfix whose logins a real Dovecot checks: a gateway asked for its recipients, and a smart host that wants a login."""

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.certificates import Authority
from support.dkim import Signer
from support.dovecot import PASSWORD as LOGIN
from support.dovecot import Dovecot
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.postfix import Postfix
from support.processes import need, need_root, wait_until
from support.programs import message, send, unverified

PEER = """\
mynetworks = 192.0.2.0/32
relay_domains = partner.test
relay_recipient_maps = inline:{{ known@partner.test=yes }}
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_client_restrictions = static:hold
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_cert_file = {pem}
smtpd_tls_key_file = {pem}
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {sasl}
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postfix]:
    """It holds what it takes: known@partner.test from anybody, all else from who has logged in over TLS."""
    need("postfix", "postconf", "dovecot")
    need_root()
    authority = Authority(tmp_path_factory.mktemp("ca"))
    authority.server_context("peer.example.net")
    with Dovecot() as dovecot, Postfix(PEER.format(pem=authority.directory / "peer.example.net.pem", sasl=dovecot.sasl)) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, peer: Postfix) -> Iterator[Gatepost]:
    with Gatepost(tmp_path_factory.mktemp("peered")) as one:
        host = ("--kind", "gateway", "--host", "127.0.0.1", "--port", str(peer.port))
        one.cli("rule", "add", "partner.test", *host, "--verify", "defer", "--accept-untrusted", "--footer-text", "Sent by a gateway")
        one.cli("rule", "add", "*", *host, "--tls", "required", "--username", "me", "--password-stdin", text=f"{LOGIN}\n")
        one.cli("rule", "add", "wrong.test", *host, "--tls", "required", "--username", "other", "--password-stdin", text="not it\n")
        yield one


def test_a_gateways_recipients_are_those_that_its_postfix_takes(server: Gatepost, peer: Postfix) -> None:
    before = peer.queued("hold")
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("a@far.test")
        assert client.rcpt("nobody@partner.test")[0] == 550
        assert client.rcpt("known@partner.test")[0] == 250
        assert client.data(message("verified").as_bytes().replace(b"\n", b"\r\n"))[0] == 250
    wait_until(lambda: peer.queued("hold") == before + 1, 20, "Postfix has the message")
    assert "nobody@partner.test" in peer.log()


def submitted(server: Gatepost, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", server.port("submission"), timeout=30) as client:
        client.starttls(context=unverified())
        client.login(ALICE, PASSWORD)
        client.send_message(message("out", sender=ALICE, to=to), ALICE, [to])


def test_a_smart_host_is_logged_in_to_over_tls(server: Gatepost, peer: Postfix) -> None:
    before = peer.queued("hold")
    submitted(server, "somebody@elsewhere.test")
    wait_until(lambda: peer.queued("hold") == before + 1, 20, "Postfix has the message")
    assert "sasl_username=me" in peer.log()


def test_a_smart_host_that_refuses_the_login_keeps_the_mail_waiting_and_says_why(server: Gatepost, peer: Postfix) -> None:
    before = peer.queued()
    submitted(server, "somebody@wrong.test")

    def told() -> bool:
        shown = server.cli("queue", "list", "--json")
        return "535" in shown or "uthentication" in shown

    wait_until(told, 20, "the queue says why the message waits")
    assert peer.queued() == before


def test_a_footer_leaves_signed_mail_whole_and_its_history_says_so(server: Gatepost, peer: Postfix) -> None:
    before = peer.queued("hold")
    signed = Signer().sign(message("signed", to="known@partner.test").as_bytes().replace(b"\n", b"\r\n"))
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("a@far.test")
        client.rcpt("known@partner.test")
        identity = client.data(signed)[1].split()[1].decode()
    send(server.port("smtp"), message("plain", to="known@partner.test"), "b@far.test", ["known@partner.test"])
    wait_until(lambda: peer.queued("hold") == before + 2, 20, "Postfix has both")
    held = [path.read_bytes() for path in Path(peer.queue / "hold").rglob("*") if path.is_file()]
    assert [b"Sent by a gateway" in one for one in held if b"DKIM-Signature" in one] == [False]
    assert any(b"Sent by a gateway" in one for one in held)
    wait_until(
        lambda: "disclaimer of partner.test left out: the mail is signed" in server.cli("trace", identity), 10, "the history tells it"
    )
