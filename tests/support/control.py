"""A whole control plane in this process: two workers' gRPC servers over queues kept in memory, and the supervisor's over both.

Real: every gRPC server and channel (Unix sockets, TCP with TLS), the guard, the audit log, the directory and its rules. In memory: the
spool behind each worker (`MemoryQueue`, with the queue's own filters and views) and the mailbox store. `async with Plane(tmp_path)`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gatepost.config import Endpoint, Settings, load_settings
from gatepost.control.access import Access
from gatepost.control.audit import AuditLog
from gatepost.control.directory import DirectoryServicer
from gatepost.control.events import EventsServicer, MergedEventsServicer
from gatepost.control.flow import FlowServicer
from gatepost.control.history import HistoryServicer
from gatepost.control.history_merge import MergedHistoryServicer
from gatepost.control.lists import ListsServicer
from gatepost.control.mailbox import MailboxProxy, MailboxServicer
from gatepost.control.merge import MergedQueueServicer
from gatepost.control.policies import PoliciesServicer
from gatepost.control.ports import ListenerInfo, ServerFacts, WorkerFacts, WorkerPlace
from gatepost.control.quarantine import QuarantineServicer
from gatepost.control.quarantine_domains import DomainQuarantineServicer
from gatepost.control.queue import QueueServicer
from gatepost.control.rules import RulesServicer
from gatepost.control.rulesets import RulesetsServicer, surroundings
from gatepost.control.server import Certificates, ControlServer
from gatepost.control.status import ServerServicer, reload_workers
from gatepost.control.worker import WorkerServicer
from gatepost.control.workers import WorkerLinks
from gatepost.directory import Directory
from gatepost.events.bus import EventBus
from gatepost.message.envelope import Envelope, Meta, Origin
from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.message.reply import Reply, SmtpError
from gatepost.message.verdict import WITHHELD
from gatepost.native import Cause, NotFoundError
from gatepost.queue.actions import Done, Order, RerouteRefusedError, UndoRefusedError, UnknownOperationError, Ways
from gatepost.queue.events import EventHub, QueueEvent
from gatepost.queue.history import HistoryService, Place
from gatepost.queue.list_store import ListStore
from gatepost.queue.operations import Operation
from gatepost.queue.quarantine import QuarantinePage
from gatepost.queue.quarantine_views import QuarantineFilter
from gatepost.queue.submit import SubmissionRefused, Submitted
from gatepost.queue.views import Destination, Filter, HistoryEntry, Page, QueuedMessage, decode_summary
from gatepost.routing.model import Route, RouteKind, RuleSet
from gatepost.scan.scanners.entry import ScannerState
from support.certificates import Authority
from support.queue_filter import matches

BASE = 0x0193_0000_0000_7000_8000_0000_0000_0000


def message_id(number: int) -> bytes:
    """A UUIDv7 that sorts by `number`; the first eight digits are the same for all below 4096."""
    return (BASE + (number << 80)).to_bytes(16, "big")


@dataclass
class MemoryReader:
    """What the native reader offers, over octets."""

    octets: bytes
    position: int = 0

    def read(self, n: int = 65536) -> bytes:
        """The next octets."""
        part = self.octets[self.position : self.position + n]
        self.position += len(part)
        return part

    def header(self, limit: int = 65536) -> bytes:
        """The header section."""
        return self.octets.partition(b"\r\n\r\n")[0][:limit] + b"\r\n"


def split(ids: bytes) -> list[bytes]:
    """Packed ids one by one."""
    return [ids[at : at + 16] for at in range(0, len(ids), 16)]


class MemoryQueue:
    """QueueService and QueueActions over a dict. `add` puts a message in."""

    def __init__(self) -> None:
        self.rows: dict[bytes, list[Any]] = {}
        self.bodies: dict[bytes, bytes] = {}
        self.events = EventHub()
        self.paused: set[str] = set()
        self.calls: list[tuple[Any, ...]] = []
        self.known: dict[str, Operation] = {}
        self.touched: dict[str, tuple[bytes, ...]] = {}

    def add(self, number: int, *recipients: str, sender: str = "sender@example.org", held: bool = False, body: bytes = b"") -> str:
        """A message with pending recipients; its id as text."""
        one = message_id(number)
        listed = [self._recipient(address, held) for address in recipients or ("rcpt@example.net",)]
        meta = Meta(Origin("ESMTP", "192.0.2.1", 4711, "client.example"), rule_version=3).encode()
        body = body or b"Received: by gatepost\r\nSubject: test\r\n  folded\r\n\r\nHello\r\n"
        self.rows[one] = [one, len(body), time.time_ns() // 1000, sender, meta, False, listed]
        self.bodies[one] = body
        return format_message_id(one)

    def _recipient(self, address: str, held: bool) -> list[Any]:
        route = Route(RouteKind.SMTP, address)
        last = b'{"code":451,"enhanced":"4.7.1","text":"greylisted","host":"mx.example[192.0.2.9]:25","outcome":"deferred"}'
        return [address, "", route.destination, 0, route.encode(), "PENDING", held, time.time_ns() // 1000, 1, last]

    def _row(self, one: bytes) -> list[Any]:
        if one not in self.rows:
            raise NotFoundError(f"no message {format_message_id(one)}")
        return self.rows[one]

    async def whole(self) -> None:
        """Nothing to wait for."""

    async def list(self, wanted: Filter | None = None, page_token: str = "", limit: int = 100) -> Page:
        after = parse_message_id(page_token) if page_token else b""
        found: list[QueuedMessage] = []
        for one in sorted(self.rows):
            if one <= after:
                continue
            if matches(wanted or Filter(), self._raw(one), time.time_ns() // 1000):
                found.append(decode_summary(self._raw(one)))
                if len(found) == limit:
                    return Page(tuple(found), format_message_id(one))
        return Page(tuple(found))

    def _raw(self, one: bytes) -> Any:
        row = self._row(one)
        return (*row[:6], [tuple(recipient) for recipient in row[6]])

    async def get(self, one: bytes) -> QueuedMessage:
        return decode_summary(self._raw(one))

    async def history(self, one: bytes) -> Sequence[HistoryEntry]:
        self._row(one)
        return [HistoryEntry(1_700_000_000_000_000, "deferred", 0, {"code": 451, "text": "greylisted", "reason": "greylisted"})]

    def open(self, one: bytes) -> MemoryReader:
        self._row(one)
        return MemoryReader(self.bodies[one])

    def stats(self) -> dict[str, int]:
        return {
            "messages": len(self.rows),
            "recipients": sum(len(row[6]) for row in self.rows.values()),
            "free_bytes": 1000 - len(self.rows),
        }

    def destinations(self) -> Sequence[Destination]:
        names = {recipient[2] for row in self.rows.values() for recipient in row[6]} | self.paused
        return [Destination(name, self._pending(name), 0, 0, name in self.paused) for name in sorted(names)]

    def _pending(self, name: str) -> int:
        return sum(recipient[2] == name for row in self.rows.values() for recipient in row[6])

    async def select(self, wanted: Filter, limit: int) -> bytes:
        now = time.time_ns() // 1000
        return b"".join([one for one in sorted(self.rows) if matches(wanted, self._raw(one), now)][:limit])

    async def measure(self, ids: bytes) -> tuple[int, int, int, int, int]:
        rows = [self.rows[one] for one in split(ids) if one in self.rows]
        recipients = [recipient for row in rows for recipient in row[6]]
        return len(rows), len(recipients), sum(recipient[6] for recipient in recipients), 0, sum(row[1] for row in rows)

    async def without_withheld(self, ids: bytes) -> tuple[bytes, int]:
        kept = [one for one in split(ids) if not any(recipient[2] in WITHHELD for recipient in self.rows[one][6])]
        return b"".join(kept), len(ids) // 16 - len(kept)

    async def present(self, ids: bytes) -> bytes:
        return b"".join(one for one in split(ids) if one in self.rows)

    async def causes(self, limit: int) -> tuple[Sequence[Cause], int, int]:
        groups: dict[str, list[bytes]] = {}
        for one, row in sorted(self.rows.items()):
            for recipient in row[6]:
                groups.setdefault(recipient[2], []).append(one)
        detail = b'{"code":451,"enhanced":"4.7.1","text":"greylisted, id 7","host":"mx.example","reason":"greylisted"}'
        made: list[Cause] = [
            (("greylisted", "4.7.1", 451, "mx.example", "greylisted, id …"), (len(ids), 0, len(set(ids)), 5), (ids[0], "a@b", detail))
            for ids in groups.values()
        ]
        return made[:limit], sum(map(len, groups.values())), len(self.rows)

    # ---- QueueActions

    async def hold(self, ids: bytes, order: Order) -> Done:
        return self._set_held(ids, order, True)

    async def release(self, ids: bytes, order: Order) -> Done:
        return self._set_held(ids, order, False)

    def _set_held(self, ids: bytes, order: Order, held: bool) -> Done:
        name = "hold" if held else "release"
        self.calls.append((name, tuple(split(ids)), order.actor))
        changed = [one for one in split(ids) if any(recipient[6] != held for recipient in self._row(one)[6])]
        for one in changed:
            for recipient in self._row(one)[6]:
                recipient[6] = held
            self.events.publish(QueueEvent(time.time_ns() // 1000, "held" if held else "released", one, detail={"by": order.actor}))
        return self._done(name, changed, order)

    def _done(self, name: str, changed: Sequence[bytes], order: Order) -> Done:
        if not changed:
            return Done(0)
        now = time.time_ns() // 1000
        count, until = len(changed), now + 900_000_000
        operation = Operation(order.operation_id, name, order.actor, now, count, until, "", order.selection, "done", count)
        self.known[order.operation_id] = operation
        self.touched[order.operation_id] = tuple(changed)
        return Done(len(changed), operation)

    async def retry(self, ids: bytes, order: Order) -> Done:
        self.calls.append(("retry", tuple(split(ids)), order.actor))
        return self._done("retry", split(ids), order)

    async def remove(self, ids: bytes, order: Order, *, dsn: bool = False) -> Done:
        self.calls.append(("remove", tuple(split(ids)), order.actor, dsn))
        for one in split(ids):
            self.rows.pop(one)
        return self._done("remove", split(ids), order)

    async def reroute(self, one: bytes, ways: Ways, order: Order) -> Done:
        for index, route in ways.items():
            self.calls.append(("reroute", one, index, route.address, route, order.actor))
            recipient = self._row(one)[6][index]
            recipient[0], recipient[2], recipient[4] = route.address, route.destination, route.encode()
        return self._done("reroute", [one], order)

    async def reroute_all(self, ids: bytes, choose: Callable[[QueuedMessage], Ways], order: Order) -> Done:
        changed, refused, first = [], 0, ""
        for one in split(ids):
            try:
                await self.reroute(one, choose(await self.get(one)), order)
                changed.append(one)
            except RerouteRefusedError as error:
                refused, first = refused + 1, first or str(error)
        return replace(self._done("reroute", changed, order), refused=refused, first_refusal=first)

    async def undo(self, operation_id: str, actor: str) -> Operation:
        operation = self.known.get(operation_id)
        if operation is None:
            raise UnknownOperationError(operation_id)
        if operation.kind == "retry":
            raise UndoRefusedError("a retry only makes messages due")
        self.calls.append(("undo", operation_id, actor))
        for one in self.touched[operation_id]:
            for recipient in self._row(one)[6]:
                recipient[6] = operation.kind == "release"
        counts = {"undone": operation.changed, "recipients": operation.changed}
        undone = replace(operation, state="undone", undone_by=actor, undone_at=time.time_ns() // 1000, undo=counts)
        self.known[operation_id] = undone
        return undone

    def operations(self) -> Sequence[Operation]:
        return list(self.known.values())

    async def pause_destination(self, name: str, author: str = "") -> Destination:
        self.paused.add(name)
        return Destination(name, self._pending(name), 0, 0, True)

    async def resume_destination(self, name: str, author: str = "") -> Destination:
        self.paused.discard(name)
        return Destination(name, self._pending(name), 0, 0, False)

    def watch(self) -> AsyncIterator[QueueEvent]:
        return self.events.watch()


class MemorySubmitter:
    """Submitter into a MemoryQueue. Addresses at refused.test are refused, messages above `limit` octets are too big."""

    def __init__(self, queue: MemoryQueue, start: int) -> None:
        self.queue = queue
        self.number = start
        self.limit = 1 << 20
        self.envelopes: list[Envelope] = []

    async def submit(self, envelope: Envelope, body: Any, *, trusted: bool, hold: bool = False, received: str = "") -> Submitted:
        reply = Reply(550, "5.1.1", "no such user")
        refused = tuple((one.address, reply) for one in envelope.recipients if one.address.endswith("@refused.test"))
        if len(refused) == len(envelope.recipients):
            raise SubmissionRefused(refused)
        octets = b"".join([part async for part in body])
        if len(octets) > self.limit:
            raise SmtpError(552, "5.3.4", "message is larger than this server takes")
        self.number += 1
        self.envelopes.append(envelope)
        taken = [one.address for one in envelope.recipients if not one.address.endswith("@refused.test")]
        self.queue.add(self.number, *taken, sender=envelope.reverse_path, held=hold, body=octets)
        return Submitted(message_id(self.number), len(octets), refused)


class MemoryQuarantine:
    """The calls of a quarantine that control/ makes, of an empty one."""

    async def page(self, wanted: QuarantineFilter, page_token: str, limit: int) -> QuarantinePage:
        return QuarantinePage(())

    async def get(self, one: bytes) -> object:
        raise NotFoundError("it is not in quarantine")

    async def select(self, wanted: QuarantineFilter) -> bytes:
        return b""


class MemoryStore:
    """The calls of a mail store that control/ makes."""

    def __init__(self) -> None:
        self.deleted: list[bytes] = []

    async def run(self, name: str, *arguments: Any) -> Any:
        if name == "delete_mailbox":
            self.deleted.append(arguments[0])
        inbox = (b"f" * 16, "INBOX", "", True, 1, 8, 7, 2, 4096, 9, 1)
        sent = (b"g" * 16, "Sent", "\\Sent", True, 1, 1, 0, 0, 0, 1, 1)
        return {"mailbox_usage": (4096, 7), "folders": [sent, inbox]}.get(name)


class MemoryVolumes:
    """One store for every name."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def by_name(self, name: str) -> MemoryStore:
        return self.store


@dataclass
class Rules:
    """The rule set in force, read anew when told."""

    directory: Directory
    current: RuleSet = field(init=False)

    def __post_init__(self) -> None:
        self.current = self.directory.snapshot()

    def __call__(self) -> RuleSet:
        return self.current

    async def refresh(self) -> None:
        self.current = await asyncio.to_thread(self.directory.snapshot)


class Worker:
    """One worker's gRPC server."""

    def __init__(self, index: int, data: Path, rules: Rules) -> None:
        self.index = index
        self.rules = rules
        self.queue = MemoryQueue()
        self.submitter = MemorySubmitter(self.queue, 2000 + index * 500)
        self.volumes = MemoryVolumes()
        self.events = EventBus(index)
        self.path = data / "run" / f"worker-{index}.sock"
        self.reloads: list[bool] = []
        self.scanners: tuple[ScannerState, ...] = ()
        self.healthy = True
        self.started_at = time.time()
        self.server: ControlServer | None = None
        self.settings = Settings()

    async def start(self) -> None:
        queue: Any = self.queue
        volumes: Any = self.volumes
        submitter: Any = self.submitter
        servicer = QueueServicer(queue, queue, submitter, self.rules, lambda: self.settings, self.index)
        quarantine: Any = MemoryQuarantine()
        worker = WorkerServicer(self, quarantine, self.queue.stats, servicer.resolve)
        switched_off = HistoryService(Place(self.path.parent, self.path.parent, self.index, 2), 0, 0)
        services = [servicer.service(), MailboxServicer(volumes, self.rules).service(), worker.service()]
        services.append(QuarantineServicer(quarantine, queue, servicer.resolve_one, Settings, self.index).service())
        services.append(HistoryServicer(switched_off, self.index).service())
        services.append(EventsServicer(self.events).service())
        self.server = ControlServer(services, Access(lambda _: None, relayed=True), unix_path=self.path)
        await self.server.start()

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0.1)
            self.server = None

    def facts(self) -> WorkerFacts:
        detail = "" if self.healthy else "disk on fire"
        return WorkerFacts(
            self.index, self.healthy, detail, f"p{self.index}", self.started_at, 2, self.rules.current.version, self.scanners
        )

    async def reload(self, *, settings: bool) -> Sequence[str]:
        self.reloads.append(settings)
        return []

    def drain(self, grace: float) -> None:
        self.drained = grace


class Plane:
    """Supervisor and workers. `data` may be handed to GatepostClient and to the CLI."""

    def __init__(self, directory: Path, *, workers: int = 2, client_ca: bool = False, tls: bool = True) -> None:
        self.data = directory / "data"
        (self.data / "run").mkdir(parents=True)
        self.authority = Authority(directory)
        self.authority.server_context("localhost", "127.0.0.1")
        self.client_ca = client_ca
        self.tls = tls
        self.directory = Directory(self.data / "directory.db", migrate=True)
        self.settings: Settings = load_settings(data=self.data, overrides={"trust.networks": ["192.0.2.0/24"]}, environ={})
        self.rules = Rules(self.directory)
        self.events = EventBus()
        self.workers = [Worker(index, self.data, self.rules) for index in range(workers)]
        self.reload_problem: Exception | None = None
        self.drained = asyncio.Event()
        self.roles = {"ops.example": "operator"}

    async def __aenter__(self) -> "Plane":
        for worker in self.workers:
            await worker.start()
        self.links = WorkerLinks({worker.index: worker.path for worker in self.workers})
        self.audit = AuditLog(self.data / "audit.log")
        self.server = ControlServer(
            self._services(),
            Access(self.directory.verify_token, lambda: self.roles),
            unix_path=self.data / "control.sock",
            tcp=[Endpoint("127.0.0.1", 0)],
            certificates=self._certificates(),
            audit=self.audit,
        )
        await self.server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop(0.1)
        await self.links.close()
        for worker in self.workers:
            await worker.stop()
        self.audit.close()
        self.directory.close()

    def _services(self) -> list[Any]:
        proxy = MailboxProxy(self.links)
        settings: Callable[[], Settings] = lambda: self.settings  # noqa: E731
        queue = MergedQueueServicer(self.links)
        return [
            queue.service(),
            DomainQuarantineServicer(self.links, queue, self.directory, self.changed, self.rules, settings).service(),
            MergedHistoryServicer(self.links).service(),
            MergedEventsServicer(self.links, self.events).service(),
            RulesServicer(self.directory, self.rules, settings, self.changed, self).service(),
            RulesetsServicer(self.directory, self.rules, settings, self.changed, self, queue).service(),
            PoliciesServicer(self.directory, self.rules, settings, self.changed, queue).service(),
            FlowServicer(self.directory, self.changed, lambda: surroundings(self.settings, self)).service(),
            ListsServicer(ListStore(self.data), self.rules, self.directory.mailing_lists, settings, self.changed, queue).service(),
            DirectoryServicer(self.directory, self.changed, proxy.purge).service(),
            proxy.service(),
            ServerServicer(self, self.links, self.rules, self.audit).service(),
        ]

    def _certificates(self) -> Certificates | None:
        if not self.tls:
            return None
        pem = (self.authority.directory / "localhost.pem").read_bytes()
        return Certificates(pem, pem, self.authority.ca_file.read_bytes() if self.client_ca else b"")

    async def changed(self) -> None:
        await self.rules.refresh()
        await reload_workers(self.links)

    @property
    def tcp(self) -> str:
        """'localhost:PORT'."""
        return f"localhost:{self.server.endpoints[0].port}"

    def token(self, role: str) -> str:
        """The secret of a new token."""
        return self.directory.create_token(f"a-{role}", role, author="test")[1]

    # ---- StatusSource ----

    def status(self) -> ServerFacts:
        places = [
            WorkerPlace(worker.index, 4000 + worker.index, "running" if worker.server else "restarting", 1) for worker in self.workers
        ]
        listeners = [ListenerInfo("smtp", "127.0.0.1:2525"), ListenerInfo("imaps", "127.0.0.1:2993", implicit_tls=True)]
        return ServerFacts("0.1.0", "gatepost.test", str(self.data), time.time() - 60, 4711, places, listeners, [str(self.data)])

    async def reload(self) -> Sequence[str]:
        if self.reload_problem:
            raise self.reload_problem
        return ["workers"]

    def drain(self) -> None:
        self.drained.set()
