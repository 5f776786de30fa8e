"""FlowService over the directory: the small ordered lists of the rule set (routing.parts). Served by the supervisor.

An entry is checked by the very code that stores it; then, as with rules, `changed` is awaited, so that the caller's answer means that
workers use it. Directory calls run in threads. Errors: see control.errors.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gatepost.api.flow.v1 import flow_pb2 as api
from gatepost.api.flow.v1 import flow_pb2_grpc
from gatepost.control.access import author
from gatepost.control.candidate import no_secret
from gatepost.control.errors import invalid
from gatepost.control.server import Service
from gatepost.directory import Directory, InvalidValue
from gatepost.directory.part_checks import entry as checked
from gatepost.message.plain import from_plain, to_plain
from gatepost.message.protofields import fill, plain_of
from gatepost.routing.lints import Surroundings, entry_lints
from gatepost.routing.parts import PARTS

_LISTS = {api.FLOW_LIST_TRUST: "trust", api.FLOW_LIST_SENDER_RULES: "sender_rules", api.FLOW_LIST_STAGE_POLICIES: "stage_policies"}
MAX_POSITION = 10_000


class FlowServicer(flow_pb2_grpc.FlowServiceServicer):
    """`changed` spreads a change; `around` is what lints must know of this server."""

    def __init__(
        self, directory: Directory, changed: Callable[[], Awaitable[None]], around: Callable[[], Surroundings] = Surroundings
    ) -> None:
        self._around = around
        self._directory = directory
        self._changed = changed

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.flow.v1.FlowService", self, flow_pb2_grpc.add_FlowServiceServicer_to_server)

    async def ListEntries(self, request: api.ListEntriesRequest, context: object) -> api.ListEntriesResponse:
        """See the proto."""
        part = _part(request.list)
        stored = await asyncio.to_thread(self._directory.get_part, part)
        return api.ListEntriesResponse(entries=[_proto(part, one) for one in stored.entries], etag=stored.etag)

    async def CheckEntry(self, request: api.CheckEntryRequest, context: object) -> api.CheckEntryResponse:
        """See the proto."""
        part, entry = _entry(request.entry)
        try:
            await asyncio.to_thread(checked, part, entry)
        except InvalidValue as fault:
            return api.CheckEntryResponse(field=fault.field, fault=fault.problem)
        return api.CheckEntryResponse()

    async def PutEntry(self, request: api.PutEntryRequest, context: object) -> api.PutEntryResponse:
        """See the proto."""
        part, entry = _entry(request.entry)
        if not 0 <= request.position <= MAX_POSITION:
            raise invalid("position", f"must be 0 to {MAX_POSITION}")
        odd = list(entry_lints(part, [entry], self._around()))
        for lint in odd:
            if lint.error:
                raise invalid(f"entry.{part}.{lint.path[-1]}", lint.message)
        etag = await asyncio.to_thread(
            self._directory.put_entry, part, entry, position=request.position, etag=request.etag or None, author=author()
        )
        await self._changed()
        odd += await asyncio.to_thread(lambda: list(no_secret(self._directory, part, [entry])))
        return api.PutEntryResponse(etag=etag, warnings=[f"{one.message} [{one.code}]" for one in odd])

    async def DeleteEntry(self, request: api.DeleteEntryRequest, context: object) -> api.DeleteEntryResponse:
        """See the proto."""
        part = _part(request.list)
        etag = await asyncio.to_thread(self._directory.delete_entry, part, request.name, etag=request.etag or None, author=author())
        await self._changed()
        return api.DeleteEntryResponse(etag=etag)


def _part(number: "api.FlowList.ValueType") -> str:
    part = _LISTS.get(number)
    if part is None:
        raise invalid("list", "is needed")
    return part


def _entry(given: api.FlowEntry) -> tuple[str, Any]:
    """(list, entry). Raises ControlError."""
    part = given.WhichOneof("entry")
    if part is None:
        raise invalid("entry", "is needed")
    try:
        return part, from_plain(PARTS[part], plain_of(getattr(given, part)))
    except ValueError as error:
        raise invalid(f"entry.{part}", str(error)) from None


def _proto(part: str, entry: Any) -> api.FlowEntry:
    made = api.FlowEntry()
    fill(getattr(made, part), to_plain(entry))
    return made
