"""Listeners of POP3 and IMAP: sockets, the set of open sessions, limits, and an orderly end.

Base of Pop3Server and ImapServer; app/ builds those, one for each listener kind. Limits are per server object, that is per worker, and
hold before a TLS handshake begins: a client that only connects counts like any other.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

from gatepost.policy.trust import TrustedNetworks, is_loopback
from gatepost.server.acceptor import TlsAcceptor
from gatepost.server.access.connection import Connection
from gatepost.server.context import ServerContext

BACKLOG = 512
SEARCHES = 3
"""Searches at once of one listener: with fewer than the store has threads, one that reads whole messages keeps nobody else waiting."""


class AccessServer:
    """Accepts connections made by `factory`. start/stop are called once each."""

    protocol = ""

    def __init__(self, context: ServerContext, *, implicit_tls: bool = False) -> None:
        self.context = context
        self.implicit_tls = implicit_tls
        self.log = context.log
        self._servers: list[asyncio.Server] = []
        self._acceptor = TlsAcceptor(context.tls, context.log, self.protocol)
        self._sessions: dict[Connection, float] = {}
        self._by_client: Counter[str] = Counter()
        self._stopping = False
        self.searches = asyncio.Semaphore(SEARCHES)

    def factory(self) -> Callable[[], Connection]:
        """What makes a connection object."""
        raise AssertionError("subclass")

    async def start(self, sockets: list[socket.socket]) -> None:
        """Listen on bound sockets."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            if self.implicit_tls:
                self._acceptor.start(sock, BACKLOG, self.factory(), self._admit_tls, self.forget)
            else:
                self._servers.append(await loop.create_server(self.factory(), sock=sock, backlog=BACKLOG))

    def _admit_tls(self, session: Connection) -> bool:
        if not self.admit(session):
            return True
        self.forget(session)
        return False

    async def stop(self, grace: float) -> None:
        """Stop listening, say goodbye to every session, and abort those that are still there after `grace` seconds."""
        self._stopping = True
        for server in self._servers:
            server.close()
        self._acceptor.close()
        for session in list(self._sessions):
            session.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while self._sessions and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for session in list(self._sessions):
            session.abort()

    @property
    def stats(self) -> dict[str, int]:
        """Counts for status."""
        return {"sessions": len(self._sessions)}

    @property
    def sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    def admit(self, session: Connection) -> str:
        """Count a new session in. Returns why it is refused, '' if it is not."""
        settings = self.context.settings()
        mail = settings.mail
        self._sessions[session] = asyncio.get_running_loop().time()
        self._by_client[session.client] += 1
        if self._stopping:
            return "Server is shutting down"
        if len(self._sessions) > mail.max_connections:
            return "Too many connections"
        if self._by_client[session.client] <= mail.max_connections_per_client or is_loopback(session.client):
            return ""
        return "" if session.client in TrustedNetworks(settings.trust.networks) else "Too many connections from your address"

    def forget(self, session: Connection) -> None:
        """Count a session out."""
        if self._sessions.pop(session, None) is None:
            return
        self._by_client[session.client] -= 1
        if self._by_client[session.client] <= 0:
            del self._by_client[session.client]

    def started_at(self, session: Connection) -> float:
        """Loop time at which the session began."""
        return self._sessions.get(session, 0.0)
