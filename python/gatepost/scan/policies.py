"""Which policy is whose: the stored ones by name, the shipped ones, and the settings' defaults. Used by `judge`, made per rule set.

Pure. Invariants: a recipient has exactly one policy; the name found first decides: the address handler's, the domain rule's, the settings'
for the direction, theirs for trusted senders, their default. A name that nothing is stored under is the shipped policy, so that mail is
never let through because a policy went.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gatepost.directory.validation import NO_ATTACHMENTS_POLICY, NO_POLICY, SHIPPED_POLICY
from gatepost.routing.decide import decide
from gatepost.routing.model import Question, RuleSet
from gatepost.scan.facts import Direction, MailFacts
from gatepost.scan.policy import DEFAULT, NO_ATTACHMENTS, NOTHING, Policy

SHIPPED: Mapping[str, Policy] = {SHIPPED_POLICY: DEFAULT, NO_POLICY: NOTHING, NO_ATTACHMENTS_POLICY: NO_ATTACHMENTS}


@dataclass(frozen=True, slots=True)
class Defaults:
    """Names of the settings; '' for a direction or for trusted senders leaves it to the next."""

    policy: str = SHIPPED_POLICY
    trusted: str = ""
    directions: Mapping[Direction, str] = field(default_factory=dict)

    def name(self, direction: Direction, *, trusted: bool) -> str:
        """What holds where neither handler nor rule names one."""
        return self.directions.get(direction) or (self.trusted if trusted else "") or self.policy


class Policies:
    """The policies in force. `enabled` False: nothing is looked into, whoever asks for it."""

    def __init__(
        self,
        rule_set: RuleSet,
        named: Mapping[str, Policy] | None = None,
        defaults: Defaults | None = None,
        *,
        enabled: bool = True,
        delimiter: str = "+",
    ) -> None:
        self.rule_set = rule_set
        self.enabled = enabled
        self._named = {**(named or {}), **SHIPPED}
        self._defaults = defaults or Defaults()
        self._delimiter = delimiter
        self._only = ""

    def only(self, name: str, policy: Policy | None = None) -> "Policies":
        """The same, with one policy (by default the one of that name) for all, in force even where scanning is off: for a dry run."""
        named = self._named if policy is None else {**self._named, name: policy}
        made = Policies(self.rule_set, named, self._defaults, delimiter=self._delimiter)
        made._only = name
        return made

    def get(self, name: str) -> Policy:
        """The policy of that name, the shipped one for a name that is not known."""
        return self._named.get(name, DEFAULT) if self.enabled else NOTHING

    def name_for(self, recipient: str, direction: Direction, *, trusted: bool) -> str:
        """Whose policy one recipient's mail is judged by. One look-up in the memory of decisions for an address just routed."""
        if self._only:
            return self._only
        decision = decide(self.rule_set, Question("", recipient, trusted), delimiter=self._delimiter)
        return decision.policy or self._defaults.name(direction, trusted=trusted)

    def of(self, mail: MailFacts) -> tuple[str, ...]:
        """A name per recipient, in order; the default alone for a message without recipients."""
        names = tuple(self.name_for(one, mail.direction, trusted=mail.trusted) for one in mail.recipients)
        return names or (self._only or self._defaults.name(mail.direction, trusted=mail.trusted),)
