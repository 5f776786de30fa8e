"""Events: notices of policies and what else is worth a word. `client.events` of GatepostClient."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gatepost.api.events.v1 import events_pb2 as api
from gatepost.api.events.v1 import events_pb2_grpc
from gatepost.client.connection import Connection, Warn


@dataclass(frozen=True, slots=True)
class Event:
    """kind: 'policy-notice', 'policy-fault', 'rules-changed', 'worker' or 'overflow'. worker -1: the supervisor."""

    id: str
    time: datetime
    kind: str
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)
    worker: int = -1


class Events:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = events_pb2_grpc.EventsServiceStub(connection.channel)

    async def newest(self, limit: int = 100, *, kind: str = "", warn: Warn | None = None) -> list[Event]:
        """The newest events, oldest of them first. `warn` is called with a text for each worker that is missing."""
        found: list[Event] = []
        token = ""
        while len(found) < limit:
            request = api.ListEventsRequest(kind=kind, page_size=min(limit - len(found), 1000), page_token=token)
            answer = await self._connection.call(self._stub.ListEvents, request)
            for text in answer.warnings if warn is not None else ():
                assert warn is not None
                warn(text)
            found += map(_event, answer.events)
            token = answer.next_page_token
            if not token:
                break
        return found[::-1]

    async def watch(self, *, kind: str = "", started: Callable[[], None] | None = None) -> AsyncIterator[Event]:
        """Events from now on, without end. `started` is called once the watch is in place."""
        request = api.WatchEventsRequest(kind=kind)
        async for answer in self._connection.stream(self._stub.WatchEvents, request, wait=started or (lambda: None)):
            yield _event(answer.event)


def _event(one: api.Event) -> Event:
    return Event(one.id, one.time.ToDatetime(UTC), one.kind, one.text, dict(one.fields), one.worker)
