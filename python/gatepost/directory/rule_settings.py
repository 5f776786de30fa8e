"""What settings of rules and options of handlers may be: each check returns the value in stored form or raises InvalidValue naming the
field.

Called by validation.py. Pure.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from gatepost.directory.errors import InvalidValue
from gatepost.message.address import domain_key
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind
from gatepost.routing.route import DeliveryOptions, NextHop, Program, TlsPolicy
from gatepost.routing.settings import (
    AutoReply,
    Disclaimer,
    HandlerOptions,
    ListSettings,
    Posters,
    RuleSettings,
    Transport,
    TransportKind,
    UnknownRecipients,
    Verify,
)

MAX_HOPS = 16
MAX_SIZE = 1 << 40
MAX_BODY_TEXT = 65_536
MAX_OWNERS = 100
MAX_DIGEST = 8 << 20
YEAR = 31_536_000

_HOST = re.compile(r"(?=.{1,253}\Z)(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?\Z")
_PIN = re.compile(r"[0-9a-f]{64}\Z")
_NUMBERS: dict[str, tuple[int, int]] = {
    "retry_initial": (0, YEAR),
    "retry_max": (0, YEAR),
    "expire": (0, YEAR),
    "delay_notice": (-1, YEAR),
    "concurrency": (0, 10_000),
    "rate_per_minute": (0, 1_000_000),
    "messages_per_connection": (0, 1_000_000),
    "priority": (-100, 100),
}
T = TypeVar("T")
Check = Callable[[str, str], str]


def _within(value: int, field: str, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidValue(field, f"must be {low} to {high} (got {value})")
    return value


def host(text: str, field: str) -> str:
    """A host name or an IP address without brackets, in stored form."""
    text = text.strip()
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST.match(domain_key(text)) or domain_key(text).replace(".", "").isdigit():
            raise InvalidValue(field, f"must be a host name or an IP address without brackets (got {text!r})") from None
    return domain_key(text).removesuffix(".")


def next_hops(hops: Iterable[NextHop], field: str) -> tuple[NextHop, ...]:
    """In the order they are tried."""
    made = []
    for n, hop in enumerate(hops):
        where = f"{field}[{n}]"
        _within(hop.port, f"{where}.port", 1, 65_535)
        _within(hop.priority, f"{where}.priority", 0, 65_535)
        _within(hop.weight, f"{where}.weight", 0, 65_535)
        made.append(replace(hop, host=host(hop.host, f"{where}.host")))
    if len(made) > MAX_HOPS:
        raise InvalidValue(field, f"at most {MAX_HOPS} next hops (got {len(made)})")
    if len({(hop.host, hop.port) for hop in made}) != len(made):
        raise InvalidValue(field, "names a host and port twice")
    return tuple(sorted(made, key=lambda hop: hop.priority))


def delivery(options: DeliveryOptions | None, field: str, tls: TlsPolicy) -> DeliveryOptions | None:
    """None when it says nothing."""
    if tls is TlsPolicy.PINNED and (options is None or not options.pins):
        raise InvalidValue(f"{field}.pins", "TLS policy pinned needs the SHA-256 of a public key at least")
    if options is None or options == DeliveryOptions():
        return None
    for name, (low, high) in _NUMBERS.items():
        _within(getattr(options, name), f"{field}.{name}", low, high)
    _check_retry(options, field)
    pins = tuple(_pin(pin, f"{field}.pins") for pin in options.pins)
    helo = host(options.helo, f"{field}.helo") if options.helo else ""
    return replace(options, pins=pins, helo=helo, source_address=source(options.source_address, f"{field}.source_address"))


def _check_retry(options: DeliveryOptions, field: str) -> None:
    if options.retry_intervals and (options.retry_initial or options.retry_factor or options.retry_max):
        raise InvalidValue(f"{field}.retry_intervals", "a list of waits and an exponential schedule exclude each other")
    if len(options.retry_intervals) > 50:
        raise InvalidValue(f"{field}.retry_intervals", "at most 50 waits")
    for wait in options.retry_intervals:
        _within(wait, f"{field}.retry_intervals", 1, YEAR)
    if options.retry_factor and not 1.0 <= options.retry_factor <= 100.0:
        raise InvalidValue(f"{field}.retry_factor", f"must be 1 to 100 (got {options.retry_factor:g})")
    if options.retry_max and options.retry_max < options.retry_initial:
        raise InvalidValue(f"{field}.retry_max", "must not be less than retry_initial")


def _pin(text: str, field: str) -> str:
    pin = text.strip().lower().replace(":", "")
    if not _PIN.match(pin):
        raise InvalidValue(field, f"must be the SHA-256 of a public key in hex, 64 digits (got {text!r})")
    return pin


def source(text: str, field: str) -> str:
    """An address mail leaves from, or ''."""
    if not text:
        return ""
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise InvalidValue(field, f"must be an IP address of this machine (got {text!r})") from None


def rule_settings(rule: DomainRule, address: Check, domain: Check) -> RuleSettings:
    """`address` and `domain` are the checks of those, as (text, field) → stored form."""
    given = rule.settings
    _within(given.size_limit, "size_limit", 0, MAX_SIZE)
    _within(given.verify_positive, "verify_positive", 0, YEAR)
    _within(given.verify_negative, "verify_negative", 0, YEAR)
    _check_unknown(rule)
    _check_use(rule)
    if (rule.kind is RuleKind.ALIAS) is not bool(given.alias_of):
        problem = "an alias rule needs the domain it stands for" if not given.alias_of else f"is for alias rules, not for {rule.kind}"
        raise InvalidValue("alias_of", problem)
    return replace(
        given,
        next_hops=next_hops(given.next_hops, "next_hops"),
        delivery=delivery(given.delivery, "delivery", rule.tls),
        unknown_target=address(given.unknown_target, "unknown_target") if given.unknown_target else "",
        disclaimer=_disclaimer(given.disclaimer, "disclaimer"),
        journal=address(given.journal, "journal") if given.journal else "",
        alias_of=domain(given.alias_of, "alias_of") if given.alias_of else "",
    )


def _check_use(rule: DomainRule) -> None:
    """What the kind has no use for is refused rather than kept."""
    given = rule.settings
    sends = rule.kind in (RuleKind.GATEWAY, RuleKind.MX, RuleKind.HOLD) or given.unknown is UnknownRecipients.RELAY
    useless = {
        "delivery": given.delivery is not None and not sends,
        "next_hops": bool(given.next_hops) and (not sends or rule.kind is RuleKind.MX),
        "size_limit": bool(given.size_limit) and rule.kind in (RuleKind.ALIAS, RuleKind.REJECT),
        "disclaimer": given.disclaimer is not None and rule.kind in (RuleKind.REJECT, RuleKind.DISCARD),
        "journal": bool(given.journal) and rule.kind is RuleKind.REJECT,
        "verify": given.verify is not Verify.OFF and rule.kind is not RuleKind.GATEWAY and given.unknown is not UnknownRecipients.RELAY,
        "verify_positive": bool(given.verify_positive) and given.verify is Verify.OFF,
        "verify_negative": bool(given.verify_negative) and given.verify is Verify.OFF,
    }
    for field, is_useless in useless.items():
        if is_useless:
            raise InvalidValue(field, f"has no use in a {rule.kind} rule")


def _check_unknown(rule: DomainRule) -> None:
    unknown, target = rule.settings.unknown, rule.settings.unknown_target
    if unknown is not UnknownRecipients.REJECT and rule.kind is not RuleKind.HOSTED:
        raise InvalidValue("unknown", f"is for hosted rules, not for {rule.kind}")
    needs = unknown in (UnknownRecipients.MAILBOX, UnknownRecipients.FORWARD)
    if needs is not bool(target):
        raise InvalidValue("unknown_target", f"{'is needed' if needs else 'has no use'} with unknown {unknown}")
    if unknown is UnknownRecipients.RELAY and not (rule.host or rule.settings.next_hops):
        raise InvalidValue("host", "a split domain needs the host that unknown addresses are sent to")


def _disclaimer(value: Disclaimer | None, field: str) -> Disclaimer | None:
    if value is None or value == Disclaimer():
        return None
    texts = {name: getattr(value, name) for name in ("header_text", "header_html", "footer_text", "footer_html")}
    for name, text in texts.items():
        _body_text(text, f"{field}.{name}")
    if not any(texts.values()):
        raise InvalidValue(f"{field}.on_signed", "has no use without a text")
    return value


def _body_text(text: str, field: str) -> str:
    if len(text) > MAX_BODY_TEXT:
        raise InvalidValue(field, f"must be at most {MAX_BODY_TEXT:,} characters (got {len(text):,})")
    if any(ord(c) < 32 and c not in "\t\r\n" for c in text):
        raise InvalidValue(field, "must have no control characters but tab and line end")
    return text


def _line(text: str, field: str, most: int = 200) -> str:
    if len(text) > most or any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise InvalidValue(field, f"must be one line of at most {most} characters without control characters")
    return text


# ---- handlers --------------------------------------------------------------------------------------------------------


def handler_options(value: AddressHandler, kind: HandlerKind, prefix: str, address: Check) -> HandlerOptions:
    """`prefix` leads the field names, e.g. 'handlers[2].'."""
    given = value.options
    _within(given.size_limit, f"{prefix}size_limit", 0, MAX_SIZE)
    for name in ("valid_from", "valid_until"):
        _within(getattr(given, name), f"{prefix}{name}", 0, 1 << 40)
    if given.valid_until and given.valid_until <= given.valid_from:
        raise InvalidValue(f"{prefix}valid_until", "must be later than valid_from")
    if given.block_attachments and value.policy:
        raise InvalidValue(f"{prefix}block_attachments", "and a policy of its own exclude each other")
    if given.srs and kind not in (HandlerKind.FORWARD, HandlerKind.COPY):
        raise InvalidValue(f"{prefix}srs", f"is for forward and copy, not for {kind}")
    return replace(
        given,
        list=_part(given.list, ListSettings(), HandlerKind.LIST, kind, f"{prefix}list", lambda one: _list(one, value, prefix, address)),
        transport=_part(given.transport, None, HandlerKind.TRANSPORT, kind, f"{prefix}transport", lambda one: _transport(one, prefix)),
        reply=_part(given.reply, None, HandlerKind.AUTO_REPLY, kind, f"{prefix}reply", lambda one: _reply(one, prefix)),
    )


def _part(value: T | None, default: T | None, wanted: HandlerKind, kind: HandlerKind, field: str, check: Callable[[T], T]) -> T | None:
    """The part of the options that one kind of handler has, and no other."""
    if kind is not wanted:
        if value is not None:
            raise InvalidValue(field, f"is for {wanted} handlers, not for {kind}")
        return None
    value = default if value is None else value
    if value is None:
        raise InvalidValue(field, f"a {wanted} handler needs it")
    return check(value)


def _list(given: ListSettings, handler: AddressHandler, prefix: str, address: Check) -> ListSettings:
    field = f"{prefix}list"
    if "*" in handler.pattern or handler.pattern.startswith("/"):
        raise InvalidValue(f"{prefix}pattern", "a list has one address, no pattern")
    if len(given.owners) > MAX_OWNERS:
        raise InvalidValue(f"{field}.owners", f"at most {MAX_OWNERS}")
    if given.may_post is not Posters.LISTED and given.posters:
        raise InvalidValue(f"{field}.posters", f"has no use when {given.may_post} may post")
    if given.moderated and not given.owners:
        raise InvalidValue(f"{field}.owners", "a moderated list needs an owner")
    if given.verp and given.errors_to:
        raise InvalidValue(f"{field}.errors_to", "with verp bounces come to the list itself")
    _body_text(given.footer_text, f"{field}.footer_text")
    _body_text(given.footer_html, f"{field}.footer_html")
    _within(given.bounce_limit, f"{field}.bounce_limit", -1, 1000)
    _within(given.bounce_days, f"{field}.bounce_days", 1, 365)
    _within(given.digest_octets, f"{field}.digest_octets", 1024, MAX_DIGEST)
    reply_to = given.reply_to
    return replace(
        given,
        name=_line(given.name, f"{field}.name"),
        owners=tuple(address(one, f"{field}.owners") for one in given.owners),
        posters=tuple(address(one, f"{field}.posters") for one in given.posters),
        errors_to=address(given.errors_to, f"{field}.errors_to") if given.errors_to else "",
        reply_to=reply_to if reply_to in ("", "list") else address(reply_to, f"{field}.reply_to"),
        subject_tag=_line(given.subject_tag, f"{field}.subject_tag", 50),
    )


def _transport(given: Transport, prefix: str) -> Transport:
    field = f"{prefix}transport"
    if given.kind is TransportKind.PIPE:
        if given.program is None or given.host:
            raise InvalidValue(f"{field}.program", "a pipe has a program and no host")
        return Transport(TransportKind.PIPE, program=_program(given.program, f"{field}.program"))
    if given.program is not None or not given.host:
        raise InvalidValue(f"{field}.host", f"{given.kind} has a host and no program")
    _within(given.port, f"{field}.port", 1, 65_535)
    if given.implicit_tls and given.tls is TlsPolicy.NONE:
        raise InvalidValue(f"{field}.implicit_tls", "TLS from the first octet and TLS policy none exclude each other")
    if bool(given.username) is not bool(given.password_ref):
        raise InvalidValue(f"{field}.username", "user name and password go together")
    return replace(
        given,
        host=host(given.host, f"{field}.host"),
        next_hops=next_hops(given.next_hops, f"{field}.next_hops"),
        delivery=delivery(given.delivery, f"{field}.delivery", given.tls),
    )


def _program(given: Program, field: str) -> Program:
    if not given.argv or not given.argv[0].startswith("/"):
        raise InvalidValue(f"{field}.argv", "begins with the absolute path of a program")
    if len(given.argv) > 64 or any("\0" in one or len(one) > 4096 for one in given.argv):
        raise InvalidValue(f"{field}.argv", "at most 64 arguments of 4096 characters without NUL")
    _within(given.seconds, f"{field}.seconds", 1, 3600)
    _within(given.memory_octets, f"{field}.memory_octets", 1 << 20, 1 << 36)
    _within(given.output_octets, f"{field}.output_octets", 0, 1 << 20)
    return given


def _reply(given: AutoReply, prefix: str) -> AutoReply:
    field = f"{prefix}reply"
    if not given.text.strip():
        raise InvalidValue(f"{field}.text", "an auto-reply needs a text")
    _body_text(given.text, f"{field}.text")
    _body_text(given.html, f"{field}.html")
    _line(given.subject, f"{field}.subject")
    _line(given.from_name, f"{field}.from_name")
    _within(given.interval_days, f"{field}.interval_days", 1, 365)
    return given
