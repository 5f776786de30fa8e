"""Rule sets made by hand: a domain with handlers, as delivery looks them up."""

from collections.abc import Mapping

from gatepost.routing.model import AddressHandler, DomainRule, HandlerKind, HandlerOptions, RuleKind, RuleSet, RuleSettings
from gatepost.routing.settings import AutoReply, Disclaimer, ListSettings

KEY = b"k" * 32


def make_rules(
    domain: str = "here.test",
    *,
    lists: Mapping[str, ListSettings] | None = None,
    replies: Mapping[str, AutoReply] | None = None,
    disclaimer: Disclaimer | None = None,
    srs_key: bytes = KEY,
) -> RuleSet:
    """One hosted domain; lists and automatic replies by the local part of their address."""
    handlers = [AddressHandler(name, HandlerKind.FORWARD, options=HandlerOptions(list=one)) for name, one in (lists or {}).items()]
    handlers += [AddressHandler(name, HandlerKind.FORWARD, options=HandlerOptions(reply=one)) for name, one in (replies or {}).items()]
    rule = DomainRule(domain, RuleKind.HOSTED, handlers=tuple(handlers), settings=RuleSettings(disclaimer=disclaimer))
    return RuleSet(1, {domain: rule}, {}, srs_key=srs_key)
