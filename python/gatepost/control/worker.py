"""WorkerService: what the supervisor asks a worker besides its queue. Served on DIR/run/worker-I.sock."""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.server.v1 import server_pb2 as server_api
from gatepost.api.worker.v1 import worker_pb2 as api
from gatepost.api.worker.v1 import worker_pb2_grpc
from gatepost.control.convert import duration, seconds
from gatepost.control.errors import ControlError, invalid, precondition
from gatepost.control.ports import WorkerSource
from gatepost.control.queue_convert import MAX_IDS, stats_proto
from gatepost.control.server import Service
from gatepost.message.ids import format_message_id
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.entry import ScannerState

DEFAULT_GRACE = 8.0
_PAGE = os.sysconf("SC_PAGE_SIZE")

Resolve = Callable[[str], Awaitable[Sequence[bytes]]]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """`stats` and `resolve` are those of the worker's queue (QueueServicer.resolve)."""

    def __init__(self, source: WorkerSource, stats: Callable[[], Mapping[str, int]], resolve: Resolve) -> None:
        self._source = source
        self._stats = stats
        self._resolve = resolve

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.worker.v1.WorkerService", self, worker_pb2_grpc.add_WorkerServiceServicer_to_server)

    async def GetWorkerStatus(self, request: api.GetWorkerStatusRequest, context: object) -> api.GetWorkerStatusResponse:
        """See the proto."""
        facts = self._source.facts()
        return api.GetWorkerStatusResponse(
            index=facts.index,
            pid=os.getpid(),
            healthy=facts.healthy,
            detail=facts.detail,
            partition=facts.partition,
            uptime=duration(max(0.0, time.time() - facts.started_at)),
            sessions=facts.sessions,
            rss_octets=resident_octets(),
            rule_version=facts.rule_version,
            queue=stats_proto(self._stats()),
            scanners=(_scanner(facts.index, one) for one in facts.scanners),
        )

    async def Reload(self, request: api.ReloadRequest, context: object) -> api.ReloadResponse:
        """See the proto."""
        try:
            restart_needed = await self._source.reload(settings=request.settings)
        except ControlError:
            raise
        except Exception as error:  # settings, certificates, files: whatever it is, the caller has to mend it
            raise precondition(common.ERROR_REASON_INVALID_FIELD, str(error)) from error
        return api.ReloadResponse(rule_version=self._source.facts().rule_version, restart_needed=restart_needed)

    async def ResolveMessages(self, request: api.ResolveMessagesRequest, context: object) -> api.ResolveMessagesResponse:
        """See the proto."""
        if len(request.prefixes) > MAX_IDS:
            raise invalid("prefixes", f"must be at most {MAX_IDS}")
        response = api.ResolveMessagesResponse()
        for prefix in request.prefixes:
            found = await self._resolve(prefix)
            if found:
                response.matches.add(prefix=prefix, message_ids=map(format_message_id, found))
        return response

    async def Drain(self, request: api.DrainRequest, context: object) -> api.DrainResponse:
        """See the proto."""
        self._source.drain(seconds(request.grace) if request.HasField("grace") else DEFAULT_GRACE)
        return api.DrainResponse()


_STATES = {
    State.CLOSED: server_api.SCANNER_STATE_IN_SERVICE,
    State.OPEN: server_api.SCANNER_STATE_OUT_OF_SERVICE,
    State.TRYING: server_api.SCANNER_STATE_TRYING,
}


def _scanner(worker: int, one: ScannerState) -> server_api.Scanner:
    return server_api.Scanner(
        worker=worker,
        name=one.name,
        kind=one.kind,
        state=_STATES[one.state],
        signatures=one.signatures,
        fault=one.fault,
        asked=one.asked,
        remembered=one.remembered,
        errors=one.errors,
        running=one.running,
        waiting=one.waiting,
    )


def resident_octets() -> int:
    """Resident memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * _PAGE
