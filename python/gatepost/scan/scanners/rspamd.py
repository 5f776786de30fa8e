"""rspamd over HTTP: POST /checkv2 with the envelope in header fields, an opinion in JSON back. Made by the registry for kind `rspamd`.

The answer depends on the envelope, so nothing is remembered. 'no action' is clean, every other known action suspicious, with score,
symbols and rspamd's header fields; an unknown action, a score that is no number, anything not JSON is ScannerFault.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field

from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners import http
from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.connection import Connection, Connections, dial, exchange, tls_of
from gatepost.scan.scanners.plugin import ContentRefused, Outcome, ScanAnswer, ScannerFault, options

MAX_ANSWER = 4 << 20
MAX_RECIPIENTS = 1000
FAR = 1e6
ACTIONS = frozenset(("no action", "greylist", "add header", "rewrite subject", "soft reject", "reject", "quarantine", "discard", "accept"))
CLEAN = frozenset(("no action", "accept"))


class Options(BaseModel):
    """`[scan.scanners.options]` of kind rspamd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    password: str = Field("", max_length=200)
    """Sent as Password, for a controller worker or one that asks for it."""
    add_fields: bool = True
    """Add the header fields of `milter.add_headers` to the message, and take away those of `milter.remove_headers`."""
    rewrite_subject: bool = True
    """With the action 'rewrite subject' the message gets the subject that rspamd made."""


class Rspamd:
    """Scanner of one rspamd worker."""

    by_content = False
    by_parts = False

    def __init__(self, settings: ScannerSettings) -> None:
        self._options = options(settings, Options)
        parts = urlsplit(settings.address)
        if parts.scheme == "http+unix":
            self._host, address = "localhost", f"unix:{unquote(parts.path)}"
        else:
            self._host = parts.hostname or ""
            address = f"{self._host}:{parts.port or (443 if parts.scheme == 'https' else 11333)}"
        self._connections = Connections(dial(address, tls_of(settings) if parts.scheme == "https" else None, settings.server_name))

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Part of Scanner."""
        head = self._request("POST /checkv2", content.size) + b"".join(_envelope(facts)) + b"\r\n"

        async def talk(connection: Connection) -> tuple[http.Head, bytes]:
            connection.write(head)
            async for chunk in content.chunks():
                connection.write(chunk)
                await connection.drain()
                if connection.heard:
                    break
            return await _response(connection)

        answer, body = await exchange(self._connections, talk)
        if answer.code == 413:
            raise ContentRefused("larger than rspamd takes")
        if answer.code != 200:
            raise ScannerFault(f"rspamd says {answer.code} {answer.reason}")
        return understood(body, fields=self._options.add_fields, subject=self._options.rewrite_subject)

    async def probe(self, deadline: float) -> str:
        """GET /ping; the version is the server's, rspamd's rules have none."""

        async def talk(connection: Connection) -> tuple[http.Head, bytes]:
            connection.write(self._request("GET /ping", 0), b"\r\n")
            return await _response(connection)

        answer, body = await exchange(self._connections, talk)
        if answer.code != 200 or not body.startswith(b"pong"):
            raise ScannerFault(f"not rspamd: {answer.code} {body[:40]!r}")
        return answer.fields.get("server", "")

    async def close(self) -> None:
        """Part of Scanner."""
        await self._connections.close()

    def _request(self, line: str, length: int) -> bytes:
        password = http.field("Password", self._options.password) if self._options.password else b""
        return f"{line} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {length}\r\n".encode() + password


def make(settings: ScannerSettings) -> Rspamd:
    """The registry's factory. Raises ValueError for an unknown option."""
    return Rspamd(settings)


def _envelope(facts: MailFacts) -> Iterator[bytes]:
    yield http.field("From", f"<{facts.sender}>")
    for recipient in facts.recipients[:MAX_RECIPIENTS]:
        yield http.field("Rcpt", f"<{recipient}>")
    for name, value in (("IP", facts.client_address), ("Helo", facts.helo), ("User", facts.user)):
        if value:
            yield http.field(name, value)


async def _response(connection: Connection) -> tuple[http.Head, bytes]:
    head = await http.read_head(connection)
    length = http.length_of(head)
    if "chunked" in head.fields.get("transfer-encoding", "").lower():
        body = await http.gather(http.chunked(connection), MAX_ANSWER)
    elif length is not None:
        if length > MAX_ANSWER:
            raise ScannerFault(f"an answer of {length} octets")
        body = await http.gather(http.counted(connection, length), MAX_ANSWER)
    else:
        body = await http.gather(http.until_closed(connection), MAX_ANSWER)
    if head.closes:
        connection.abort()
    return head, body


def understood(body: bytes, *, fields: bool = True, subject: bool = True) -> ScanAnswer:
    """An answer of /checkv2. Raises ScannerFault."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise ScannerFault(f"not JSON: {body[:60]!r}") from None
    action = said.get("action") if isinstance(said, dict) else None
    if not isinstance(action, str) or action not in ACTIONS:
        raise ScannerFault(f"unknown action {action!r:.60}")
    score = said.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise ScannerFault(f"score is {score!r:.40}")
    symbols = said.get("symbols", {})
    if not isinstance(symbols, dict) or not all(isinstance(one, dict) for one in symbols.values()):
        raise ScannerFault("symbols are not a table")
    outcome = Outcome.CLEAN if action in CLEAN else Outcome.SUSPICIOUS
    name = " ".join(sorted(symbols, key=lambda one: -_number(symbols[one].get("score"))))
    answer = ScanAnswer("", outcome, name or action, float(score), action=action)
    if fields:
        added = tuple(_added(said))
        front = tuple((field, value) for field, value, order in added if not order)
        placed = tuple((field, value, order) for field, value, order in added if order)
        answer = replace(answer, fields=front, placed=placed, removes=tuple(_removed(said)))
    rewritten = said.get("subject") if subject and action == "rewrite subject" else None
    return replace(answer, subject=rewritten) if isinstance(rewritten, str) else answer


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _added(said: Mapping[str, Any]) -> Iterator[tuple[str, str, int | None]]:
    """`milter.add_headers`: name → text, {value, order} or a list of either. Folded by rspamd, unfolded here. `order` as in milters: behind
    how many fields of the message, from the end if it is negative; None when it is not said.
    """
    for name, values in _block(said, "add_headers").items():
        for value in values if isinstance(values, list) else [values]:
            text = value.get("value") if isinstance(value, dict) else value
            if not isinstance(text, str):
                raise ScannerFault(f"the value of {name!r:.60} is not text")
            order = value.get("order") if isinstance(value, dict) else None
            if order is not None and (isinstance(order, bool) or not isinstance(order, int | float) or not abs(order) < FAR):
                raise ScannerFault(f"the order of {name!r:.60} is {order!r:.40}")
            yield name, " ".join(text.split()), None if order is None else int(order)


def _removed(said: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """`milter.remove_headers`: name → 0 for all, n for the nth from the top, -n from the bottom, or a list of these."""
    for name, values in _block(said, "remove_headers").items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
                raise ScannerFault(f"which {name!r:.60} to remove is {value!r:.40}")
            yield name, int(value)


def _block(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the milter block; empty when there is none."""
    milter = said.get("milter", {})
    found = milter.get(key, {}) if isinstance(milter, dict) else milter
    if not isinstance(found, dict):
        raise ScannerFault(f"milter.{key} is not a table")
    return found
