"""Rows of the tables, and of the mapped index, which holds the same columns, as the values of routing.model.

Called by rules.py, mapped.py and live.py for every row that is read: plain tuples and no ORM. Equal settings of many rows are one object.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from gatepost.message.plain import from_plain
from gatepost.native import HandlerRow, MailboxRow
from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, HandlerOptions, Mailbox, RuleKind, RuleSettings, TlsPolicy
from gatepost.routing.settings import NO_OPTIONS, NO_SETTINGS

HANDLER_COLUMNS = "pattern, kind, targets, text, policy, options"
"""In the order that `handler_of` takes them."""
HANDLER_KINDS = {str(kind): kind for kind in HandlerKind}
RULE_KINDS = {str(kind): kind for kind in RuleKind}
TLS = {str(kind): kind for kind in TlsPolicy}
_IMPLICIT_TLS, _LMTP, _ACCEPT_UNTRUSTED = 1, 2, 4
Body = tuple[tuple[Any, ...], tuple[Any, ...]]
"""A DomainRule's fields between domain and handlers, and those behind the handlers: what many rules have in common."""
RULE: Callable[..., DomainRule] = DomainRule
"""With its fields by place."""


@lru_cache(maxsize=4096)
def options_of(text: str) -> HandlerOptions:
    """The column `options` of a handler."""
    return from_plain(HandlerOptions, json.loads(text)) if text else NO_OPTIONS


@lru_cache(maxsize=4096)
def settings_of(text: str) -> RuleSettings:
    """The column `settings` of a rule."""
    return from_plain(RuleSettings, json.loads(text)) if text else NO_SETTINGS


def handler_of(row: HandlerRow) -> AddressHandler:
    """Of HANDLER_COLUMNS."""
    pattern, kind, targets, text, policy, options = row
    its_targets = (targets,) if "\n" not in targets else tuple(targets.split("\n"))
    return AddressHandler(
        pattern, HANDLER_KINDS[kind], its_targets if targets else (), text, policy, options_of(options) if options else NO_OPTIONS
    )


def rule_of(texts: tuple[str, ...], port: int, flags: int, handlers: tuple[AddressHandler, ...] = ()) -> DomainRule:
    """Of a row of the index (RuleRow)."""
    before, behind = body_of(texts, port, flags)
    return RULE(texts[0], *before, handlers, *behind)


def body_of(texts: tuple[str, ...], port: int, flags: int) -> Body:
    """Of the same row."""
    _, kind, host, tls, username, password_ref, text, policy, settings = texts
    given = bool(flags & _IMPLICIT_TLS), bool(flags & _LMTP), username, password_ref, text, bool(flags & _ACCEPT_UNTRUSTED)
    return (RULE_KINDS[kind], host, port, TLS[tls], *given), (policy, settings_of(settings) if settings else NO_SETTINGS)


def mailbox_of(row: MailboxRow) -> Mailbox:
    """Of address, mailbox_id, volume, enabled."""
    address, mailbox_id, volume, enabled = row
    return Mailbox(address, mailbox_id, volume, bool(enabled))
