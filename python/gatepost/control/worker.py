"""WorkerService: what the supervisor asks a worker besides its queue. Served on DIR/run/worker-I.sock."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

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
from gatepost.queue.quarantine import Quarantine
from gatepost.queue.quarantine_views import Quarantined
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.entry import ScannerState

DEFAULT_GRACE = 8.0
MAX_DESCRIBED = 1000
SHARES = 200
"""Recipients in one piece of an answer, with at most 100 ids each."""
_PAGE = os.sysconf("SC_PAGE_SIZE")

Resolve = Callable[[str], Awaitable[Sequence[bytes]]]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """`stats` and `resolve` are those of the worker's queue (QueueServicer.resolve)."""

    def __init__(self, source: WorkerSource, quarantine: Quarantine, stats: Callable[[], Mapping[str, int]], resolve: Resolve) -> None:
        self._source = source
        self._quarantine = quarantine
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

    async def CountQuarantined(self, request: api.CountQuarantinedRequest, context: object) -> AsyncIterator[api.CountQuarantinedResponse]:
        """See the proto."""
        found = await self._quarantine.shares(request.since, request.until, request.newest)
        pairs = list(found.by_recipient.items())
        for start in range(0, len(pairs), SHARES):
            shares = (
                api.CountQuarantinedResponse.Share(recipient=address, count=share.count, message_ids=share.newest)
                for address, share in pairs[start : start + SHARES]
            )
            yield api.CountQuarantinedResponse(shares=shares)

    async def DescribeQuarantined(self, request: api.DescribeQuarantinedRequest, context: object) -> api.DescribeQuarantinedResponse:
        """See the proto."""
        found = await self._quarantine.describe(request.message_ids[:MAX_DESCRIBED])
        return api.DescribeQuarantinedResponse(messages=map(_described, found))

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


def _described(found: Quarantined) -> api.DescribeQuarantinedResponse.Described:
    verdict = found.verdict
    return api.DescribeQuarantinedResponse.Described(
        message_id=found.message.message_id,
        sender=found.message.reverse_path,
        header_from=found.header_from[:200],
        subject=found.subject[:200],
        received=found.message.received_at,
        why=(verdict.reason or verdict.text)[:300] if verdict is not None else "",
        infected=found.infected,
    )


def resident_octets() -> int:
    """Resident memory of this process (proc(5), statm)."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * _PAGE
