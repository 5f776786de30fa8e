"""ICAP and rspamd over TLS: whose certificates are taken, whose are not, and what is no TLS at all."""

import asyncio
import json
import re
import ssl
from pathlib import Path

import pytest

from gatepost.config.scan import ScannerSettings
from gatepost.scan.scanners.plugin import ScanAnswer
from gatepost.scan.scanners.registry import ScannersError, make_scanners
from support.certificates import Authority
from support.scanners import FACTS, mail, pool_of, serving, table

CLEAN = json.dumps({"score": 0, "action": "no action"}).encode()


async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """rspamd and an ICAP service on one port; everything is clean."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("OPTIONS"):
            writer.write(b'ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nISTag: "t1"\r\nAllow: 204\r\nEncapsulated: null-body=0\r\n\r\n')
        elif head.startswith("RESPMOD"):
            body = b""
            while not body.endswith(b"\r\n0\r\n\r\n"):
                body += await reader.read(65_536)
            writer.write(b'ICAP/1.0 204 No modifications needed\r\nISTag: "t1"\r\n\r\n')
        else:
            found = re.search(r"Content-Length: (\d+)", head)
            await reader.readexactly(int(found[1]) if found else 0)
            body = b"pong\r\n" if head.startswith("GET") else CLEAN
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


async def _ask(kind: str, tls: ssl.SSLContext | None, **more: str | float) -> ScanAnswer:
    async with serving(both, tls=tls) as port:
        address = f"{'icaps' if kind == 'icap' else 'https'}://localhost:{port}" + ("/scan" if kind == "icap" else "")
        async with pool_of(table(kind, address, scan="message", **more), start=False) as pool:
            return (await pool.ask(mail(b"m" * 300_000), FACTS, pool.names))[0]


@pytest.fixture(params=["icap", "rspamd"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_server_whose_certificate_the_authority_vouches_for_is_asked(kind: str, authority: Authority) -> None:
    answer = await _ask(kind, authority.server_context("localhost"), ca_file=str(authority.ca_file))
    assert answer.outcome == "clean", answer


async def test_an_appliances_own_certificate_may_be_the_authority(kind: str, authority: Authority) -> None:
    context = authority.server_context("localhost")
    answer = await _ask(kind, context, ca_file=str(authority.directory / "localhost.pem"))
    assert answer.outcome == "clean", answer


async def test_a_certificate_that_nobody_vouches_for_is_an_outage(kind: str, authority: Authority) -> None:
    answer = await _ask(kind, authority.server_context("localhost"))
    assert (answer.outcome, answer.outage) == ("error", True)
    assert "certificate verify failed" in answer.name


async def test_a_certificate_for_another_name_is_an_outage_unless_that_name_is_given(kind: str, authority: Authority) -> None:
    context = authority.server_context("av.example.test")
    answer = await _ask(kind, context, ca_file=str(authority.ca_file))
    assert (answer.outcome, "mismatch" in answer.name) == ("error", True), answer
    answer = await _ask(kind, context, ca_file=str(authority.ca_file), server_name="av.example.test")
    assert answer.outcome == "clean", answer


async def test_a_server_without_tls_is_an_outage(kind: str, authority: Authority) -> None:
    answer = await _ask(kind, None, ca_file=str(authority.ca_file), timeout_seconds=0.5)
    assert (answer.outcome, answer.outage) == ("error", True)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ({"kind": "icap", "address": "icaps://x/y", "ca_file": "/nowhere.pem"}, "scan.scanners.0.ca_file: No such file or directory"),
        ({"kind": "rspamd", "address": "https://x", "ca_file": __file__}, "scan.scanners.0.ca_file: "),
    ],
)
def test_an_authority_that_cannot_be_read_is_named_by_its_key(more: dict[str, str], problem: str) -> None:
    with pytest.raises(ScannersError) as fault:
        make_scanners([ScannerSettings(name="a", **more)])
    assert fault.value.problems[0].startswith(problem)


@pytest.mark.parametrize("key", ["ca_file", "server_name"])
def test_an_authority_for_an_address_without_tls_is_a_mistake(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}: only for an address that begins with icaps: or https:"):
        ScannerSettings(name="a", kind="icap", address="icap://x/y", **{key: "z"})
