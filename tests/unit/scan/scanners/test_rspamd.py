"""rspamd's answers, good and bad, over a server with a script; the real one is in tests/integration/test_scan_daemons.py."""

import asyncio
import json
from typing import Any

import pytest

from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.plugin import ScanAnswer
from support.scanners import FACTS, Script, mail, pool_of, serving, table

GOOD: dict[str, Any] = {"score": 1.5, "action": "no action", "symbols": {"A": {"score": 1.0}, "B": {"score": 2.0}}}


async def request(reader: asyncio.StreamReader) -> tuple[list[str], bytes]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    length = int(next(line.split(":")[1] for line in lines if line.lower().startswith("content-length:")))
    return lines, await reader.readexactly(length)


def saying(answer: bytes, seen: list[tuple[list[str], bytes]] | None = None) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lines, body = await request(reader)
            if lines[0].startswith("GET /ping"):
                writer.write(b"HTTP/1.1 200 OK\r\nServer: rspamd/3.4\r\nContent-Length: 6\r\n\r\npong\r\n")
                continue
            if seen is not None:
                seen.append((lines, body))
            writer.write(answer)
            await writer.drain()
            if b"Content-Length" not in answer and b"chunked" not in answer:
                return

    return script


def ok(said: object) -> bytes:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def _ask(answer: bytes, facts: MailFacts = FACTS, seen: list[tuple[list[str], bytes]] | None = None, **more: object) -> ScanAnswer:
    async with serving(saying(answer, seen)) as port, pool_of(table("rspamd", f"http://127.0.0.1:{port}", **more)) as pool:
        await asyncio.sleep(0.02)
        (found,) = await pool.ask(mail(), facts, ("rspamd",))
        return found


async def test_score_action_symbols_and_fields_come_through() -> None:
    added = {"X-Spam": {"value": "Yes", "order": 0}, "X-Long": "a\r\n\tb", "X-Twice": ["1", {"value": "2"}]}
    answer = await _ask(ok({**GOOD, "score": 7.5, "action": "add header", "milter": {"add_headers": added}}))
    assert (answer.outcome, answer.score, answer.action, answer.name) == ("suspicious", 7.5, "add header", "B A")
    assert answer.fields == (("X-Spam", "Yes"), ("X-Long", "a b"), ("X-Twice", "1"), ("X-Twice", "2"))


async def test_fields_to_remove_come_through_and_both_can_be_switched_off() -> None:
    milter = {"add_headers": {"X-Spam": "Yes"}, "remove_headers": {"X-Spam": 0, "X-Old": [1, -1]}}
    answer = await _ask(ok({**GOOD, "milter": milter}))
    assert answer.removes == (("X-Spam", 0), ("X-Old", 1), ("X-Old", -1))
    answer = await _ask(ok({**GOOD, "milter": milter}), options={"add_fields": False})
    assert (answer.fields, answer.removes) == ((), ())


async def test_places_and_a_new_subject_come_through_and_what_is_no_place_is_an_error() -> None:
    added = {"X-One": {"value": "1", "order": 1}, "X-Last": [{"value": "2", "order": -1.0}], "X-Front": {"value": "3", "order": None}}
    said = {**GOOD, "action": "rewrite subject", "subject": "*** SPAM ***\r\n hello", "milter": {"add_headers": added}}
    answer = await _ask(ok(said))
    assert (answer.fields, answer.placed) == ((("X-Front", "3"),), (("X-One", "1", 1), ("X-Last", "2", -1)))
    assert answer.subject == "*** SPAM ***  hello"
    assert (await _ask(ok(said), options={"rewrite_subject": False})).subject == ""
    assert (await _ask(ok({**said, "action": "add header"}))).subject == "", "rspamd did not ask for it"
    for order in ("1", True, 1e300, [1]):
        answer = await _ask(ok({**GOOD, "milter": {"add_headers": {"X-One": {"value": "1", "order": order}}}}))
        assert (answer.outcome, "order" in answer.name) == ("error", True), order


async def test_the_envelope_is_told_and_cannot_smuggle_a_field() -> None:
    seen: list[tuple[list[str], bytes]] = []
    facts = MailFacts("a\r\nIP: 1.2.3.4@x", ("b@example.test", "ü@example.test"), client_address="192.0.2.7", user="carol", helo="there")
    await _ask(ok(GOOD), facts, seen)
    lines, body = seen[0]
    assert lines[0] == "POST /checkv2 HTTP/1.1"
    assert {"Rcpt: <b@example.test>", "Rcpt: <ü@example.test>", "IP: 192.0.2.7", "User: carol", "Helo: there"} <= set(lines)
    assert "From: <a IP: 1.2.3.4@x>" in lines
    assert sum(line.startswith("IP:") for line in lines) == 1
    assert body == mail().data


async def test_an_answer_in_chunks_and_one_that_ends_with_the_connection_are_read() -> None:
    body = json.dumps(GOOD).encode()
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\n%b\r\n%x\r\n%b\r\n0\r\nT: x\r\n\r\n"
    assert (await _ask(chunked % (body[:5], len(body) - 5, body[5:]))).outcome == "clean"
    assert (await _ask(b"HTTP/1.0 200 OK\r\n\r\n" + body)).outcome == "clean"


@pytest.mark.parametrize(
    "said",
    [
        ok(b""),
        ok(b"null"),
        ok(b"[]"),
        ok(b"{}"),
        ok(b"[" * 100_000),
        ok({"action": "no action"}),
        ok({**GOOD, "action": "shrug"}),
        ok({**GOOD, "action": ["no action"]}),
        ok({**GOOD, "score": "low"}),
        ok(b'{"action": "no action", "score": NaN}'),
        ok({**GOOD, "symbols": [1]}),
        ok({**GOOD, "milter": {"add_headers": {"X": 5}}}),
        ok({**GOOD, "milter": {"add_headers": {"X\r\nY": "1"}}}),
        ok({**GOOD, "milter": {"add_headers": {f"X-{n}": "1" for n in range(51)}}}),
        ok({**GOOD, "milter": {"add_headers": {f"X-{n}": "y " * 2000 for n in range(20)}}}),
        ok({**GOOD, "milter": {"add_headers": {"X-Long": "y" * 5000}}}),
        ok({**GOOD, "milter": {"add_headers": ["X: 1"]}}),
        ok({**GOOD, "milter": {"remove_headers": {"X": "all"}}}),
        ok({**GOOD, "milter": {"remove_headers": {"X": 1.5}}}),
        ok({**GOOD, "milter": {"remove_headers": {"X": True}}}),
        ok({**GOOD, "milter": {"remove_headers": {"X:": 0}}}),
        ok({**GOOD, "milter": {"remove_headers": {"X": 1e300}}}),
        ok({**GOOD, "milter": [1]}),
        ok({**GOOD, "symbols": {"A" * 6_000_000: {"score": 1}}}),
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nBroken\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"A" * 300_000,
    ],
    ids=lambda said: repr(said[-40:]),
)
async def test_an_answer_that_is_none_is_an_error(said: bytes) -> None:
    answer = await _ask(said, timeout_seconds=1)
    assert (answer.outcome, answer.outage) == ("error", True), answer


async def test_too_large_for_rspamd_is_no_outage() -> None:
    answer = await _ask(b"HTTP/1.1 413 Too large\r\nContent-Length: 0\r\n\r\n")
    assert (answer.outcome, answer.outage) == ("error", False)


async def test_a_kept_connection_that_the_server_closed_meanwhile_is_no_failure() -> None:
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await saying(ok(GOOD))(reader, writer)
            return
        await request(reader)  # the probe
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npong\r\n")
        await request(reader)  # and hangs up instead of answering

    async with serving(script) as port, pool_of(table("rspamd", f"http://127.0.0.1:{port}")) as pool:
        await asyncio.sleep(0.05)
        (answer,) = await pool.ask(mail(), FACTS, ("rspamd",))
    assert (answer.outcome, connections) == ("clean", 2)
