"""RulesService over the directory: domain rules, handlers, versions, explain. Served by the supervisor.

Each change is one directory transaction, then `changed` is awaited, so that when the caller has the answer every worker that could
be reached uses the new rules. Directory calls run in threads. Errors: see control.errors.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.api.rules.v1 import rules_pb2_grpc
from gatepost.config import Settings
from gatepost.control.access import author
from gatepost.control.convert import timestamp
from gatepost.control.errors import invalid
from gatepost.control.explain import explain
from gatepost.control.paging import cut, page, window
from gatepost.control.ports import StatusSource
from gatepost.control.rules_convert import (
    PASSWORD_PATH,
    handler_from_proto,
    handler_proto,
    merge_handler,
    merge_rule,
    rule_from_proto,
    rule_kind,
    rule_proto,
    sets_password,
)
from gatepost.control.rulesets import surroundings
from gatepost.control.server import Service
from gatepost.directory import Directory, StoredHandler, StoredRule
from gatepost.directory.validation import rule_domain
from gatepost.routing.lints import OPEN_RELAY, lint, rule_lints
from gatepost.routing.model import AddressHandler, DomainRule, RuleSet

Changed = Callable[[], Awaitable[None]]


class RulesServicer(rules_pb2_grpc.RulesServiceServicer):
    """`rule_set` and `settings` give what is in force now; `changed` spreads a change; `source` knows the listeners."""

    def __init__(
        self,
        directory: Directory,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        changed: Changed,
        source: StatusSource,
    ) -> None:
        self._directory = directory
        self._rule_set = rule_set
        self._settings = settings
        self._changed = changed
        self._source = source

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.rules.v1.RulesService", self, rules_pb2_grpc.add_RulesServiceServicer_to_server)

    async def CreateDomainRule(self, request: api.CreateDomainRuleRequest, context: object) -> api.CreateDomainRuleResponse:
        """See the proto."""
        password = request.rule.gateway.password
        rule = rule_from_proto(request.rule)
        if password:
            rule = _with_password(rule)
        stored = await self._put(rule, None, create=True, password=password)
        return api.CreateDomainRuleResponse(rule=_proto(stored), warnings=await self._warnings(stored.rule))

    async def GetDomainRule(self, request: api.GetDomainRuleRequest, context: object) -> api.GetDomainRuleResponse:
        """See the proto."""
        return api.GetDomainRuleResponse(rule=_proto(await self._rule(request.domain)))

    async def ListDomainRules(self, request: api.ListDomainRulesRequest, context: object) -> api.ListDomainRulesResponse:
        """See the proto."""
        kind = rule_kind(request.kind, "kind") if request.kind else None
        after, limit = window(request.page_size, request.page_token)
        rules = await asyncio.to_thread(self._directory.list_rules, after, limit, kind)
        chosen, token = cut(rules, lambda stored: stored.rule.domain, limit)
        return api.ListDomainRulesResponse(rules=map(_proto, chosen), next_page_token=token)

    async def UpdateDomainRule(self, request: api.UpdateDomainRuleRequest, context: object) -> api.UpdateDomainRuleResponse:
        """See the proto."""
        current = await self._rule(request.rule.domain)
        paths = request.update_mask.paths
        rule = merge_rule(current.rule, request.rule, paths)
        password = request.rule.gateway.password if sets_password(paths) else ""
        if password:
            rule = _with_password(rule)
        elif not rule.username or sets_password(paths):
            rule = replace(rule, password_ref="")
        # Read and written under one etag: a change in between by somebody else is not overwritten.
        stored = await self._put(rule, request.etag or current.etag, create=False, password=password)
        return api.UpdateDomainRuleResponse(rule=_proto(stored), warnings=await self._warnings(stored.rule))

    async def DeleteDomainRule(self, request: api.DeleteDomainRuleRequest, context: object) -> api.DeleteDomainRuleResponse:
        """See the proto."""
        await asyncio.to_thread(
            self._directory.delete_rule, request.domain, etag=request.etag or None, author=author(), force=request.force
        )
        await self._changed()
        return api.DeleteDomainRuleResponse()

    async def CreateHandler(self, request: api.CreateHandlerRequest, context: object) -> api.CreateHandlerResponse:
        """See the proto."""
        handler, password = handler_from_proto(request.handler), request.handler.options.transport.password
        if password:
            handler = _with_handler_password(request.domain, handler)
        stored = await self._put_handler(request.domain, handler, request.etag, create=True, password=password)
        warnings = await self._handler_warnings(request.domain, stored.handler)
        return api.CreateHandlerResponse(handler=handler_proto(stored.handler), etag=stored.etag, warnings=warnings)

    async def GetHandler(self, request: api.GetHandlerRequest, context: object) -> api.GetHandlerResponse:
        """See the proto."""
        stored = await asyncio.to_thread(self._directory.get_handler, request.domain, request.pattern)
        return api.GetHandlerResponse(handler=handler_proto(stored.handler), etag=stored.etag)

    async def ListHandlers(self, request: api.ListHandlersRequest, context: object) -> api.ListHandlersResponse:
        """See the proto."""
        after, limit = window(request.page_size, request.page_token)
        handlers, etag = await asyncio.to_thread(self._directory.list_handlers, request.domain, after, limit)
        chosen, token = cut(handlers, lambda handler: handler.pattern, limit)
        return api.ListHandlersResponse(handlers=map(handler_proto, chosen), next_page_token=token, etag=etag)

    async def UpdateHandler(self, request: api.UpdateHandlerRequest, context: object) -> api.UpdateHandlerResponse:
        """See the proto."""
        current = await asyncio.to_thread(self._directory.get_handler, request.domain, request.handler.pattern)
        known, paths = current.handler, request.update_mask.paths
        handler, password = merge_handler(known, request.handler, paths), request.handler.options.transport.password
        if password and (not paths or PASSWORD_PATH in paths or "options" in paths or "options.transport" in paths):
            handler = _with_handler_password(request.domain, handler)
        else:
            handler, password = _keeping_password(known, handler), ""
        stored = await self._put_handler(request.domain, handler, request.etag or current.etag, create=False, password=password)
        warnings = await self._handler_warnings(request.domain, stored.handler)
        return api.UpdateHandlerResponse(handler=handler_proto(stored.handler), etag=stored.etag, warnings=warnings)

    async def DeleteHandler(self, request: api.DeleteHandlerRequest, context: object) -> api.DeleteHandlerResponse:
        """See the proto."""
        etag = await asyncio.to_thread(
            self._directory.delete_handler, request.domain, request.pattern, etag=request.etag or None, author=author()
        )
        await self._changed()
        return api.DeleteHandlerResponse(etag=etag)

    async def AddMailboxHandlers(self, request: api.AddMailboxHandlersRequest, context: object) -> api.AddMailboxHandlersResponse:
        """See the proto."""
        stored, added, left = await asyncio.to_thread(
            self._directory.add_mailbox_handlers, request.domain, request.source_domain, etag=request.etag or None, author=author()
        )
        if added:
            await self._changed()
        return api.AddMailboxHandlersResponse(added=added, left_alone=left, etag=stored)

    async def ListRuleVersions(self, request: api.ListRuleVersionsRequest, context: object) -> api.ListRuleVersionsResponse:
        """See the proto."""
        versions = await asyncio.to_thread(self._directory.rule_versions)
        # Newest first: the key falls as the version rises.
        chosen, token = page(versions, lambda entry: f"{(1 << 62) - entry.version:020d}", request.page_size, request.page_token)
        made = (api.RuleVersion(version=v.version, author=v.author, create_time=timestamp(v.created_at), comment=v.comment) for v in chosen)
        return api.ListRuleVersionsResponse(versions=made, next_page_token=token)

    async def Explain(self, request: api.ExplainRequest, context: object) -> api.ExplainResponse:
        """See the proto."""
        return explain(self._settings(), self._rule_set(), request, int(time.time()))

    async def _rule(self, domain: str) -> StoredRule:
        return await asyncio.to_thread(self._directory.get_rule, domain)

    async def _put(self, rule: DomainRule, etag: str | None, *, create: bool, password: str) -> StoredRule:
        """The secret follows the rule: a rule that is refused must not change the password in force."""
        self._refuse_errors(rule)
        stored = await asyncio.to_thread(self._directory.put_rule, rule, etag=etag, create=create, author=author())
        if password:
            await asyncio.to_thread(self._directory.put_secret, rule.password_ref, password)
        await self._changed()
        return stored

    def _refuse_errors(self, rule: DomainRule) -> None:
        """Errors that only this server can see: a gateway to itself, a relay for a whole top level domain."""
        for one in rule_lints(rule, surroundings(self._settings(), self._source)):
            if one.error:
                word = f"; only a rule file can force it: gatepost rules apply FILE --force {OPEN_RELAY}" if one.code == OPEN_RELAY else ""
                raise invalid(one.path[-1], f"{one.message}{word}")

    async def _warnings(self, rule: DomainRule) -> list[str]:
        """What is odd about a rule that was saved, or about the handlers that it is given with here."""
        around = surroundings(self._settings(), self._source)
        found = await asyncio.to_thread(lint, self._rule_set(), around, [rule])
        return [f"{one.message} [{one.code}]" for one in found]

    async def _handler_warnings(self, domain: str, handler: AddressHandler) -> list[str]:
        rule = self._rule_set().rules.get(rule_domain(domain))
        return await self._warnings(replace(rule, handlers=(handler,))) if rule is not None else []

    async def _put_handler(self, domain: str, handler: AddressHandler, etag: str, *, create: bool, password: str) -> StoredHandler:
        stored = await asyncio.to_thread(self._directory.put_handler, domain, handler, etag=etag or None, create=create, author=author())
        transport = handler.options.transport
        if password and transport is not None:
            await asyncio.to_thread(self._directory.put_secret, transport.password_ref, password)
        await self._changed()
        return stored


def _with_password(rule: DomainRule) -> DomainRule:
    """The rule with the name its secret is kept under: steady, so that queued mail is delivered with a changed password."""
    if not rule.username:
        raise invalid("rule.gateway.password", "needs a gateway with a user name")
    digest = hashlib.sha256(f"{rule.domain.lower()}\0{rule.username}".encode()).hexdigest()[:24]
    return replace(rule, password_ref=f"gateway-{digest}")


def _with_handler_password(domain: str, handler: AddressHandler) -> AddressHandler:
    transport = handler.options.transport
    if transport is None or not transport.username:
        raise invalid("handler.options.transport.password", "needs a transport with a user name")
    text = f"{domain.lower()}\0{handler.pattern}\0{transport.username}"
    ref = f"handler-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    return _with_transport(handler, password_ref=ref)


def _keeping_password(known: AddressHandler, handler: AddressHandler) -> AddressHandler:
    """An update that names no password keeps the one in force, as long as the user name stays."""
    before, after = known.options.transport, handler.options.transport
    if before is None or after is None or before.username != after.username or not before.password_ref:
        return handler
    return _with_transport(handler, password_ref=before.password_ref)


def _with_transport(handler: AddressHandler, *, password_ref: str) -> AddressHandler:
    transport = handler.options.transport
    assert transport is not None  # the callers have looked
    return replace(handler, options=replace(handler.options, transport=replace(transport, password_ref=password_ref)))


def _proto(stored: StoredRule) -> api.DomainRule:
    return rule_proto(stored.rule, stored.etag)
