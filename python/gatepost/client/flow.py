"""The small ordered lists beside rules: who may relay, what holds for senders, policies at stages. `client.flow` of GatepostClient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gatepost.api.flow.v1 import flow_pb2 as api
from gatepost.api.flow.v1 import flow_pb2_grpc
from gatepost.client.connection import Connection
from gatepost.message.plain import from_plain, to_plain
from gatepost.message.protofields import fill, plain_of


@dataclass(frozen=True, slots=True)
class TrustEntry:
    """action: 'trust' or 'distrust'. It fits when each kind of thing it names fits; see docs/rules.md."""

    action: str
    name: str
    networks: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderRule:
    """What holds because of who sends; see docs/rules.md. tls: 'none', 'opportunistic', 'required' or 'verified'. count_by: 'user',
    'client' or 'domain'. password_ref: name of a secret stored with client.rulesets.put_secret.
    """

    comment: str = ""
    name: str
    users: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    host: str = ""
    port: int = 25
    tls: str = "opportunistic"
    implicit_tls: bool = False
    username: str = ""
    password_ref: str = ""
    source_address: str = ""
    helo: str = ""
    allowed_from: tuple[str, ...] = ()
    masquerade: str = ""
    messages_per_hour: int = 0
    messages_per_day: int = 0
    recipients_per_hour: int = 0
    recipients_per_day: int = 0
    count_by: str = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePolicy:
    """A condition at a stage and what is done when it holds; see docs/stages.md. stage: 'connect', 'helo', 'mail', 'rcpt', 'route', 'data',
    'deliver'. action: 'accept', 'reject', 'defer', 'hold', 'quarantine', 'tag', 'add-header', 'remove-header', 'reroute', 'copy', 'notify',
    'limit'.
    """

    comment: str = ""
    name: str
    stage: str
    when: str
    action: str
    enabled: bool = True
    code: int = 0
    text: str = ""
    header: str = ""
    address: str = ""
    host: str = ""
    port: int = 25
    tls: str = "opportunistic"
    most: int = 0
    seconds: int = 3600
    by: str = "client"


Entry = TrustEntry | SenderRule | StagePolicy
E = TypeVar("E", bound=Entry)
_KINDS: dict[type, tuple[str, api.FlowList.ValueType]] = {
    TrustEntry: ("trust", api.FLOW_LIST_TRUST),
    SenderRule: ("sender_rules", api.FLOW_LIST_SENDER_RULES),
    StagePolicy: ("stage_policies", api.FLOW_LIST_STAGE_POLICIES),
}


@dataclass(frozen=True, slots=True)
class Saved:
    """The list's new etag, and what is odd about the entry, though it was taken."""

    etag: str
    warnings: tuple[str, ...] = ()


class Flow:
    """Every method raises the errors of gatepost.client.errors. An etag '' means: whatever is there now. `kind` is the class of entries."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = flow_pb2_grpc.FlowServiceStub(connection.channel)

    async def list(self, kind: type[E]) -> tuple[Sequence[E], str]:
        """The entries in their order, and the etag of the list."""
        field, number = _KINDS[kind]
        answer = await self._connection.call(self._stub.ListEntries, api.ListEntriesRequest(list=number))
        return tuple(from_plain(kind, plain_of(getattr(one, field))) for one in answer.entries), answer.etag

    async def check(self, entry: Entry) -> tuple[str, str]:
        """(field, what is wrong with it); both '' when the entry would be taken."""
        answer = await self._connection.call(self._stub.CheckEntry, api.CheckEntryRequest(entry=_proto(entry)))
        return answer.field, answer.fault

    async def put(self, entry: Entry, *, position: int = 0, etag: str = "") -> Saved:
        """Add or replace; `position` from 1, 0 is where it is or the end."""
        request = api.PutEntryRequest(entry=_proto(entry), position=position, etag=etag)
        answer = await self._connection.call(self._stub.PutEntry, request)
        return Saved(answer.etag, tuple(answer.warnings))

    async def delete(self, kind: type[Any], name: str, *, etag: str = "") -> str:
        """Remove; the list's new etag."""
        request = api.DeleteEntryRequest(list=_KINDS[kind][1], name=name, etag=etag)
        return str((await self._connection.call(self._stub.DeleteEntry, request)).etag)


def _proto(entry: Entry) -> api.FlowEntry:
    made = api.FlowEntry()
    fill(getattr(made, _KINDS[type(entry)][0]), to_plain(entry))
    return made
