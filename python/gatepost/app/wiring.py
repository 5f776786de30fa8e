"""Everything one worker is made of, built and joined in one place: rules, spool, volumes, transports, scheduler, servers, control.

Called by app.worker. `build` opens files and recovers; `start` listens for mail, and then, with what only now is imported (app/behind.py),
delivers, lets mail be read and answers the supervisor; `stop` drains in the reverse order: servers first, so that
nothing new is accepted, then deliveries, then the stores. Raises CoreError, TlsError or DirectoryError when a part cannot be opened.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import structlog

from gatepost.app.disk_watch import DiskWatch
from gatepost.app.parent_line import ParentLine
from gatepost.app.partitions import path_of
from gatepost.app.snapshot import LiveRules
from gatepost.config import Settings
from gatepost.control.ports import WorkerFacts
from gatepost.delivery.answered import Answered
from gatepost.delivery.auto_reply import AutoReplyTransport
from gatepost.delivery.changes import RouteChanges
from gatepost.delivery.dsn import build_report
from gatepost.delivery.list_service import ListTransport
from gatepost.delivery.lmtp import LmtpTransport
from gatepost.delivery.local import LocalTransport
from gatepost.delivery.next_hop import Own
from gatepost.delivery.pipe import PipeTransport
from gatepost.delivery.resolver import Resolver
from gatepost.delivery.smtp import SmtpTransport
from gatepost.delivery.tls import ClientTls
from gatepost.delivery.verify import RecipientVerifier
from gatepost.directory import Directory
from gatepost.directory.auth import Authenticator
from gatepost.events.bus import EventBus
from gatepost.mailbox import Volumes
from gatepost.message.envelope import Origin
from gatepost.native import K_NOTE, CoreError, LockedError
from gatepost.policy.counters import Counters
from gatepost.policy.mail_auth import Authentication
from gatepost.policy.notices import Notices
from gatepost.queue.actions import QueueActions
from gatepost.queue.anew import was_trusted
from gatepost.queue.attempt import encode_detail
from gatepost.queue.deliver_stage import DeliverStage
from gatepost.queue.history import HistoryService, Place
from gatepost.queue.list_store import ListStore
from gatepost.queue.operations import OperationLog
from gatepost.queue.paused import PausedDestinations
from gatepost.queue.plan import Planner
from gatepost.queue.quarantine import Quarantine
from gatepost.queue.recorded import Recorder
from gatepost.queue.report import Reporter
from gatepost.queue.rescan import Rescan
from gatepost.queue.scheduler import Scheduler
from gatepost.queue.service import QueueService
from gatepost.queue.submit import Submitter
from gatepost.queue.transport import Transport
from gatepost.queue.waiting import Waiting
from gatepost.scan.files import PoliciesInForce, limits_of
from gatepost.scan.gate import Gate
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.pool import ScannerPool
from gatepost.server.context import Listener, ServerContext
from gatepost.server.lmtp import LmtpServer
from gatepost.server.smtp import SmtpServer
from gatepost.server.tls import TlsContexts, TlsError
from gatepost.spool import AsyncSpool, sync_failure
from gatepost.spool.sync_failure import SyncFailures

if TYPE_CHECKING:
    from gatepost.control.server import ControlServer

SERVER_GRACE = 4.0
LOCK_SECONDS = 12.0
"""How long a partition is waited for: the worker of a supervisor that was killed holds it until it has drained."""

DELIVERY_SHARE = 4
"""Mail that is here already goes into the volumes down to a quarter of spool.min_free_bytes: that frees the queue's own files."""
VERIFIED_AT_ONCE = 256
"""Questions to the DNS about senders that are under way together."""
IMPORT_SWITCH_SECONDS = 0.0005
"""How long an import keeps the first clients of a worker waiting at a time; Python's usual is ten times that."""
EMPTY_SECONDS = 0.5
"""How often a surplus partition is looked at: a glance at its counters."""

log = structlog.get_logger()


class MailServer(Protocol):
    """What every protocol server offers."""

    async def start(self, sockets: list[socket]) -> None:
        """Accept on these sockets."""
        ...

    async def stop(self, grace: float) -> None:
        """Stop accepting, let sessions finish for `grace` seconds, close."""
        ...

    @property
    def stats(self) -> Mapping[str, int]:
        """Counts; 'sessions' are the open ones."""
        ...


@dataclass
class WorkerParts:
    """A wired worker; implements control's WorkerSource."""

    settings: Settings
    load: Callable[[], Settings]
    index: int
    directory: Directory
    rules: LiveRules
    lists: ListStore
    spool: AsyncSpool
    history: HistoryService
    volumes: Volumes
    auth: Authenticator
    tls: TlsContexts
    client_tls: ClientTls
    resolver: Resolver
    started_at: float = field(default_factory=time.time)
    drains: bool = False
    """The partition is surplus: nothing listens, and the worker leaves when it is empty."""
    servers: dict[str, MailServer] = field(default_factory=dict)
    poller: asyncio.Task[None] | None = None
    recording: asyncio.Task[None] | None = None
    failure: str = ""
    """Not empty while the partition or a volume is closed after an I/O error."""
    reopened: list[SyncFailures] = field(default_factory=list)
    """Failed syncs of the past that this worker has opened the partition after."""
    stop_event: asyncio.Event | None = None
    control: "ControlServer | None" = None
    """None until mail is taken."""

    @classmethod
    async def build(cls, load: Callable[[], Settings], index: int, *, drains: bool = False) -> "WorkerParts":
        """Open everything; `load` reads the settings, now and at each reload. Nothing listens yet."""
        settings = load()
        data = settings.data
        holder: list[WorkerParts] = []

        def current() -> Settings:
            return holder[0].settings if holder else settings

        directory = await asyncio.to_thread(Directory, data / "directory.db")
        lists = ListStore(data)
        rules = LiveRules(directory, lists)
        place = path_of(data / "spool", index)
        failures = await asyncio.to_thread(sync_failure.distrust, place)
        # After a failed sync nothing is trusted before all of it was read.
        spool = await _open_spool(settings, place, background=failures is None)
        if failures is not None:
            log.warning("opened again after a failed sync", partition=place.name, error=failures.error, recovery=spool.recovery)
            await asyncio.to_thread(sync_failure.trust, place, failures)
        volumes = await Volumes.open(
            directory.list_volumes(),
            stream=f"w{index}",
            mailboxes=lambda: rules().mailboxes,
            min_free_bytes=settings.spool.min_free_bytes // DELIVERY_SHARE,
        )
        parts = cls(
            settings=settings,
            load=load,
            index=index,
            directory=directory,
            rules=rules,
            lists=lists,
            spool=spool,
            history=await _open_history(settings, index, spool),
            volumes=volumes,
            auth=Authenticator(directory, current),
            tls=TlsContexts(current),
            client_tls=ClientTls(current),
            resolver=Resolver(current),
            drains=drains,
            reopened=[await asyncio.to_thread(sync_failure.read, place)],
        )
        holder.append(parts)
        parts._wire()
        await asyncio.to_thread(parts.policies.prepare, rules.current)
        return parts

    def current(self) -> Settings:
        """The settings in force."""
        return self.settings

    def _wire(self) -> None:
        """Join the parts. Order follows the way of a message: routes, queue, transports, servers, control."""
        self.scanners = ScannerPool(self.settings.scan)
        self.policies = PoliciesInForce(self.rules, self.current)
        self.rules.before_change(self.policies.prepare)
        self.gate = Gate(
            self.policies,
            self.settings.hostname,
            lambda: limits_of(self.settings.scan),
            self.scanners,
            threads=self.settings.scan.workers,
        )
        self.planner, self.recorder = Planner(), Recorder(self.settings.data, self.index)
        self.submitter = Submitter(self.spool, self.rules, self.current, self.gate, self.planner, self.recorder)
        reporter = Reporter(self.spool.open_message, self.submitter, build_report, self.current)
        paused = PausedDestinations(path_of(self.settings.data / "spool", self.index) / "paused.json")
        self.events = EventBus(self.index)
        self.counters = Counters(self.settings.data / "limits.db")
        notices = Notices(log, self.events)
        stage = DeliverStage(self.spool, self.rules, self.submitter, notices, self.counters, self._may_relay)
        self.scheduler = Scheduler(self.spool, self._transports(), self.current, reporter, paused, stage=stage)
        self.queue = QueueService(self.spool, self.scheduler)
        operations = OperationLog(path_of(self.settings.data / "spool", self.index) / "operations", self.scheduler.now)
        self.actions = QueueActions(self.spool, self.scheduler, reporter, operations, self.current)
        rescan = Rescan(self.spool, self.gate, self.rules, self._may_relay, lambda: self.settings.smtp.recipient_delimiter)
        self.quarantine = Quarantine(self.spool, self.actions, self.rules, self.current, rescan)
        self.waiting = Waiting(self.spool, self.quarantine, self.current, rescan.wait_seconds, self._scanners_ready)
        self.scanners.on_back(self.waiting.wake)
        self.rules.on_change(self.auth.invalidate)
        self.rules.on_change(self._volumes_changed)
        self._wire_servers()

    def _may_relay(self, origin: Origin) -> bool:
        """Whether who sent a message was trusted."""
        return was_trusted(self.rules(), self.settings.trust.networks, origin)

    def _scanners_ready(self) -> bool:
        return all(one.state is State.CLOSED for one in self.scanners.states())

    def _transports(self) -> Mapping[str, Transport]:
        changes = RouteChanges(
            self.rules, lambda: self.settings.hostname, link_base=lambda: self.settings.lists.link_base, note=self._note_change
        )
        smtp, lmtp = (
            kind(
                self.current,
                self.resolver,
                self.spool.open_message,
                tls=self.client_tls,
                secret=self.directory.secret,
                own=self._own,
                changes=changes,
            )
            for kind in (SmtpTransport, LmtpTransport)
        )
        self.verifier = RecipientVerifier({"smtp": smtp, "lmtp": lmtp}, self.current)
        answered = Answered(self.settings.data / "answered.db")
        return {
            "local": LocalTransport(self.volumes, self.spool, changes),
            "smtp": smtp,
            "lmtp": lmtp,
            "pipe": PipeTransport(self.current, self.spool.open_message, changes),
            "auto-reply": AutoReplyTransport(self.spool.open_message, self.submitter, self.rules, answered),
            "list": ListTransport(self.spool.open_message, self.submitter, self.rules, self.current, self.lists, answered),
        }

    def _note_change(self, message_id: bytes, text: str) -> None:
        """In a message's history, before what came of the delivery. The message may be gone by now; then nobody asks."""
        detail = encode_detail({"t": self.scheduler.now(), "by": "delivery", "action": text})
        with contextlib.suppress(CoreError):
            self.spool.change_nowait([(message_id, -1, K_NOTE, 0, detail)])

    def _own(self) -> Own:
        """What we are known by, so that an MX that points here is not delivered to in a circle."""
        names = frozenset({self.settings.hostname.lower(), "localhost"})
        return Own(names, frozenset(self._own_endpoints))

    def _wire_servers(self) -> None:
        self.sender_resolver = Resolver(self.current, parallel=VERIFIED_AT_ONCE)  # its own, so that senders' slow DNS delays no delivery
        self.authentication = Authentication(self.sender_resolver, lambda: self.settings.authentication.timeout_seconds)
        self.context = context = ServerContext(
            settings=self.current,
            rule_set=self.rules,
            auth=self.auth,
            spool=self.spool,
            volumes=self.volumes,
            tls=self.tls,
            hostname=self.settings.hostname,
            verifier=self.verifier,
            counters=self.counters,
            events=self.events,
            authentication=self.authentication,
            planner=self.planner,
            recorder=self.recorder,
            gate=self.gate,
        )
        self.servers = {
            "smtp": SmtpServer(context, Listener.SMTP),
            "submission": SmtpServer(context, Listener.SUBMISSION),
            "submissions": SmtpServer(context, Listener.SUBMISSIONS),
            "lmtp": LmtpServer(context),
        }
        for server in self.servers.values():
            if isinstance(server, SmtpServer):
                self.rules.on_change(server.rules_changed)
                self.recorder.sources.append(server.asked)
        self._own_endpoints: set[tuple[str, int]] = set()

    def watch_disk(self, parent: ParentLine, stop: asyncio.Event) -> DiskWatch:
        """What looks after failed syncs, for the caller to run."""

        async def failed(text: str) -> None:
            self.failure = text
            if self.control is not None:
                await self.control.set_health("", serving=False)

        return DiskWatch(self._failed_places, self.current, parent, stop, failed, low_space=lambda: self.spool.low_space)

    def _failed_places(self) -> dict[Path, str]:
        fatal = self.spool.fatal
        own = {} if fatal is None else {path_of(self.settings.data / "spool", self.index): str(fatal)}
        return {**own, **self.volumes.failed()}

    # ---- life ----

    async def start(self, sockets: Mapping[str, Sequence[socket]], stop: asyncio.Event, taking: Callable[[], None]) -> None:
        """Take mail, and say so by `taking`; then all else: deliver what is due, let it be read, answer the supervisor. `stop`: set when
        the supervisor asks to drain.
        """
        self.stop_event = stop
        self._own_endpoints.update(s.getsockname()[:2] for name in ("smtp", "lmtp") for s in sockets.get(name, ()))
        await self.scanners.start()
        await self._listen(sockets)
        taking()
        behind = await asyncio.to_thread(_import_behind)
        self.control = behind.control_of(self)
        await self.control.start()
        if self.failure:
            await self.control.set_health("", serving=False)
        await self.scheduler.start()
        self.actions.start()
        self.quarantine.start()
        self.waiting.start()
        readers = behind.readers_of(self.context)
        self.servers |= readers
        await self._listen({name: group for name, group in sockets.items() if name in readers})
        self.poller = asyncio.create_task(self.rules.poll(), name="rules")
        self.recording = asyncio.create_task(self.recorder.run(), name="decisions")
        log.info("worker ready", recovery=self.spool.recovery)

    async def _listen(self, sockets: Mapping[str, Sequence[socket]]) -> None:
        """On all whose servers there are."""
        for name, group in sockets.items():
            if group and name in self.servers:
                await self.servers[name].start(list(group))

    async def stop(self, grace: float) -> None:
        """Drain: sessions, then deliveries, then control and stores."""
        began = time.monotonic()
        if self.poller is not None:
            self.poller.cancel()
        if self.recording is not None:
            self.recording.cancel()
        results = await asyncio.gather(
            *(server.stop(min(SERVER_GRACE, grace)) for server in self.servers.values()),
            self.scheduler.stop(min(SERVER_GRACE, grace)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, Exception):
                log.error("a part did not stop cleanly", error=repr(result))
        self.events.close()
        if self.control is not None:
            await self.control.stop(max(0.1, min(1.0, grace - (time.monotonic() - began))))
        await self.waiting.stop()
        await self.quarantine.stop()
        await self.actions.stop()
        await self.resolver.close()
        await self.sender_resolver.close()
        self.authentication.close()
        await self.volumes.close()
        await self.history.close()
        try:
            await self.spool.close()
        except CoreError as error:
            log.error("partition did not close cleanly; the next opening recovers it", error=str(error))
        self.gate.close()
        self.counters.close()
        await self.scanners.close()
        self.auth.close()
        self.directory.close()
        log.info("worker stopped", seconds=round(time.monotonic() - began, 2))

    async def emptied(self, stop: asyncio.Event) -> bool:
        """For a surplus partition: True, and `stop` is set, as soon as nothing is left in it; False when `stop` came first."""
        while not stop.is_set():
            if self._left() == 0 and self.spool.fatal is None:
                log.info("surplus partition is empty", partition=f"p{self.index}")
                stop.set()
                return True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EMPTY_SECONDS)
        return False

    def _left(self) -> int:
        """Messages in the partition, those that are only kept to undo their removal too."""
        stats = self.spool.stats()
        return stats["messages"] + stats.get("removed", 0) + stats.get("loading", 0)

    def _health(self) -> tuple[bool, str]:
        """(fit to work, what there is to say)."""
        fatal = self.spool.fatal
        if self.failure or fatal is not None:
            return False, self.failure or f"a sync failed: {fatal}"
        if not self.drains:
            return True, "; ".join(text for one in (self._space(), *(one.text(time.time()) for one in self.reopened)) if (text := one))
        stats = self.spool.stats()
        kept = stats.get("removed", 0)
        held = f", {stats['held']} held recipients" if stats["held"] else ""
        undo = f", {kept} removed that can be undone yet" if kept else ""
        return True, f"empties a surplus partition: {stats['messages']} messages left{held}{undo}"

    def _space(self) -> str:
        """Why new mail is refused for now; '' when it is not."""
        if not self.spool.low_space:
            return ""
        spool = self.settings.spool
        return (
            f"disk nearly full, takes no new mail (452): {self.spool.free_bytes >> 20} MiB free, stops below {spool.min_free_bytes >> 20}"
        )

    # ---- WorkerSource ----

    def facts(self) -> WorkerFacts:
        """What the supervisor wants to know."""
        healthy, detail = self._health()
        return WorkerFacts(
            index=self.index,
            healthy=healthy,
            detail=detail,
            partition=f"p{self.index}",
            started_at=self.started_at,
            sessions=sum(_open_sessions(server) for server in self.servers.values()),
            rule_version=self.rules.current.version,
            scanners=self.gate.pool.states() if self.gate.pool is not None else (),
        )

    async def reload(self, *, settings: bool) -> Sequence[str]:
        """Rules and users; with `settings` also configuration and certificates. Which keys need a restart the supervisor tells."""
        if settings:
            before, self.settings = self.settings, await asyncio.to_thread(self.load)
            try:
                await asyncio.to_thread(self.tls.reload)
                await asyncio.to_thread(self.client_tls.reload)
            except (TlsError, OSError):
                self.settings = before
                raise
        await self.rules.refresh()
        return []

    def drain(self, grace: float) -> None:
        """Begin to stop."""
        if self.stop_event is not None:
            self.stop_event.set()

    def _volumes_changed(self) -> None:
        self.volumes.update(self.directory.list_volumes())


def _import_behind() -> ModuleType:
    """*blocking* Import what was put off. Meanwhile the event loop gets the interpreter sooner than it usually would."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(IMPORT_SWITCH_SECONDS)
    try:
        from gatepost.app import behind
    finally:
        sys.setswitchinterval(usual)
    return behind


async def _open_spool(settings: Settings, path: Path, *, background: bool) -> AsyncSpool:
    """The worker's partition. Raises LockedError when another process keeps it for longer than LOCK_SECONDS, or another CoreError."""
    spool = settings.spool
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return await AsyncSpool.open(
                path,
                segment_bytes=spool.segment_bytes,
                min_free_bytes=spool.min_free_bytes,
                resume_free_bytes=spool.resume_free_bytes,
                tailed=settings.history.days > 0,
                background=background,
            )
        except LockedError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


async def _open_history(settings: Settings, index: int, spool: AsyncSpool) -> HistoryService:
    """What follows the partition; it is made whatever state its files are in."""
    place = Place(settings.data / "history", settings.data / "spool", index, settings.workers)
    history = HistoryService(place, settings.history.days, settings.history.max_bytes)
    await history.start(spool.native)
    return history


def _open_sessions(server: object) -> int:
    """SMTP and LMTP servers keep the set of their sessions, POP3 and IMAP servers their number."""
    sessions = getattr(server, "sessions", 0)
    return sessions if isinstance(sessions, int) else len(sessions)
