"""What a call can fail with, as a tree: catch GatepostError for everything, or the leaf you can do something about.

Made from the gRPC status and the typed detail (`gatepost-error-bin`); the text is the server's, fit for a person.
"""

from collections.abc import Sequence

import grpc
import grpc.aio

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.client.values import Refused, reply_value

DETAIL_KEY = "gatepost-error-bin"


class GatepostError(Exception):
    """Base. `status` is the name of the gRPC status code, `resource` what it is about ('' when unknown)."""

    def __init__(self, text: str, *, status: str = "", resource: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.resource = resource


class InvalidRequestError(GatepostError):
    """A value is missing or bad; `violations` are (field, problem)."""

    violations: Sequence[tuple[str, str]] = ()


class NotFoundError(GatepostError):
    """What was asked for is not there."""


class ConflictError(GatepostError):
    """What is there does not allow it: see the leaves."""


class AlreadyExistsError(ConflictError):
    """Something of that name exists."""


class EtagMismatchError(ConflictError):
    """It was changed since you read it; read it again. `current_etag` is the etag now."""

    current_etag: str = ""


class InUseError(ConflictError):
    """Something still depends on it."""


class RefusedError(GatepostError):
    """No recipient was taken; `refused` has the reply for each."""

    refused: Sequence[Refused] = ()


class PermissionDeniedError(GatepostError):
    """Your role does not allow it."""


class UnauthenticatedError(PermissionDeniedError):
    """No valid token or certificate was shown."""


class ServerRefusedError(GatepostError):
    """The server would not do it as things are: audit log not writable, settings not valid, no disk space, too large."""


class UnavailableError(GatepostError):
    """The server, or the worker that is needed, cannot be reached now; trying again may help."""


class NotRunningError(UnavailableError):
    """There is no server at the address."""


class DeadlineError(UnavailableError):
    """The answer did not come in time."""


class ServerError(GatepostError):
    """The server failed; its log has more."""


Status = grpc.StatusCode
_BY_STATUS: dict[grpc.StatusCode, type[GatepostError]] = {
    Status.INVALID_ARGUMENT: InvalidRequestError,
    Status.NOT_FOUND: NotFoundError,
    Status.ALREADY_EXISTS: AlreadyExistsError,
    Status.ABORTED: EtagMismatchError,
    Status.PERMISSION_DENIED: PermissionDeniedError,
    Status.UNAUTHENTICATED: UnauthenticatedError,
    Status.FAILED_PRECONDITION: ServerRefusedError,
    Status.RESOURCE_EXHAUSTED: ServerRefusedError,
    Status.UNAVAILABLE: UnavailableError,
    Status.DEADLINE_EXCEEDED: DeadlineError,
}
_BY_REASON: dict[int, type[GatepostError]] = {
    common.ERROR_REASON_IN_USE: InUseError,
    common.ERROR_REASON_REFUSED: RefusedError,
}


def from_rpc(error: grpc.aio.AioRpcError, address: str) -> GatepostError:
    """The exception for a failed call. `address` is named when nobody answers there."""
    info = common.ErrorInfo()
    detailed = False
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY and isinstance(value, bytes):
            info.ParseFromString(value)
            detailed = True
    status = error.code()
    if status is Status.UNAVAILABLE and not detailed:
        why = error.details() or ""
        if "CERTIFICATE_VERIFY_FAILED" in why:
            text = f"the certificate of {address} is not trusted: name the file of its authority (--ca-file)"
            return UnavailableError(text, status=status.name, resource=address)
        if "ostname Verification" in why or "Peer name" in why:
            text = f"the certificate of {address} is for another name: say which one is meant (--server-name)"
            return UnavailableError(text, status=status.name, resource=address)
        if "ailed to connect" in why or "refused" in why:
            return NotRunningError(not_running_text(address, why), status=status.name, resource=address)
        return UnavailableError(f"the connection to {address} was lost: {why}", status=status.name, resource=address)
    kind = _BY_REASON.get(info.reason) or _BY_STATUS.get(status, ServerError)
    text = info.message or error.details() or status.name
    made = kind(text, status=status.name, resource=info.resource)
    if isinstance(made, InvalidRequestError):
        made.violations = tuple((one.field, one.problem) for one in info.violations)
    elif isinstance(made, EtagMismatchError):
        made.current_etag = info.current_etag
    elif isinstance(made, RefusedError):
        made.refused = tuple(Refused(one.address, reply_value(one.reply)) for one in info.refused)
    return made


def not_running_text(address: str, why: str = "") -> str:
    """What to say when nobody answers at an address."""
    if address.startswith("unix:"):
        folder = address.removeprefix("unix:").removesuffix("/control.sock")
        return f"no server at {address.removeprefix('unix:')}: start it with gatepost serve --data {folder}"
    return f"no server at {address}{f' ({why})' if why else ''}"
