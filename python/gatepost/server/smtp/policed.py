"""Stage policies in a session: asks them with the facts of the moment and keeps what they want done until the commit.

Used by session.py and data.py, only where the rule set has policies. Effects of connect and helo hold for every message of the session,
those of mail and data for the message, those of rcpt and route for the recipient. Does not fail: what cannot be asked defers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from gatepost.message.envelope import Notify, Recipient
from gatepost.message.reply import Reply
from gatepost.message.verdict import Action, Verdict
from gatepost.policy.mail_auth import Results
from gatepost.policy.notices import Notices
from gatepost.queue.jobs import decode_route
from gatepost.queue.passage import withheld
from gatepost.queue.plan import ParticularPlan, Planned, planned
from gatepost.routing.senders import Want
from gatepost.routing.stage_facts import Facts, RouteFacts
from gatepost.routing.stages import Finding, Stage, StageAction, StagePolicies, StagePolicy, limit_want, refusal, rerouted
from gatepost.scan.judge import Fate
from gatepost.spool import PlannedRecipient

Limit = Callable[[list[Want]], Reply | None]

_WITHHOLDING = {StageAction.HOLD: Fate.HOLD, StageAction.QUARANTINE: Fate.QUARANTINE}


@dataclass(slots=True)
class Effects:
    """What policies want done with a message or a recipient."""

    done: list[StagePolicy] = field(default_factory=list)

    def of(self, *actions: StageAction) -> list[StagePolicy]:
        """Those with one of these actions, in order."""
        return [one for one in self.done if one.action in actions]


def ask(policies: StagePolicies, stage: Stage, facts: Facts, effects: Effects, limit: Limit, tell: Notices) -> Reply | None:
    """Ask the policies of a stage: the reply that refuses, or None; the rest goes into `effects`."""
    for finding in policies.ask(stage, facts):
        found = _follow(finding, facts, effects, limit, tell)
        if found is not None:
            return found
    return None


def _follow(finding: Finding, facts: Facts, effects: Effects, limit: Limit, tell: Notices) -> Reply | None:
    policy = finding.policy
    if finding.holds is None:
        tell.fault(policy, finding.why, facts)
    if not finding.holds:
        return refusal(finding)
    if policy.action is StageAction.NOTIFY:
        tell.notice(policy, facts)
    elif policy.action is StageAction.LIMIT:
        return limit([limit_want(policy, facts)])
    elif policy.action not in (StageAction.ACCEPT, StageAction.REJECT, StageAction.DEFER):
        effects.done.append(policy)
    return refusal(finding)


# ---- carrying out ------------------------------------------------------------------------------------------------------


def changed_plan(plan: Planned, recipient: Recipient, effects: Effects) -> Planned:
    """One recipient's plan after its own policies, and after those of the message."""
    made = plan
    for policy in effects.of(StageAction.REROUTE):
        made = tuple(_rerouted(one.route, recipient, policy) if one.destination else one for one in made)
    for policy in effects.of(*_WITHHOLDING):
        made = withheld(made, _WITHHOLDING[policy.action])
    return _like(plan, made)


def with_results(verdict: Verdict | None, results: Results, now: float) -> Verdict:
    """The verdict that goes into the record of a message, and says what was verified."""
    known = verdict if verdict is not None else Verdict(Action.ACCEPT, at=now)
    return replace(known, answers=(*known.answers, *results.answers()))


def route_facts(plan: Planned) -> RouteFacts:
    """Where a recipient goes, for conditions."""
    first = decode_route(plan[0].route)
    return RouteFacts(first.kind.value, first.host, len(plan))


def _like(plan: Planned, made: Planned) -> Planned:
    if not isinstance(plan, ParticularPlan) or made is plan:
        return made
    kept = ParticularPlan(made)
    kept.__dict__.update(plan.__dict__)  # what else is asked of the message because of this recipient
    return kept


def _rerouted(encoded: bytes, recipient: Recipient, policy: StagePolicy) -> PlannedRecipient:
    return planned(recipient, rerouted(decode_route(encoded), policy))


def verdict_with(verdict: Verdict | None, effects: Iterable[Effects], now: float) -> Verdict | None:
    """What the queue and the quarantine show as the reason: the policy's, where one withholds."""
    withholding = [policy for one in effects for policy in one.of(*_WITHHOLDING)]
    if not withholding:
        return verdict
    worst = next((one for one in withholding if one.action is StageAction.QUARANTINE), withholding[0])
    action = Action.QUARANTINE if worst.action is StageAction.QUARANTINE else Action.HOLD
    reason = worst.text or worst.comment or f"policy {worst.name} at stage {worst.stage}"
    if verdict is None:
        return Verdict(action, f"stage:{worst.stage}", worst.name, reason, at=now)
    return replace(verdict, action=action, policy=f"stage:{worst.stage}", rule=worst.name, reason=reason)


def copies_for(effects: Iterable[Effects]) -> list[Recipient]:
    """Who gets a copy."""
    addresses = dict.fromkeys(policy.address for one in effects for policy in one.of(StageAction.COPY))
    return [Recipient(address, Notify.NEVER) for address in addresses]
