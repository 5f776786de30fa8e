"""A gRPC server with the guard around it: on a Unix socket (mode 0600), and for the supervisor also on TCP. Built by app/.

Health and reflection are always on. The TCP side uses TLS with certificates that can be swapped while it runs; with a client CA
every TCP client has to show a certificate. Socket and TCP are two grpc servers, each with MAX_CALLS of its own: calls that strangers
hold open over TCP must not keep the administrator on this machine out. Start it inside a running event loop; one per process.
Fails with ControlServerError: an address in use, another server on the socket, unusable certificates.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gatepost.config import Endpoint
from gatepost.control.access import Access
from gatepost.control.audit import AuditLog
from gatepost.control.endpoint import SERVER_OPTIONS, UnixTarget, unix_target
from gatepost.control.guard import Guard
from gatepost.control.ports import ControlServerError

MAX_CALLS = 1000
"""Calls at once, over the socket and over TCP each."""


@dataclass(frozen=True, slots=True)
class Service:
    """A servicer and how it gets into a server. `name` is the full name: 'gatepost.api.queue.v1.QueueService'."""

    name: str
    servicer: Any
    add: Callable[[Any, grpc.aio.Server], None]


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM contents. client_ca: whose client certificates are asked for and accepted, b'' = none are asked for."""

    certificate: bytes
    key: bytes
    client_ca: bytes = b""

    def config(self) -> Any:
        """The form that grpc takes."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca or None)


class ControlServer:
    """`tcp` are addresses (port 0 = any free one); with `certificates` None they speak plain text, for tests and trusted wires only."""

    def __init__(
        self,
        services: Sequence[Service],
        access: Access,
        *,
        unix_path: Path,
        tcp: Sequence[Endpoint] = (),
        certificates: Certificates | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._services = services
        self._guard = Guard(access, audit)
        self._unix_path = unix_path
        self._tcp = tcp
        self._certificates = certificates
        self._offered = certificates
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        self._target: UnixTarget | None = None
        self.endpoints: list[Endpoint] = []
        """TCP addresses with their real ports, after `start`."""

    async def start(self) -> None:
        """Bind and serve. Raises ControlServerError; nothing stays open then."""
        servers = [self._build() for _ in range(2 if self._tcp else 1)]
        local, remote = servers[0], servers[-1]
        try:
            self.endpoints = [self._bind_tcp(remote, endpoint) for endpoint in self._tcp]
            await asyncio.to_thread(_clear_stale, self._unix_path)
            self._bind_unix(local)
            for server in servers:
                await server.start()
        except BaseException:
            for server in servers:
                await server.stop(None)
            self._close_target()
            raise
        self._servers = servers
        for name in ["", *(service.name for service in self._services)]:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def _build(self) -> grpc.aio.Server:
        """A server with all services, not bound yet."""
        server = grpc.aio.server(interceptors=[self._guard], options=SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        for service in self._services:
            service.add(service.servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [service.name for service in self._services]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        return server

    async def stop(self, grace: float) -> None:
        """Refuse new calls, let those under way finish for `grace` seconds, close. Idempotent."""
        servers, self._servers = self._servers, []
        if not servers:
            return
        await self._health.enter_graceful_shutdown()
        await asyncio.gather(*(server.stop(grace) for server in servers))
        self._close_target()

    async def set_health(self, name: str, *, serving: bool) -> None:
        """What the health service says of a name from now on; '' is the server as a whole."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, status)

    def replace_certificates(self, certificates: Certificates) -> None:
        """Use other certificates for connections from now on. A client CA cannot be added or taken away while running."""
        if self._certificates is not None:
            self._certificates = certificates

    def _bind_tcp(self, server: grpc.aio.Server, endpoint: Endpoint) -> Endpoint:
        try:
            if self._certificates is None:
                port = server.add_insecure_port(str(endpoint))
            else:
                port = server.add_secure_port(str(endpoint), self._credentials(self._certificates))
        except (RuntimeError, ValueError) as error:
            raise ControlServerError(f"listen.control_tcp: {endpoint}: cannot be bound ({error})") from error
        if not port:
            raise ControlServerError(f"listen.control_tcp: {endpoint}: cannot be bound (in use, or bad certificates)")
        return Endpoint(endpoint.host, port)

    def _credentials(self, certificates: Certificates) -> grpc.ServerCredentials:
        def fresh() -> Any:
            """Called by grpc in a thread of its own for each connection; None = unchanged."""
            wanted = self._certificates
            if wanted is None or wanted is self._offered:
                return None
            self._offered = wanted
            return wanted.config()

        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            certificates.config(), fresh, require_client_authentication=bool(certificates.client_ca)
        )
        return credentials

    def _bind_unix(self, server: grpc.aio.Server) -> None:
        self._target = unix_target(self._unix_path)
        before = os.umask(0o177)
        try:
            server.add_insecure_port(self._target.text)
        except RuntimeError as error:
            raise ControlServerError(f"{self._unix_path}: cannot be bound ({error})") from error
        finally:
            os.umask(before)

    def _close_target(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None


def _clear_stale(path: Path) -> None:
    """Remove the socket of a server that died. Raises ControlServerError when one lives, or when the path is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ControlServerError(f"{path}: exists and is not a socket")
    target = unix_target(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(target.text.removeprefix("unix:"))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ControlServerError(f"{path}: {error}") from error
        finally:
            target.close()
    raise ControlServerError(f"{path}: another server is running")
