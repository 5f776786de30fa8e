"""One attempt: jobs go to their transport, and whatever it does, there is one result for each. Called by the scheduler. Never raises but
CancelledError: a transport that raises, or answers for too few, counts as Deferred.
"""

from collections.abc import Sequence

import structlog

from gatepost.queue.transport import Deferred, Job, JobResult, Transport

log = structlog.get_logger()


async def try_jobs(destination: str, transport: Transport | None, jobs: list[Job]) -> Sequence[JobResult]:
    """Results in the order of `jobs`. No transport: nobody carries mail to such a destination for now."""
    if transport is None:
        return [everywhere(job, Deferred(f"no transport for {destination}", "4.3.5")) for job in jobs]
    try:
        results = await transport.deliver(destination, jobs)
        if len(results) == len(jobs):
            return results
        reason = f"{len(results)} results for {len(jobs)} jobs"
    except Exception as error:
        log.exception("transport failed", destination=destination)
        reason = f"{type(error).__name__}: {error}"
    return [everywhere(job, Deferred(f"internal error: {reason}", "4.3.0")) for job in jobs]


def everywhere(job: Job, outcome: Deferred) -> JobResult:
    """The same for each recipient."""
    return JobResult((outcome,) * len(job.recipients))
