"""TLS of the receiving servers: self-signed start, reload, broken handshakes, injected plaintext."""

import asyncio
import contextlib
import ssl
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509

from gatepost.config import load_settings
from gatepost.server.self_signed import make_self_signed
from gatepost.server.tls import TlsContexts, TlsError
from support.receiving import ALICE, Receiver

Receive = Callable[..., Awaitable[Receiver]]


def test_a_self_signed_pair_is_made_once_and_the_key_is_private(tmp_path: Path) -> None:
    settings = load_settings(None, tmp_path, {})
    TlsContexts(lambda: settings)
    key, cert = tmp_path / "tls" / "key.pem", tmp_path / "tls" / "cert.pem"
    before = cert.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    TlsContexts(lambda: settings)
    assert cert.read_bytes() == before
    names = x509.load_pem_x509_certificate(before).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert settings.hostname in names.get_values_for_type(x509.DNSName)
    assert "localhost" in names.get_values_for_type(x509.DNSName)
    assert "127.0.0.1" in [str(a) for a in names.get_values_for_type(x509.IPAddress)]


def test_a_reload_that_fails_names_the_file_and_keeps_the_old_context(tmp_path: Path) -> None:
    settings = load_settings(None, tmp_path, {})
    contexts = TlsContexts(lambda: settings)
    before = contexts.server_context()
    (tmp_path / "tls" / "cert.pem").write_text("no certificate")
    with pytest.raises(TlsError, match=r"cert\.pem"):
        contexts.reload()
    assert contexts.server_context() is before


def served(contexts: TlsContexts, name: str | None) -> bytes:
    """The certificate that a client sees, by a handshake in memory. DER."""
    client_context = ssl.create_default_context()
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = contexts.server_context().wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return client.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("name", [None, "new.example.test"])
def test_a_reload_to_another_type_of_key_serves_the_new_certificate_only(tmp_path: Path, name: str | None) -> None:
    settings = load_settings(None, tmp_path, {})
    contexts = TlsContexts(lambda: settings)
    cert, key = tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=new", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    contexts.reload()
    assert served(contexts, name) == ssl.PEM_cert_to_DER_cert(cert.read_text())


@pytest.mark.parametrize("listener", ["smtp", "submissions"])
async def test_a_reload_serves_the_new_certificate_without_a_restart(receive: Receive, listener: str) -> None:
    running = await receive(listener)
    cert, key = make_self_signed("new.example.test")
    place = running.current[0].data / "tls"
    (place / "cert.pem").write_bytes(cert)
    (place / "key.pem").write_bytes(key)
    running.server.context.tls.reload()
    client = await running.connect(tls=listener == "submissions")
    await client.reply()
    if listener == "smtp":
        await client.command("STARTTLS")
        await client.start_tls()
    seen = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert x509.load_der_x509_certificate(seen) == x509.load_pem_x509_certificate(cert)
    await client.close()


@pytest.mark.parametrize("listener", ["smtp", "submissions"])
@pytest.mark.parametrize(
    "octets", [b"", b"\x16", b"not a handshake at all\r\n" * 10, b"\x16\x03\x01\x02\x00\x01\x00"], ids=["none", "one", "text", "part"]
)
async def test_a_broken_handshake_leaks_nothing_and_prints_no_trace(
    receive: Receive, listener: str, octets: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    running = await receive(listener)
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    for leave in ("close", "abort"):
        client = await running.connect()
        if listener == "smtp":
            await client.reply()
            await client.command("EHLO c.test")
            assert (await client.command("STARTTLS"))[:3] == "220"
        client.send(octets)
        await asyncio.sleep(0.05)
        if leave == "abort":
            client.writer.transport.abort()
        await client.close()
    await asyncio.sleep(0.2)
    assert not running.server.sessions
    assert running.server.context.connections.total == 0
    assert problems == []
    assert "Traceback" not in capfd.readouterr().err


async def test_plaintext_behind_starttls_in_a_later_packet_fails_the_handshake(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    assert (await client.command("STARTTLS"))[:3] == "220"
    client.send(b"MAIL FROM:<injected@evil.test>\r\n")
    rest = await client.rest()
    assert b"250" not in rest
    await client.close()


async def test_starttls_forgets_the_login_and_the_name_given_before(receive: Receive) -> None:
    running = await receive()
    client = await running.hello("before.test")
    assert (await client.command("STARTTLS"))[:3] == "220"
    await client.start_tls()
    await client.command("HELO after.test")
    assert (await client.send_mail("a@b.test", ALICE, b".\r\n"))[:3] == "250"
    octets = running.queued()[0].octets
    assert b"after.test" in octets
    assert b"before.test" not in octets
    await client.close()


async def test_tls_1_1_is_refused(receive: Receive) -> None:
    running = await receive("submissions")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", running.port, ssl=context)


async def test_a_large_message_passes_under_tls(receive: Receive) -> None:
    running = await receive()
    client = await running.hello()
    await client.command("STARTTLS")
    await client.start_tls()
    await client.command("EHLO c.test")
    body = b"0123456789abcdef" * 4 + b"\r\n"
    assert (await client.send_mail("a@b.test", ALICE, b"\r\n" + body * 30_000 + b".\r\n"))[:3] == "250"
    assert running.queued()[0].body == b"\r\n" + body * 30_000
    await client.close()
