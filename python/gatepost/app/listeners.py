"""Listening sockets, made by the supervisor and inherited by the workers.

Called by the supervisor. Each worker gets its own SO_REUSEPORT socket for each address, so the kernel spreads connections;
the supervisor keeps them open, so a worker that dies loses no connection that still waits in its accept queue: its successor
takes the same socket over. Port 0 is fixed by the first socket of an address and shared by the others.
Fails with ListenError, whose text names the setting, the address and the reason.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatepost.config import Endpoint

BACKLOG = 2048


class ListenError(Exception):
    """An address that cannot be bound; the text says which setting asked for it."""


def _bind(name: str, host: str, port: int) -> socket.socket:
    """One TCP socket with SO_REUSEPORT on host:port, not yet listening."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise ListenError(f"listen.{name}: {host}:{port}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ListenError(f"listen.{name}: {host}:{port}: {error.strerror or error}") from error
    return sock


def ensure_free(name: str, host: str, port: int) -> None:
    """Refuse an address somebody else listens on: with SO_REUSEPORT the kernel would let two servers share it silently."""
    if port == 0:
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ListenError(f"listen.{name}: {host}:{port}: {error.strerror or error}") from error


@dataclass(slots=True)
class ListenerSet:
    """All addresses of a server: `endpoints` with concrete ports, by listener name; `placeholders`, bound but not listening, keep them."""

    endpoints: dict[str, list[Endpoint]]
    placeholders: list[socket.socket]

    @classmethod
    def reserve(cls, wanted: Mapping[str, Sequence[Endpoint]]) -> "ListenerSet":
        """Check every address and fix every port 0. Raises ListenError."""
        reserved = cls({}, [])
        try:
            for name, endpoints in wanted.items():
                reserved.endpoints[name] = [reserved._fix(name, endpoint) for endpoint in endpoints]
        except ListenError:
            reserved.close()
            raise
        return reserved

    def _fix(self, name: str, endpoint: Endpoint) -> Endpoint:
        ensure_free(name, endpoint.host, endpoint.port)
        sock = _bind(name, endpoint.host, endpoint.port)
        self.placeholders.append(sock)
        return Endpoint(endpoint.host, sock.getsockname()[1])

    def close(self) -> None:
        """Give the addresses back."""
        for sock in self.placeholders:
            sock.close()

    def open(self) -> dict[str, list[socket.socket]]:
        """A fresh set of listening sockets for one worker, by listener name. Raises ListenError."""
        opened: dict[str, list[socket.socket]] = {}
        try:
            for name, endpoints in self.endpoints.items():
                opened[name] = []
                for endpoint in endpoints:
                    sock = _bind(name, endpoint.host, endpoint.port)
                    opened[name].append(sock)
                    sock.listen(BACKLOG)
        except (ListenError, OSError):
            close_all(opened)
            raise
        return opened


def close_all(sockets: Mapping[str, Sequence[socket.socket]]) -> None:
    """Close a worker's set."""
    for group in sockets.values():
        for sock in group:
            sock.close()
