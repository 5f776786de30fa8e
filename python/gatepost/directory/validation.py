"""What may be stored: each check returns the value in stored form or raises InvalidValue naming the field. Pure; needs no database."""

import collections
import dataclasses
import re
from typing import TypeVar

from gatepost.directory import rule_settings
from gatepost.directory.errors import InvalidValue
from gatepost.message.address import Address, AddressError, domain_key, parse_address, parse_domain
from gatepost.routing.decide import NO_ATTACHMENTS
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, RuleKind, TlsPolicy
from gatepost.routing.patterns import is_regex, regex_fault
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS, UnknownRecipients

E = TypeVar("E", RuleKind, HandlerKind, TlsPolicy)

MAX_TEXT = 400
"""Characters of a reply text: code, status and text stay within RFC 5321 4.5.3.1.5's 512 octets for ASCII."""
MAX_TARGETS = 100
MAX_MEMBERS = 1000
_WITH_TARGETS = (HandlerKind.MAILBOX, HandlerKind.FORWARD, HandlerKind.COPY, HandlerKind.LIST)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_SECRET_REF = re.compile(r"[A-Za-z0-9_*@][A-Za-z0-9._*@+-]{0,199}\Z")
_PATTERN_TEXT = re.compile(r'[^\s@"(),:;<>\[\]\\*\x00-\x1f\x7f]{1,64}\Z')


def domain_name(text: str, field: str = "domain") -> str:
    """A domain in A-labels, lower-case; no address literal."""
    try:
        parsed = parse_domain(text.strip(), lenient_dot=True)
    except AddressError as error:
        raise InvalidValue(field, f"{error} (got {text!r})") from None
    if parsed.startswith("["):
        raise InvalidValue(field, f"an address literal is never hosted or routed by a rule (got {text!r})")
    return domain_key(parsed)


def rule_domain(text: str) -> str:
    """'example.org', '*.example.org' or '*', in stored form."""
    text = text.strip()
    if text == "*":
        return text
    if text.startswith("*."):
        return "*." + domain_name(text[2:])
    return domain_name(text)


def user_address(text: str, field: str = "address") -> str:
    """A user's address in stored form: lower-case, domain in A-labels."""
    parsed = _parsed(text, field)
    if str(parsed).startswith('"'):
        raise InvalidValue(field, f"a user's local part must need no quotes (got {text!r})")
    if "*" in parsed.local:
        raise InvalidValue(field, f"'*' is for patterns (got {text!r})")
    return parsed.key


def mail_address(text: str, field: str) -> str:
    """Any deliverable address, its domain in A-labels, its local part as it is."""
    parsed = _parsed(text, field)
    return str(Address(parsed.local, domain_key(parsed.domain)))


def _parsed(text: str, field: str) -> Address:
    try:
        parsed = parse_address(text.strip(), lenient_dot=True)
    except AddressError as error:
        raise InvalidValue(field, f"{error} (got {text!r})") from None
    if parsed.is_literal:
        raise InvalidValue(field, f"must have a domain, not an address literal (got {text!r})")
    return parsed


def name(text: str, field: str) -> str:
    """A volume's or token's name."""
    if not _NAME.match(text):
        raise InvalidValue(field, f"must be 1 to 32 of a-z, 0-9, '-' and '_', not beginning with a sign (got {text!r})")
    return text


SHIPPED_POLICY = "shipped"
NO_POLICY = "none"
NO_ATTACHMENTS_POLICY = NO_ATTACHMENTS
RESERVED_POLICIES = (SHIPPED_POLICY, NO_POLICY, NO_ATTACHMENTS_POLICY)
"""Names that are always there and cannot be stored: what Outlook and Gmail block; nothing at all; every attachment."""
MAX_POLICY_TEXT = 262_144


def policy_name(text: str, field: str = "policy") -> str:
    """The name of a policy to be stored."""
    if text in RESERVED_POLICIES:
        raise InvalidValue(field, f"{text!r} is a policy of Gatepost itself and cannot be changed; choose another name")
    return name(text, field)


def policy_text(text: str) -> str:
    """The text of a policy, of a bearable length; what it says is checked by who stores it."""
    if len(text) > MAX_POLICY_TEXT:
        raise InvalidValue("text", f"must be at most {MAX_POLICY_TEXT:,} characters (got {len(text):,})")
    return text


def secret_ref(text: str, field: str = "password_ref") -> str:
    """The name of a stored secret: fit for a file name."""
    if not _SECRET_REF.match(text) or ".." in text:
        raise InvalidValue(field, f"must be 1 to 200 letters, digits and . _ - + * @ (got {text!r})")
    return text


def reply_text(text: str, field: str) -> str:
    """One line for an SMTP reply."""
    if len(text) > MAX_TEXT:
        raise InvalidValue(field, f"must be at most {MAX_TEXT} characters (got {len(text)})")
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise InvalidValue(field, "must be one line without control characters")
    return text


def fitted_to_kind(rule: DomainRule) -> DomainRule:
    """The rule without what its kind has no use for: what is left over when an administrator changes only the kind of a rule."""
    settings = rule.settings
    if rule.kind is not RuleKind.HOSTED:
        settings = dataclasses.replace(settings, unknown=UnknownRecipients.REJECT, unknown_target="")
    if rule.kind is not RuleKind.ALIAS:
        settings = dataclasses.replace(settings, alias_of="")
    rule = dataclasses.replace(rule, settings=settings)
    if not _has_next_hop(rule, rule.kind):
        kept = {field: getattr(rule, field) for field in ("text", "accept_untrusted", "handlers", "policy")}
        settings = dataclasses.replace(settings, next_hops=())
        tls = rule.tls if rule.kind is RuleKind.MX else TlsPolicy.OPPORTUNISTIC
        rule = DomainRule(rule.domain, rule.kind, **kept, settings=settings, tls=tls)
    if rule.accept_untrusted and rule.kind not in (RuleKind.MX, RuleKind.GATEWAY, RuleKind.HOLD):
        rule = dataclasses.replace(rule, accept_untrusted=False)
    return rule


def domain_rule(rule: DomainRule) -> DomainRule:
    """The rule in stored form, its handlers too."""
    domain = rule_domain(rule.domain)
    kind = _choice(RuleKind, rule.kind, "kind")
    tls = _choice(TlsPolicy, rule.tls, "tls")
    _check_next_hop(rule, kind, tls)
    if rule.accept_untrusted:
        _check_accept_untrusted(domain, kind)
    handlers = tuple(handler(each, f"handlers[{n}].") for n, each in enumerate(rule.handlers))
    patterns = [each.pattern for each in handlers]
    if len(set(patterns)) != len(patterns):
        twice = collections.Counter(patterns).most_common(1)[0][0]
        raise InvalidValue("handlers", f"two handlers for {twice!r}")
    host = domain_key(rule.host.strip()).removesuffix(".")
    text = reply_text(rule.text, "text")
    ordered = tuple(sorted(handlers, key=lambda each: each.pattern))
    rule = dataclasses.replace(rule, domain=domain, kind=kind, tls=tls, host=host, text=text, handlers=ordered)
    settings = rule_settings.rule_settings(rule, mail_address, domain_name)
    if len(settings.next_hops) > 1 or (settings.next_hops and not host):
        first = settings.next_hops[0]
        rule = dataclasses.replace(rule, host=first.host, port=first.port)
    elif settings.next_hops:
        settings = dataclasses.replace(settings, next_hops=())
    return dataclasses.replace(rule, settings=settings if settings != NO_SETTINGS else NO_SETTINGS)


def _check_next_hop(rule: DomainRule, kind: RuleKind, tls: TlsPolicy) -> None:
    if kind is RuleKind.GATEWAY and not rule.host.strip() and not rule.settings.next_hops:
        raise InvalidValue("host", "a gateway rule needs the host to send to")
    if rule.host:
        if not _has_next_hop(rule, kind):
            raise InvalidValue("host", f"a {kind} rule has no host (got {rule.host!r})")
        rule_settings.host(rule.host, "host")
    if not 1 <= rule.port <= 65535:
        raise InvalidValue("port", f"must be 1 to 65535 (got {rule.port})")
    if rule.implicit_tls and tls is TlsPolicy.NONE:
        raise InvalidValue("implicit_tls", "TLS from the first octet and TLS policy none exclude each other")
    if bool(rule.username) != bool(rule.password_ref):
        missing = "password" if rule.username else "username"
        raise InvalidValue(missing, "user name and password go together")
    if rule.password_ref:
        secret_ref(rule.password_ref)
    if len(rule.username) > 256 or any(ord(c) < 32 for c in rule.username):
        raise InvalidValue("username", "must be at most 256 characters without control characters")


def _has_next_hop(rule: DomainRule, kind: RuleKind) -> bool:
    return kind in (RuleKind.GATEWAY, RuleKind.HOLD) or rule.settings.unknown is UnknownRecipients.RELAY


def _check_accept_untrusted(domain: str, kind: RuleKind) -> None:
    if kind not in (RuleKind.MX, RuleKind.GATEWAY, RuleKind.HOLD):
        raise InvalidValue("accept_untrusted", f"is for mx, gateway and hold rules, not for {kind}")
    if domain == "*":
        raise InvalidValue("accept_untrusted", "on '*' it would make this server an open relay; name the domains")


def handler(value: AddressHandler, prefix: str = "") -> AddressHandler:
    """The handler in stored form. `prefix` leads the field names, e.g. 'handlers[2].'."""
    pattern = _pattern(value.pattern.strip(), f"{prefix}pattern")
    kind = _choice(HandlerKind, value.kind, f"{prefix}kind")
    field = f"{prefix}targets"
    if kind not in _WITH_TARGETS and value.targets:
        raise InvalidValue(field, f"a {kind} handler has no targets")
    if kind in (HandlerKind.FORWARD, HandlerKind.COPY) and not value.targets:
        raise InvalidValue(field, f"a {kind} handler needs an address at least")
    most = MAX_MEMBERS if kind is HandlerKind.LIST else MAX_TARGETS
    if len(value.targets) > most:
        raise InvalidValue(field, f"at most {most} addresses (got {len(value.targets)})")
    if kind is not HandlerKind.REJECT and value.text:
        raise InvalidValue(f"{prefix}text", f"a {kind} handler has no text")
    check = user_address if kind is HandlerKind.MAILBOX else mail_address
    targets = tuple(dict.fromkeys(check(target, field) for target in value.targets))
    options = rule_settings.handler_options(value, kind, prefix, mail_address)
    if options == NO_OPTIONS:
        options = NO_OPTIONS
    return AddressHandler(pattern, kind, targets, reply_text(value.text, f"{prefix}text"), value.policy, options)


def stored_pattern(text: str) -> str:
    """A pattern as it is stored, whether there is such a one or not."""
    text = text.strip()
    return text if is_regex(text) else text.lower()


def _pattern(text: str, field: str) -> str:
    """'alice', 'prefix*', '*suffix' or '*', lower-case; or '/regular expression/'."""
    if is_regex(text):
        fault = regex_fault(text)
        if fault or not text.isprintable():
            raise InvalidValue(field, fault or "must have no control characters")
        return text
    fixed = text.removesuffix("*") if text.endswith("*") else text.removeprefix("*")
    if text == "*" or _PATTERN_TEXT.match(fixed):
        return text.lower()
    raise InvalidValue(field, f"must be a local part, 'prefix*', '*suffix', '*' or '/regular expression/' (got {text!r})")


def _choice(kind: type[E], value: str, field: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise InvalidValue(field, f"must be one of {', '.join(kind)} (got {value!r})") from None
