"""What stage policies have to tell: notices as events and lines of the log, and conditions that cannot be worked out.

Used by sessions and by the queue before a delivery. Does not fail.
"""

from structlog.typing import FilteringBoundLogger

from gatepost.events.bus import FAULT, NOTICE, EventBus
from gatepost.routing.stage_facts import UNKNOWN, Facts
from gatepost.routing.stages import StagePolicy


class Notices:
    """`events` None: the log alone is told."""

    def __init__(self, log: FilteringBoundLogger, events: EventBus | None = None) -> None:
        self._log = log
        self._events = events

    def notice(self, policy: StagePolicy, facts: Facts, message_id: str = "") -> None:
        """A policy whose action is notify was met."""
        told = {"policy": policy.name, "stage": policy.stage.value, **_about(facts)}
        if message_id:
            told["message_id"] = message_id
        self._log.warning("policy notice", text=policy.text, **told)
        if self._events is not None:
            self._events.publish(NOTICE, policy.text, **told)

    def fault(self, policy: StagePolicy, why: str, facts: Facts) -> None:
        """A condition has no answer; what it concerns waits."""
        told = {"policy": policy.name, "stage": policy.stage.value, "error": why}
        self._log.warning("a policy cannot be worked out; what it concerns waits", **told)
        if self._events is not None:
            self._events.publish(FAULT, f"policy {policy.name} cannot be worked out", **told, **_about(facts))


def _about(facts: Facts) -> dict[str, str]:
    """Who and what it is about, as far as it is known."""
    given = {"client": facts.client, "sender": facts.sender, "recipient": facts.recipient}
    return {name: one.address for name, one in given.items() if one is not UNKNOWN}
