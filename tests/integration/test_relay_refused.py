"""Never an open relay by default: the classic attempts, and more, over real sockets against the settings everybody gets."""

import smtplib
import socket

import pytest

from support.gatepost import ALICE, PASSWORD, Gatepost
from support.programs import unverified

FOREIGN_RECIPIENTS = {
    "plain": "<victim@elsewhere.example>",
    "percent hack": "<victim%elsewhere.example@example.test>",
    "percent hack to the host name": "<victim%elsewhere.example@gatepost.example.test>",
    "bang path": "<elsewhere.example!victim@example.test>",
    "bang path without a domain": "<elsewhere.example!victim>",
    "quoted local part with an address": '<"victim@elsewhere.example"@example.test>',
    "quoted local part without a domain": '<"victim@elsewhere.example">',
    "quoted percent hack": '<"victim%elsewhere.example"@example.test>',
    "source route through us": "<@example.test:victim@elsewhere.example>",
    "source route through others": "<@one.example,@two.example:victim@elsewhere.example>",
    "IP literal": "<victim@[192.0.2.1]>",
    "IP literal of ourselves": "<victim@[127.0.0.1]>",
    "IPv6 literal": "<victim@[IPv6:2001:db8::1]>",
    "bare IP address": "<victim@192.0.2.1>",
    "mixed case": "<VICTIM@ElseWhere.EXAMPLE>",
    "trailing dot": "<victim@elsewhere.example.>",
    "two at signs": "<victim@elsewhere.example@example.test>",
    "our domain as a subdomain": "<victim@example.test.elsewhere.example>",
    "our domain as a suffix": "<victim@notexample.test>",
    "subdomain of ours": "<victim@sub.example.test>",
    "no brackets": "victim@elsewhere.example",
    "space before the address": "< victim@elsewhere.example>",
    "null byte": "<victim@elsewhere.example\0@example.test>",
    "plus detail with an address": "<alice+victim@elsewhere.example@example.test>",
    "unicode look-alike of our domain": "<victim@ex\u0430mple.test>",
}

SENDERS = {
    "foreign sender": "<spammer@elsewhere.example>",
    "spoofed local sender": f"<{ALICE}>",
    "null sender": "<>",
    "postmaster": "<postmaster>",
    "host literal sender": "<spammer@[127.0.0.1]>",
}


def connect(server: Gatepost) -> smtplib.SMTP:
    """A fresh session from an untrusted client."""
    client = smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30)
    client.ehlo("client.elsewhere.example")
    return client


def command(client: smtplib.SMTP, line: bytes) -> tuple[int, bytes]:
    """Send a line exactly as it is, which smtplib would not."""
    assert client.sock is not None
    client.sock.sendall(line + b"\r\n")
    return client.getreply()


@pytest.mark.parametrize("sender", SENDERS.values(), ids=SENDERS)
@pytest.mark.parametrize("recipient", FOREIGN_RECIPIENTS.values(), ids=FOREIGN_RECIPIENTS)
def test_a_stranger_cannot_relay(gatepost: Gatepost, recipient: str, sender: str) -> None:
    with connect(gatepost) as client:
        code, _ = command(client, f"MAIL FROM:{sender}".encode())
        if code == 250:
            code, _ = command(client, f"RCPT TO:{recipient}".encode())
        assert 500 <= code < 600, (code, recipient)


def test_a_refused_recipient_does_not_spoil_a_good_one_nor_enter_the_queue(gatepost: Gatepost) -> None:
    with connect(gatepost) as client:
        client.mail("stranger@elsewhere.example")
        assert client.rcpt("victim@elsewhere.example")[0] == 554
        assert client.rcpt(ALICE)[0] == 250
    assert not any("victim" in str(entry) for entry in gatepost.queue())


def test_relaying_needs_authentication_on_the_submission_port_too(gatepost: Gatepost) -> None:
    with smtplib.SMTP("127.0.0.1", gatepost.port("submission"), timeout=30) as client:
        client.starttls(context=unverified())
        client.ehlo()
        assert client.mail(ALICE)[0] == 530


def test_lmtp_does_not_relay_either(gatepost: Gatepost) -> None:
    with smtplib.LMTP("127.0.0.1", gatepost.port("lmtp")) as client:
        client.ehlo()
        client.mail(ALICE)
        assert 500 <= client.rcpt("victim@elsewhere.example")[0] < 600


def test_an_authenticated_user_may_relay(gatepost_factory) -> None:
    server = gatepost_factory()
    server.cli("rule", "add", "elsewhere.example", "--kind", "hold")
    with smtplib.SMTP("127.0.0.1", server.port("submission"), timeout=30) as client:
        client.starttls(context=unverified())
        client.login(ALICE, PASSWORD)
        client.mail(ALICE)
        assert client.rcpt("friend@elsewhere.example")[0] == 250
        assert client.rcpt("friend@anywhere.example")[0] == 250


def test_a_trusted_network_may_relay_and_the_loopback_is_none_by_default(gatepost_factory) -> None:
    server = gatepost_factory(trust={"networks": ["127.0.0.0/8"]})
    with connect(server) as client:
        client.mail("local@example.test")
        assert client.rcpt("friend@elsewhere.example")[0] == 250


def test_authentication_does_not_outlive_its_session(gatepost: Gatepost) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", gatepost.port("submissions"), timeout=30, context=unverified()) as client:
        client.login(ALICE, PASSWORD)
    with smtplib.SMTP_SSL("127.0.0.1", gatepost.port("submissions"), timeout=30, context=unverified()) as client:
        client.ehlo()
        assert client.mail(ALICE)[0] == 530


def test_commands_pipelined_behind_starttls_are_thrown_away(gatepost: Gatepost) -> None:
    with socket.create_connection(("127.0.0.1", gatepost.port("smtp")), 10) as plain:
        file = plain.makefile("rb")
        file.readline()
        plain.sendall(b"EHLO client.example\r\n")
        while file.readline()[3:4] == b"-":
            pass
        plain.sendall(b"STARTTLS\r\nMAIL FROM:<injected@elsewhere.example>\r\n")
        assert file.readline().startswith(b"220")
        with unverified().wrap_socket(plain) as secret:
            secret.sendall(f"RCPT TO:<{ALICE}>\r\n".encode())
            assert secret.recv(1000).startswith(b"503")
