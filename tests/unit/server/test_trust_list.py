"""The trust list in a running server: by network, user, sender and client certificate, natively and in sessions, changed while it runs."""

import subprocess
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gatepost.routing.trust import TrustAction, TrustEntry
from support.receiving import ALICE, PASSWORD, Receiver, plain, unverified

Receive = Callable[..., Awaitable[Receiver]]

FAR = "x@far.test"
HERE = TrustEntry(TrustAction.TRUST, "here", networks=("127.0.0.0/8",))


async def relays(client: object, sender: str = "a@b.test") -> bool:
    """Whether a far recipient is taken."""
    await client.command("RSET")  # type: ignore[attr-defined]
    assert (await client.command(f"MAIL FROM:<{sender}>")).startswith("250")  # type: ignore[attr-defined]
    return (await client.command(f"RCPT TO:<{FAR}>")).startswith("250")  # type: ignore[attr-defined]


async def test_a_network_is_trusted_and_no_longer_after_a_change_on_the_same_connection(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert not await relays(client)
    running.put_rules(trust=(HERE,))
    assert await relays(client)
    running.put_rules(trust=(TrustEntry(TrustAction.DISTRUST, "me", networks=("127.0.0.1/32",)), HERE))
    assert not await relays(client)


async def test_plain_mail_stays_native_with_entries_of_networks_and_of_other_clients_senders(receive: Receive) -> None:
    running = await receive()
    running.put_rules(trust=(TrustEntry(TrustAction.TRUST, "there", networks=("10.0.0.0/8",), senders=("*@b.test",)), HERE))
    client = await running.connect()
    await client.reply()
    assert (await client.command("EHLO client.test")).startswith("250")
    assert (await client.send_mail("a@b.test", FAR, b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith("250")
    assert running.server.wire.plain[2] == 1


async def test_trust_may_depend_on_the_sender_of_each_message(receive: Receive) -> None:
    running = await receive()
    running.put_rules(trust=(TrustEntry(TrustAction.TRUST, "b", networks=("127.0.0.0/8",), senders=("*@b.test",)),))
    client = await running.hello()
    assert await relays(client, "a@b.test")
    assert not await relays(client, "a@c.test")
    assert not await relays(client, "")
    assert (await client.command("RSET")).startswith("250")
    assert (await client.send_mail("a@b.test", FAR, b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith("250")
    assert running.server.wire.plain[2] == 0


async def test_trust_networks_hold_where_no_entry_fits_and_an_entry_beats_them(receive: Receive) -> None:
    running = await receive(trust={"networks": ["127.0.0.0/8"]})
    assert await relays(await running.hello())
    running.put_rules(trust=(TrustEntry(TrustAction.DISTRUST, "me", networks=("127.0.0.1/32",), senders=("*@b.test",)),))
    client = await running.hello()
    assert not await relays(client, "a@b.test")
    assert await relays(client, "a@c.test")


async def test_a_user_who_is_distrusted_may_write_to_people_here_only(receive: Receive) -> None:
    running = await receive("submission")
    running.put_rules(trust=(TrustEntry(TrustAction.DISTRUST, "alice", users=(ALICE,)),))
    client = await running.hello()
    assert (await client.command("STARTTLS")).startswith("220")
    await client.start_tls()
    await client.command("EHLO client.test")
    assert (await client.command(f"AUTH PLAIN {plain(ALICE, PASSWORD)}")).startswith("235")
    assert not await relays(client, ALICE)
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("250")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed client certificate with its key: its own authority."""
    path = tmp_path_factory.mktemp("client") / "client.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    made += ["-subj", "/O=Partner/CN=mail.partner.test", "-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(made, check=True, capture_output=True, timeout=20)
    path.write_bytes(Path(f"{path}.crt").read_bytes() + Path(f"{path}.key").read_bytes())
    return path


def fingerprint_of(path: Path) -> str:
    return sha256(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)).hexdigest()


async def with_certificate(running: Receiver, certificate: Path | None) -> object:
    context = unverified()
    if certificate is not None:
        context.load_cert_chain(certificate)
    client = await running.hello()
    assert (await client.command("STARTTLS")).startswith("220")
    await client.writer.start_tls(context)
    await client.command("EHLO client.test")
    return client


async def test_a_client_certificate_is_known_by_fingerprint_and_by_subject(receive: Receive, certificate: Path) -> None:
    fingerprint = fingerprint_of(certificate)
    running = await receive(tls={"client_ca_file": str(certificate)})
    for named in (f"sha256:{fingerprint}", "subject:CN=mail.partner.test,O=*"):
        running.put_rules(trust=(TrustEntry(TrustAction.TRUST, "partner", certificates=(named,)),))
        assert await relays(await with_certificate(running, certificate)), named
        assert not await relays(await with_certificate(running, None)), named
    running.put_rules(trust=(TrustEntry(TrustAction.TRUST, "partner", certificates=("sha256:" + "0" * 64,)),))
    assert not await relays(await with_certificate(running, certificate))


async def test_without_an_authority_no_certificate_is_asked_for(receive: Receive, certificate: Path) -> None:
    running = await receive()
    running.put_rules(trust=(TrustEntry(TrustAction.TRUST, "partner", certificates=("subject:*",)),))
    assert not await relays(await with_certificate(running, certificate))
