"""From exceptions to gRPC status and typed detail, in one place. Called by the guard around every handler; raised by servicers.

Invariants: every failed call carries an ErrorInfo in the trailing metadata key `gatepost-error-bin`; the text of an unexpected
exception stays in the log and never reaches the caller.
"""

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio
import structlog

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.directory import AlreadyExists, ConflictInUse, DirectoryError, EtagMismatch, InvalidValue, NotFound
from gatepost.message.reply import SmtpError
from gatepost.native import CoreError, DamagedError, DiskFullError, InvalidError, NotFoundError

DETAIL_KEY = "gatepost-error-bin"
MAX_DETAIL_BYTES = 7000  # HTTP/2 metadata is limited to 8 KiB by default; the base64 on the wire is grpc's business

Status = grpc.StatusCode
log = structlog.get_logger()


class ControlError(Exception):
    """A failure with its status and detail; the message is fit for a person."""

    def __init__(self, status: grpc.StatusCode, info: common.ErrorInfo) -> None:
        super().__init__(info.message)
        self.status = status
        self.info = info


def invalid(field: str, problem: str) -> ControlError:
    """INVALID_ARGUMENT for one field of the request."""
    violation = common.FieldViolation(field=field, problem=problem)
    info = common.ErrorInfo(reason=common.ERROR_REASON_INVALID_FIELD, message=f"{field}: {problem}", violations=[violation])
    return ControlError(Status.INVALID_ARGUMENT, info)


def not_found(what: str, resource: str, hint: str = "") -> ControlError:
    """NOT_FOUND, 'no WHAT RESOURCE', and what else there is to say."""
    return _error(Status.NOT_FOUND, common.ERROR_REASON_NOT_FOUND, f"no {what} {resource}{hint}", resource)


def unavailable(message: str) -> ControlError:
    """UNAVAILABLE: a worker that is needed cannot be asked."""
    return _error(Status.UNAVAILABLE, common.ERROR_REASON_NO_WORKER, message)


def precondition(reason: common.ErrorReason.ValueType, message: str, resource: str = "") -> ControlError:
    """FAILED_PRECONDITION."""
    return _error(Status.FAILED_PRECONDITION, reason, message, resource)


def cut_short() -> ControlError:
    """CANCELLED: a request stream ended before it was complete."""
    return _error(Status.CANCELLED, common.ERROR_REASON_INVALID_FIELD, "the stream ended without `finish`; nothing was queued")


def refused(recipients: Sequence[common.RefusedRecipient]) -> ControlError:
    """FAILED_PRECONDITION: no recipient was taken."""
    lines = "; ".join(f"{r.address}: {r.reply.code} {r.reply.enhanced} {r.reply.text}" for r in recipients[:5])
    info = common.ErrorInfo(reason=common.ERROR_REASON_REFUSED, message=f"every recipient was refused: {lines}", refused=recipients[:20])
    return ControlError(Status.FAILED_PRECONDITION, info)


def unauthenticated(message: str) -> ControlError:
    """UNAUTHENTICATED."""
    return _error(Status.UNAUTHENTICATED, common.ERROR_REASON_UNAUTHENTICATED, message)


def denied(message: str) -> ControlError:
    """PERMISSION_DENIED."""
    return _error(Status.PERMISSION_DENIED, common.ERROR_REASON_PERMISSION_DENIED, message)


def _error(status: grpc.StatusCode, reason: common.ErrorReason.ValueType, message: str, resource: str = "") -> ControlError:
    return ControlError(status, common.ErrorInfo(reason=reason, message=message, resource=resource))


def _etag(error: EtagMismatch) -> ControlError:
    current = getattr(error, "current", "") or ""
    made = _error(Status.ABORTED, common.ERROR_REASON_ETAG_MISMATCH, str(error))
    made.info.current_etag = current
    return made


def _smtp(error: SmtpError) -> ControlError:
    """Limits that the queue expresses as SMTP replies: message too large, or no room for it now."""
    large = error.reply.permanent
    reason = common.ERROR_REASON_TOO_LARGE if large else common.ERROR_REASON_DISK_FULL
    return _error(Status.RESOURCE_EXHAUSTED, reason, f"{error.reply.code} {error.reply.enhanced} {error.reply.text}")


def _simple(status: grpc.StatusCode, reason: common.ErrorReason.ValueType) -> Callable[[Exception], ControlError]:
    return lambda error: _error(status, reason, str(error) or type(error).__name__)


# Most special first; the first class that fits wins.
_TABLE: tuple[tuple[type[Exception], Callable[..., ControlError]], ...] = (
    (NotFound, _simple(Status.NOT_FOUND, common.ERROR_REASON_NOT_FOUND)),
    (AlreadyExists, _simple(Status.ALREADY_EXISTS, common.ERROR_REASON_ALREADY_EXISTS)),
    (EtagMismatch, _etag),
    (InvalidValue, lambda error: invalid(error.field, error.problem)),
    (ConflictInUse, _simple(Status.FAILED_PRECONDITION, common.ERROR_REASON_IN_USE)),
    (DirectoryError, _simple(Status.UNAVAILABLE, common.ERROR_REASON_INTERNAL)),
    (SmtpError, _smtp),
    (NotFoundError, _simple(Status.NOT_FOUND, common.ERROR_REASON_NOT_FOUND)),
    (DiskFullError, _simple(Status.RESOURCE_EXHAUSTED, common.ERROR_REASON_DISK_FULL)),
    (DamagedError, _simple(Status.DATA_LOSS, common.ERROR_REASON_DAMAGED)),
    (InvalidError, _simple(Status.INVALID_ARGUMENT, common.ERROR_REASON_INVALID_FIELD)),
    (CoreError, _simple(Status.UNAVAILABLE, common.ERROR_REASON_INTERNAL)),
    (TimeoutError, _simple(Status.DEADLINE_EXCEEDED, common.ERROR_REASON_INTERNAL)),
    (asyncio.QueueFull, _simple(Status.RESOURCE_EXHAUSTED, common.ERROR_REASON_INTERNAL)),
)


def to_control_error(error: Exception, rpc: str) -> ControlError:
    """What the caller gets for `error`. Anything unknown is logged with its trace and becomes a bare INTERNAL."""
    if isinstance(error, ControlError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc(error)
    for kind, make in _TABLE:
        if isinstance(error, kind):
            return make(error)
    log.exception("control call failed", rpc=rpc, exc_info=error)
    return _error(Status.INTERNAL, common.ERROR_REASON_INTERNAL, "internal error; the server's log has more")


def from_rpc(error: grpc.aio.AioRpcError) -> ControlError:
    """A worker's failure, passed on as it is."""
    info = common.ErrorInfo(message=error.details() or error.code().name)
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            info.ParseFromString(value)
    return ControlError(error.code(), info)


def trailer(error: ControlError) -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata for `error`; the detail is thinned out when it would not fit."""
    data = error.info.SerializeToString()
    if len(data) > MAX_DETAIL_BYTES:
        data = common.ErrorInfo(reason=error.info.reason, message=error.info.message[:1000]).SerializeToString()
    return ((DETAIL_KEY, data),)
