"""Options of `gatepost rule` and `gatepost handler` for settings: how each is written, and which fields of the SDK's values it sets.

Used by cli/rules.py. A table from option to path ('delivery.expire'); nothing is checked here that the server checks. Fails with
CommandError for a text that cannot be read.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gatepost.cli.session import USAGE, CommandError, Options

if TYPE_CHECKING:
    from gatepost.client import HandlerOptions, NextHop, RuleSettings

_DURATION = re.compile(r"(\d+)(s|m|h|d|)\Z")
_SECONDS = {"s": 1, "": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE = re.compile(r"(\d+)([KMG]?)\Z", re.IGNORECASE)
_OCTETS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def seconds(text: str) -> int:
    """'90', '90s', '15m', '4h', '5d'."""
    found = _DURATION.match(text.strip())
    if found is None:
        raise CommandError(f"{text!r} is no time; write 90s, 15m, 4h or 5d", USAGE)
    return int(found[1]) * _SECONDS[found[2]]


def _notice(text: str) -> int:
    return -1 if text == "never" else seconds(text)


def octets(text: str) -> int:
    """'1000', '500K', '20M', '1G'; 0 takes a limit away."""
    found = _SIZE.match(text.strip())
    if found is None:
        raise CommandError(f"{text!r} is no size; write 1000, 500K, 20M or 1G", USAGE)
    return int(found[1]) * _OCTETS[found[2].lower()]


def moment(text: str) -> int:
    """'2026-12-24' (00:00 UTC), '2026-12-24T18:00', with an offset or in UTC; '' takes it away."""
    if not text:
        return 0
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is no time; write 2026-12-24 or 2026-12-24T18:00+01:00", USAGE) from None
    return int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp())


def next_hop(text: str) -> "NextHop":
    """'HOST', 'HOST:PORT', '[IPv6]:PORT', each with ',priority=N' and ',weight=N'."""
    from gatepost.client import NextHop

    name, *details = text.split(",")
    found = re.match(r"(?:\[([^\]]+)\]|([^:]+))(?::(\d+))?\Z", name)
    given = dict(one.partition("=")[::2] for one in details)
    if found is None or not set(given) <= {"priority", "weight"} or not all(value.isdigit() for value in given.values()):
        raise CommandError(f"{text!r} is no next hop; write HOST:PORT,priority=10,weight=1", USAGE)
    return NextHop(found[1] or found[2], int(found[3] or 25), **{key: int(value) for key, value in given.items()})


def _next_hops(texts: list[str]) -> "tuple[NextHop, ...]":
    return tuple(next_hop(text) for text in texts)


def _waits(text: str) -> tuple[int, ...]:
    return tuple(seconds(one) for one in text.split(",")) if text else ()


def _unless_empty(texts: list[str]) -> tuple[str, ...]:
    return tuple(text for text in texts if text)


Read = Callable[[Any], Any]
Table = Mapping[str, tuple[Any, str, str, Read | None]]
"""Option → (type, help, path of the field, how its text is read)."""

_DELIVERY: Table = {
    "next_hop": (list[str], "HOST:PORT,priority=N,weight=N; for several next hops; may be repeated", "next_hops", _next_hops),
    "source_address": (str, "Connect from this address of the machine", "delivery.source_address", None),
    "helo": (str, "Name in EHLO", "delivery.helo", None),
    "pin": (list[str], "TLS pinned: SHA-256 of the public key, hex; may be repeated", "delivery.pins", _unless_empty),
    "retry": (str, "Waits between attempts: 1m,5m,1h; the last repeats", "delivery.retry_intervals", _waits),
    "retry_initial": (str, "Exponential retry: first wait", "delivery.retry_initial", seconds),
    "retry_factor": (float, "Exponential retry: each wait is this many times the one before", "delivery.retry_factor", None),
    "retry_max": (str, "Exponential retry: longest wait", "delivery.retry_max", seconds),
    "expire": (str, "Age at which a message is returned: 5d", "delivery.expire", seconds),
    "delay_notice": (str, "Age at which the sender is told of a delay: 4h, or never", "delivery.delay_notice", _notice),
    "concurrency": (int, "Deliveries at once, per worker", "delivery.concurrency", None),
    "rate": (int, "Messages a minute, per worker", "delivery.rate_per_minute", None),
    "per_connection": (int, "Messages on one connection", "delivery.messages_per_connection", None),
    "priority": (int, "-100 to 100; higher is delivered first", "delivery.priority", None),
}
_OF_RULES: Table = {
    **_DELIVERY,
    "size_limit": (str, "Largest message taken: 20M; 0 for the server's", "size_limit", octets),
    "unknown": (str, "hosted, addresses nobody has: reject, mailbox, forward, relay (split domain) or accept", "unknown", None),
    "unknown_target": (str, "unknown mailbox or forward: the address", "unknown_target", None),
    "header_text": (str, "Put before the text of messages", "disclaimer.header_text", None),
    "header_html": (str, "The same for HTML", "disclaimer.header_html", None),
    "footer_text": (str, "Put behind the text of messages", "disclaimer.footer_text", None),
    "footer_html": (str, "The same for HTML", "disclaimer.footer_html", None),
    "on_signed": (bool, "Such text also into mail that is signed by DKIM, which breaks the signature", "disclaimer.on_signed", None),
    "journal": (str, "A copy of everything to this address", "journal", None),
    "verify": (
        str,
        "gateway, split domain: ask the next hop for recipients: off, defer or known (when it does not answer)",
        "verify",
        None,
    ),
    "verify_positive": (str, "How long its yes holds: 1d", "verify_positive", seconds),
    "verify_negative": (str, "How long its no holds: 1h", "verify_negative", seconds),
    "alias_of": (str, "alias: the domain it stands for", "alias_of", None),
}
_OF_HANDLERS: Table = {
    "size_limit": (str, "Largest message taken: 20M", "size_limit", octets),
    "block_attachments": (bool, "Refuse messages with attachments", "block_attachments", None),
    "require_tls": (bool, "Take it over TLS only, and send it on over TLS only", "require_tls", None),
    "valid_from": (str, "As if not there before: 2026-12-24T18:00+01:00", "valid_from", moment),
    "valid_until": (str, "As if not there from then on", "valid_until", moment),
    "srs": (bool, "forward, copy: send on under a return path of our own", "srs", None),
    "list_name": (str, "list: name in List-Id", "list.name", None),
    "owner": (list[str], "list: an owner; may be repeated", "list.owners", _unless_empty),
    "may_post": (str, "list: members, owner, anyone or listed", "list.may_post", None),
    "poster": (list[str], "list: who may post when listed may; may be repeated", "list.posters", _unless_empty),
    "moderated": (bool, "list: posts wait, held, for release", "list.moderated", None),
    "errors_to": (str, "list: who gets its bounces", "list.errors_to", None),
    "reply_to": (str, "list: Reply-To: 'list' or an address", "list.reply_to", None),
    "subject_tag": (str, "list: put before the subject", "list.subject_tag", None),
    "footer_text": (str, "list: put behind the text", "list.footer_text", None),
    "footer_html": (str, "list: the same for HTML", "list.footer_html", None),
    "verp": (bool, "list: a return path for each member, and bounces are counted", "list.verp", None),
    "any_author": (bool, "list: the header's From has no say in who may post", "list.any_author", None),
    "self_subscribe": (bool, "list: who asks and confirms becomes a member", "list.self_subscribe", None),
    "bounce_limit": (int, "list: bounces after which a member is disabled, -1 never [5]", "list.bounce_limit", None),
    "bounce_days": (int, "list: days after which counting begins anew [14]", "list.bounce_days", None),
    "digest_octets": (int, "list: octets at which a digest is sent before its day [262144]", "list.digest_octets", None),
    "via": (str, "transport: smtp, lmtp or pipe", "transport.kind", None),
    "host": (str, "transport: host name or address", "transport.host", None),
    "port": (int, "transport: port [25]", "transport.port", None),
    "tls": (str, "transport: none, opportunistic, required, verified or pinned", "transport.tls", None),
    "implicit_tls": (bool, "transport: TLS from the start", "transport.implicit_tls", None),
    "username": (str, "transport: log in as", "transport.username", None),
    "program": (str, "transport pipe: '/path/of/program arguments'", "transport.program.argv", lambda text: tuple(shlex.split(text))),
    "time_limit": (str, "transport pipe: time the program has: 60s", "transport.program.seconds", seconds),
    "memory_limit": (str, "transport pipe: memory the program has: 256M", "transport.program.memory_octets", octets),
    "output_limit": (str, "transport pipe: output the program may make: 64K", "transport.program.output_octets", octets),
    **{name: (kind, f"transport: {text}", f"transport.{path}", read) for name, (kind, text, path, read) in _DELIVERY.items()},
    "reply_text": (str, "auto-reply: the text", "reply.text", None),
    "reply_html": (str, "auto-reply: the same for HTML", "reply.html", None),
    "reply_subject": (str, "auto-reply: the subject", "reply.subject", None),
    "reply_name": (str, "auto-reply: name of the sender", "reply.from_name", None),
    "reply_interval": (int, "auto-reply: days until a sender is answered again [7]", "reply.interval_days", None),
}


def _as_options(table: Table) -> Options:
    made: Options = {}
    for name, (kind, text, _, _) in table.items():
        flag = f"--{name.replace('_', '-')}"
        switch = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
        made[name] = (Annotated[kind | None, typer.Option(switch, help=text)], None)
    return made


RULE_SETTINGS = _as_options(_OF_RULES)
HANDLER_OPTIONS = _as_options(_OF_HANDLERS)


def rule_settings(options: Mapping[str, Any]) -> "tuple[RuleSettings, list[str]]":
    """The settings that the options give, and the paths of the fields they name."""
    from gatepost.client import RuleSettings

    return _read(RuleSettings, _OF_RULES, options)


def handler_options(options: Mapping[str, Any], password: str = "") -> "tuple[HandlerOptions, list[str]]":
    """The same for a handler."""
    from gatepost.client import HandlerOptions

    made, paths = _read(HandlerOptions, _OF_HANDLERS, options)
    if password and made.transport is not None:
        made = dataclasses.replace(made, transport=dataclasses.replace(made.transport, password=password))
        paths.append("transport.password")
    return made, paths


def _read(kind: type[Any], table: Table, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    from gatepost.message.plain import from_plain

    tree: dict[str, Any] = {}
    paths = []
    for name, (_, _, path, read) in table.items():
        value = options.get(name)
        if value is None or (value == [] and name == "next_hop"):
            continue
        *parents, leaf = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = _plain(read(value) if read is not None else value)
        paths.append(path)
    try:
        return from_plain(kind, tree), paths
    except ValueError as error:
        raise CommandError(_in_words(str(error)), USAGE) from None


def _in_words(problem: str) -> str:
    missing = {"'kind'": "--via", "'argv'": "--program"}
    return next((f"{option} is needed" for field, option in missing.items() if field in problem), problem)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [dataclasses.asdict(one) if dataclasses.is_dataclass(one) and not isinstance(one, type) else one for one in value]
    return value
