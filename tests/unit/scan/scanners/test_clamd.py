"""clamd as it might misbehave, played by a server with a script. The real one is in tests/integration/test_scan_daemons.py."""

import asyncio
import struct

import pytest

from gatepost.scan.scanners.blob import MemoryBlob
from gatepost.scan.scanners.plugin import ScanAnswer
from support.scanners import FACTS, Script, mail, pool_of, serving, table


async def _command(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\0"))[:-1]


async def _stream(reader: asyncio.StreamReader) -> bytes:
    found = b""
    while length := struct.unpack("!I", await reader.readexactly(4))[0]:
        found += await reader.readexactly(length)
    return found


def saying(answer: bytes, *, taken: list[bytes] | None = None) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await _command(reader) == b"zVERSION":
            writer.write(b"ClamAV 1.4.3/27790/Sun Nov 22 10:00:00 2026\0")
        else:
            octets = await _stream(reader)
            if taken is not None:
                taken.append(octets)
            writer.write(answer)
        await writer.drain()

    return script


async def _ask(script: Script, blob: MemoryBlob | None = None, **more: object) -> ScanAnswer:
    async with serving(script) as port, pool_of(table("clamd", f"tcp:127.0.0.1:{port}", **more)) as pool:
        await asyncio.sleep(0.02)
        (answer,) = await pool.ask(blob or mail(), FACTS, ("clamd",))
        return answer


async def test_what_arrives_is_what_was_sent() -> None:
    taken: list[bytes] = []
    blob = mail(bytes(range(256)) * 2000)
    answer = await _ask(saying(b"stream: OK\0", taken=taken), blob)
    assert (answer.outcome, answer.signatures) == ("clean", "ClamAV 1.4.3/27790/Sun Nov 22 10:00:00 2026")
    assert taken == [blob.data]


async def test_a_signature_is_infected_and_its_name_is_told() -> None:
    answer = await _ask(saying(b"stream: Win.Test.EICAR_HDB-1 FOUND\0"))
    assert (answer.outcome, answer.name) == ("infected", "Win.Test.EICAR_HDB-1")


async def test_which_signatures_are_only_suspicious_is_a_setting() -> None:
    answer = await _ask(saying(b"stream: Odd.Thing FOUND\0"), options={"suspicious": ["Odd."]})
    assert answer.outcome == "suspicious"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0",
        b"stream: OK",
        b"OK\0",
        b"stream: \0",
        b"stream: FOUND\0",
        b"stream: OK FOUND OK\0",
        b"stream: OK\nstream: OK\0",
        b"/etc/passwd: OK\0",
        b"UNKNOWN COMMAND\0",
        b"stream: Can't allocate memory ERROR\0",
        b"COMMAND READ TIMED OUT\0",
        b"\xff\xfe\xfd\0",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"x" * 1_000_000,
        b"stream: " + b"x" * 5_000 + b" FOUND\0",
    ],
    ids=lambda said: repr(said[:30]),
)
async def test_an_answer_that_is_none_is_an_error(said: bytes) -> None:
    answer = await _ask(saying(said), timeout_seconds=1)
    assert (answer.outcome, answer.outage) == ("error", True), answer


async def test_a_refusal_in_the_middle_of_the_stream_is_understood() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await _command(reader) == b"zVERSION":
            writer.write(b"ClamAV 1\0")
            return
        await reader.readexactly(100_000)
        writer.write(b"INSTREAM size limit exceeded. ERROR\0")
        await writer.drain()
        await asyncio.sleep(0.2)

    answer = await _ask(script, mail(b"x" * 20_000_000))
    assert (answer.outcome, answer.outage) == ("error", False)
    assert "StreamMaxLength" in answer.name


async def test_a_server_that_takes_nothing_is_late_within_the_deadline() -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await asyncio.sleep(10)

    begun = asyncio.get_running_loop().time()
    answer = await _ask(script, mail(b"x" * 20_000_000), timeout_seconds=0.3)
    assert (answer.outcome, answer.outage) == ("error", True)
    assert asyncio.get_running_loop().time() - begun < 3


async def test_a_server_that_dribbles_does_not_stretch_the_deadline() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await _command(reader) == b"zVERSION":
            writer.write(b"ClamAV 1\0")
            return
        for _ in range(500):
            writer.write(b"s")
            await writer.drain()
            await asyncio.sleep(0.02)

    begun = asyncio.get_running_loop().time()
    answer = await _ask(script, timeout_seconds=0.4)
    assert (answer.outcome, answer.name) == ("error", "no answer in time")
    assert asyncio.get_running_loop().time() - begun < 3
