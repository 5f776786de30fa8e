"""Accepting connections that speak TLS from the first octet, for every listener (submissions, pop3s, imaps).

Accepts by hand, so that clients are counted before they may begin a handshake: one that only connects counts like any other. (Upgrading
a plain connection from `connection_made` would lose the ClientHello under uvloop, which reads before a task has its first step.) The
server context is one object for the process's life; a reload changes what is in it. A handshake that fails or takes too long ends the
connection without a word, and `forget` is called.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from gatepost.server.tls import HANDSHAKE_SECONDS, SHUTDOWN_SECONDS, TlsContexts

ACCEPT_PAUSE = 0.2


class Session(Protocol):
    """A protocol object that is told its peer before the transport is there."""

    client: str

    def set_peer(self, peer: Any) -> None:
        """Address as accept() gives it."""
        ...


S = TypeVar("S", bound=Session)


class TlsAcceptor:
    """The TLS sockets of one listener. Call inside the event loop."""

    def __init__(self, tls: TlsContexts, log: FilteringBoundLogger, name: str) -> None:
        self._tls = tls
        self._log = log
        self._name = name
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    def start(
        self, sock: socket.socket, backlog: int, make: Callable[[], S], admit: Callable[[S], bool], forget: Callable[[S], None]
    ) -> None:
        """Listen on a bound socket. `admit` counts a session in, or says no; `forget` counts one out whose handshake failed."""
        sock.setblocking(False)
        sock.listen(backlog)
        self._accepting.append(asyncio.get_running_loop().create_task(self._accept(sock, make, admit, forget)))

    def close(self) -> None:
        """Accept no more; handshakes under way end."""
        for task in [*self._accepting, *self._handshakes]:
            task.cancel()
        self._accepting.clear()

    async def _accept(self, sock: socket.socket, make: Callable[[], S], admit: Callable[[S], bool], forget: Callable[[S], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, peer = await loop.sock_accept(sock)
                except OSError as error:
                    self._log.error("cannot accept", listener=self._name, error=str(error))
                    await asyncio.sleep(ACCEPT_PAUSE)
                    continue
                session = make()
                session.set_peer(peer)
                if not admit(session):
                    connection.close()  # no words: the client expects TLS
                    continue
                task = loop.create_task(self._shake_hands(connection, session, forget))
                self._handshakes.add(task)
                task.add_done_callback(self._handshakes.discard)
        finally:
            sock.close()

    async def _shake_hands(self, connection: socket.socket, session: S, forget: Callable[[S], None]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: session,  # type: ignore[type-var]
                connection,
                ssl=self._tls.server_context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except BaseException as error:
            connection.close()
            forget(session)
            if not isinstance(error, OSError):
                raise
            self._log.debug("tls handshake failed", client=session.client, error=str(error))
