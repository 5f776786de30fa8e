"""What of the rule set has to be asked for each message, as sets of bits: mail that no bit concerns is plain and taken natively.

Made by SmtpServer for each rule set. Each thing that may have to be decided (trust by sender, a sender rule, a stage policy) is a bit; of a
client, a sender and a recipient it is told which bits may concern them, whatever the others are. Invariant: a bit that is not in all
three needs no decision; one that is may need none either, which costs time only.
"""

from collections.abc import Iterable

from gatepost.routing.model import RuleSet
from gatepost.routing.senders import sender_rules
from gatepost.routing.stages import NOT_VERIFIED, UNKNOWN, AddressFacts, Facts, PartlyKnown, Stage, stage_policies, verifies
from gatepost.routing.trust import Client, trust_list

TRUST = 1 << 63
"""Whether the client is trusted depends on the sender."""
VERIFY = 1 << 62
"""Where it comes from is verified of all mail that is not from trusted clients."""
SENDERS = 32
"""Bits of sender rules, from the lowest; further rules share them."""
COUNTED = 1 << 61
"""A condition asks how much was sent lately, so every message is counted."""
POLICIES, LAST = SENDERS, 61
"""Bits of stage policies, from the first to before the last; further policies share them."""


class Stages:
    """Of one rule set."""

    def __init__(self, rule_set: RuleSet, verify: str = "off") -> None:
        """`verify` is the setting."""
        self.rule_set = rule_set
        self._trust = trust_list(rule_set)
        self._senders = sender_rules(rule_set)
        found = stage_policies(rule_set)
        self.policies = found if found is not None and found.at_reception else None
        self._always = COUNTED if found is not None and found.rates else 0
        self.verifies = verifies(rule_set, verify)
        """Whether mail of clients that are not trusted is verified, at least where a policy that asks for it may hold."""
        later = found is not None and found.verifies_later
        self._verify = VERIFY if self.verifies and (verify == "always" or later) else 0
        self.at_connect = self._places(Stage.CONNECT, Stage.HELO)
        self.at_mail = TRUST | VERIFY | ((1 << SENDERS) - 1) | self._places(Stage.MAIL)
        if self.policies is not None and self.verifies:
            self.at_mail |= _bits(self.policies.verifying(), POLICIES)

    def _places(self, *stages: Stage) -> int:
        return _bits(self.policies.places(*stages), POLICIES) if self.policies is not None else 0

    def of_client(self, client: Client, *, trusted: bool = False) -> int:
        """What may concern a client, of which it is told whether it is trusted unless its sender decides that."""
        trust = TRUST if self._trust is not None and self._trust.open_for(client) else 0
        facts = Facts(client=PartlyKnown(address=client.address, listener="smtp", user="", tls=False, certificate=""))
        excused = trusted and not trust
        if excused or not self.verifies:
            facts.auth = NOT_VERIFIED
        verify = 0 if excused else self._verify
        return trust | verify | self._policies(facts) | (_bits(self._senders.of_client(client)) if self._senders is not None else 0)

    def of_sender(self, sender: str) -> int:
        """What may concern an envelope sender."""
        rules = _bits(self._senders.of_sender(sender)) if self._senders is not None else 0
        return TRUST | VERIFY | rules | self._policies(Facts(sender=AddressFacts(sender)))

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
