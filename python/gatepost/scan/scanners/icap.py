"""An ICAP server (RFC 3507), as which most commercial engines can be reached. Made by the registry for kind `icap`.

Content travels as the body of an HTTP response (RESPMOD) or request (REQMOD) made up for it, a preview first where the server asks for
one; a connection serves one request after the other. OPTIONS says which method, how long a preview, how many connections; it is asked by
the pool's probe and again when its time is over. ISTag is the signature version.

Outcomes: 204, or the content given back octet for octet, is clean; a header field that names an infection, or content replaced or
altered, is infected; all else is ScannerFault.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict

from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners import http
from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.connection import Connection, Connections, dial, exchange, tls_of
from gatepost.scan.scanners.plugin import ContentRefused, Outcome, ScanAnswer, ScannerFault, options

MAX_PREVIEW = 1 << 20
MAX_ENCAPSULATED = 65_536
SLACK = 1 << 20
"""Octets that an altered body may be longer than what was sent, before it counts as too long."""
_THREAT = re.compile(r"Threat=([^;]*)", re.IGNORECASE)
_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,100}/[a-z0-9!#$&^_.+-]{1,100}\Z")


class Options(BaseModel):
    """`[scan.scanners.options]` of kind icap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["auto", "respmod", "reqmod"] = "auto"
    """auto is RESPMOD where the service has it."""
    preview: bool = True
    """Send the beginning first when the service asks for it."""
    client_address: bool = True
    """Tell the sending client's address as X-Client-IP."""


@dataclass(frozen=True, slots=True)
class Service:
    """What OPTIONS said (RFC 3507 4.10.2). preview None: do not send one."""

    method: str = "RESPMOD"
    preview: int | None = None
    allows_204: bool = False
    connections: int = 0
    """0: as many as one likes."""
    tag: str = ""
    complete: frozenset[str] = frozenset()
    """File extensions that are to come without a preview."""
    until: float = float("inf")
    """The loop's time at which this has to be asked again."""


class Icap:
    """Scanner of one ICAP service."""

    by_content = True
    by_parts = True

    def __init__(self, settings: ScannerSettings) -> None:
        self._options = options(settings, Options)
        parts = urlsplit(settings.address)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        secure = parts.scheme == "icaps"
        self._authority = f"{host}:{parts.port or (11344 if secure else 1344)}"
        self._uri = f"{parts.scheme}://{self._authority}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        self._connections = Connections(dial(self._authority, tls_of(settings) if secure else None, settings.server_name))
        self._most = settings.max_connections
        self._slots = asyncio.Semaphore(self._most)
        self._service: Service | None = None

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Part of Scanner."""
        service = self._service
        if service is None or service.until <= asyncio.get_running_loop().time():
            service = await self._ask_options()
        slots = self._slots
        async with slots:
            return await exchange(self._connections, lambda connection: self._modify(connection, service, content, facts))

    async def probe(self, deadline: float) -> str:
        """OPTIONS."""
        return (await self._ask_options()).tag

    async def close(self) -> None:
        """Part of Scanner."""
        await self._connections.close()

    # ---- OPTIONS

    async def _ask_options(self) -> Service:
        async def talk(connection: Connection) -> http.Head:
            connection.write(f"OPTIONS {self._uri} ICAP/1.0\r\nHost: {self._authority}\r\n\r\n".encode())
            head = await http.read_head(connection)
            if "opt-body" in head.fields.get("encapsulated", ""):
                await http.gather(http.chunked(connection), MAX_ENCAPSULATED)
            if head.closes:
                connection.abort()
            return head

        head = await exchange(self._connections, talk)
        if head.code != 200:
            raise ScannerFault(f"OPTIONS: {head.code} {head.reason}")
        service = self._understood(head)
        if (limit := min(service.connections or self._most, self._most)) != min(self._connections_limit(), self._most):
            self._slots = asyncio.Semaphore(limit)  # who holds one of the old ones gives it back there
        self._service = service
        return service

    def _connections_limit(self) -> int:
        return (self._service.connections if self._service is not None else 0) or self._most

    def _understood(self, head: http.Head) -> Service:
        methods = {one.strip().upper() for one in head.fields.get("methods", "").split(",")}
        wanted = ("RESPMOD", "REQMOD") if self._options.method == "auto" else (self._options.method.upper(),)
        method = next((one for one in wanted if one in methods), "")
        if not method:
            raise ScannerFault(f"the service has no {' or '.join(wanted)}, but {', '.join(sorted(methods)) or 'nothing'}")
        preview = _count(head, "preview", MAX_PREVIEW) if self._options.preview else None
        lasts = _count(head, "options-ttl", 86_400)
        return Service(
            method,
            preview,
            "204" in head.fields.get("allow", ""),
            _count(head, "max-connections", 1 << 20) or 0,
            head.fields.get("istag", "").strip('"'),
            frozenset(one.strip().lower() for one in head.fields.get("transfer-complete", "").split(",")) - {""},
            asyncio.get_running_loop().time() + lasts if lasts else float("inf"),
        )

    # ---- REQMOD and RESPMOD

    async def _modify(self, connection: Connection, service: Service, content: PartBlob, facts: MailFacts) -> ScanAnswer:
        preview = service.preview
        if preview is not None and {"*", _extension(content.name)} & service.complete:
            preview = None
        connection.write(self._request(service, content, facts, preview))
        chunks = content.chunks()
        head = await _send_preview(connection, content, chunks, preview) if preview is not None else None
        if head is not None or (preview is not None and content.size <= preview):
            return await _judged(connection, head or await http.read_head(connection), content, service)
        sender = asyncio.create_task(_send_rest(connection, chunks))  # servers may begin to answer before they have everything
        sender.add_done_callback(lambda task: connection.abort() if not task.cancelled() and task.exception() else None)
        try:
            return await _judged(connection, await http.read_head(connection), content, service)
        finally:
            if not sender.done():
                sender.cancel()
                connection.abort()  # our body has no end
            await asyncio.gather(sender, return_exceptions=True)

    def _request(self, service: Service, content: PartBlob, facts: MailFacts, preview: int | None) -> bytes:
        inner, encapsulated = _wrapped(service.method, content)
        head = f"{service.method} {self._uri} ICAP/1.0\r\nHost: {self._authority}\r\nAllow: 204\r\n"
        if preview is not None:
            head += f"Preview: {preview}\r\n"
        client = b""
        if self._options.client_address and facts.client_address:
            client = http.field("X-Client-IP", facts.client_address)
        return head.encode() + client + f"Encapsulated: {encapsulated}\r\n\r\n".encode() + inner


def make(settings: ScannerSettings) -> Icap:
    """The registry's factory. Raises ValueError for an unknown option."""
    return Icap(settings)


def _count(head: http.Head, name: str, most: int) -> int | None:
    text = head.fields.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ScannerFault(f"OPTIONS: {name} is {text!r:.40}")
    return min(int(text), most)


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _wrapped(method: str, content: PartBlob) -> tuple[bytes, str]:
    """HTTP heads around the content, and where they begin (RFC 3507 4.4.1)."""
    media_type = content.media_type if _TYPE.match(content.media_type) else "application/octet-stream"
    path = "/" + quote(content.name or ("message.eml" if media_type == "message/rfc822" else "part"), safe="")[:1000]
    entity = f"Content-Type: {media_type}\r\nContent-Length: {content.size}\r\n\r\n"
    if method == "REQMOD":
        request = f"POST http://mail.invalid{path} HTTP/1.1\r\nHost: mail.invalid\r\n{entity}".encode()
        return request, f"req-hdr=0, req-body={len(request)}"
    request = f"GET http://mail.invalid{path} HTTP/1.1\r\nHost: mail.invalid\r\n\r\n".encode()
    response = f"HTTP/1.1 200 OK\r\n{entity}".encode()
    return request + response, f"req-hdr=0, res-hdr={len(request)}, res-body={len(request) + len(response)}"


async def _send_preview(connection: Connection, content: PartBlob, chunks: AsyncIterator[bytes], preview: int) -> http.Head | None:
    """The beginning (RFC 3507 4.5). A head when the rest need not be sent, because the server has decided."""
    first, rest = bytearray(), b""
    while len(first) < min(preview, content.size):
        chunk = await anext(chunks, b"")
        if not chunk:
            raise OSError("the content is shorter than its size")
        room = preview - len(first)
        first += chunk[:room]
        rest = chunk[room:]
    if first:
        connection.write(_chunk(bytes(first)))
    if content.size <= preview:
        connection.write(b"0; ieof\r\n\r\n")
        return None
    connection.write(b"0\r\n\r\n")
    head = await http.read_head(connection)
    if head.code != 100:
        return head
    if rest:
        connection.write(_chunk(rest))
    return None


async def _send_rest(connection: Connection, chunks: AsyncIterator[bytes]) -> None:
    async for chunk in chunks:
        connection.write(_chunk(chunk))
        await connection.drain(heed=False)
    connection.write(b"0\r\n\r\n")


def _chunk(octets: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(octets), octets)


async def _judged(connection: Connection, head: http.Head, content: PartBlob, service: Service) -> ScanAnswer:
    """What a final answer means."""
    tag = head.fields.get("istag", "").strip('"') or service.tag
    if head.code == 413:
        raise ContentRefused("larger than the ICAP service takes")
    if head.code not in (200, 204):
        raise ScannerFault(f"{service.method}: {head.code} {head.reason}")
    named = infection(head)
    if head.code == 204:
        _finish(connection, head)
        return _answer(named, tag)
    status, same = await _given_back(connection, head, content)
    _finish(connection, head)
    if named is None and status is not None and status.code >= 300:
        named = f"blocked: {status.code} {status.reason}"
    elif named is None and status is not None and service.method == "REQMOD":
        named = "blocked: answered in the receiver's place"
    elif named is None and not same:
        named = "altered by the service"
    return _answer(named, tag)


def _finish(connection: Connection, head: http.Head) -> None:
    if head.closes:
        connection.abort()


def _answer(named: str | None, tag: str) -> ScanAnswer:
    return ScanAnswer("", Outcome.CLEAN if named is None else Outcome.INFECTED, named or "", signatures=tag)


def infection(head: http.Head) -> str | None:
    """Name of what was found by the fields that servers use for it; None when no field tells of any."""
    found = head.fields.get("x-infection-found")
    if found is not None:  # Type=0; Resolution=2; Threat=NAME;
        threat = _THREAT.search(found)
        return threat[1].strip() if threat and threat[1].strip() else found or "unnamed"
    violations = head.fields.get("x-violations-found")
    if violations is not None:  # a count, then four lines each: file, threat, id, resolution
        lines = [line.strip() for line in violations.split("\r\n")]
        if lines[0] == "0":
            return None
        return next((line for line in lines[2::4] if line), "unnamed")
    virus = head.fields.get("x-virus-id")
    if virus is not None and virus.lower() not in ("no threats", "none", "clean"):
        return virus or "unnamed"
    return None


async def _given_back(connection: Connection, head: http.Head, content: PartBlob) -> tuple[http.Head | None, bool]:
    """The encapsulated HTTP status (None for a request), and whether the body is what was sent."""
    places = places_of(head.fields.get("encapsulated", ""))
    status: http.Head | None = None
    body = places[-1][0].endswith("-body") and places[-1][0] != "null-body"
    for (name, start), (_, end) in pairwise(places):
        octets = await http.gather(http.counted(connection, end - start), MAX_ENCAPSULATED)
        if name == "res-hdr":
            status = http.parse_head(octets.removesuffix(b"\r\n\r\n"))
    if not body:
        return status, content.size == 0
    digest, size = sha256(), 0
    async for piece in http.chunked(connection):
        digest.update(piece)
        size += len(piece)
        if size > content.size + SLACK:
            connection.abort()
            return status, False
    return status, digest.hexdigest() == content.sha256


def places_of(encapsulated: str) -> list[tuple[str, int]]:
    """'res-hdr=0, res-body=137' → names and offsets, ascending; the last is a body. Raises ScannerFault."""
    places: list[tuple[str, int]] = []
    for one in encapsulated.split(","):
        name, _, offset = one.strip().partition("=")
        if not (offset.isascii() and offset.isdigit() and len(offset) < 9) or (places and int(offset) < places[-1][1]):
            raise ScannerFault(f"Encapsulated is {encapsulated!r:.100}")
        places.append((name.lower(), int(offset)))
    if not places[-1][0].endswith("-body") or places[0][1] or places[-1][1] > MAX_ENCAPSULATED:
        raise ScannerFault(f"Encapsulated is {encapsulated!r:.100}")
    return places
