"""Checks of the entries of the small ordered lists (routing.parts), and their stored form. Pure; raises InvalidValue that names the field.

Used by parts.py, for RPCs and documents alike.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from gatepost.directory import rule_settings, validation
from gatepost.directory.errors import InvalidValue
from gatepost.expression import ExpressionError
from gatepost.message.address import AddressError, parse_address
from gatepost.routing.route import TlsPolicy
from gatepost.routing.senders import SenderRule
from gatepost.routing.stages import KNOWN, LimitBy, Stage, StageAction, StagePolicy, compiled
from gatepost.routing.trust import NULL_SENDER, TrustAction, TrustEntry

MAX_PATTERNS = 1_000
MAX_COMMENT = 500
MAX_COUNT = 10_000_000
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_PATTERN = re.compile(r"[^\s\[\]?<>,;:\"'\\]{1,320}\Z")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")


def entry(part: str, value: Any) -> Any:
    """An entry of a list, in stored form."""
    return _CHECKS[part](value)


def _trust(value: TrustEntry) -> TrustEntry:
    made = replace(
        value,
        name=entry_name(value.name),
        networks=networks(value.networks, "networks"),
        users=patterns(value.users, "users"),
        certificates=tuple(_certificate(one, n) for n, one in enumerate(value.certificates)),
        senders=patterns(value.senders, "senders", null=True),
        comment=comment(value.comment),
    )
    if not (made.networks or made.users or made.certificates or made.senders):
        raise InvalidValue("networks", "is needed, or users, certificates or senders: this entry would fit nobody")
    if made.action is TrustAction.DISTRUST:
        return made
    if not (made.networks or made.users or made.certificates):
        raise InvalidValue("senders", "are what the client says, and trust nobody alone: name networks, users or certificates too")
    if not (made.users or made.certificates) and any(ipaddress.ip_network(one).prefixlen == 0 for one in made.networks):
        raise InvalidValue("networks", "is the whole internet, which would make an open relay")
    return made


def _sender(value: SenderRule) -> SenderRule:
    made = replace(
        value,
        name=entry_name(value.name),
        comment=comment(value.comment),
        users=patterns(value.users, "users"),
        networks=networks(value.networks, "networks"),
        domains=domains(value.domains, "domains"),
        host=rule_settings.host(value.host, "host") if value.host else "",
        helo=rule_settings.host(value.helo, "helo") if value.helo else "",
        source_address=rule_settings.source(value.source_address, "source_address"),
        allowed_from=patterns(value.allowed_from, "allowed_from"),
        masquerade=domains([value.masquerade], "masquerade")[0] if value.masquerade else "",
    )
    _check_hop(made)
    for name in ("messages_per_hour", "messages_per_day", "recipients_per_hour", "recipients_per_day"):
        if not 0 <= getattr(made, name) <= MAX_COUNT:
            raise InvalidValue(name, f"must be 0 to {MAX_COUNT}")
    if made.masquerade.startswith("*"):
        raise InvalidValue("masquerade", "must be one domain")
    if not (made.leads_out or made.allowed_from or made.masquerade or made.limits):
        raise InvalidValue("host", "is needed, or something else that the rule does: this one does nothing")
    return made


def _check_hop(made: SenderRule) -> None:
    if made.tls is TlsPolicy.PINNED:
        raise InvalidValue("tls", "must be none, opportunistic, required or verified: pins are a domain rule's")
    if not 1 <= made.port <= 65_535:
        raise InvalidValue("port", "must be 1 to 65535")
    if made.host:
        if made.username and made.tls in (TlsPolicy.NONE, TlsPolicy.OPPORTUNISTIC):
            raise InvalidValue("tls", "must be required or verified where a password is sent")
        if bool(made.username) != bool(made.password_ref):
            raise InvalidValue("password_ref", "and username belong together; store the secret with gatepost rules secret NAME")
    elif made.username or made.password_ref or made.implicit_tls:
        raise InvalidValue("host", "is needed where a login or TLS is given")
    if made.password_ref:
        validation.secret_ref(made.password_ref)


def _stage(value: StagePolicy) -> StagePolicy:
    made = replace(value, name=entry_name(value.name), comment=comment(value.comment))
    try:
        compiled(made)
    except ExpressionError as error:
        raise InvalidValue("when", str(error)) from None
    _check_use(made)
    check = _STAGE_CHECKS.get(made.action)
    return check(made) if check is not None else made


_NEEDS = {
    StageAction.TAG: "text",
    StageAction.ADD_HEADER: "header",
    StageAction.REMOVE_HEADER: "header",
    StageAction.REROUTE: "host",
    StageAction.COPY: "address",
    StageAction.LIMIT: "most",
}
_OF = {
    "code": (StageAction.REJECT, StageAction.DEFER),
    "header": (StageAction.ADD_HEADER, StageAction.REMOVE_HEADER),
    "host": (StageAction.REROUTE,),
    "address": (StageAction.COPY,),
    "most": (StageAction.LIMIT,),
}


def _check_use(made: StagePolicy) -> None:
    """What an action needs is there, and nothing that it has no use for."""
    needed = _NEEDS.get(made.action)
    if needed is not None and not getattr(made, needed):
        raise InvalidValue(needed, f"is needed for {made.action}")
    for name, actions in _OF.items():
        if getattr(made, name) and made.action not in actions:
            raise InvalidValue(name, f"is of {' and '.join(actions)} only")
    if len(made.text) > MAX_COMMENT or not made.text.isprintable():
        raise InvalidValue("text", f"must be one line of at most {MAX_COMMENT} characters")
    if made.action is StageAction.REROUTE and made.stage not in (Stage.RCPT, Stage.ROUTE, Stage.DELIVER):
        raise InvalidValue("stage", "must be rcpt, route or deliver for reroute")
    if made.code and made.stage is Stage.DELIVER:
        raise InvalidValue("code", "is of a reply, and at stage deliver there is no client to reply to: reject returns the message")


def _reply(made: StagePolicy) -> StagePolicy:
    low = 500 if made.action is StageAction.REJECT else 400
    if made.code and not low < made.code < low + 60:
        raise InvalidValue("code", f"must be {low + 1} to {low + 59} for {made.action}")
    if not made.text.isascii():
        raise InvalidValue("text", "must be ASCII: it is an SMTP reply")
    return made


def _header(made: StagePolicy) -> StagePolicy:
    if not _FIELD.match(made.header):
        raise InvalidValue("header", f"must be the name of a header field (got {made.header!r:.80})")
    if made.header.lower() in _NOT_OURS:
        raise InvalidValue("header", f"{made.header} is not a policy's to change")
    return made


_COUNTED = {
    LimitBy.SENDER: "sender",
    LimitBy.SENDER_DOMAIN: "sender",
    LimitBy.RECIPIENT: "recipient",
    LimitBy.RECIPIENT_DOMAIN: "recipient",
}
"""What must be known at the stage, where it is not the client."""


def _limit(made: StagePolicy) -> StagePolicy:
    if not 1 <= made.most <= MAX_COUNT or not 1 <= made.seconds <= 31 * 86_400:
        raise InvalidValue("most", f"must be 1 to {MAX_COUNT} in 1 to {31 * 86_400} seconds")
    known = _COUNTED.get(made.by, "client")
    if known not in KNOWN[made.stage]:
        raise InvalidValue("by", f"the {known} is not known at stage {made.stage}")
    return made


def _reroute(made: StagePolicy) -> StagePolicy:
    if not 1 <= made.port <= 65_535:
        raise InvalidValue("port", "must be 1 to 65535")
    if made.tls is TlsPolicy.PINNED:
        raise InvalidValue("tls", "must be none, opportunistic, required or verified")
    return replace(made, host=rule_settings.host(made.host, "host"))


def _copy(made: StagePolicy) -> StagePolicy:
    return replace(made, address=validation.mail_address(made.address, "address"))


_FIELD = re.compile(r"[!-9;-~]{1,76}\Z")
_NOT_OURS = frozenset({"received", "return-path", "x-gatepost-scan", "content-type", "content-transfer-encoding", "mime-version"})
_STAGE_CHECKS: dict[StageAction, Callable[[StagePolicy], StagePolicy]] = {
    StageAction.REJECT: _reply,
    StageAction.DEFER: _reply,
    StageAction.ADD_HEADER: _header,
    StageAction.REMOVE_HEADER: _header,
    StageAction.LIMIT: _limit,
    StageAction.REROUTE: _reroute,
    StageAction.COPY: _copy,
}


# ---- pieces ------------------------------------------------------------------------------------------------------------


def entry_name(text: str) -> str:
    """What an entry is known by."""
    if not _NAME.match(text):
        raise InvalidValue("name", f"must be 1 to 64 of a-z, 0-9, '-' and '_' (got {text!r:.80})")
    return text


def comment(text: str) -> str:
    """A line for people."""
    if len(text) > MAX_COMMENT or not text.isprintable():
        raise InvalidValue("comment", f"must be one line of at most {MAX_COMMENT} characters")
    return text


def networks(given: Iterable[str], field: str) -> tuple[str, ...]:
    """Networks as 'ADDRESS/BITS'."""
    return _each(given, field, _network)


def patterns(given: Iterable[str], field: str, *, null: bool = False) -> tuple[str, ...]:
    """Addresses, or patterns of them with '*'; '<>' where the null sender may be named."""
    return _each(given, field, lambda text: text if null and text == NULL_SENDER else _pattern(text))


def domains(given: Iterable[str], field: str) -> tuple[str, ...]:
    """'example.org' or '*.example.org', in A-labels."""
    return _each(given, field, _domain)


def _each(given: Iterable[str], field: str, check: Callable[[str], str]) -> tuple[str, ...]:
    made = []
    for n, one in enumerate(given):
        try:
            made.append(check(one))
        except ValueError as error:
            raise InvalidValue(f"{field}[{n}]", str(error)) from None
    if len(made) > MAX_PATTERNS:
        raise InvalidValue(field, f"has {len(made)} entries; {MAX_PATTERNS} are possible")
    return tuple(dict.fromkeys(made))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f"must be a network such as 192.0.2.0/24 or 2001:db8::/32 ({error})") from None


def _pattern(text: str) -> str:
    if "*" not in text:
        try:
            return parse_address(text).key
        except AddressError as error:
            raise ValueError(f"must be an address, or a pattern such as *@example.org ({error})") from None
    local, at, domain = text.rpartition("@")
    if text != "*" and (not at or not local or not _PATTERN.match(text)):
        raise ValueError(f"must be an address, '*', or a pattern such as *@example.org or sales-*@*.example.org (got {text!r:.80})")
    return text if text == "*" else f"{local.lower()}@{_labels(domain)}"


def _labels(domain: str) -> str:
    """A domain with '*' in it, each label in stored form."""
    try:
        return ".".join(one.lower() if "*" in one or one.isascii() else one.encode("idna").decode() for one in domain.split("."))
    except UnicodeError:
        raise ValueError(f"{domain!r:.80} is no domain") from None


def _domain(text: str) -> str:
    bare = text.removeprefix("*.")
    try:
        return ("*." if bare != text else "") + parse_address(f"x@{bare}").key.rpartition("@")[2]
    except AddressError:
        raise ValueError(f"must be a domain or *.domain (got {text!r:.80})") from None


def _certificate(text: str, index: int) -> str:
    kind, _, value = text.partition(":")
    if kind == "sha256":
        digits = value.replace(":", "").lower()
        if _FINGERPRINT.match(digits):
            return f"sha256:{digits}"
        raise InvalidValue(f"certificates[{index}]", "must have 64 hexadecimal digits behind sha256:")
    if kind == "subject" and value.strip() and len(value) <= MAX_COMMENT and value.isprintable():
        return f"subject:{value.strip()}"
    raise InvalidValue(f"certificates[{index}]", "must be sha256:HEX or subject:PATTERN")


_CHECKS: dict[str, Callable[[Any], Any]] = {"trust": _trust, "sender_rules": _sender, "stage_policies": _stage}
