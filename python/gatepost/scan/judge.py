"""The verdict: policies, facts, report and scanners' answers → what becomes of one message, recipient by recipient.

Called by `gate` for live mail and by the dry runs, which is why there is nothing else that decides. Pure: no I/O, no clock but `now`. Never
raises. Invariants (docs/scanning.md, "Recipients who differ"; tests/corpus/policy holds the cases):
a message is refused only if all its recipients' policies refuse it, as SMTP has one reply for all; else it is quarantined for those who
refuse and goes on for the rest. There is one stored message: what one recipient's policy strips or marks is stripped and marked for all.
A sender that was allowed (`RuleSet.allows`) passes every rule for that recipient, unless a scanner names what is in the message.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import zip_longest

from gatepost.message.verdict import MAX_TEXT, Action, Answer, Finding, Verdict
from gatepost.scan.facts import MailFacts
from gatepost.scan.notice import Removed, printable
from gatepost.scan.policies import Policies
from gatepost.scan.policy import HITS_MAX, NOTHING, SEVERITY, Decision, Hit, Policy, Seen, decide
from gatepost.scan.report import Report
from gatepost.scan.scanners.plugin import ScanAnswer

SCANNER_OUT = "scanner-out"
"""Stands for a rule in the verdict of mail that a scanner gave no answer about, because it was out."""
SCANNER_ERROR = "scanner-error"
"""Likewise, because it cannot judge such content."""
ALLOWED = "allowed-sender"
"""Stands for a rule in the verdict of mail that passes because its sender was allowed."""


class Fate(StrEnum):
    """What becomes of a message for one recipient."""

    DELIVER = "deliver"
    QUARANTINE = "quarantine"
    """Accepted held, destination `quarantine`."""
    HOLD = "hold"
    """Accepted held, with its own destination."""
    WAIT = "wait"
    """Accepted held, destination `scan-wait`, until the scanner is back or `Policy.outage_minutes` are over."""
    DEFER = "defer"
    """451: a scanner is out and the policy says closed."""
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be found out before `judge`. All of it False and empty: the message may go on unseen, its verdict is to accept."""

    inspect: bool = False
    plain: bool = False
    """Even a message that is nothing but text must be judged."""
    scanners: tuple[str, ...] | None = ()
    """Whom to ask; None is all that are configured."""


@dataclass(frozen=True, slots=True)
class Stripped:
    """A part to replace by a notice: the index of its entry in the report (of depth 1), and what the notice says."""

    entry: int
    removed: Removed


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict and how to carry it out. `fates` has one for each of the mail's recipients, in order."""

    verdict: Verdict
    fates: tuple[Fate, ...]
    strip: tuple[Stripped, ...] = ()
    contact: str = "postmaster"
    """For the notice."""
    subject: str = ""
    """To be put before the subject."""
    copies: tuple[str, ...] = ()
    """Further recipients, never of a message that is refused."""

    @property
    def refused(self) -> Fate | None:
        """REJECT or DEFER when that is every recipient's fate."""
        kinds = set(self.fates)
        return self.fates[0] if len(kinds) == 1 and self.fates[0] in (Fate.REJECT, Fate.DEFER) else None


def needs(policies: Policies, mail: MailFacts) -> Needs:
    """What the policies of all its recipients want to know."""
    chosen = [policies.get(name) for name in dict.fromkeys(policies.of(mail))]
    if not any(policy.rules for policy in chosen):
        return Needs()
    scanners: dict[str, None] = {}
    for policy in chosen:
        if policy.rules and policy.scanners is None:
            return Needs(True, any(one.needs_plain for one in chosen), None)
        scanners.update(dict.fromkeys(policy.scanners or () if policy.rules else ()))
    return Needs(True, any(one.needs_plain for one in chosen), tuple(scanners))


def judge(policies: Policies, mail: MailFacts, report: Report, answers: Sequence[Answer], now: float) -> Judgement:
    """Decide by the policy of each recipient. `now` is Unix seconds and goes into the verdict."""
    names = policies.of(mail)
    if not any(one.outcome == "infected" for one in answers):
        passes = policies.rule_set.allows
        names = tuple(ALLOWED if passes(mail.sender, to) else name for name, to in zip_longest(names, mail.recipients, fillvalue=""))
    seen = Seen(report, mail, tuple(answers))
    opinions = {name: _Opinion.form(name, policies.get(name), seen) for name in dict.fromkeys(names)}
    fates = _joined([opinions[name].fate for name in names], each=mail.replies_each)
    by_name = dict(zip(names, fates, strict=True))
    taken = [one for one in opinions.values() if by_name[one.name] not in (Fate.REJECT, Fate.DEFER)]
    edits = [one for one in taken if by_name[one.name] is not Fate.QUARANTINE]
    return Judgement(
        _verdict(report, opinions, by_name, answers, now),
        fates[: len(mail.recipients)],
        _strips(report, edits),
        next((one.policy.contact for one in edits if one.decision.strips), "postmaster"),
        next((one.decision.subject for one in sorted(edits, key=_severity, reverse=True) if one.decision.subject), ""),
        tuple(dict.fromkeys(address for one in taken for address in one.decision.copies)),
    )


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one policy wants."""

    name: str
    policy: Policy
    decision: Decision
    fate: Fate
    action: Action
    rule: str
    reason: str

    @classmethod
    def form(cls, name: str, policy: Policy, seen: Seen) -> "_Opinion":
        """That of one policy, or of the allowance of a sender."""
        if name == ALLOWED:
            return cls(name, NOTHING, Decision(None, ()), Fate.DELIVER, Action.ACCEPT, ALLOWED, "")
        seen = replace(seen, answers=tuple(one for one in seen.answers if policy.asks(one.scanner)))
        decision = decide(policy, seen)
        action, rule, reason = decision.action, decision.worst.rule.name if decision.worst else "", decision.reason
        if any(hit.entry < 0 or seen.report.entries[hit.entry].parent is None for hit in decision.strips):
            action = max(action, Action.QUARANTINE, key=SEVERITY.__getitem__)  # the whole message cannot be taken out of itself
        fate = {Action.REJECT: Fate.REJECT, Action.QUARANTINE: Fate.QUARANTINE, Action.HOLD: Fate.HOLD}.get(action, Fate.DELIVER)
        faults = [
            one for one in seen.answers if one.outcome == "error" and not any(rule.matches_answer(one, seen) for rule in policy.rules)
        ]
        if faults and fate is Fate.DELIVER:
            waits = any(_is_outage(one) for one in faults)
            fate = {"open": Fate.DELIVER, "closed": Fate.DEFER, "hold": Fate.WAIT}[policy.outage] if waits else Fate.DELIVER
            action = max(action, Action.TAG if fate is Fate.DELIVER else Action.HOLD, key=SEVERITY.__getitem__)
            rule, reason = SCANNER_OUT if waits else SCANNER_ERROR, f"no answer from {', '.join(one.scanner for one in faults)}"
        return cls(name, policy, decision, fate, action, rule, printable(reason))


def _is_outage(answer: Answer) -> bool:
    """Whether waiting may help: a scanner that could not judge this very content never will. What says nothing of that was out."""
    return not isinstance(answer, ScanAnswer) or answer.outage


def _joined(wanted: Sequence[Fate], *, each: bool) -> tuple[Fate, ...]:
    """One reply for all, unless the client hears of each recipient."""
    if each or len(set(wanted)) == 1:
        return tuple(wanted)
    if set(wanted) == {Fate.REJECT, Fate.DEFER}:
        return (Fate.DEFER,) * len(wanted)  # nobody takes it yet: it is decided when it comes again
    instead = {Fate.REJECT: Fate.QUARANTINE, Fate.DEFER: Fate.WAIT}
    return tuple(instead.get(fate, fate) for fate in wanted)


def _severity(opinion: _Opinion) -> int:
    return SEVERITY[opinion.action]


def _findings(report: Report, hit: Hit) -> Iterator[Finding]:
    """What a rule decided about; of what goes also the digest, and the part of the message that goes with it."""
    path = printable(hit.path, MAX_TEXT)
    if hit.action is not Action.STRIP or hit.entry < 0:
        yield Finding(path, hit.rule.name, hit.action)
        return
    yield Finding(path, hit.rule.name, hit.action, report.entries[hit.entry].sha256)
    top = report.entries[_part_of(report, hit.entry)]
    if top is not report.entries[hit.entry]:
        yield Finding(printable(top.path, MAX_TEXT), hit.rule.name, hit.action, top.sha256)


def _verdict(report: Report, opinions: Mapping[str, _Opinion], fates: Mapping[str, Fate], answers: Sequence[Answer], now: float) -> Verdict:
    """Told of the severest opinion; its action is what is really done."""
    worst = max(opinions.values(), key=_severity)  # of equals that of the first recipient
    action = worst.action
    if action is Action.REJECT and fates[worst.name] is Fate.QUARANTINE:
        held = [one.action for one in opinions.values() if one.action is not Action.REJECT]
        action = max([Action.QUARANTINE, *held], key=SEVERITY.__getitem__)
    hits = [hit for opinion in opinions.values() for hit in opinion.decision.hits]
    findings = dict.fromkeys(finding for hit in hits for finding in _findings(report, hit))
    omitted = sum(opinion.decision.omitted for opinion in opinions.values()) + max(0, len(findings) - HITS_MAX)
    listed = sorted(findings, key=lambda one: SEVERITY[one.action], reverse=True)[:HITS_MAX]
    name = worst.name if worst.name != ALLOWED else ""
    return Verdict(action, name, worst.rule, worst.reason, tuple(listed), tuple(answers), now, omitted)


def _strips(report: Report, opinions: Sequence[_Opinion]) -> tuple[Stripped, ...]:
    """The parts of the message that hold what is to go, each once, with the first reason."""
    found: dict[int, Stripped] = {}
    for opinion in opinions:
        for hit in opinion.decision.strips:
            top = _part_of(report, hit.entry)
            if report.entries[top].parent is not None:
                found.setdefault(top, Stripped(top, Removed(hit.path, hit.reason)))
    return tuple(found[top] for top in sorted(found))


def _part_of(report: Report, entry: int) -> int:
    """The part of the message that holds an entry; the message itself is its own."""
    while (parent := report.entries[entry].parent) is not None and report.entries[parent].parent is not None:
        entry = parent
    return entry
