"""Logins beyond passwords: SCRAM in full, certificates that are replaced while the server runs, and what survives a restart."""

import imaplib
import poplib
import socket
import ssl
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from scramp import ScramClient

from gatepost.server.self_signed import make_self_signed
from support.access import ALICE, PASSWORD, AccessHost, unverified


class Scram:
    """The client's side of SCRAM-SHA-256, as imaplib's `authenticate` asks for it."""

    def __init__(self, password: str = PASSWORD) -> None:
        self.client = ScramClient(["SCRAM-SHA-256"], ALICE, password)
        self.step = 0
        self.verified = False

    def __call__(self, challenge: bytes) -> bytes:
        self.step += 1
        if self.step == 1:
            return bytes(self.client.get_client_first().encode())
        if self.step == 2:
            self.client.set_server_first(challenge.decode())
            return bytes(self.client.get_client_final().encode())
        self.client.set_server_final(challenge.decode())
        self.verified = True
        return b""


def test_scram_over_imap_without_tls_proves_both_sides(host: AccessHost) -> None:
    client, scram = imaplib.IMAP4("127.0.0.1", host.ports["imap"], timeout=10), Scram()
    assert client.authenticate("SCRAM-SHA-256", scram)[0] == "OK"
    assert scram.verified
    assert client.select("INBOX")[0] == "OK"
    client.logout()


def test_scram_with_a_wrong_password_is_refused(host: AccessHost) -> None:
    client = imaplib.IMAP4("127.0.0.1", host.ports["imap"], timeout=10)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        client.authenticate("SCRAM-SHA-256", Scram("wrong"))
    client.shutdown()


def test_scram_over_pop3(host: AccessHost) -> None:
    scram = Scram()
    with socket.create_connection(("127.0.0.1", host.ports["pop3"]), 10) as connection, connection.makefile("rwb") as file:
        assert file.readline().startswith(b"+OK")
        file.write(b"AUTH SCRAM-SHA-256\r\n")
        file.flush()
        while (line := file.readline()).startswith(b"+ "):
            file.write(b64encode(scram(b64decode(line[2:]))) + b"\r\n")
            file.flush()
        assert line.startswith(b"+OK 0 messages")
        assert scram.verified


def test_new_handshakes_get_the_new_certificate_after_a_reload(host: AccessHost) -> None:
    def serial(name: str) -> bytes | None:
        with socket.create_connection(("127.0.0.1", host.ports[name]), 10) as plain, unverified().wrap_socket(plain) as secured:
            return secured.getpeercert(binary_form=True)

    before = serial("imaps")
    kept = host.imap(folder="INBOX")
    certificate, key = make_self_signed("new.example.test")
    (host.data / "tls" / "cert.pem").write_bytes(certificate)
    (host.data / "tls" / "key.pem").write_bytes(key)

    async def reload() -> None:
        host.context.tls.reload()

    host.call(reload)
    expected = ssl.PEM_cert_to_DER_cert(certificate.decode())
    assert before != expected
    assert serial("imaps") == serial("pop3s") == expected
    assert kept.noop()[0] == "OK"
    kept.logout()


def test_uids_and_unique_ids_survive_a_restart(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        with AccessHost(tmp_path / "data") as host:
            client = host.imap(folder="INBOX")
            if not seen:
                client.append("INBOX", r"(\Flagged $Kept)", "", b"Subject: x\r\n\r\ny\r\n")
                client.noop()
            uids, validity = client.uid("SEARCH", "FLAGGED", "KEYWORD", "$Kept"), client.response("UIDVALIDITY")
            client.logout()
            pop: poplib.POP3 = host.pop3()
            seen.append((uids, validity, pop.uidl()))
            pop.quit()
    assert seen[0] == seen[1]
