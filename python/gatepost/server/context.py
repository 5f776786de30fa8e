"""What every protocol server is built with. Made once per worker by app/; servers keep it and ask `settings()` and `rule_set()` anew
for each connection or message, so that a reload takes effect without a restart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from gatepost.config import Settings
from gatepost.directory import Authenticator
from gatepost.events.bus import EventBus
from gatepost.mailbox import Volumes
from gatepost.message.reply import Reply
from gatepost.policy.counters import Counters
from gatepost.policy.limits import ConnectionCounter
from gatepost.policy.mail_auth import Authentication
from gatepost.queue.plan import Planner
from gatepost.queue.recorded import Recorder
from gatepost.routing.model import Check, RuleSet
from gatepost.scan.gate import Gate
from gatepost.server.tls import TlsContexts
from gatepost.spool import AsyncSpool


class Listener(StrEnum):
    """The receiving listeners, by their key in the settings."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    SUBMISSIONS = "submissions"
    LMTP = "lmtp"

    @property
    def implicit_tls(self) -> bool:
        """TLS from the first octet (RFC 8314)."""
        return self is Listener.SUBMISSIONS

    @property
    def needs_login(self) -> bool:
        """Submission takes mail from authenticated users only (RFC 6409 4.3)."""
        return self in (Listener.SUBMISSION, Listener.SUBMISSIONS)


class Verifier(Protocol):
    """See delivery.verify."""

    async def ask(self, check: Check) -> Reply | None:
        """Why a recipient is not taken now, if so. Does not raise."""


@dataclass(slots=True)
class ServerContext:
    """The parts of a worker that protocol servers use. `connections` is shared by the SMTP and LMTP listeners."""

    settings: Callable[[], Settings]
    rule_set: Callable[[], RuleSet]
    auth: Authenticator
    spool: AsyncSpool
    volumes: Volumes
    tls: TlsContexts
    hostname: str
    log: FilteringBoundLogger = field(default_factory=structlog.get_logger)
    connections: ConnectionCounter = field(default_factory=ConnectionCounter)
    counters: Counters | None = None
    """Counts of senders that have limits; None: nobody is limited."""
    verifier: Verifier | None = None
    """Asks next hops whether they take a recipient; None: nobody is asked."""
    events: EventBus | None = None
    """Where notices of policies go, beside the log."""
    authentication: Authentication | None = None
    """Verifies where mail comes from; None: nothing is verified."""
    planner: Planner = field(default_factory=Planner)
    """The worker's, which plans what is submitted, too."""
    recorder: Recorder | None = None
    """Told what is asked of the rules, for rehearsals."""
    gate: Gate | None = None
    """What every received message passes before its commit; None: nothing is looked into."""
