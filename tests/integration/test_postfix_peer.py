"""Against a real Postfix whose logins a real Dovecot checks: a gateway asked for its recipients, and a smart host that wants a login."""

import smtplib
import subprocess
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

CERTIFICATE = "peer.example.net.pem"
PEER = """\
mynetworks = 192.0.2.0/32
relay_domains = partner.test {tls_domains}
relay_recipient_maps = inline:{{ known@partner.test=yes, {tls_recipients} }}
smtpd_tls_received_header = yes
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


TLS = {
    "none": ('tls = "none"', "taken in the clear"),
    "opportunistic": ('tls = "opportunistic"', "taken over TLS"),
    "required": ('tls = "required"', "taken over TLS"),
    "verified": ('tls = "verified"', "taken over TLS"),
    "misnamed": ('host = "localhost"\ntls = "verified"', "Hostname mismatch"),
    "pinned": ('tls = "pinned"\nsettings = { delivery = { pins = ["PIN"] } }', "taken over TLS"),
    "mispinned": (f'tls = "pinned"\nsettings = {{ delivery = {{ pins = ["{"0" * 64}"] }} }}', "public key"),
}
"""By the name of a domain under tls.test: fields of its rule, and what becomes of its mail. The certificate is for 127.0.0.1."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("ca"))
    made.server_context("peer.example.net", "127.0.0.1")
    return made


@pytest.fixture(scope="module")
def peer(authority: Authority) -> Iterator[Postfix]:
    """It holds what it takes: known@partner.test and x@*.tls.test from anybody, all else from who has logged in over TLS."""
    need("postfix", "postconf", "dovecot", "openssl")
    need_root()
    names = [f"{one}.tls.test" for one in TLS]
    given = {"tls_domains": " ".join(names), "tls_recipients": ", ".join(f"x@{one}=yes" for one in names)}
    with Dovecot() as dovecot, Postfix(PEER.format(pem=authority.directory / CERTIFICATE, sasl=dovecot.sasl, **given)) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, peer: Postfix, authority: Authority) -> Iterator[Gatepost]:
    with Gatepost(tmp_path_factory.mktemp("peered"), delivery={"verify_ca_file": str(authority.ca_file)}) as one:
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


def pin_of(certificate: Path) -> str:
    """As docs/rules.md has an administrator find it."""
    words = f"openssl x509 -in {certificate} -noout -pubkey | openssl pkey -pubin -outform der | sha256sum"
    return subprocess.run(words, shell=True, check=True, capture_output=True, text=True).stdout.split()[0]


def test_each_tls_policy_takes_the_hosts_it_says_and_no_other(server: Gatepost, peer: Postfix, authority: Authority) -> None:
    text, pin = server.cli("rules", "export"), pin_of(authority.directory / CERTIFICATE)
    for name, (fields, _) in TLS.items():
        host = "" if "host =" in fields else 'host = "127.0.0.1"\n'
        text += f'[rules."{name}.tls.test"]\nkind = "gateway"\nport = {peer.port}\n{host}{fields.replace("PIN", pin)}\n'
    server.cli("rules", "apply", "-", "--yes", text=text)
    ids = {name: taken(server, name) for name in TLS}
    for name, (_, expected) in TLS.items():
        wait_until(lambda name=name: outcome(server, peer, ids[name]) != "", 20, f"mail of {name} was tried")
        assert outcome(server, peer, ids[name]) == expected, name


def taken(server: Gatepost, name: str) -> str:
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo("client.test")
        client.mail("a@far.test")
        client.rcpt(f"x@{name}.tls.test")
        return client.data(message(name).as_bytes().replace(b"\n", b"\r\n"))[1].split()[1].decode()


def outcome(server: Gatepost, peer: Postfix, identity: str) -> str:
    """How Postfix got it, or why it is put off; '' while nothing is known."""
    held = (path.read_bytes() for path in Path(peer.queue / "hold").rglob("*") if path.is_file())
    found = next((one for one in held if identity.encode() in one), None)
    if found is not None:
        return "taken over TLS" if b"using TLSv1" in found else "taken in the clear"
    told = server.cli("trace", identity, "--json")
    return next((reason for reason in ("Hostname mismatch", "public key") if reason in told), "")
