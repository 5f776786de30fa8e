"""The typed asynchronous SDK of the Gatepost API.

    async with GatepostClient("/var/lib/gatepost") as client:
        async for message in client.queue.list(QueueFilter(held=True)):
            await client.queue.release(message.message_id)

Imports nothing of the server. The command line is its first user; docs/api.md describes the API itself.
"""

import os
from types import TracebackType
from typing import Self

from gatepost.client.connection import DEFAULT_TIMEOUT, Connection, Target, data_directory, find_target
from gatepost.client.directory import Directory, Mailboxes
from gatepost.client.errors import (
    AlreadyExistsError,
    ConflictError,
    DeadlineError,
    EtagMismatchError,
    GatepostError,
    InUseError,
    InvalidRequestError,
    NotFoundError,
    NotRunningError,
    PermissionDeniedError,
    RefusedError,
    ServerError,
    ServerRefusedError,
    UnauthenticatedError,
    UnavailableError,
)
from gatepost.client.events import Events
from gatepost.client.flow import Flow, SenderRule, StagePolicy, TrustEntry
from gatepost.client.history import History, TraceFilter
from gatepost.client.lists import Lists
from gatepost.client.operations import Frozen, RerouteTarget
from gatepost.client.policies import Policies
from gatepost.client.quarantine import Quarantine, QuarantineFilter
from gatepost.client.queue import ALL, Queue, Selection
from gatepost.client.rule_values import (
    AutoReply,
    DeliveryOptions,
    Disclaimer,
    HandlerOptions,
    ListSettings,
    NextHop,
    Program,
    RuleSettings,
    Transport,
)
from gatepost.client.rules import Rules
from gatepost.client.rulesets import Rulesets
from gatepost.client.server import Server
from gatepost.client.values import DomainRule, Gateway, Handler, QueueFilter, Route


class GatepostClient:
    """A connection to one server; use it as an asynchronous context manager.

    `server` is a data directory on this machine, or a Target (find_target makes one for TCP, with token and CA). None: GATEPOST_SERVER,
    GATEPOST_DATA or ./var decide. `timeout` is the deadline of each call in seconds; bulk calls and bodies have longer ones of their own.
    Entering raises NotRunningError when there is no socket; calls raise it when nobody answers.
    """

    queue: Queue
    quarantine: Quarantine
    history: History
    rules: Rules
    rulesets: Rulesets
    policies: Policies
    flow: Flow
    events: Events
    lists: Lists
    directory: Directory
    mailboxes: Mailboxes
    server: Server

    def __init__(self, server: str | os.PathLike[str] | Target | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._target = server if isinstance(server, Target) else None
        self._data = None if isinstance(server, Target) else server
        self._timeout = timeout
        self._connection: Connection | None = None

    @property
    def address(self) -> str:
        """'unix:PATH' or 'host:port', once connected."""
        return self._connection.address if self._connection else ""

    async def __aenter__(self) -> Self:
        self._connection = Connection(self._target or find_target(self._data), self._timeout)
        self.queue = Queue(self._connection)
        self.quarantine = Quarantine(self._connection)
        self.history = History(self._connection)
        self.rules = Rules(self._connection)
        self.rulesets = Rulesets(self._connection)
        self.policies = Policies(self._connection)
        self.flow = Flow(self._connection)
        self.events = Events(self._connection)
        self.lists = Lists(self._connection)
        self.directory = Directory(self._connection)
        self.mailboxes = Mailboxes(self._connection)
        self.server = Server(self._connection)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


__all__ = [
    "ALL",
    "AlreadyExistsError",
    "AutoReply",
    "ConflictError",
    "DeadlineError",
    "DeliveryOptions",
    "Disclaimer",
    "DomainRule",
    "EtagMismatchError",
    "Flow",
    "Frozen",
    "GatepostClient",
    "GatepostError",
    "Gateway",
    "Handler",
    "HandlerOptions",
    "InUseError",
    "InvalidRequestError",
    "ListSettings",
    "Lists",
    "NextHop",
    "NotFoundError",
    "NotRunningError",
    "PermissionDeniedError",
    "Policies",
    "Program",
    "QuarantineFilter",
    "QueueFilter",
    "RefusedError",
    "RerouteTarget",
    "Route",
    "RuleSettings",
    "Rules",
    "Rulesets",
    "Selection",
    "SenderRule",
    "ServerError",
    "ServerRefusedError",
    "StagePolicy",
    "Target",
    "TraceFilter",
    "Transport",
    "TrustEntry",
    "UnauthenticatedError",
    "UnavailableError",
    "data_directory",
    "find_target",
]
