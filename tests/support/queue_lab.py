"""A queue of one worker without servers: the real spool, scheduler, service and submitter, with a transport that the test scripts."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from gatepost.config import Settings
from gatepost.config.settings import Queue
from gatepost.delivery.dsn import build_report
from gatepost.events.bus import EventBus
from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.policy.counters import Counters
from gatepost.policy.notices import Notices
from gatepost.queue.actions import QueueActions
from gatepost.queue.deliver_stage import DeliverStage
from gatepost.queue.operations import OperationLog
from gatepost.queue.paused import PausedDestinations
from gatepost.queue.report import Reporter
from gatepost.queue.scheduler import Scheduler
from gatepost.queue.service import QueueService
from gatepost.queue.submit import Submitter
from gatepost.queue.transport import Delivered, Job, JobResult, Outcome, Transport
from gatepost.routing.model import DomainRule, Mailbox, Route, RuleKind, RuleSet
from gatepost.spool import AsyncSpool, PlannedRecipient

RULES = RuleSet(
    7,
    {"here.test": DomainRule("here.test", RuleKind.HOSTED), "*": DomainRule("*", RuleKind.MX)},
    {f"{name}@here.test": Mailbox(f"{name}@here.test", name.encode().ljust(16, b"\0"), "main") for name in ("alice", "bob")},
)
MESSAGE = b"From: alice@here.test\r\nSubject: test\r\n\r\nhello\r\n"

Script = Callable[[Job, str], Outcome]


class ScriptedTransport:
    """Answers each recipient by `script(job, address)`; records jobs, their times and how many ran at once."""

    def __init__(self, batch: int = 1, script: Script | None = None, seconds: float = 0.0) -> None:
        self.batch = batch
        self.script: Script = script or (lambda _job, _address: Delivered())
        self.seconds = seconds
        self.jobs: list[Job] = []
        self.times: list[float] = []
        self.order: list[str] = []
        self.running = 0
        self.most = 0
        self.closed = False

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            for job in jobs:
                self.jobs.append(job)
                self.times.append(time.monotonic())
                self.order.append(destination)
            await asyncio.sleep(self.seconds)
            return [JobResult(tuple(self.script(job, one.address) for one in job.recipients)) for job in jobs]
        finally:
            self.running -= 1

    async def close(self) -> None:
        self.closed = True

    def addresses(self) -> list[str]:
        """Every recipient of every attempt, in order."""
        return [one.address for job in self.jobs for one in job.recipients]


class QueueLab:
    """async with QueueLab(path, …) as lab. Opening another one on the same path is a restart."""

    def __init__(
        self,
        path: Path,
        *,
        remote: Transport | None = None,
        local: Transport | None = None,
        start: bool = True,
        more: Callable[["QueueLab"], Mapping[str, Transport]] = lambda _: {},
        rules: RuleSet = RULES,
        **queue: Any,
    ) -> None:
        fast = {"retry_initial_seconds": 0.1, "retry_max_seconds": 0.4, "retry_jitter": 0.0, **queue}
        self.path = path
        self.settings = Settings(hostname="mail.here.test", data=path, queue=Queue(**fast))
        self.remote = remote or ScriptedTransport()
        self.local = local or ScriptedTransport(batch=256)
        self.start = start
        self.more = more
        self.rules = rules

    async def __aenter__(self) -> Self:
        self.spool = await AsyncSpool.open(self.path / "p0")
        self.submitter = Submitter(self.spool, lambda: self.rules, lambda: self.settings)
        reporter = Reporter(self.spool.open_message, self.submitter, build_report, lambda: self.settings)
        paused = PausedDestinations(self.path / "p0" / "paused.json")
        transports = {"local": self.local, "smtp": self.remote, **self.more(self)}
        self.bus = EventBus(0)
        self.counters = Counters(self.path / "limits.db")
        notices = Notices(structlog.get_logger(), self.bus)
        self.stage = DeliverStage(self.spool, lambda: self.rules, self.submitter, notices, self.counters, lambda origin: bool(origin.user))
        self.scheduler = Scheduler(self.spool, transports, lambda: self.settings, reporter, paused, stage=self.stage, rng=random.Random(1))
        self.service = QueueService(self.spool, self.scheduler)
        operations = OperationLog(self.path / "p0" / "operations", self.scheduler.now)
        self.actions = QueueActions(self.spool, self.scheduler, reporter, operations, lambda: self.settings)
        if self.start:
            await self.scheduler.start()
            self.actions.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        await self.scheduler.stop(1.0)
        await self.actions.stop()
        self.counters.close()
        await self.spool.close()

    async def submit(self, *recipients: str, sender: str = "alice@here.test", notify: Notify = Notify.UNSET, **more: Any) -> bytes:
        """Queue a message; its id."""
        body, hold = more.pop("body", MESSAGE), more.pop("hold", False)
        envelope = Envelope(sender, tuple(Recipient(one, notify) for one in recipients), Origin("GRPC"), **more)
        return (await self.submitter.submit(envelope, body, trusted=True, hold=hold)).message_id

    async def commit(self, *routes: Route, sender: str = "alice@here.test", body: bytes = MESSAGE, orcpt: str = "") -> bytes:
        """Queue a message with routes made by hand; its id."""
        incoming = self.spool.receive(prefix=b"", max_bytes=0)
        incoming.feed_raw(body)
        incoming.finish()
        planned = [PlannedRecipient(one.address, orcpt, 0, one.destination, one.encode()) for one in routes]
        recipients = tuple(Recipient(one.address) for one in routes)
        await self.spool.commit(incoming, Envelope(sender, recipients, Origin("SMTP")), planned, 1)
        return incoming.message_id

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        """Wait until the condition holds. Fails the test after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "condition not met in time"
            await asyncio.sleep(0.005)

    async def empty(self, seconds: float = 5.0) -> None:
        """Wait until the queue is empty."""
        await self.until(lambda: self.spool.stats()["messages"] == 0, seconds)

    def reports(self) -> list[Job]:
        """Jobs with a null reverse-path that came to the local transport."""
        assert isinstance(self.local, ScriptedTransport)
        return [job for job in self.local.jobs if not job.reverse_path]
