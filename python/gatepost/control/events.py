"""EventsService: the events of one process, and of all of them as one. See the proto for every method.

A worker serves its own bus to the supervisor, which merges: pages by id, which sorts by time; a watch is one stream of each worker, and a
worker that goes away shows as an event. Every call to a worker but the watch has a deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any

from gatepost.api.events.v1 import events_pb2 as api
from gatepost.api.events.v1 import events_pb2_grpc
from gatepost.control.convert import timestamp
from gatepost.control.errors import invalid
from gatepost.control.server import Service
from gatepost.control.watching import follow, watched
from gatepost.control.workers import CALL_SECONDS, WorkerLink, WorkerLinks
from gatepost.events.bus import WORKER, Event, EventBus

USUAL, MOST = 100, 1_000
NAME = "gatepost.api.events.v1.EventsService"


class EventsServicer(events_pb2_grpc.EventsServiceServicer):
    """Of one process."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def service(self) -> Service:
        """For ControlServer."""
        return Service(NAME, self, events_pb2_grpc.add_EventsServiceServicer_to_server)

    async def ListEvents(self, request: api.ListEventsRequest, context: object) -> api.ListEventsResponse:
        """See the proto."""
        size = page_size(request)
        found = self._bus.newest(size + 1, before=request.page_token, kind=request.kind)
        return _page([event_proto(one) for one in found], size)

    async def WatchEvents(self, request: api.WatchEventsRequest, context: Any) -> AsyncIterator[api.WatchEventsResponse]:
        """See the proto."""
        events = self._bus.watch()
        pending = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)  # lets the generator register
        await context.send_initial_metadata(())
        try:
            while True:
                event = await pending
                if not request.kind or event.kind == request.kind:
                    yield api.WatchEventsResponse(event=event_proto(event))
                pending = asyncio.ensure_future(anext(events))
        except StopAsyncIteration:
            return
        finally:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            await events.aclose()  # type: ignore[attr-defined]  # it is a generator


class MergedEventsServicer(EventsServicer):
    """Of the supervisor and all workers; `bus` is the supervisor's own."""

    def __init__(self, links: WorkerLinks, bus: EventBus) -> None:
        super().__init__(bus)
        self._links = links

    async def ListEvents(self, request: api.ListEventsRequest, context: object) -> api.ListEventsResponse:
        """See the proto."""
        size = page_size(request)
        inner = api.ListEventsRequest(kind=request.kind, page_size=size, page_token=request.page_token)
        answers = await self._links.ask_all(lambda link: link.events.ListEvents(inner, timeout=CALL_SECONDS))
        own = [event_proto(one) for one in self._bus.newest(size + 1, before=request.page_token, kind=request.kind)]
        everything = [*own, *(one for answer in answers.by_worker.values() for one in answer.events)]
        more = any(answer.next_page_token for answer in answers.by_worker.values())
        made = _page(sorted(everything, key=lambda one: one.id, reverse=True), size, more=more)
        made.partial = answers.partial
        made.warnings.extend(answers.warnings)
        return made

    async def WatchEvents(self, request: api.WatchEventsRequest, context: Any) -> AsyncIterator[api.WatchEventsResponse]:
        """See the proto."""

        async def follow_one(link: WorkerLink, events: "asyncio.Queue[api.WatchEventsResponse]", ready: asyncio.Event) -> None:
            async def tell(back: bool) -> None:
                text = f"worker {link.index} is back" if back else f"worker {link.index} went away, and its events with it"
                self._bus.publish(WORKER, text, worker=str(link.index))

            await follow(link, lambda: link.events.WatchEvents(request), events, ready, tell)

        async with aclosing(watched(context, self._links.all(), follow_one, partial(self._watch_own, request))) as events:
            async for event in events:
                yield event

    async def _watch_own(self, request: api.WatchEventsRequest, events: "asyncio.Queue[api.WatchEventsResponse]") -> None:
        async with aclosing(self._bus.watch()) as own:  # type: ignore[type-var]  # it is a generator
            async for event in own:
                if not request.kind or event.kind == request.kind:
                    await events.put(api.WatchEventsResponse(event=event_proto(event)))


def page_size(request: api.ListEventsRequest) -> int:
    """How many are asked for. Raises ControlError."""
    token = request.page_token
    if token and (len(token) != 20 or any(one not in "0123456789abcdef" for one in token)):
        raise invalid("page_token", "is not one that ListEvents gave")
    return min(request.page_size, MOST) if request.page_size > 0 else USUAL


def event_proto(event: Event) -> api.Event:
    """An event for the wire."""
    made = api.Event(id=event.id, kind=event.kind, text=event.text, fields=event.fields, worker=event.worker)
    made.time.CopyFrom(timestamp(event.time))
    return made


def _page(found: list[api.Event], size: int, *, more: bool = False) -> api.ListEventsResponse:
    """`found` is newest first, one more than a page where there are more."""
    shown = found[:size]
    return api.ListEventsResponse(events=shown, next_page_token=shown[-1].id if shown and (more or len(found) > size) else "")
