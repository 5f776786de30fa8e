"""What of the rule set has to be asked for each message, as sets of bits: mail that no bit concerns is plain and taken natively.

Made by SmtpServer for each rule set. Each thing that may have to be decided (trust by sender, a sender rule, a stage policy) is a bit; of a
client, the name it gives itself, a sender and a recipient it is told which bits may concern them, whatever the others are. Invariant: a bit
that is not in all four needs no decision; one that is may need none either, which costs time only. Policies whose bit is in all are asked
when their stage has come (`may_hold`), those at data natively as far as their conditions are simple (`conditions`).
"""

from collections.abc import Iterable
from functools import lru_cache

from gatepost.expression import Program
from gatepost.message.fields import HeaderView, text_of
from gatepost.message.verdict import PLAIN
from gatepost.native import Condition, Incoming
from gatepost.queue.plan import Planned
from gatepost.routing.model import RuleSet
from gatepost.routing.rates import wants
from gatepost.routing.senders import Want, sender_rules
from gatepost.routing.stage_facts import NOT_VERIFIED, UNKNOWN, AddressFacts, ClientFacts, Facts, MessageFacts, PartlyKnown, scan_facts
from gatepost.routing.stage_steps import steps
from gatepost.routing.stages import Stage, StagePolicy, may_hold, stage_policies, verifies
from gatepost.routing.trust import Client, trust_list
from gatepost.server.smtp.policed import route_facts

TRUST = 1 << 63
"""Whether the client is trusted depends on the sender."""
VERIFY = 1 << 62
"""Where it comes from is verified of all mail that is not from trusted clients."""
SENDERS = 32
"""Bits of sender rules, from the lowest; further rules share them."""
POLICIES, LAST = SENDERS, 62
"""Bits of stage policies, from the first to before the last; further policies share them."""
ALL = (1 << 64) - 1
REMEMBERED = 1_000
"""Choices of policies that are kept."""
address_facts = lru_cache(REMEMBERED)(AddressFacts)
_RANGE = (1 << LAST) - (1 << POLICIES)

_PLAIN: dict[str, object] = {"listener": "smtp", "user": "", "tls": False, "certificate": ""}
"""What is known of every client whose mail is plain."""
_ASKED = {"helo": (Stage.HELO,), "mail": (Stage.MAIL,), "rcpt": (Stage.RCPT, Stage.ROUTE), "data": (Stage.DATA,)}
"""Stages at which plain mail asks policies, and whose."""
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
        self.verifies = verifies(rule_set, verify)
        """Whether mail of clients that are not trusted is verified, at least where a policy that asks for it may hold."""
        later = found is not None and found.verifies_later
        self._verify = VERIFY if self.verifies and (verify == "always" or later) else 0
        self._find_places()

    def _find_places(self) -> None:
        """Which bits are looked at when."""
        self.at_connect = self._at(Stage.CONNECT)
        self.at_mail = TRUST | VERIFY | ((1 << SENDERS) - 1)
        if self.policies is not None and self.verifies:
            self.at_mail |= _bits(self.policies.verifying(), POLICIES)
        self.at_rcpt = ALL & ~_RANGE
        self.at_helo, self.asked_at_mail, self.asked_at_rcpt, self.at_data = (self._at(*stages) for stages in _ASKED.values())
        self.asks_helo = any(touch[:2] == ("client", "helo") for _, program in self._early if program for touch in program.touches)
        self.conditions = [(bit, Condition(steps(policy.when))) for bit, policy, _ in self._placed(Stage.DATA)]
        self._chosen: dict[tuple[str, int], list[Program | None]] = {}
        self._counted: dict[tuple[str, str, str], list[Want]] = {}

    def _at(self, *stages: Stage) -> int:
        return _bits((policy.stage in stages for policy, _ in self._early), POLICIES)

    def _placed(self, *stages: Stage) -> list[tuple[int, StagePolicy, Program | None]]:
        """The policies of stages, each with its bit."""
        return [(_bit(n, POLICIES), policy, program) for n, (policy, program) in enumerate(self._early) if policy.stage in stages]

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
        return _bits(self.policies.may_hold(facts), POLICIES)

    # ---- what holds now --------------------------------------------------------------------------------------------------

    def may_hold(self, stage: str, bits: int, facts: Facts) -> bool:
        """Whether one of the policies of a stage behind some bits holds, or cannot say, where this is known of plain mail."""
        programs = self._chosen.get((stage, bits)) or self._choose(stage, bits)
        facts.auth = NOT_VERIFIED
        values = facts.values()
        return any(may_hold(program, values) for program in programs)

    def counted(self, client: str, sender: str, recipient: str) -> list[Want]:
        """What a plain message counts as."""
        found = self._counted.get((client, sender, recipient))
        if found is None:
            if len(self._counted) >= REMEMBERED:
                self._counted.clear()
            rates = self.policies.rates if self.policies is not None else ()
            found = self._counted[client, sender, recipient] = wants(rates, client, "", sender, (recipient,))
        return found

    def _choose(self, stage: str, bits: int) -> list[Program | None]:
        """The conditions behind bits."""
        if len(self._chosen) >= REMEMBERED:
            self._chosen.clear()
        made = self._chosen[stage, bits] = [program for bit, _, program in self._placed(*_ASKED[stage]) if bit & bits]
        return made


def facts_of(client: ClientFacts, sender: str | None, recipient: tuple[str, Planned, bool] | None, incoming: Incoming | None) -> Facts:
    """What is known of plain mail at a stage. recipient: address, plan, and whether the message passes the gate as text."""
    facts = Facts(client=client)
    if sender is not None:
        facts.sender = address_facts(sender)
    if recipient is not None:
        address, plan, looked_at = recipient
        if incoming is None:
            facts.recipient, facts.route = address_facts(address), route_facts(plan)
        else:
            facts.message = MessageFacts(incoming.size, (address,), Fields(incoming))
            facts.scan = _LOOKED_AT if looked_at else _UNSEEN
    return facts


class Fields:
    """The fields of a received message, for conditions: `fields('subject')` are its values as texts."""

    __slots__ = ("_incoming", "_view")

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._view: HeaderView | None = None

    def __call__(self, name: str) -> list[str]:
        """The values of a field."""
        found = self._incoming.values(name) if self._view is None else None
        return [text_of(value) for value in found] if found is not None else self.view.texts(name)

    @property
    def view(self) -> HeaderView:
        """All of them."""
        if self._view is None:
            self._view = HeaderView(self._incoming.header())
        return self._view


def _bit(n: int, first: int) -> int:
    return 1 << (first + n % (SENDERS if not first else LAST - first))


def _bits(fits: Iterable[bool], first: int = 0) -> int:
    made = 0
    for n, one in enumerate(fits):
        made |= _bit(n, first) if one else 0
    return made
