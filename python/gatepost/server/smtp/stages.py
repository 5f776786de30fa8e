"""What of the rule set has to be asked for each message, as sets of bits: mail that no bit concerns is plain and taken natively.

Made by SmtpServer for each rule set. Each thing that may have to be decided (trust by sender, a sender rule, a stage policy) is a bit; of a
client, the name it gives itself, a sender and a recipient it is told which bits may concern them, whatever the others are. Invariant: a bit
that is not in all four needs no decision; one that is may need none either, which costs time only. Policies at data whose bit is in all are
asked at the end of data (`may_hold`), natively as far as their conditions are simple (`conditions`).
"""

from collections.abc import Iterable

from gatepost.expression import Program
from gatepost.message.verdict import PLAIN
from gatepost.native import Condition
from gatepost.queue.plan import Planned
from gatepost.routing.model import RuleSet
from gatepost.routing.senders import sender_rules
from gatepost.routing.stage_steps import steps
from gatepost.routing.stages import (
    NOT_VERIFIED,
    UNKNOWN,
    AddressFacts,
    ClientFacts,
    Facts,
    MessageFacts,
    PartlyKnown,
    Stage,
    StagePolicy,
    may_hold,
    scan_facts,
    stage_policies,
    verifies,
)
from gatepost.routing.trust import Client, trust_list
from gatepost.server.smtp.policed import route_facts

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
ALL = (1 << 64) - 1
REMEMBERED = 1_000
"""Choices of policies that are kept."""
_RANGE = (1 << LAST) - (1 << POLICIES)

_PLAIN: dict[str, object] = {"listener": "smtp", "user": "", "tls": False, "certificate": ""}
"""What is known of every client whose mail is plain."""
_LOOKED_AT, _UNSEEN = scan_facts(PLAIN), scan_facts(None)


class Stages:
    """Of one rule set."""

    def __init__(self, rule_set: RuleSet, verify: str = "off") -> None:
        """`verify` is the setting."""
        self.rule_set = rule_set
        self._trust = trust_list(rule_set)
        self._senders = sender_rules(rule_set)
        found = stage_policies(rule_set)
        self.policies = found if found is not None and found.at_reception else None
        self._early = self.policies.early if self.policies is not None else []
        self._always = COUNTED if found is not None and found.rates else 0
        self.verifies = verifies(rule_set, verify)
        """Whether mail of clients that are not trusted is verified, at least where a policy that asks for it may hold."""
        later = found is not None and found.verifies_later
        self._verify = VERIFY if self.verifies and (verify == "always" or later) else 0
        self._find_places()

    def _find_places(self) -> None:
        """Which bits are looked at when."""
        self.at_connect, self.at_helo = self._at(Stage.CONNECT), self._at(Stage.HELO)
        self.at_mail = TRUST | VERIFY | ((1 << SENDERS) - 1) | self._at(Stage.MAIL)
        if self.policies is not None and self.verifies:
            self.at_mail |= _bits(self.policies.verifying(), POLICIES)
        later = [policy.stage is Stage.DATA and "rate" not in _uses(program) for policy, program in self._early]
        both = zip(self._early, later, strict=True)
        at_rcpt = [policy.stage not in (Stage.CONNECT, Stage.HELO) and not late for (policy, _), late in both]
        # Bits are shared: one that is looked at here and there is looked at when the first of its policies is to be.
        self.at_rcpt = (ALL & ~_RANGE) | _bits(at_rcpt, POLICIES)
        self.at_data = _bits(later, POLICIES) & ~self.at_rcpt
        self.asks_helo = any(touch[:2] == ("client", "helo") for _, program in self._early if program for touch in program.touches)
        self.conditions = [(bit, Condition(steps(policy.when))) for bit, (policy, _) in self._asked_at(self.at_data)]
        self._chosen: dict[int, list[Program | None]] = {}

    def _at(self, *stages: Stage) -> int:
        return _bits((policy.stage in stages for policy, _ in self._early), POLICIES)

    def _asked_at(self, bits: int) -> list[tuple[int, tuple[StagePolicy, Program | None]]]:
        """The policies behind bits, each with its own."""
        placed = ((_bit(n, POLICIES), pair) for n, pair in enumerate(self._early))
        return [(bit, pair) for bit, pair in placed if bit & bits and pair[0].stage is Stage.DATA]

    # ---- what may concern whom -------------------------------------------------------------------------------------------

    def of_client(self, client: Client, *, trusted: bool = False) -> int:
        """What may concern a client, of which it is told whether it is trusted unless its sender decides that."""
        trust = TRUST if self._trust is not None and self._trust.open_for(client) else 0
        facts = Facts(client=PartlyKnown(address=client.address, **_PLAIN, **({} if trust else {"trusted": trusted})))
        excused = trusted and not trust
        if excused or not self.verifies:
            facts.auth = NOT_VERIFIED
        verify = 0 if excused else self._verify
        return trust | verify | self._policies(facts) | (_bits(self._senders.of_client(client)) if self._senders is not None else 0)

    def of_name(self, name: str) -> int:
        """What may concern a client that calls itself so."""
        return (ALL & ~_RANGE) | self._policies(Facts(client=PartlyKnown(helo=name, **_PLAIN)))

    def of_sender(self, sender: str) -> int:
        """What may concern an envelope sender."""
        rules = _bits(self._senders.of_sender(sender)) if self._senders is not None else 0
        return TRUST | VERIFY | rules | self._policies(Facts(client=PartlyKnown(**_PLAIN), sender=AddressFacts(sender)))

    def of_recipient(self, recipient: str, plan: Planned, *, trusted: bool, looked_at: bool) -> int:
        """What may concern mail that is plain, for this recipient alone, who is routed so. looked_at: it passes the gate as text."""
        facts = Facts(
            client=PartlyKnown(**_PLAIN, trusted=trusted),
            recipient=AddressFacts(recipient),
            route=route_facts(plan),
            message=PartlyKnown(recipients=(recipient,)),
            scan=_LOOKED_AT if looked_at else _UNSEEN,
        )
        return TRUST | ((1 << SENDERS) - 1) | self._policies(facts)

    def _policies(self, facts: Facts) -> int:
        """Which policies may hold where this is known; the time is not, since the answer is remembered."""
        if self.policies is None:
            return 0
        facts.time = UNKNOWN
        return _bits(self.policies.may_hold(facts), POLICIES) | self._always

    # ---- at the end of data ----------------------------------------------------------------------------------------------

    def may_hold(self, bits: int, client: ClientFacts, sender: str, message: MessageFacts, *, looked_at: bool) -> bool:
        """Whether one of the policies behind these bits holds, or cannot say, for a plain message that is there."""
        scan = _LOOKED_AT if looked_at else _UNSEEN
        values = Facts(client=client, sender=AddressFacts(sender), message=message, scan=scan, auth=NOT_VERIFIED).values()
        return any(may_hold(program, values) for program in self._programs(bits))

    def _programs(self, bits: int) -> list[Program | None]:
        found = self._chosen.get(bits)
        if found is None:
            if len(self._chosen) >= REMEMBERED:
                self._chosen.clear()
            found = self._chosen[bits] = [program for _, (_, program) in self._asked_at(bits)]
        return found


def _uses(program: Program | None) -> frozenset[str]:
    return program.uses if program is not None else frozenset()


def _bit(n: int, first: int) -> int:
    return 1 << (first + n % (SENDERS if not first else LAST - first))


def _bits(fits: Iterable[bool], first: int = 0) -> int:
    made = 0
    for n, one in enumerate(fits):
        made |= _bit(n, first) if one else 0
    return made
