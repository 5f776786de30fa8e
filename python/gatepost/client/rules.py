"""Domain rules, address handlers, explain. `client.rules` of GatepostClient."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.api.rules.v1 import rules_pb2_grpc
from gatepost.client.connection import Connection, pages
from gatepost.client.rule_values import HandlerOptions, RuleSettings
from gatepost.client.values import (
    DomainRule,
    Explanation,
    Gateway,
    Handler,
    RuleVersion,
    TraceStep,
    number,
    reply_or_none,
    route_value,
    time_value,
    word,
)
from gatepost.message.plain import from_plain, to_plain
from gatepost.message.protofields import fill, plain_of


class Rules:
    """Every method raises the errors of gatepost.client.errors. An etag '' means: whatever is there now."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = rules_pb2_grpc.RulesServiceStub(connection.channel)

    async def create(self, rule: DomainRule) -> DomainRule:
        """Add the rule of a domain."""
        answer = await self._connection.call(self._stub.CreateDomainRule, api.CreateDomainRuleRequest(rule=_rule_proto(rule)))
        return replace(_rule(answer.rule), warnings=tuple(answer.warnings))

    async def get(self, domain: str) -> DomainRule:
        """One rule."""
        answer = await self._connection.call(self._stub.GetDomainRule, api.GetDomainRuleRequest(domain=domain))
        return _rule(answer.rule)

    async def list(self, kind: str = "") -> AsyncIterator[DomainRule]:
        """Rules by domain, all or of one kind."""
        wanted = number(api.RuleKind, kind, "RULE_KIND_", "kind")

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListDomainRules, api.ListDomainRulesRequest(kind=wanted, page_token=token))

        async for rule in pages(fetch, lambda answer: answer.rules):
            yield _rule(rule)

    async def update(self, rule: DomainRule, fields: Sequence[str] = (), *, etag: str = "") -> DomainRule:
        """Change the named fields ('kind', 'gateway', 'gateway.port', 'gateway.password', 'settings.size_limit', …)."""
        request = api.UpdateDomainRuleRequest(rule=_rule_proto(rule), update_mask=FieldMask(paths=fields), etag=etag)
        answer = await self._connection.call(self._stub.UpdateDomainRule, request)
        return replace(_rule(answer.rule), warnings=tuple(answer.warnings))

    async def delete(self, domain: str, *, etag: str = "", force: bool = False) -> None:
        """Remove a rule; `force` also when the domain has users, which are removed then (their mail is kept)."""
        request = api.DeleteDomainRuleRequest(domain=domain, etag=etag, force=force)
        await self._connection.call(self._stub.DeleteDomainRule, request)

    async def create_handler(self, domain: str, handler: Handler, *, etag: str = "") -> Handler:
        """Add a handler."""
        request = api.CreateHandlerRequest(domain=domain, handler=_handler_proto(handler), etag=etag)
        answer = await self._connection.call(self._stub.CreateHandler, request)
        return replace(_handler(answer.handler), warnings=tuple(answer.warnings))

    async def get_handler(self, domain: str, pattern: str) -> Handler:
        """One handler."""
        answer = await self._connection.call(self._stub.GetHandler, api.GetHandlerRequest(domain=domain, pattern=pattern))
        return _handler(answer.handler)

    async def list_handlers(self, domain: str) -> AsyncIterator[Handler]:
        """Handlers of a domain by pattern."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListHandlers, api.ListHandlersRequest(domain=domain, page_token=token))

        async for handler in pages(fetch, lambda answer: answer.handlers):
            yield _handler(handler)

    async def update_handler(self, domain: str, handler: Handler, fields: Sequence[str] = (), *, etag: str = "") -> Handler:
        """Change the named fields ('kind', 'targets', 'text', 'policy', 'options', 'options.srs', …); none = all."""
        mask = FieldMask(paths=fields)
        request = api.UpdateHandlerRequest(domain=domain, handler=_handler_proto(handler), update_mask=mask, etag=etag)
        answer = await self._connection.call(self._stub.UpdateHandler, request)
        return replace(_handler(answer.handler), warnings=tuple(answer.warnings))

    async def delete_handler(self, domain: str, pattern: str, *, etag: str = "") -> None:
        """Remove a handler."""
        request = api.DeleteHandlerRequest(domain=domain, pattern=pattern, etag=etag)
        await self._connection.call(self._stub.DeleteHandler, request)

    async def add_mailbox_handlers(self, domain: str, source_domain: str, *, etag: str = "") -> tuple[Sequence[str], int]:
        """A mailbox handler of `domain` for each mailbox of `source_domain`: local parts added, and how many had a handler already."""
        request = api.AddMailboxHandlersRequest(domain=domain, source_domain=source_domain, etag=etag)
        answer = await self._connection.call(self._stub.AddMailboxHandlers, request)
        return tuple(answer.added), answer.left_alone

    async def versions(self, *, limit: int | None = None) -> AsyncIterator[RuleVersion]:
        """Versions of the rule set, newest first."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListRuleVersions, api.ListRuleVersionsRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.versions, limit):
            yield RuleVersion(one.version, one.author, time_value(one.create_time), one.comment)

    async def explain(
        self,
        recipient: str,
        *,
        sender: str = "",
        client_address: str = "",
        user: str = "",
        size: int = 0,
        assume_trusted: bool | None = None,
        tls: bool = False,
        at: int = 0,
        helo: str = "",
        listener: str = "",
    ) -> Explanation:
        """What the server would do with mail for `recipient`, without doing it. at: Unix seconds, 0 is now."""
        request = api.ExplainRequest(
            sender=sender, recipient=recipient, client_address=client_address, user=user, size=size, assume_trusted=assume_trusted
        )
        request.tls, request.helo, request.listener = tls, helo, listener
        if at:
            request.time.FromSeconds(at)
        answer = await self._connection.call(self._stub.Explain, request)
        return Explanation(
            answer.trusted,
            reply_or_none(answer, "reply"),
            tuple(route_value(route) for route in answer.routes),
            tuple(TraceStep(step.step, step.detail) for step in answer.trace),
            answer.rule_version,
        )


def _rule(rule: api.DomainRule) -> DomainRule:
    return DomainRule(
        domain=rule.domain,
        kind=word(api.RuleKind, rule.kind, "RULE_KIND_"),
        gateway=_gateway(rule.gateway) if rule.HasField("gateway") else None,
        text=rule.text,
        accept_untrusted=rule.accept_untrusted,
        handlers=tuple(_handler(one) for one in rule.handlers),
        etag=rule.etag,
        policy=rule.policy,
        settings=from_plain(RuleSettings, plain_of(rule.settings)),
    )


def _gateway(gateway: api.Gateway) -> Gateway:
    return Gateway(
        host=gateway.host,
        port=gateway.port,
        tls=word(common.TlsPolicy, gateway.tls, "TLS_POLICY_"),
        implicit_tls=gateway.implicit_tls,
        lmtp=gateway.lmtp,
        username=gateway.username,
        has_password=gateway.has_password,
    )


def _rule_proto(rule: DomainRule) -> api.DomainRule:
    made = api.DomainRule(
        domain=rule.domain,
        kind=number(api.RuleKind, rule.kind, "RULE_KIND_", "kind"),
        text=rule.text,
        accept_untrusted=rule.accept_untrusted,
        handlers=[_handler_proto(one) for one in rule.handlers],
        policy=rule.policy,
    )
    if rule.settings != RuleSettings():
        fill(made.settings, to_plain(rule.settings))
    if rule.gateway is not None:
        gateway = rule.gateway
        made.gateway.CopyFrom(
            api.Gateway(
                host=gateway.host,
                port=gateway.port,
                tls=number(common.TlsPolicy, gateway.tls, "TLS_POLICY_", "tls"),
                implicit_tls=gateway.implicit_tls,
                lmtp=gateway.lmtp,
                username=gateway.username,
                password=gateway.password,
            )
        )
    return made


def _handler(handler: api.Handler) -> Handler:
    kind = word(api.HandlerKind, handler.kind, "HANDLER_KIND_").replace("_", "-")
    options = from_plain(HandlerOptions, plain_of(handler.options))
    return Handler(handler.pattern, kind, tuple(handler.targets), handler.text, handler.policy, options)


def _handler_proto(handler: Handler) -> api.Handler:
    kind = number(api.HandlerKind, handler.kind.replace("-", "_"), "HANDLER_KIND_", "kind")
    made = api.Handler(pattern=handler.pattern, kind=kind, targets=handler.targets, text=handler.text, policy=handler.policy)
    if handler.options != HandlerOptions():
        fill(made.options, to_plain(handler.options))
    return made
