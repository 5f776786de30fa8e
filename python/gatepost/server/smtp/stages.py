"""What of the rule set has to be asked for each message, as sets of bits: mail that no bit concerns is plain and taken natively.

Made by SmtpServer for each rule set. Each thing that may have to be decided (trust by sender, a sender rule, a stage policy) is a bit; of a
client, a sender and a recipient it is told which bits may concern them, whatever the others are. Invariant: a bit that is not in all
three needs no decision; one that is may need none either, which costs time only.
"""

from collections.abc import Iterable

from gatepost.routing.model import RuleSet
from gatepost.routing.senders import sender_rules
from gatepost.routing.stages import UNKNOWN, AddressFacts, Facts, PartlyKnown, Stage, stage_policies
from gatepost.routing.trust import Client, trust_list

TRUST = 1 << 63
"""Whether the client is trusted depends on the sender."""
SENDERS = 32
"""Bits of sender rules, from the lowest; further rules share them."""
COUNTED = 1 << 61
"""A condition asks how much was sent lately, so every message is counted."""
POLICIES, LAST = SENDERS, 61
"""Bits of stage policies, from the first to before the last; further policies share them."""


class Stages:
    """Of one rule set."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        self._trust = trust_list(rule_set)
        self._senders = sender_rules(rule_set)
        found = stage_policies(rule_set)
        self.policies = found if found is not None and found.at_reception else None
        self._always = COUNTED if found is not None and found.rates else 0
        early, mail = ((Stage.CONNECT, Stage.HELO), (Stage.MAIL,))
        self.at_connect = _bits(self.policies.places(*early), POLICIES) if self.policies is not None else 0
        self.at_mail = TRUST | ((1 << SENDERS) - 1) | (_bits(self.policies.places(*mail), POLICIES) if self.policies is not None else 0)

    def of_client(self, client: Client) -> int:
        """What may concern a client."""
        trust = TRUST if self._trust is not None and self._trust.open_for(client) else 0
        policies = self._policies(Facts(client=PartlyKnown(address=client.address, listener="smtp", user="", tls=False, certificate="")))
        return trust | policies | (_bits(self._senders.of_client(client)) if self._senders is not None else 0)

    def of_sender(self, sender: str) -> int:
        """What may concern an envelope sender."""
        rules = _bits(self._senders.of_sender(sender)) if self._senders is not None else 0
        return TRUST | rules | self._policies(Facts(sender=AddressFacts(sender)))

    def of_recipient(self, recipient: str) -> int:
        """What may concern a recipient."""
        return TRUST | ((1 << SENDERS) - 1) | self._policies(Facts(recipient=AddressFacts(recipient)))

    def _policies(self, facts: Facts) -> int:
        """Which policies may hold where this is known; the time is not, since the answer is remembered."""
        if self.policies is None:
            return 0
        facts.time = UNKNOWN
        return _bits(self.policies.may_hold(facts), POLICIES) | self._always


def _bits(fits: Iterable[bool], first: int = 0) -> int:
    made = 0
    for n, one in enumerate(fits):
        made |= one << (first + n % (SENDERS if not first else LAST - first))
    return made
