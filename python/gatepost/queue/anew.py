"""A queued recipient decided by the rules of now: as reception would route it today, with what stage policies reroute.

Used by reroutes by rules, PreviewReplan and the quarantine, so that what is shown is what is done. Pure. It was taken once: trust and
policies that refuse, hold or copy have had their say, and conditions on what the queue does not know (rates, authentication, the message)
are not met.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gatepost.policy.trust import TrustedNetworks
from gatepost.queue.named import named_address
from gatepost.queue.plan import Sent, question_anew
from gatepost.routing.decide import decide
from gatepost.routing.model import Decision, RuleSet
from gatepost.routing.stage_facts import AddressFacts, Facts, PartlyKnown, RouteFacts
from gatepost.routing.stages import Stage, StageAction, StagePolicies, rerouted, stage_policies
from gatepost.routing.trust import Client, Trust, trust_of

_STAGES = (Stage.RCPT, Stage.ROUTE)
"""Where policies reroute before a message is queued."""


class Session(Sent, Protocol):
    """The origin of a queued message, or the proto's form of it."""

    @property
    def helo(self) -> str:
        """'' of what did not come over SMTP."""

    @property
    def listener(self) -> str:
        """Likewise."""


@dataclass(frozen=True, slots=True)
class Anew:
    """What is asked with: rules, delimiter of the detail, `trust.networks`."""

    rules: RuleSet
    delimiter: str
    networks: Sequence[str]

    def decide(self, origin: Session, reverse_path: str, address: str, size: int, orcpt: str = "") -> Decision:
        """Where `address` goes. orcpt: of the recipient, which may say whom the client named."""
        decision = decide(self.rules, question_anew(origin, reverse_path, address, size), delimiter=self.delimiter)
        policies = stage_policies(self.rules)
        if decision.reply is not None or not origin.listener or policies is None or not reroutes(policies):
            return decision  # mail of ours and of the API meets no policy before it is queued
        named = named_address(self.rules, address, orcpt, self.delimiter)
        whole = (
            decision if named == address else decide(self.rules, question_anew(origin, reverse_path, named, size), delimiter=self.delimiter)
        )
        facts = Facts(self._client(origin), AddressFacts(reverse_path), AddressFacts(named))
        facts.route = RouteFacts(whole.routes[0].kind.value, whole.routes[0].host, len(whole.routes))
        routes = decision.routes
        for one in (found for stage in _STAGES for found in policies.ask(stage, facts, go_on=True)):
            if one.holds and one.policy.action is StageAction.REROUTE:
                routes = tuple(rerouted(route, one.policy) for route in routes)
        return replace(decision, routes=routes)

    def _client(self, origin: Session) -> PartlyKnown:
        names = {"address": origin.client_address, "listener": origin.listener, "user": origin.user, "helo": origin.helo}
        return PartlyKnown(**names, tls=bool(origin.tls), trusted=was_trusted(self.rules, self.networks, origin))


def reroutes(policies: StagePolicies) -> bool:
    """Whether a policy sends mail elsewhere before it is queued."""
    return any(policy.action is StageAction.REROUTE for stage in _STAGES for policy, _ in policies.by_stage[stage])


def was_trusted(rules: RuleSet, networks: Sequence[str], origin: Sent) -> bool:
    """Whether who sent a message may relay, by the rules of now; programs of ours and API clients may."""
    if not origin.client_address:
        return True
    by_settings = bool(origin.user) or origin.client_address in TrustedNetworks(networks)
    return trust_of(rules, Client(origin.client_address, origin.user), Trust(by_settings, "")).trusted
