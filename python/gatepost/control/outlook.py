"""What would become of a routed message: where each route would be tried, how, how often; and what the attachment policy would say of it.

Called by RulesetsService.ExplainMail. Hosts are found by delivery's own NextHops, waits by the queue's own RetryPolicy, contents judged by
scan's one judge; nothing is sent. DNS that does not answer is told, not raised.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence

from google.protobuf.duration_pb2 import Duration

from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.config import Settings
from gatepost.control.convert import route_proto
from gatepost.control.explain import Asked
from gatepost.control.ports import StatusSource
from gatepost.delivery.next_hop import NextHops, NoRoute, Own
from gatepost.delivery.resolver import Resolver
from gatepost.message.reply import Reply
from gatepost.queue.retry import RetryPolicy
from gatepost.queue.transport import Failed
from gatepost.routing.model import DeliveryOptions, Route, RouteKind, RuleSet, TlsPolicy
from gatepost.scan.facts import MailFacts, direction_of
from gatepost.scan.files import limits_of, policies_of
from gatepost.scan.gate import Passage
from gatepost.scan.header import header_of
from gatepost.scan.judge import judge
from gatepost.scan.report import inspect

WAITS = 6
NO_KEY = "none: signing is not configured"
"""Gatepost has no keys: whatever signatures a message has when it comes, it leaves with."""
LOOK_UP_SECONDS = 5.0
_TLS = {
    TlsPolicy.NONE: "never encrypted",
    TlsPolicy.OPPORTUNISTIC: "encrypted when the host offers it, whoever it is",
    TlsPolicy.REQUIRED: "always encrypted, whoever the host is",
    TlsPolicy.VERIFIED: "always encrypted, and the certificate must be valid for the host",
    TlsPolicy.PINNED: "always encrypted, and the certificate's key must be one that the rule names",
}
_BY_CONNECTION = (RouteKind.SMTP, RouteKind.LMTP)


class Outlooks:
    """One per server: keeps a resolver, whose answers are remembered as long as they hold."""

    def __init__(self, settings: Callable[[], Settings], source: StatusSource) -> None:
        self._settings = settings
        self._source = source
        self._next_hops = NextHops(settings, Resolver(settings), self._own)

    def _own(self) -> Own:
        facts = self._source.status()
        places = (one.address.rpartition(":") for one in facts.listeners if one.service == "smtp")
        return Own(frozenset({facts.hostname.lower()}), frozenset((host.strip("[]"), int(port)) for host, _, port in places))

    async def of(self, route: Route, at_delivery: Sequence[str] = (), *, offline: bool) -> api.RouteOutlook:
        """What would become of a route; `at_delivery`: what policies would do."""
        made = api.RouteOutlook(route=route_proto(route), at_delivery=at_delivery)
        if route.kind not in _BY_CONNECTION:
            return made
        self._conditions(made, route)
        if offline:
            return made
        try:
            async with asyncio.timeout(LOOK_UP_SECONDS):
                made.hosts.extend(map(str, await self._next_hops.find(route)))
        except TimeoutError:
            made.no_host = f"the DNS did not answer within {LOOK_UP_SECONDS:g} s"
        except NoRoute as error:
            made.no_host, made.no_host_is_final = error.outcome.reason, isinstance(error.outcome, Failed)
        return made

    def _conditions(self, made: api.RouteOutlook, route: Route) -> None:
        made.dkim_key = NO_KEY
        settings, options = self._settings(), route.options or DeliveryOptions()
        made.tls = _TLS[route.tls] + (", from the first octet" if route.implicit_tls else "")
        made.concurrency = options.concurrency or settings.queue.destination_concurrency
        made.messages_per_connection = options.messages_per_connection or settings.delivery.max_deliveries_per_connection
        made.rate_per_minute = options.rate_per_minute
        made.source_address = options.source_address or settings.delivery.source_address
        made.helo = options.helo or settings.delivery.helo or settings.hostname
        made.retry_waits.extend(_duration(seconds) for seconds in waits(settings, options))
        made.expire.CopyFrom(_duration(options.expire or settings.queue.expire_seconds))
        notice = options.delay_notice or settings.queue.delay_notice_seconds
        if notice > 0:
            made.delay_notice.CopyFrom(_duration(notice))


def waits(settings: Settings, options: DeliveryOptions) -> list[float]:
    """Seconds between the first attempts; the last repeats."""
    if options.retry_intervals:
        return [float(one) for one in options.retry_intervals]
    given = {"retry_initial_seconds": options.retry_initial, "retry_factor": options.retry_factor, "retry_max_seconds": options.retry_max}
    changed = {name: float(value) for name, value in given.items() if value}
    policy = RetryPolicy(settings.queue.model_copy(update={**changed, "retry_jitter": 0.0}))
    return [policy.wait(attempt, random.Random()) for attempt in range(1, WAITS + 1)]


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def content(rules: RuleSet, settings: Settings, asked: Asked, *, trusted: bool) -> tuple[api.ContentOutlook, Reply | None]:
    """*blocking* What the attachment policy says of the question's message, and the reply to the end of data if that refuses it."""
    policies, data = policies_of(rules, settings), asked.message
    sender = "" if asked.sender == "<>" else asked.sender
    direction = direction_of(rules, (asked.recipient,), trusted=trusted)
    mail = MailFacts(
        *(sender, (asked.recipient,), direction, trusted, asked.client_address, "", asked.user, len(data)), header=header_of(data)
    )
    found = judge(policies, mail, inspect(data, "message.eml", "message/rfc822", limits_of(settings.scan)), (), time.time())
    verdict, fate = found.verdict, found.fates[0]
    made = api.ContentOutlook(
        policy=verdict.policy or policies.of(mail)[0], action=verdict.action, rule=verdict.rule, reason=verdict.reason, fate=fate
    )
    return made, Passage(verdict=verdict).refusal(fate)
