"""ServerService: status, reload, drain, audit log. Served by the supervisor, which implements StatusSource."""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.server.v1 import server_pb2 as api
from gatepost.api.server.v1 import server_pb2_grpc
from gatepost.api.worker.v1 import worker_pb2 as worker_api
from gatepost.control.access import Role
from gatepost.control.audit import AuditLog
from gatepost.control.convert import duration
from gatepost.control.errors import ControlError, precondition
from gatepost.control.merge import sum_stats
from gatepost.control.paging import decode_token, encode_token, page_size
from gatepost.control.ports import StatusSource, WorkerPlace
from gatepost.control.server import Service
from gatepost.control.workers import Answers, WorkerLinks
from gatepost.routing.model import RuleSet

STATUS_SECONDS = 2.0
RELOAD_SECONDS = 10.0
DRAIN_DELAY = 0.2

_STATES = {
    "starting": api.WORKER_STATE_STARTING,
    "running": api.WORKER_STATE_RUNNING,
    "failed": api.WORKER_STATE_FAILED,
    "restarting": api.WORKER_STATE_RESTARTING,
    "draining": api.WORKER_STATE_DRAINING,
    "retiring": api.WORKER_STATE_RETIRING,
}


class ServerServicer(server_pb2_grpc.ServerServiceServicer):
    """See the proto for every method."""

    def __init__(self, source: StatusSource, links: WorkerLinks, rule_set: Callable[[], RuleSet], audit: AuditLog) -> None:
        self._source = source
        self._links = links
        self._rule_set = rule_set
        self._audit = audit

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.server.v1.ServerService", self, server_pb2_grpc.add_ServerServiceServicer_to_server)

    async def GetStatus(self, request: api.GetStatusRequest, context: object) -> api.GetStatusResponse:
        """See the proto."""
        facts = self._source.status()
        answers = await self._ask_workers()
        rules = self._rule_set()
        response = api.GetStatusResponse(
            version=facts.version,
            hostname=facts.hostname,
            uptime=duration(max(0.0, time.time() - facts.started_at)),
            pid=facts.pid,
            data_directory=facts.data,
            workers=(_worker(place, answers.by_worker.get(place.index)) for place in facts.workers),
            queue=sum_stats([answer.queue for answer in answers.by_worker.values()]),
            disks=await asyncio.to_thread(_disks, facts.paths),
            rule_version=rules.version,
            domains=len(rules.rules),
            users=len(rules.mailboxes),
            partial=answers.partial,
            warnings=answers.warnings,
            scanners=(one for _, answer in sorted(answers.by_worker.items()) for one in answer.scanners),
        )
        response.listeners.extend(
            api.Listener(service=one.service, address=one.address, implicit_tls=one.implicit_tls) for one in facts.listeners
        )
        return response

    async def Reload(self, request: api.ReloadRequest, context: object) -> api.ReloadResponse:
        """See the proto."""
        try:
            return api.ReloadResponse(restart_needed=await self._source.reload())
        except ControlError:
            raise
        except Exception as error:  # settings, certificates, files: whatever it is, the caller has to mend it
            raise precondition(common.ERROR_REASON_INVALID_FIELD, f"not reloaded, the settings in force stay: {error}") from error

    async def Drain(self, request: api.DrainRequest, context: object) -> api.DrainResponse:
        """See the proto."""
        # A moment later, so that the answer and its audit record are out before the server closes.
        asyncio.get_running_loop().call_later(DRAIN_DELAY, self._source.drain)
        return api.DrainResponse()

    async def GetAuditLog(self, request: api.GetAuditLogRequest, context: object) -> api.GetAuditLogResponse:
        """See the proto."""
        size = page_size(request.page_size)
        before = decode_token(request.page_token) if request.page_token else ""
        records = await self._audit.read(size + 1, before, request.rpc_prefix)
        token = encode_token(records[size - 1]["time"]) if len(records) > size else ""
        return api.GetAuditLogResponse(records=map(_record, records[:size]), next_page_token=token)

    async def _ask_workers(self) -> Answers[worker_api.GetWorkerStatusResponse]:
        request = worker_api.GetWorkerStatusRequest()
        try:
            return await self._links.ask_all(lambda link: link.worker.GetWorkerStatus(request, timeout=STATUS_SECONDS), wait=0)
        except ControlError as error:  # status must also tell about a server none of whose workers is up
            return Answers(warnings=[str(error)])


async def reload_workers(links: WorkerLinks, *, settings: bool = False) -> Answers[Sequence[str]]:
    """Have every worker take over rules and users (and settings) now. A worker that is away reads them when it starts, so it is only
    named in the warnings. Raises ControlError when one finds them not valid.
    """
    request = worker_api.ReloadRequest(settings=settings)

    async def call(link: Any) -> Sequence[str]:
        answer = await link.worker.Reload(request, timeout=RELOAD_SECONDS)
        return list(answer.restart_needed)

    try:
        return await links.ask_all(call, wait=0)
    except ControlError as error:
        if error.info.reason == common.ERROR_REASON_NO_WORKER:
            return Answers(warnings=[str(error)])
        raise


def _worker(place: WorkerPlace, answer: worker_api.GetWorkerStatusResponse | None) -> api.Worker:
    made = api.Worker(index=place.index, pid=place.pid, restarts=place.restarts, state=_STATES[place.state], detail=place.detail)
    if answer is None:
        if made.state == api.WORKER_STATE_RUNNING:
            made.detail = made.detail or "does not answer"
        return made
    made.detail = answer.detail or made.detail
    made.partition, made.sessions, made.rss_octets = answer.partition, answer.sessions, answer.rss_octets
    made.rule_version = answer.rule_version
    made.uptime.CopyFrom(answer.uptime)
    if not answer.healthy:
        made.state, made.detail = api.WORKER_STATE_FAILED, answer.detail
    return made


def _disks(paths: Sequence[str]) -> list[api.Disk]:
    """Free space of each path that exists."""
    found: list[api.Disk] = []
    for path in dict.fromkeys(paths):
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            continue
        found.append(api.Disk(path=path, total_octets=usage.total, free_octets=usage.free))
    return found


def _record(record: dict[str, Any]) -> api.AuditRecord:
    stamp = Timestamp()
    stamp.FromJsonString(record["time"])
    role = str(record.get("role", "")).upper()
    return api.AuditRecord(
        time=stamp,
        actor=str(record.get("actor", "")),
        role=common.Role.Value(f"ROLE_{role}") if role in Role.__members__ and role != "NOBODY" else common.ROLE_UNSPECIFIED,
        peer=str(record.get("peer", "")),
        rpc=record["rpc"],
        request=str(record.get("request", "")),
        outcome=str(record.get("outcome", "")),
    )
