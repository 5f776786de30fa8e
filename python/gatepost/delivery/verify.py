"""Asks a gateway's next hop whether it takes a recipient, before the recipient is taken here: MAIL FROM:<>, RCPT TO, RSET.

Called by SMTP and LMTP sessions, only for rules that say so; each worker asks and remembers for itself. Sessions are those of the
transport, so a connection that is open is used, and kept afterwards. Invariants: an answer comes within PROBE_SECONDS; at most MOST
recipients are remembered, the oldest go first; the same recipient is asked for once at a time, and at most AT_ONCE are; a next hop that
did not answer is left alone for DOWN_SECONDS. Does not raise.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from gatepost.config import Settings
from gatepost.delivery.next_hop import NoRoute
from gatepost.delivery.peer_reply import PeerReply, ProtocolViolation
from gatepost.delivery.smtp_connection import ConnectionLost, PeerTimeout
from gatepost.delivery.smtp_session import HostUnusable, Session
from gatepost.message.reply import Reply
from gatepost.routing.model import Check, Route
from gatepost.routing.settings import Verify

MOST = 50_000
AT_ONCE = 20
PROBE_SECONDS = 20.0
DOWN_SECONDS = 30.0

NOT_NOW = Reply(451, "4.4.1", "the recipient's server does not answer, try again later")
REFUSED = "the recipient's server does not take it"

log = structlog.get_logger()


class Sessions(Protocol):
    """SmtpTransport and LmtpTransport."""

    async def borrow(self, route: Route) -> Session:
        """Raises NoRoute, HostUnusable."""

    def give_back(self, session: Session, route: Route) -> None:
        """Keep it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a next hop said of a recipient. reply None: it takes it."""

    reply: Reply | None
    until: float


class Down(Exception):
    """The next hop gave no answer that says anything of the recipient."""


class RecipientVerifier:
    """`transports` by kind of route. `clock` gives monotonic seconds."""

    def __init__(
        self, transports: Mapping[str, Sessions], settings: Callable[[], Settings], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transports = transports
        self._settings = settings
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], Known] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[Known]] = {}
        self._down: dict[str, float] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    async def ask(self, check: Check) -> Reply | None:
        """Why the recipient is not taken now, if so."""
        key = (check.route.destination, check.route.address.lower())
        known = self._known.get(key)
        if known is not None and known.until > self._clock():
            return known.reply
        if self._down.get(check.route.destination, 0.0) > self._clock():
            return self._unanswered(check, known)
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                return (await asyncio.shield(self._task(key, check))).reply
        except (Down, TimeoutError) as fault:
            self._note_down(check.route.destination)
            log.info("recipient not verified", recipient=check.route.address, destination=check.route.destination, reason=str(fault))
            return self._unanswered(check, known)

    def _unanswered(self, check: Check, known: Known | None) -> Reply | None:
        """Nobody to ask: what was known once, or come back."""
        if known is not None and check.when_down is Verify.KNOWN:
            return known.reply
        return NOT_NOW

    def _note_down(self, destination: str) -> None:
        now = self._clock()
        self._down = {name: until for name, until in self._down.items() if until > now}
        self._down[destination] = now + DOWN_SECONDS

    def _task(self, key: tuple[str, str], check: Check) -> asyncio.Task[Known]:
        """The question that is under way for this recipient, or a new one."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._find_out(key, check))
            task.add_done_callback(lambda done: self._done(key, done))
        return task

    def _done(self, key: tuple[str, str], task: "asyncio.Task[Known]") -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # it was told to who waited, if anybody still did

    async def _find_out(self, key: tuple[str, str], check: Check) -> Known:
        async with self._room:
            async with asyncio.timeout(PROBE_SECONDS):
                said = await self._probe(check.route)
        good = 200 <= said.code < 300
        reply = None if good else Reply(550, said.enhanced if said.enhanced.startswith("5.") else "5.1.1", _words(said))
        found = Known(reply, self._clock() + (check.positive if good else check.negative))
        self._known[key] = found
        self._known.move_to_end(key)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        return found

    async def _probe(self, route: Route) -> PeerReply:
        """The reply to RCPT, 2yz or 5yz. Raises Down."""
        transport = self._transports[route.kind]
        if not route.address.isascii() or not route.address.isprintable():
            raise Down("an address that is not ASCII is not asked for")
        try:
            session = await transport.borrow(route)
        except NoRoute as fault:
            raise Down(fault.outcome.reason) from fault
        except HostUnusable as fault:
            raise Down(fault.reason) from fault
        try:
            replies = await self._talk(session, route.address)
        except (ConnectionLost, PeerTimeout, ProtocolViolation) as fault:
            session.connection.abort()
            raise Down(f"{session.name}: {fault}") from fault
        except asyncio.CancelledError:
            session.connection.abort()
            raise
        session.needs_reset = not 200 <= replies[-1].code < 300
        session.deliveries += 1
        transport.give_back(session, route)
        mail, rcpt = replies[-3], replies[-2]
        if not 200 <= mail.code < 300:
            raise Down(f"{session.name} does not take the null sender: {mail.code} {mail.text}")
        if 200 <= rcpt.code < 300 or 500 <= rcpt.code < 600:
            return rcpt
        raise Down(f"{session.name}: {rcpt.code} {rcpt.text}")

    async def _talk(self, session: Session, address: str) -> list[PeerReply]:
        """MAIL, RCPT and RSET, with a RSET before them where one is due; in one go where the peer takes that (RFC 2920)."""
        commands = [*(["RSET"] if session.needs_reset else []), "MAIL FROM:<>", f"RCPT TO:<{address}>", "RSET"]
        seconds, connection = self._settings().delivery.command_seconds, session.connection
        if "PIPELINING" in session.capabilities:
            connection.write("".join(f"{one}\r\n" for one in commands).encode())
            return list(await connection.replies(len(commands), seconds, "MAIL, RCPT, RSET"))
        replies: list[PeerReply] = []
        for one in commands:
            connection.write(f"{one}\r\n".encode())
            replies += await connection.replies(1, seconds, one[:4])
        return replies


def _words(said: PeerReply) -> str:
    """What the peer said, in one line of ASCII."""
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in said.text.replace("\n", " "))[:200].strip()
    return f"{REFUSED}: {text}" if text else REFUSED
