"""ICAP dialogs that a real server would not have on demand; c-icap itself is in tests/integration/test_scan_daemons.py."""

import asyncio
import re

import pytest

from gatepost.scan.scanners.blob import MemoryBlob
from gatepost.scan.scanners.plugin import ScanAnswer
from support.scanners import FACTS, Script, mail, pool_of, serving, table, until

OPTIONS = b'ICAP/1.0 200 OK\r\nMethods: %b\r\nISTag: "t1"\r\nAllow: 204\r\n%bEncapsulated: null-body=0\r\n\r\n'
NO_CHANGE = b'ICAP/1.0 204 No modifications needed\r\nISTag: "t1"\r\nEncapsulated: null-body=0\r\n\r\n'


class Server:
    """Answers OPTIONS with `more` in it, and each REQMOD or RESPMOD with `answer`; `early` answers to the preview."""

    def __init__(self, answer: bytes, more: bytes = b"", *, early: bool = False, method: bytes = b"RESPMOD") -> None:
        self.answer, self.early = answer, early
        self.options = OPTIONS % (method, more)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("OPTIONS"):
                writer.write(self.options)
                continue
            self.heads.append(head)
            found = re.search(r"(?:req|res)-body=(\d+)", head)
            assert found is not None
            await reader.readexactly(int(found[1]))
            body, ended = await self._chunks(reader)
            if "Preview:" in head and not ended and not self.early:
                writer.write(b"ICAP/1.0 100 Continue\r\n\r\n")
                body += (await self._chunks(reader))[0]
            self.bodies.append(body)
            writer.write(self.answer)
            await writer.drain()

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = await reader.readline()
            if line.startswith(b"0"):
                await reader.readline()
                return body, b"ieof" in line
            body += await reader.readexactly(int(line, 16))
            await reader.readline()


async def _ask(script: Script, blob: MemoryBlob | None = None, **more: object) -> ScanAnswer:
    async with serving(script) as port:
        settings = table("icap", f"icap://127.0.0.1:{port}/scan?x=1", **{"scan": "message", **more})
        async with pool_of(settings) as pool:
            await asyncio.sleep(0.02)
            (answer,) = await pool.ask(blob or mail(), FACTS, ("icap",))
            return answer


def given_back(http_head: bytes, body: bytes, fields: bytes = b"") -> bytes:
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return b"ICAP/1.0 200 OK\r\n%bEncapsulated: res-hdr=0, res-body=%d\r\n\r\n%b%b0\r\n\r\n" % (fields, len(http_head), http_head, chunk)


HTTP_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"


@pytest.mark.parametrize("preview", [None, 0, 1, 30, 100_000])
@pytest.mark.parametrize("size", [1, 30, 70_000, 300_000])
async def test_the_service_gets_every_octet_with_and_without_a_preview(preview: int | None, size: int) -> None:
    server = Server(NO_CHANGE, b"" if preview is None else b"Preview: %d\r\n" % preview)
    blob = mail(bytes(index % 251 for index in range(size)))
    answer = await _ask(server, blob)
    assert (answer.outcome, answer.signatures) == ("clean", "t1")
    assert server.bodies == [blob.data]


async def test_what_is_decided_by_the_preview_is_not_sent_on() -> None:
    server = Server(NO_CHANGE, b"Preview: 10\r\n", early=True)
    blob = mail(b"x" * 500_000)
    assert (await _ask(server, blob)).outcome == "clean"
    assert server.bodies == [blob.data[:10]]


async def test_extensions_that_want_no_preview_get_none() -> None:
    server = Server(NO_CHANGE, b"Preview: 10\r\nTransfer-Preview: *\r\nTransfer-Complete: exe, com\r\n")
    for name in ("a.com", "a.txt"):
        await _ask(server, mail(b"x" * 100, name=name), scan="parts")
    assert sorted("Preview: 10" in head for head in server.heads) == [False, True, True, True], "a text and a file each time"


async def test_reqmod_is_used_where_there_is_no_respmod() -> None:
    server = Server(NO_CHANGE, method=b"REQMOD")
    assert (await _ask(server)).outcome == "clean"
    assert server.heads[0].startswith("REQMOD icap://127.0.0.1:")
    assert "/scan?x=1 ICAP/1.0" in server.heads[0]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (b"X-Infection-Found: Type=0; Resolution=2; Threat=Eicar Test;\r\n", "Eicar Test"),
        (b"X-Infection-Found: something\r\n", "something"),
        (b"X-Virus-ID: EICAR\r\n", "EICAR"),
        (b"X-Violations-Found: 1\r\n\tname.com\r\n\tEicar-Sig\r\n\t7\r\n\t1\r\n", "Eicar-Sig"),
        (b"X-Violations-Found: \r\n", "unnamed"),
    ],
)
async def test_an_infection_is_told_by_the_fields_in_use(field: bytes, name: str) -> None:
    for answer in (
        given_back(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"no", field),
        NO_CHANGE.replace(b"Encapsulated", field + b"Encapsulated"),
    ):
        found = await _ask(Server(answer))
        assert (found.outcome, found.name) == ("infected", name)


async def test_content_given_back_as_it_was_is_clean_and_otherwise_not() -> None:
    same = mail().data
    assert (await _ask(Server(given_back(HTTP_OK, same)))).outcome == "clean"
    assert (await _ask(Server(given_back(HTTP_OK, same + b"!")))).outcome == "infected"
    assert (await _ask(Server(given_back(HTTP_OK, b"")))).outcome == "infected"
    blocked = await _ask(Server(given_back(b"HTTP/1.1 403 Forbidden\r\n\r\n", same)))
    assert (blocked.outcome, blocked.name) == ("infected", "blocked: 403 Forbidden")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\r\n\r\n",
        b"HTTP\r\n\r\n",
        b"ICAP/1.0 500 Server error\r\n\r\n",
        b"ICAP/1.0 404 No service\r\n\r\n",
        b"ICAP/1.0 206 Partial\r\nEncapsulated: null-body=0\r\n\r\n",
        b"ICAP/1.0 100 Continue\r\n\r\n",
        b"ICAP/1.0 302 Found\r\nX-Infection-Found: Threat=x;\r\n\r\n",
        b"ICAP/1.0 200 OK\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=99999999\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=5, res-hdr=0\r\n\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\nzz\r\n",
        b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n5\r\nab",
        b"x" * 200_000,
    ],
    ids=lambda said: repr(said[:60]),
)
async def test_an_answer_that_is_none_is_an_error(said: bytes) -> None:
    class HangingUp(Server):
        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await asyncio.wait_for(super().__call__(reader, writer), 0.5)
            except TimeoutError:
                return

    answer = await _ask(HangingUp(said), timeout_seconds=2)
    assert (answer.outcome, answer.outage) == ("error", True), answer


async def test_a_connection_serves_many_requests_and_no_more_are_opened_than_the_server_wants() -> None:
    class Slow(Server):
        running = most = 0

        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            type(self).running += 1
            type(self).most = max(self.most, self.running)
            try:
                await super().__call__(reader, writer)
            finally:
                type(self).running -= 1

    server = Slow(NO_CHANGE, b"Max-Connections: 3\r\n")
    async with serving(server) as port, pool_of(table("icap", f"icap://127.0.0.1:{port}/scan", scan="message", cache=False)) as pool:
        await asyncio.sleep(0.05)
        for _ in range(3):
            answers = await asyncio.gather(*(pool.ask(mail(b"%d" % n), FACTS, ("icap",)) for n in range(20)))
            assert {answer[0].outcome for answer in answers} == {"clean"}
    assert server.most <= 3
    assert server.connections <= 4
    assert len(server.bodies) == 60


async def test_a_service_without_the_wanted_method_is_out_of_service() -> None:
    answer = await _ask(Server(NO_CHANGE), options={"method": "reqmod"})
    assert (answer.outcome, answer.outage) == ("error", True)
    assert "REQMOD" in answer.name


async def test_a_new_istag_forgets_what_was_remembered() -> None:
    server = Server(NO_CHANGE)
    async with serving(server) as port, pool_of(table("icap", f"icap://127.0.0.1:{port}/scan", scan="message")) as pool:
        await until(lambda: pool.states()[0].signatures)  # a probe that ends later would make it forget as well
        await pool.ask(mail(b"1"), FACTS, ("icap",))
        await pool.ask(mail(b"1"), FACTS, ("icap",))
        assert len(server.bodies) == 1
        server.answer = NO_CHANGE.replace(b"t1", b"t2")
        await pool.ask(mail(b"2"), FACTS, ("icap",))
        await pool.ask(mail(b"1"), FACTS, ("icap",))
        assert len(server.bodies) == 3
