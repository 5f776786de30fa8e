"""Status, reload, stop, audit log. `client.server` of GatepostClient."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.server.v1 import server_pb2 as api
from gatepost.api.server.v1 import server_pb2_grpc
from gatepost.client.connection import Connection, pages
from gatepost.client.queue import stats_value
from gatepost.client.values import AuditRecord, Disk, Listener, Scanner, ServerStatus, Worker, time_value, word


class Server:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = server_pb2_grpc.ServerServiceStub(connection.channel)

    async def status(self) -> ServerStatus:
        """What runs, where it listens, how it is."""
        answer: api.GetStatusResponse = await self._connection.call(self._stub.GetStatus, api.GetStatusRequest())
        return ServerStatus(
            version=answer.version,
            hostname=answer.hostname,
            uptime=_span(answer.uptime),
            pid=answer.pid,
            data_directory=answer.data_directory,
            workers=tuple(_worker(one) for one in answer.workers),
            listeners=tuple(Listener(one.service, one.address, one.implicit_tls) for one in answer.listeners),
            queue=stats_value(answer.queue),
            disks=tuple(Disk(one.path, one.total_octets, one.free_octets) for one in answer.disks),
            rule_version=answer.rule_version,
            domains=answer.domains,
            users=answer.users,
            partial=answer.partial,
            warnings=tuple(answer.warnings),
            scanners=tuple(_scanner(one) for one in answer.scanners),
        )

    async def reload(self) -> tuple[str, ...]:
        """Read configuration and certificates anew. Returns the settings that need a restart to take effect."""
        return tuple((await self._connection.call(self._stub.Reload, api.ReloadRequest())).restart_needed)

    async def drain(self) -> None:
        """Stop the server as SIGTERM does."""
        await self._connection.call(self._stub.Drain, api.DrainRequest())

    async def audit_log(self, *, limit: int | None = None, rpc_prefix: str = "") -> AsyncIterator[AuditRecord]:
        """Audit records, newest first."""

        async def fetch(token: str) -> Any:
            request = api.GetAuditLogRequest(page_token=token, rpc_prefix=rpc_prefix)
            return await self._connection.call(self._stub.GetAuditLog, request)

        async for one in pages(fetch, lambda answer: answer.records, limit):
            role = word(common.Role, one.role, "ROLE_")
            yield AuditRecord(time_value(one.time), one.actor, role, one.peer, one.rpc, one.request, one.outcome)


def _worker(one: api.Worker) -> Worker:
    return Worker(
        index=one.index,
        pid=one.pid,
        state=word(api.WorkerState, one.state, "WORKER_STATE_"),
        detail=one.detail,
        partition=one.partition,
        uptime=_span(one.uptime),
        restarts=one.restarts,
        sessions=one.sessions,
        rss_octets=one.rss_octets,
        rule_version=one.rule_version,
    )


def _scanner(one: api.Scanner) -> Scanner:
    return Scanner(
        worker=one.worker,
        name=one.name,
        kind=one.kind,
        state=word(api.ScannerState, one.state, "SCANNER_STATE_"),
        signatures=one.signatures,
        fault=one.fault,
        asked=one.asked,
        remembered=one.remembered,
        errors=one.errors,
        running=one.running,
        waiting=one.waiting,
    )


def _span(duration: Duration) -> timedelta:
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)
