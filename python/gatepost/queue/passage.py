"""What is committed of a message that passed the gate: recipients withheld, held or refused as judged, copies routed like other mail. Pure.

Called by the SMTP and LMTP sessions and by the Submitter. Withheld mail is queue mail (docs/scanning.md): it keeps its true routes and has
another destination, which nothing delivers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gatepost.message.envelope import Notify, Recipient
from gatepost.message.verdict import QUARANTINE, SCAN_WAIT
from gatepost.policy.checks import postmaster_domain
from gatepost.queue.plan import Planned, Planner, Refused
from gatepost.routing.model import RuleSet
from gatepost.scan.gate import Passage
from gatepost.scan.judge import Fate
from gatepost.spool import PlannedRecipient

_WITHHELD: Mapping[Fate, str] = {Fate.QUARANTINE: QUARANTINE, Fate.WAIT: SCAN_WAIT}


def withheld(plan: Iterable[PlannedRecipient], fate: Fate) -> Planned:
    """One envelope recipient's plan under its fate."""
    if fate in (Fate.REJECT, Fate.DEFER):
        return ()
    if fate is Fate.HOLD:
        return tuple(replace(one, held=True) for one in plan)
    destination = _WITHHELD.get(fate)
    if destination is None:
        return tuple(plan)
    # Where routing ended the mail (discard) there is nothing to withhold.
    return tuple(replace(one, destination=destination, held=True) if one.destination else one for one in plan)


def pass_through(
    passage: Passage, mailed: Sequence[str], recipients: Sequence[Recipient], plans: Sequence[Iterable[PlannedRecipient]]
) -> list[Planned]:
    """The plans of all recipients after the gate; `mailed` are those of the facts, which the fates are of."""
    if not passage.fates:
        return [tuple(plan) for plan in plans]
    fates = dict(zip(mailed, passage.fates, strict=False))
    return [withheld(plan, fates.get(one.address, Fate.DELIVER)) for one, plan in zip(recipients, plans, strict=True)]


def copies(planner: Planner, passage: Passage, rule_set: RuleSet, hostname: str, delimiter: str) -> list[Planned]:
    """Plans of those who get a copy; who cannot be routed gets none."""
    plans: list[Planned] = []
    for address in passage.copies:
        full = address if "@" in address else f"{address}@{postmaster_domain(rule_set, hostname)}"
        plan = planner.plan(rule_set, "", Recipient(full, Notify.NEVER), trusted=True, delimiter=delimiter)
        if not isinstance(plan, Refused):
            plans.append(plan)
    return plans
