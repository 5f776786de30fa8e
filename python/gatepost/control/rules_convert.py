"""Domain rules and handlers between model and proto, with update masks. Pure; problems are ControlErrors that name the field."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.control.convert import tls_policy, tls_policy_proto
from gatepost.control.errors import invalid
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind

_RULE: dict[RuleKind, api.RuleKind.ValueType] = {
    RuleKind.HOSTED: api.RULE_KIND_HOSTED,
    RuleKind.GATEWAY: api.RULE_KIND_GATEWAY,
    RuleKind.MX: api.RULE_KIND_MX,
    RuleKind.REJECT: api.RULE_KIND_REJECT,
    RuleKind.DISCARD: api.RULE_KIND_DISCARD,
    RuleKind.HOLD: api.RULE_KIND_HOLD,
}
_RULE_BACK = {number: kind for kind, number in _RULE.items()}
_HANDLER: dict[HandlerKind, api.HandlerKind.ValueType] = {
    HandlerKind.MAILBOX: api.HANDLER_KIND_MAILBOX,
    HandlerKind.FORWARD: api.HANDLER_KIND_FORWARD,
    HandlerKind.COPY: api.HANDLER_KIND_COPY,
    HandlerKind.REJECT: api.HANDLER_KIND_REJECT,
    HandlerKind.DISCARD: api.HANDLER_KIND_DISCARD,
}
_HANDLER_BACK = {number: kind for kind, number in _HANDLER.items()}


def rule_kind(number: api.RuleKind.ValueType, field: str = "rule.kind") -> RuleKind:
    """Enum → RuleKind. Raises ControlError."""
    if number not in _RULE_BACK:
        raise invalid(field, "is needed: HOSTED, GATEWAY, MX, REJECT, DISCARD or HOLD")
    return _RULE_BACK[number]


def rule_proto(rule: DomainRule, etag: str) -> api.DomainRule:
    """A rule as it is answered: without its secret."""
    made = api.DomainRule(domain=rule.domain, kind=_RULE[rule.kind], text=rule.text, accept_untrusted=rule.accept_untrusted, etag=etag)
    made.policy = rule.policy
    made.handlers.extend(handler_proto(handler) for handler in sorted(rule.handlers, key=lambda handler: handler.pattern))
    if rule.kind is RuleKind.GATEWAY:
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
    )


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
}
_RULE_DEFAULT = ("kind", "gateway", "text", "accept_untrusted", "policy")


def merge_rule(current: DomainRule, proto: api.DomainRule, paths: Sequence[str]) -> DomainRule:
    """`current` with the fields that the mask names. Raises ControlError for an unknown path."""
    chosen = _checked(paths or _RULE_DEFAULT, _RULE_PATHS)
    if "kind" not in chosen:  # the conversion below insists on one
        proto = _with(proto, lambda copy: setattr(copy, "kind", _RULE[current.kind]))
    if "gateway.port" not in chosen and "gateway" not in chosen and not proto.gateway.port:
        proto = _with(proto, lambda copy: setattr(copy.gateway, "port", current.port))
    wanted = rule_from_proto(proto)
    return replace(current, **{name: getattr(wanted, name) for path in chosen for name in _RULE_PATHS[path]})


def sets_password(paths: Sequence[str]) -> bool:
    """Does the mask of an update name the gateway's password?"""
    return "gateway.password" in paths


def handler_proto(handler: AddressHandler) -> api.Handler:
    """A handler."""
    return api.Handler(
        pattern=handler.pattern, kind=_HANDLER[handler.kind], targets=handler.targets, text=handler.text, policy=handler.policy
    )


def handler_from_proto(proto: api.Handler) -> AddressHandler:
    """A handler. Raises ControlError."""
    if proto.kind not in _HANDLER_BACK:
        raise invalid("handler.kind", "is needed: MAILBOX, FORWARD, COPY, REJECT or DISCARD")
    return AddressHandler(proto.pattern, _HANDLER_BACK[proto.kind], tuple(proto.targets), proto.text, proto.policy)


_HANDLER_PATHS: dict[str, Sequence[str]] = {"kind": ("kind",), "targets": ("targets",), "text": ("text",), "policy": ("policy",)}


def merge_handler(current: AddressHandler, proto: api.Handler, paths: Sequence[str]) -> AddressHandler:
    """`current` with the fields that the mask names (none = all). Raises ControlError for an unknown path."""
    chosen = _checked(paths or tuple(_HANDLER_PATHS), _HANDLER_PATHS)
    if "kind" not in chosen:
        proto = _with(proto, lambda copy: setattr(copy, "kind", _HANDLER[current.kind]))
    wanted = handler_from_proto(proto)
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
