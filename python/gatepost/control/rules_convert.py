"""Domain rules and handlers between model and proto, with update masks. Pure; problems are ControlErrors that name the field."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.control.convert import tls_policy, tls_policy_proto
from gatepost.control.errors import invalid
from gatepost.message.plain import from_plain, to_plain
from gatepost.message.protofields import fill, plain_of
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, HandlerOptions, RuleKind, RuleSettings, TlsPolicy
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS

_RULE: dict[RuleKind, api.RuleKind.ValueType] = {
    RuleKind.HOSTED: api.RULE_KIND_HOSTED,
    RuleKind.GATEWAY: api.RULE_KIND_GATEWAY,
    RuleKind.MX: api.RULE_KIND_MX,
    RuleKind.REJECT: api.RULE_KIND_REJECT,
    RuleKind.DISCARD: api.RULE_KIND_DISCARD,
    RuleKind.HOLD: api.RULE_KIND_HOLD,
    RuleKind.ALIAS: api.RULE_KIND_ALIAS,
}
_RULE_BACK = {number: kind for kind, number in _RULE.items()}
_HANDLER: dict[HandlerKind, api.HandlerKind.ValueType] = {
    HandlerKind.MAILBOX: api.HANDLER_KIND_MAILBOX,
    HandlerKind.FORWARD: api.HANDLER_KIND_FORWARD,
    HandlerKind.COPY: api.HANDLER_KIND_COPY,
    HandlerKind.REJECT: api.HANDLER_KIND_REJECT,
    HandlerKind.DISCARD: api.HANDLER_KIND_DISCARD,
    HandlerKind.LIST: api.HANDLER_KIND_LIST,
    HandlerKind.TRANSPORT: api.HANDLER_KIND_TRANSPORT,
    HandlerKind.AUTO_REPLY: api.HANDLER_KIND_AUTO_REPLY,
    HandlerKind.HOLD: api.HANDLER_KIND_HOLD,
}
_HANDLER_BACK = {number: kind for kind, number in _HANDLER.items()}


def rule_kind(number: api.RuleKind.ValueType, field: str = "rule.kind") -> RuleKind:
    """Enum → RuleKind. Raises ControlError."""
    if number not in _RULE_BACK:
        raise invalid(field, "is needed: HOSTED, GATEWAY, MX, REJECT, DISCARD, HOLD or ALIAS")
    return _RULE_BACK[number]


def rule_proto(rule: DomainRule, etag: str) -> api.DomainRule:
    """A rule as it is answered: without its secret."""
    made = api.DomainRule(domain=rule.domain, kind=_RULE[rule.kind], text=rule.text, accept_untrusted=rule.accept_untrusted, etag=etag)
    made.policy = rule.policy
    made.handlers.extend(handler_proto(handler) for handler in sorted(rule.handlers, key=lambda handler: handler.pattern))
    if rule.settings != NO_SETTINGS:
        fill(made.settings, to_plain(rule.settings))
    if rule.kind is RuleKind.GATEWAY or rule.host or rule.tls is not TlsPolicy.OPPORTUNISTIC:
        made.gateway.CopyFrom(
            api.Gateway(
                host=rule.host,
                port=rule.port,
                tls=tls_policy_proto(rule.tls),
                implicit_tls=rule.implicit_tls,
                lmtp=rule.lmtp,
                username=rule.username,
                has_password=bool(rule.password_ref),
            )
        )
    return made


def rule_from_proto(proto: api.DomainRule) -> DomainRule:
    """A whole rule; the gateway's password is not looked at. Raises ControlError."""
    gateway = proto.gateway
    if not 0 <= gateway.port <= 65535:
        raise invalid("rule.gateway.port", "must be 1 to 65535, or 0 for the default")
    return DomainRule(
        domain=proto.domain,
        kind=rule_kind(proto.kind),
        host=gateway.host,
        port=gateway.port or _default_port(gateway),
        tls=tls_policy(gateway.tls, "rule.gateway.tls"),
        implicit_tls=gateway.implicit_tls,
        lmtp=gateway.lmtp,
        username=gateway.username,
        text=proto.text,
        accept_untrusted=proto.accept_untrusted,
        handlers=tuple(handler_from_proto(handler) for handler in proto.handlers),
        policy=proto.policy,
        settings=_read(RuleSettings, proto.settings, "rule.settings") if proto.HasField("settings") else NO_SETTINGS,
    )


T = TypeVar("T")


def _read(kind: type[T], message: Message, field: str) -> T:
    """Settings of many fields, by their names. Raises ControlError."""
    try:
        return from_plain(kind, plain_of(message, leave_out=("password", "has_password")))
    except ValueError as error:
        raise invalid(field, str(error)) from None


def _default_port(gateway: api.Gateway) -> int:
    return 24 if gateway.lmtp else 465 if gateway.implicit_tls else 25


_RULE_PATHS: dict[str, Sequence[str]] = {
    "kind": ("kind",),
    "gateway": ("host", "port", "tls", "implicit_tls", "lmtp", "username"),
    "gateway.host": ("host",),
    "gateway.port": ("port",),
    "gateway.tls": ("tls",),
    "gateway.implicit_tls": ("implicit_tls",),
    "gateway.lmtp": ("lmtp",),
    "gateway.username": ("username",),
    "gateway.password": (),
    "text": ("text",),
    "accept_untrusted": ("accept_untrusted",),
    "handlers": ("handlers",),
    "policy": ("policy",),
    "settings": ("settings",),
}
_RULE_DEFAULT = ("kind", "gateway", "text", "accept_untrusted", "policy", "settings")


def merge_rule(current: DomainRule, proto: api.DomainRule, paths: Sequence[str]) -> DomainRule:
    """`current` with the fields that the mask names. Raises ControlError for an unknown path."""
    inner = [path for path in paths if path.startswith("settings.")]
    chosen = _checked([path for path in paths if path not in inner] or (() if inner else _RULE_DEFAULT), _RULE_PATHS)
    if "kind" not in chosen:  # the conversion below insists on one
        proto = _with(proto, lambda copy: setattr(copy, "kind", _RULE[current.kind]))
    if "gateway.port" not in chosen and "gateway" not in chosen and not proto.gateway.port:
        proto = _with(proto, lambda copy: setattr(copy.gateway, "port", current.port))
    wanted = rule_from_proto(proto)
    current = replace(current, settings=_merged(current.settings, wanted.settings, inner))
    return replace(current, **{name: getattr(wanted, name) for path in chosen for name in _RULE_PATHS[path]})


def _merged(current: T, wanted: T, paths: Sequence[str]) -> T:
    """`current` with what the paths name of `wanted`: 'settings.size_limit', 'settings.delivery.helo'. Raises ControlError."""
    for path in paths:
        current = _merged_one(current, wanted, path, path.split(".")[1:])
    return current


def _merged_one(current: T, wanted: T, path: str, names: Sequence[str]) -> T:
    name, *rest = names
    known = {field.name: field for field in fields(current)}  # type: ignore[arg-type]
    if name not in known:
        raise invalid("update_mask", f"unknown path {path!r}")
    new, mine = getattr(wanted, name), getattr(current, name)
    if rest and mine is not None:
        try:
            new = _merged_one(mine, new if new is not None else type(mine)(), path, rest)
        except TypeError:
            raise invalid("update_mask", f"{path!r} leads through something that is not in the request") from None
    return replace(current, **{name: new})  # type: ignore[type-var]


def sets_password(paths: Sequence[str]) -> bool:
    """Does the mask of an update name the gateway's password?"""
    return "gateway.password" in paths


def handler_proto(handler: AddressHandler) -> api.Handler:
    """A handler as it is answered: without its secret."""
    made = api.Handler(
        pattern=handler.pattern, kind=_HANDLER[handler.kind], targets=handler.targets, text=handler.text, policy=handler.policy
    )
    if handler.options != NO_OPTIONS:
        fill(made.options, to_plain(handler.options))
    transport = handler.options.transport
    if transport is not None:
        made.options.transport.has_password = bool(transport.password_ref)
    return made


def handler_from_proto(proto: api.Handler) -> AddressHandler:
    """A handler; its password is not looked at. Raises ControlError."""
    if proto.kind not in _HANDLER_BACK:
        raise invalid("handler.kind", f"is needed: {', '.join(kind.replace('-', '_').upper() for kind in HandlerKind)}")
    options = _read(HandlerOptions, proto.options, "handler.options") if proto.HasField("options") else NO_OPTIONS
    return AddressHandler(proto.pattern, _HANDLER_BACK[proto.kind], tuple(proto.targets), proto.text, proto.policy, options)


PASSWORD_PATH = "options.transport.password"

_HANDLER_PATHS: dict[str, Sequence[str]] = {
    "kind": ("kind",),
    "targets": ("targets",),
    "text": ("text",),
    "policy": ("policy",),
    "options": ("options",),
}


def merge_handler(current: AddressHandler, proto: api.Handler, paths: Sequence[str]) -> AddressHandler:
    """`current` with the fields that the mask names (none = all). Raises ControlError for an unknown path."""
    inner = [path for path in paths if path.startswith("options.")]
    chosen = _checked([path for path in paths if path not in inner] or (() if inner else tuple(_HANDLER_PATHS)), _HANDLER_PATHS)
    if "kind" not in chosen:
        proto = _with(proto, lambda copy: setattr(copy, "kind", _HANDLER[current.kind]))
    wanted = handler_from_proto(proto)
    current = replace(current, options=_merged(current.options, wanted.options, [path for path in inner if path != PASSWORD_PATH]))
    return replace(current, **{name: getattr(wanted, name) for path in chosen for name in _HANDLER_PATHS[path]})


def _checked(paths: Sequence[str], known: dict[str, Sequence[str]]) -> Sequence[str]:
    for path in paths:
        if path not in known:
            raise invalid("update_mask", f"unknown path {path!r}; known are {', '.join(known)}")
    return paths


def _with(proto: Any, change: Callable[[Any], None]) -> Any:
    copy = type(proto)()
    copy.CopyFrom(proto)
    change(copy)
    return copy
