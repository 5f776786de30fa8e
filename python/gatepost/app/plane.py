"""The supervisor's control plane: gRPC on DIR/control.sock and TCP, over the directory and the workers' queues seen as one.

Built by the supervisor. Every change of rules, users or volumes is taken over by all workers before the caller gets the answer, so that
`user add` followed by a login works at once. Raises ControlServerError or TlsError at start.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

import structlog

from gatepost.app.snapshot import LiveRules
from gatepost.config import Settings, parse_endpoint
from gatepost.control.access import Access, author
from gatepost.control.audit import AuditLog
from gatepost.control.directory import DirectoryServicer
from gatepost.control.events import MergedEventsServicer
from gatepost.control.flow import FlowServicer
from gatepost.control.history_merge import MergedHistoryServicer
from gatepost.control.list_digests import ListDigests
from gatepost.control.lists import ListsServicer
from gatepost.control.mailbox import MailboxProxy
from gatepost.control.merge import MergedQueueServicer
from gatepost.control.policies import PoliciesServicer
from gatepost.control.ports import StatusSource
from gatepost.control.quarantine_domains import DomainQuarantineServicer
from gatepost.control.rules import RulesServicer
from gatepost.control.rulesets import RulesetsServicer, surroundings
from gatepost.control.server import Certificates, ControlServer
from gatepost.control.status import ServerServicer, reload_workers
from gatepost.control.workers import WorkerLinks
from gatepost.directory import Directory
from gatepost.events.bus import RULES, EventBus
from gatepost.queue.list_store import ListStore
from gatepost.server.tls import certificate_files

STOP_SECONDS = 1.0

log = structlog.get_logger()


class ControlPlane:
    """All services of the supervisor behind one guard."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        directory: Directory,
        rules: LiveRules,
        workers: Sequence[int],
        source: StatusSource,
        *,
        drains: Container[int] = (),
        lists: ListStore | None = None,
    ) -> None:
        self._settings = settings
        self._rules = rules
        data = settings().data
        self.unix_path = data / "control.sock"
        self._links = WorkerLinks({index: data / "run" / f"worker-{index}.sock" for index in workers}, drains)
        self._audit = AuditLog(data / "audit.log")
        self._events = EventBus()
        self._version = rules.current.version
        mailboxes = MailboxProxy(self._links)
        queue = MergedQueueServicer(self._links)
        self.quarantine = DomainQuarantineServicer(self._links, queue, directory, self.changed, rules, settings)
        store = lists or ListStore(data)
        self.list_digests = ListDigests(self._links, store, rules, settings)
        services = [
            queue.service(),
            ListsServicer(store, rules, directory.mailing_lists, settings, self.changed, queue).service(),
            self.quarantine.service(),
            MergedHistoryServicer(self._links).service(),
            MergedEventsServicer(self._links, self._events).service(),
            RulesServicer(directory, rules, settings, self.changed, source).service(),
            RulesetsServicer(directory, rules, settings, self.changed, source, queue).service(),
            PoliciesServicer(directory, rules, settings, self.changed, queue).service(),
            FlowServicer(directory, self.changed, lambda: surroundings(settings(), source)).service(),
            DirectoryServicer(directory, self.changed, mailboxes.purge).service(),
            mailboxes.service(),
            ServerServicer(source, self._links, rules, self._audit).service(),
        ]
        access = Access(directory.verify_token, lambda: settings().control.client_roles)
        self._server = ControlServer(
            services,
            access,
            unix_path=self.unix_path,
            tcp=[parse_endpoint(text) for text in settings().listen.control_tcp],
            certificates=self.read_certificates(),
            audit=self._audit,
        )

    @property
    def tcp_endpoints(self) -> list[str]:
        """Concrete TCP addresses, after `start`."""
        return [str(endpoint) for endpoint in self._server.endpoints]

    async def start(self) -> None:
        """Serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Let calls under way finish for a second, then close."""
        self._events.close()
        await self._server.stop(STOP_SECONDS)
        await self._links.close()
        self._audit.close()

    async def retired(self, index: int) -> None:
        """The partition of a drain worker is empty and its worker has ended."""
        await self._links.retire(index)

    async def tell_health(self, workers: Mapping[int, bool]) -> None:
        """`workers`: number → works as it should. The whole counts as not serving while one of them is closed after an I/O error."""
        for index, well in workers.items():
            await self._server.set_health(f"gatepost.worker.{index}", serving=well)
        await self._server.set_health("", serving=all(workers.values()))

    async def changed(self) -> None:
        """A change was committed: take it over here and in every worker."""
        await self._rules.refresh()
        version = self._rules.current.version
        if version != self._version:
            self._version = version
            self._events.publish(RULES, f"rule set version {version} is in force", version=str(version), author=author())
        answers = await reload_workers(self._links)
        for warning in answers.warnings:
            log.warning("a worker will read the change when it is back", detail=warning)

    async def reloaded(self, certificates: Certificates | None) -> None:
        """Settings or certificates were read anew: pass it on to the workers and to our own TLS side."""
        if certificates is not None:
            self._server.replace_certificates(certificates)
        answers = await reload_workers(self._links, settings=True)
        for warning in answers.warnings:
            log.warning("a worker will read the settings when it is back", detail=warning)

    def read_certificates(self) -> Certificates | None:
        """*blocking* What the TCP side shows, by the settings in force; None without TLS. Raises OSError or TlsError."""
        settings = self._settings()
        if not settings.control.tcp_tls:
            return None
        certificate, key = certificate_files(settings)
        authority = settings.control.client_ca_file
        return Certificates(certificate.read_bytes(), key.read_bytes(), Path(authority).read_bytes() if authority else b"")
