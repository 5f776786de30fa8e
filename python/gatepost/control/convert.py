"""Between our values and the protos that several services share: enums, times, replies, routes. Pure."""

import ipaddress
import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.config.types import is_hostname
from gatepost.control.errors import invalid
from gatepost.message.address import Address, AddressError, parse_address
from gatepost.message.reply import RemoteReply, Reply
from gatepost.routing.model import Route, RouteKind, TlsPolicy, TraceStep

_TLS: dict[TlsPolicy, common.TlsPolicy.ValueType] = {
    TlsPolicy.NONE: common.TLS_POLICY_NONE,
    TlsPolicy.OPPORTUNISTIC: common.TLS_POLICY_OPPORTUNISTIC,
    TlsPolicy.REQUIRED: common.TLS_POLICY_REQUIRED,
    TlsPolicy.VERIFIED: common.TLS_POLICY_VERIFIED,
    TlsPolicy.PINNED: common.TLS_POLICY_PINNED,
}
_TLS_BACK = {number: policy for policy, number in _TLS.items()}
_ROUTE: dict[RouteKind, common.RouteKind.ValueType] = {
    RouteKind.LOCAL: common.ROUTE_KIND_LOCAL,
    RouteKind.SMTP: common.ROUTE_KIND_SMTP,
    RouteKind.LMTP: common.ROUTE_KIND_LMTP,
    RouteKind.DISCARD: common.ROUTE_KIND_DISCARD,
    RouteKind.PIPE: common.ROUTE_KIND_PIPE,
    RouteKind.AUTO_REPLY: common.ROUTE_KIND_AUTO_REPLY,
    RouteKind.LIST: common.ROUTE_KIND_LIST,
}
_ROUTE_BACK = {number: kind for kind, number in _ROUTE.items()}


def timestamp(micros: int) -> Timestamp:
    """Unix microseconds → Timestamp."""
    seconds, rest = divmod(micros, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


def micros(stamp: Timestamp) -> int:
    """Timestamp → Unix microseconds."""
    return int(stamp.seconds) * 1_000_000 + stamp.nanos // 1000


def duration(seconds: float) -> Duration:
    """Seconds → Duration."""
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def seconds(value: Duration) -> float:
    """Duration → seconds."""
    return float(value.seconds) + value.nanos / 1e9


def tls_policy(number: common.TlsPolicy.ValueType, field: str, default: TlsPolicy = TlsPolicy.OPPORTUNISTIC) -> TlsPolicy:
    """Enum → TlsPolicy; UNSPECIFIED is the default. Raises ControlError."""
    if number == common.TLS_POLICY_UNSPECIFIED:
        return default
    if number not in _TLS_BACK:
        raise invalid(field, f"unknown TLS policy {number}")
    return _TLS_BACK[number]


def tls_policy_proto(policy: TlsPolicy) -> common.TlsPolicy.ValueType:
    """TlsPolicy → enum."""
    return _TLS[policy]


def reply_proto(reply: Reply | RemoteReply) -> common.SmtpReply:
    """A reply, ours or a peer's."""
    made = common.SmtpReply(code=reply.code, enhanced=reply.enhanced, text=reply.text)
    if isinstance(reply, RemoteReply):
        made.host, made.command = reply.host, reply.command
    return made


def route_proto(route: Route) -> common.Route:
    """A route without its secrets."""
    return common.Route(
        kind=_ROUTE[route.kind],
        address=route.address,
        volume=route.volume,
        folder=route.folder if route.kind is RouteKind.LOCAL else "",
        host=route.host,
        port=route.port if route.host else 0,
        tls=_TLS[route.tls] if route.kind in {RouteKind.SMTP, RouteKind.LMTP} else common.TLS_POLICY_UNSPECIFIED,
        implicit_tls=route.implicit_tls,
        username=route.username,
        hold=route.hold,
        destination=route.destination,
        next_hops=[f"{hop.host}:{hop.port}" for hop in route.next_hops],
        return_path=route.return_path,
        edits=[" ".join(edit) for edit in route.edits],
        program=" ".join(route.program.argv) if route.program is not None else "",
    )


def address_from_text(field: str, text: str) -> Address:
    """An address that may go on the wire: well-formed, so without spaces, line ends and the like. Raises ControlError."""
    try:
        return parse_address(text)
    except AddressError as error:
        raise invalid(field, str(error) or "is not an address") from None


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        if not is_hostname(text):
            raise invalid("route.host", f"{text!r} is not a host name or address") from None
        return text


def route_from_proto(proto: common.Route, address: str) -> Route:
    """A route an operator asks for: smtp, lmtp or discard. Raises ControlError."""
    kind = _ROUTE_BACK.get(proto.kind)
    if kind not in (RouteKind.SMTP, RouteKind.LMTP, RouteKind.DISCARD):
        raise invalid("route.kind", "must be SMTP, LMTP or DISCARD; use new_address for a mailbox here")
    if kind is RouteKind.LMTP and not proto.host:
        raise invalid("route.host", "is needed for LMTP")
    if not 0 <= proto.port <= 65535:
        raise invalid("route.port", "must be 1 to 65535, or 0 for the default")
    default_port = 24 if kind is RouteKind.LMTP else 465 if proto.implicit_tls else 25
    return Route(
        kind,
        str(address_from_text("route.address", proto.address)) if proto.address else address,
        host=_host(proto.host) if proto.host else "",
        port=proto.port or default_port,
        tls=tls_policy(proto.tls, "route.tls"),
        implicit_tls=proto.implicit_tls,
    )


def trace_proto(steps: tuple[TraceStep, ...]) -> list[common.TraceStep]:
    """The trace of a decision."""
    return [common.TraceStep(step=step.step, detail=step.detail) for step in steps]
