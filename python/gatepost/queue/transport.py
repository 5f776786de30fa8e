"""The Transport protocol: the queue hands over jobs of one destination, and gets one outcome per recipient. Never a bool."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from gatepost.message.envelope import Meta, Notify
from gatepost.message.reply import RemoteReply
from gatepost.native import Job as RawJob
from gatepost.native import Spool
from gatepost.routing.model import Route


@dataclass(frozen=True, slots=True)
class JobRecipient:
    """One recipient of a job; `index` is its place in the queue record. `attempts` counts finished attempts."""

    index: int
    address: str
    orcpt: str
    notify: Notify
    route: Route
    attempts: int


@dataclass(frozen=True, slots=True)
class Job:
    """One message with its due recipients for one destination. received_at is Unix microseconds."""

    message_id: bytes
    size: int
    received_at: int
    reverse_path: str
    meta: Meta
    recipients: tuple[JobRecipient, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Handed over. `relayed_dsn`: the next hop promised RFC 3461 handling, so no success DSN of ours is due."""

    reply: RemoteReply | None = None
    relayed_dsn: bool = False


@dataclass(frozen=True, slots=True)
class Deferred:
    """Try again later. `reason` is fit for a DSN's Diagnostic-Code; `enhanced` a 4.x.x code. destination_down: the fault lies with the
    destination, not the message (connection refused, greeting 4xx, TLS) — back off the destination as a whole. wait: seconds until the
    next attempt instead of the recipient's own back-off, 0 leaves it to that.
    """

    reason: str
    enhanced: str = "4.0.0"
    reply: RemoteReply | None = None
    destination_down: bool = False
    wait: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """Permanent. `enhanced` is a 5.x.x code."""

    reason: str
    enhanced: str = "5.0.0"
    reply: RemoteReply | None = None


Outcome = Delivered | Deferred | Failed
"""Per recipient; also `tls`, host and time are kept by the queue from `reply`."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """Outcomes in the order of job.recipients."""

    outcomes: tuple[Outcome, ...]
    tls: str = ""
    extra: dict[str, str] = field(default_factory=dict)


class RowLane(Protocol):
    """The part of a lane that a row of messages needs while it runs."""

    def may_go_on(self) -> bool:
        """False when nothing more may be taken."""
        ...

    def delivered(self, count: int) -> None:
        """So many recipients were delivered and journaled."""
        ...

    def return_raw(self, jobs: Sequence[RawJob]) -> None:
        """Undo the taking of jobs."""
        ...


class Lane(RowLane, Protocol):
    """What the scheduler gives a chaining transport: further jobs of the same destination, and a place to report outcomes."""

    def direct(self) -> Spool | None:
        """The spool to take jobs from and to journal to directly; None while every change has to be seen. What becomes ready from here
        on is announced anew; tell by `emptied` when not all was taken.
        """
        ...

    def take(self) -> Job | None:
        """The next due job."""
        ...

    def next(self) -> Job | None:
        """Another due job to begin behind the present one, when all lanes of the destination are busy."""
        ...

    def adopt(self, raw: RawJob, started: int) -> Job | None:
        """A job that was taken directly and is to be reported by `done`; None when it cannot be read."""
        ...

    def emptied(self, dry: bool) -> None:
        """Jobs were taken directly; `dry`: until there were none."""
        ...

    async def done(self, job: Job, result: JobResult) -> None:
        """Journal the outcome of a job. Each job from `take`, `next` and `adopt` is to be reported exactly once."""
        ...


class Transport(Protocol):
    """How a route is carried out. `batch` is how many jobs one call may take (1 for smtp, hundreds for local)."""

    batch: int

    async def deliver(self, destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
        """Carry out jobs of one destination. Must not raise for a remote or local fault; raising is a bug and counts as Deferred."""
        ...

    async def close(self) -> None:
        """Close kept connections."""
        ...


@runtime_checkable
class ChainTransport(Transport, Protocol):
    """A transport that can use one connection for a row of jobs, and begin one before the one before is finished."""

    async def chain(self, destination: str, lane: Lane) -> None:
        """Carry out what the lane gives until it gives nothing. Must not raise for a remote or local fault."""
        ...


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round did: jobs taken, recipients delivered and journaled, and the jobs to finish: with outcomes, or None = not tried yet."""

    taken: int
    delivered: int
    left: Sequence[tuple[RawJob, JobResult | None]] = ()


@runtime_checkable
class RoundTransport(Transport, Protocol):
    """A transport that takes jobs from the spool, delivers and journals them without a call per job."""

    async def round(self, destination: str, count: int) -> RoundResult | None:
        """Carry out up to `count` due jobs. None: it cannot begin and has taken nothing; `deliver` says why."""
        ...
