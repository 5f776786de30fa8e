"""Outcomes → journal changes, with the reports that are due before them. Used by scheduler; decides expiry, retry times and delay notices.

Two ways: `plain` for outcomes that need nothing else (most), without waiting; `reported` for those of which the sender is to be told:
the report is committed first, then the change is given back. When a report cannot be written the recipient is deferred instead.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from gatepost.native import K_DEFERRED, K_DELIVERED, K_EXPIRED, K_FAILED, K_NOTE, Change, CoreError, NotFoundError
from gatepost.queue.attempt import DELAY_NOTICE, attempt_fields, decode_detail, encode_detail
from gatepost.queue.report import Action, RecipientReport, Reporter, Subject, is_due
from gatepost.queue.retry import MICROSECONDS, RetryPolicy
from gatepost.queue.return_path import report_path
from gatepost.queue.transport import Deferred, Delivered, Failed, Job, JobRecipient, JobResult, Outcome
from gatepost.routing.model import RouteKind
from gatepost.spool import AsyncSpool

MAX_NOTICED = 50_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Moment:
    """When the outcomes came: now (Unix µs), how long the attempt took, and until when the destination backs off (0 = it does not)."""

    now: int
    ms: int
    down_until: int = 0


class Settler:
    """Keeps no state but the memory of delay notices, which the journal has as well."""

    def __init__(self, spool: AsyncSpool, reporter: Reporter, policy: Callable[[], RetryPolicy], rng: random.Random) -> None:
        self._spool = spool
        self._reporter = reporter
        self._policy = policy
        self._rng = rng
        self._noticed: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    def plain(self, jobs: Sequence[Job], results: Sequence[JobResult], at: Moment) -> tuple[list[Change], list[tuple[Job, JobResult]]]:
        """Changes that can be journaled at once, and the jobs that go through `reported`."""
        changes: list[Change] = []
        slow: list[tuple[Job, JobResult]] = []
        bare = b""
        for job, result in zip(jobs, results, strict=True):
            if job.reverse_path and self._any_report(job, result, at.now):
                slow.append((job, result))
                continue
            for recipient, outcome in zip(job.recipients, result.outcomes, strict=True):
                if type(outcome) is Delivered and outcome.reply is None:  # local mail: the same detail for the whole batch
                    bare = bare or encode_detail({"t": at.now, "outcome": "delivered", "ms": at.ms})
                    changes.append((job.message_id, recipient.index, K_DELIVERED, 0, bare))
                else:
                    changes.append(self._change(job, recipient, outcome, result.tls, at))
        return changes, slow

    async def reported(self, job: Job, result: JobResult, at: Moment) -> list[Change]:
        """Commit the reports that are due for this job, then give the changes of all its recipients."""
        rows: dict[tuple[Action, str], list[RecipientReport]] = {}
        told: dict[tuple[Action, str], list[int]] = {}
        changes: dict[int, Change] = {}
        for recipient, outcome in zip(job.recipients, result.outcomes, strict=True):
            changes[recipient.index] = self._change(job, recipient, outcome, result.tls, at)
            action = self._action(job, recipient, outcome, at.now)
            if action is None or (action is Action.DELAYED and await self._was_noticed(job, recipient.index)):
                continue
            key = (action, report_path(job.reverse_path, recipient.route))
            rows.setdefault(key, []).append(self._row(job, recipient, outcome, action, at.now))
            told.setdefault(key, []).append(recipient.index)
        notes: list[Change] = []
        for (action, path), reports in rows.items():
            problem = await self._send(job, path, reports, at.now)
            if problem is None and action is Action.DELAYED:
                notes += [self._note(job, index, at.now) for index in told[action, path]]
            elif problem is not None:
                for index in told[action, path]:
                    self._noticed.pop((job.message_id, index), None)
                    if action is not Action.DELAYED:
                        changes[index] = self._put_off(job, index, problem, at)
        return notes + list(changes.values())

    # ---- what becomes of an outcome

    def _change(self, job: Job, recipient: JobRecipient, outcome: Outcome, tls: str, at: Moment) -> Change:
        fields = attempt_fields(outcome, now=at.now, ms=at.ms, tls=tls)
        if isinstance(outcome, Deferred):
            if self._expired(job, recipient, at.now):
                fields["outcome"] = "expired"
                return (job.message_id, recipient.index, K_EXPIRED, 0, encode_detail(fields))
            due = self._next_attempt(job, recipient, at, outcome.wait)
            return (job.message_id, recipient.index, K_DEFERRED, due, encode_detail(fields))
        kind = K_DELIVERED if isinstance(outcome, Delivered) else K_FAILED
        return (job.message_id, recipient.index, kind, 0, encode_detail(fields))

    def _next_attempt(self, job: Job, recipient: JobRecipient, at: Moment, wait: int = 0) -> int:
        """The recipient's own back-off or the wait asked for, not before the destination's, and not after the message expires."""
        policy = self._policy().of(recipient.route.options)
        due = at.now + int((wait or policy.wait(recipient.attempts + 1, self._rng)) * MICROSECONDS)
        if due < at.down_until:
            due = at.down_until + int(self._rng.random() * MICROSECONDS)
        return max(min(due, policy.expires_at(job.received_at)), at.now + MICROSECONDS // 100)

    def _expired(self, job: Job, recipient: JobRecipient, now: int) -> bool:
        return now >= self._policy().of(recipient.route.options).expires_at(job.received_at)

    def _put_off(self, job: Job, index: int, problem: str, at: Moment) -> Change:
        due = at.now + int(self._policy().settings.retry_initial_seconds * MICROSECONDS)
        detail = encode_detail({"t": at.now, "outcome": "deferred", "enhanced": "4.3.0", "reason": problem})
        return (job.message_id, index, K_DEFERRED, due, detail)

    # ---- reports

    def _any_report(self, job: Job, result: JobResult, now: int) -> bool:
        return any(
            self._action(job, recipient, outcome, now) is not None
            for recipient, outcome in zip(job.recipients, result.outcomes, strict=True)
        )

    def _action(self, job: Job, recipient: JobRecipient, outcome: Outcome, now: int) -> Action | None:
        """The report that this outcome calls for."""
        action: Action | None = None
        if isinstance(outcome, Delivered):
            if recipient.notify and not outcome.relayed_dsn:
                # LMTP is the last hop (RFC 2033 1): what it takes is delivered, not passed on.
                action = Action.RELAYED if recipient.route.kind is RouteKind.SMTP else Action.DELIVERED
                if report_path(job.reverse_path, recipient.route) != job.reverse_path:
                    action = None  # a list has taken the message on: what its members' servers do is no news for its bounces
        elif isinstance(outcome, Failed) or self._expired(job, recipient, now):
            action = Action.FAILED
        else:
            notice = self._policy().of(recipient.route.options).notice_at(job.received_at)
            if notice is not None and now >= notice and (job.message_id, recipient.index) not in self._noticed:
                action = Action.DELAYED
        return action if action is not None and is_due(recipient.notify, action, report_path(job.reverse_path, recipient.route)) else None

    def _row(self, job: Job, recipient: JobRecipient, outcome: Outcome, action: Action, now: int) -> RecipientReport:
        expires = self._policy().of(recipient.route.options).expires_at(job.received_at)
        status, reason = "2.0.0", ""
        if isinstance(outcome, Failed):
            status, reason = outcome.enhanced, outcome.reason
        elif isinstance(outcome, Deferred):
            status, reason = outcome.enhanced, outcome.reason
            if action is Action.FAILED:
                # RFC 3463 3.5: the time allowed is over, whatever the last temporary fault was.
                status, reason = "5.4.7", f"the message could not be delivered in time; last try: {outcome.reason}"
        elif outcome.reply is not None and outcome.reply.enhanced:
            status = outcome.reply.enhanced
        retry_until = expires if action is Action.DELAYED else 0
        return RecipientReport(recipient.address, recipient.orcpt, action, status, reason, outcome.reply, now, retry_until)

    async def _send(self, job: Job, path: str, rows: Sequence[RecipientReport], now: int) -> str | None:
        """None when the report is on disk, or nobody can be told; else the problem."""
        subject = Subject(job.message_id, job.size, job.received_at, path, job.meta)
        try:
            await self._reporter.send(subject, rows, now)
        except (CoreError, OSError) as error:
            log.error("delivery report not written", sender=path, error=str(error))
            return f"{rows[0].reason or rows[0].action}; the report to the sender cannot be written yet: {error}"
        return None

    async def _was_noticed(self, job: Job, index: int) -> bool:
        """Whether the delay was told before, by this process or one before it: the journal knows."""
        try:
            history = await self._spool.history(job.message_id)
        except NotFoundError:
            return True
        told = any(
            kind == K_NOTE and place == index and decode_detail(detail).get("action") == DELAY_NOTICE for _, kind, place, detail in history
        )
        self._remember(job.message_id, index)
        return told

    def _remember(self, message_id: bytes, index: int) -> None:
        self._noticed[message_id, index] = None
        if len(self._noticed) > MAX_NOTICED:
            self._noticed.popitem(last=False)

    def _note(self, job: Job, index: int, now: int) -> Change:
        return (job.message_id, index, K_NOTE, 0, encode_detail({"t": now, "action": DELAY_NOTICE}))
