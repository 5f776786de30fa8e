"""The interceptor around every call: who is it, may they, write it down, call, turn failures into status and detail.

Called by grpc.aio for each call of every service, health and reflection included. Order: access first (a refused caller learns
nothing else), then the audit record, then the handler. A change whose audit record cannot be written is not made.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.control.access import CALLER, RPCS, Access, Caller, Role, Rule
from gatepost.control.audit import AuditError, AuditLog, Entry
from gatepost.control.errors import denied, precondition, to_control_error, trailer, unauthenticated

MAX_SUMMARY = 2000
MAX_SUMMARISED_BYTES = 500_000
SWALLOW_SECONDS = 3.0
SWALLOW_BYTES = 64 << 20
REFUSED_TEXT = "the change was not made: its audit record could not be written"
SECRET_FIELDS = frozenset({"password", "secret", "chunk", "link_token"})

log = structlog.get_logger()

Handler = Callable[[Any, Any], Any]


class Guard(grpc.aio.ServerInterceptor):
    """`audit` None: changes are not recorded here (a worker: its supervisor did)."""

    def __init__(self, access: Access, audit: AuditLog | None) -> None:
        self._access = access
        self._audit = audit

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler that would serve the call, whatever its kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        call = self._wrap(method, inner, streaming_request=handler.request_streaming)
        return make(call, handler.request_deserializer, handler.response_serializer)

    def _wrap(self, method: str, inner: Handler, *, streaming_request: bool) -> Handler:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                caller, rule = await self._admit(method, context)
                if not (rule.changes and self._audit):
                    return await _run(inner, request, context)
                if streaming_request:
                    request, first = await _peek(request)
                else:
                    first = request
                return await self._audited(method, caller, first, lambda: _run(inner, request, context))
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:
                failure = to_control_error(error, method)
                if streaming_request:
                    await _swallow(request)
                await context.abort(failure.status, str(failure), trailer(failure))

        return guarded

    async def _admit(self, method: str, context: Any) -> tuple[Caller, Rule]:
        """The caller and the rule of the RPC. Raises ControlError when it may not."""
        rule = RPCS.get(method)
        if rule is not None and rule.role is Role.NOBODY:
            return Caller("nobody", Role.NOBODY, ""), rule
        caller = await self._access.identify(context)
        if caller.role is Role.NOBODY:
            raise unauthenticated("a token is needed: send metadata 'authorization: Bearer TOKEN' (gatepost token add makes one)")
        if rule is None:
            raise denied(f"{method} is not open to anyone")
        if not rule.admits(caller):
            if rule.changes:
                await self._record(method, caller, None, "PERMISSION_DENIED")
            raise denied(f"{_name(method)} needs the role {rule.role.name.lower()}; {caller.actor} is {_words(caller.role)}")
        CALLER.set(caller)
        return caller, rule

    async def _audited(self, method: str, caller: Caller, request: Any, call: Callable[[], Awaitable[Any]]) -> Any:
        if getattr(request, "dry_run", False) is True:
            return await call()
        entry = await self._record(method, caller, request, None)
        outcome = "UNKNOWN"
        try:
            result = await call()
            outcome = "OK"
            return result
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except Exception as error:
            outcome = to_control_error(error, method).status.name
            raise
        finally:
            await asyncio.shield(self._finish(entry, outcome, method))

    async def _record(self, method: str, caller: Caller, request: Any, outcome: str | None) -> Entry | None:
        """Write the record; with an outcome at once, else it stays open. Raises ControlError when it cannot be written."""
        if self._audit is None:
            return None
        record = {
            "actor": caller.actor,
            "role": caller.role.name.lower(),
            "peer": caller.peer,
            "rpc": method,
            "request": summary(request),
        }
        try:
            entry = await self._audit.begin(record)
            if outcome is not None:
                await self._audit.finish(entry, outcome)
            return entry
        except AuditError as error:
            log.error("audit record not written; the change is refused", rpc=method, actor=caller.actor, error=str(error))
            raise precondition(common.ERROR_REASON_AUDIT_FAILED, REFUSED_TEXT) from error

    async def _finish(self, entry: Entry | None, outcome: str, method: str) -> None:
        if self._audit is None or entry is None:
            return
        try:
            await self._audit.finish(entry, outcome)
        except AuditError as error:
            log.error("outcome of a change is missing in the audit log", rpc=method, outcome=outcome, error=str(error))


_MAKERS: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


async def _run(inner: Handler, request: Any, context: Any) -> Any:
    """Call a handler of any style: coroutine, asynchronous generator, or a plain function."""
    result = inner(request, context)
    if hasattr(result, "__aiter__"):
        async for response in result:
            await context.write(response)
        return None
    return await result if inspect.isawaitable(result) else result


async def _peek(requests: AsyncIterator[Any]) -> tuple[AsyncIterator[Any], Any]:
    """The stream again, and its first request (None when it is empty)."""
    first = await anext(aiter(requests), None)

    async def again() -> AsyncIterator[Any]:
        if first is not None:
            yield first
        async for request in requests:
            yield request

    return again(), first


async def _swallow(requests: AsyncIterator[Any]) -> None:
    """Take what the caller still sends before a refusal, within limits.

    grpc.aio clients lose the status when a call ends while they write: they report INTERNAL instead (grpc issue 36066).
    """
    octets = 0
    try:
        async with asyncio.timeout(SWALLOW_SECONDS):
            async for request in requests:
                octets += request.ByteSize()
                if octets > SWALLOW_BYTES:
                    return
    except Exception as error:  # the caller is gone, or too slow: the refusal is all that is left to do
        log.debug("rest of a refused stream not read", error=str(error))


def _words(role: Role) -> str:
    return role.name.lower().replace("_", " ")


def _name(method: str) -> str:
    return method.rpartition("/")[2]


def summary(request: Any) -> str:
    """A request as JSON for the audit log: secrets left out, cut to MAX_SUMMARY characters."""
    if not isinstance(request, Message):
        return ""
    if request.ByteSize() > MAX_SUMMARISED_BYTES:
        return f"({request.ByteSize()} octets)"
    fields = _without_secrets(MessageToDict(request, preserving_proto_field_name=True))
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))[:MAX_SUMMARY]


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: "(set)" if key in SECRET_FIELDS else _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value
