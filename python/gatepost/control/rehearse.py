"""A rehearsal: recorded mail decided by the rules in force and by others; what comes out differently is told. *Blocking*, in a thread.

Called by RulesetsService.Rehearse. A record is asked about as `explain` asks (control/explain.answer): trust list, sender rules and stage
policies up to the routes, then decide(); by explain.outcome, which leaves out the words. What comes before the recipient is asked once
for each sender.
The interpreter lock is given up every few decisions' time by the interpreter; a pause after each BATCH keeps the control plane answering.
"""

import heapq
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.config import Settings
from gatepost.control.convert import timestamp, trace_proto
from gatepost.control.errors import ControlError
from gatepost.control.explain import Answer, Asked, Before, answer, before_recipient, outcome
from gatepost.message.reply import Reply
from gatepost.queue.recorded import Asking, read
from gatepost.routing.model import Decision, RuleSet

BATCH = 2000
PAUSE_SECONDS = 0.002
MAX_DECISIONS = 500_000
"""Different ones that are held in memory, some 500 octets each; the newest days are read first."""
MAX_SENDERS = 50_000
"""What was found of a sender is kept for as many."""
NOT_ASKED = Reply(553, "5.1.3", "not an address any more")
NOBODY = Decision((), NOT_ASKED)
_NEW: Any = object()

Outcome = Answer | Decision


@dataclass(slots=True)
class _Record:
    """How often, first and last."""

    times: int
    first: int
    last: int


def rehearse(data: Path, settings: Settings, before: RuleSet, after: RuleSet, limit: int) -> api.RehearseResponse:
    """See the proto."""
    recorded = _recorded(data)
    answer = api.RehearseResponse(decisions=len(recorded))
    if recorded:
        answer.since.CopyFrom(timestamp(min(one.first for one in recorded.values()) * 1_000_000))
    old, new = _Side(settings, before), _Side(settings, after)
    flips: list[tuple[int, Asking]] = []
    # By recipient: decide() remembers its last answers, and many senders write to the same people.
    for n, asking in enumerate(sorted(recorded, key=lambda one: one[1:])):
        kind = _flipped(old.outcome(asking), new.outcome(asking))
        if kind:
            flips.append((recorded[asking].times, asking))
            answer.kinds[kind] += 1
        if n % BATCH == BATCH - 1:
            time.sleep(PAUSE_SECONDS)
    answer.flip_count = len(flips)
    for _, asking in heapq.nlargest(limit, flips):
        answer.flips.append(_flip(asking, recorded[asking], old.answer(asking), new.answer(asking)))
    return answer


def _recorded(data: Path) -> dict[Asking, _Record]:
    """What was asked."""
    found: dict[Asking, _Record] = {}
    for asking, times, at in read(data, time.time()):
        known = found.get(asking)
        if known is not None:
            known.times, known.first, known.last = known.times + times, min(known.first, at), max(known.last, at)
        elif len(found) < MAX_DECISIONS:
            found[asking] = _Record(times, at, at)
    return found


class _Side:
    """One of the two rule sets."""

    def __init__(self, settings: Settings, rules: RuleSet) -> None:
        self._settings = settings
        self._rules = rules
        self._now = int(time.time())
        self._senders: dict[tuple[object, ...], Before | None] = {}

    def outcome(self, asking: Asking) -> Outcome:
        """What becomes of it; what is known of a sender is found out once."""
        if "@" not in asking.recipient:
            return self.answer(asking)
        sender = (asking[0], *asking[2:])
        before = self._senders.get(sender, _NEW)
        if before is _NEW:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.clear()
            before = self._senders[sender] = self._before(asking)
        return NOBODY if before is None else outcome(self._settings, self._rules, before, asking.recipient)

    def _before(self, asking: Asking) -> Before | None:
        """None when the sender is no address."""
        try:
            return before_recipient(self._settings, self._rules, self._asked(asking))
        except ControlError:
            return None

    def answer(self, asking: Asking) -> Answer:
        """What becomes of it, as explain tells it."""
        try:
            return answer(self._settings, self._rules, self._asked(asking))
        except ControlError:
            return Answer(False, (), (), NOT_ASKED, "rcpt")

    def _asked(self, asking: Asking) -> Asked:
        return Asked(
            *(asking.sender, asking.recipient, asking.client, asking.user, 0, None if asking.listener else asking.trusted, asking.tls),
            now=self._now,
            helo=asking.helo,
            listener=asking.listener,
            fingerprint=asking.fingerprint,
            subject=asking.subject,
        )


def _flipped(before: Outcome, after: Outcome) -> str:
    """What became of it, '' when it comes out the same. Most do, and words cost more than the decision."""
    if before.routes == after.routes and before.reply == after.reply and before.policy == after.policy:
        return ""
    one, other = _outcome(before), _outcome(after)
    if one == other:
        return ""
    words = ["taken" if decision.reply is None else "refused" for decision in (before, after)]
    return "other way" if words[0] == words[1] else f"{words[0]} → {words[1]}"


def _outcome(found: Outcome) -> str:
    """In words: the reply, or the routes. Two outcomes with the same words are the same."""
    if found.reply is not None:
        return f"{found.reply.code} {found.reply.enhanced} {found.reply.text}"
    routes = (f"{one.address} {one.destination or 'discarded'}{' held' if one.hold else ''}" for one in found.routes)
    policy = f", policy {found.policy}" if found.policy else ""
    return ", ".join(sorted(routes)) + policy


def _flip(asking: Asking, record: _Record, before: Answer, after: Answer) -> api.Flip:
    return api.Flip(
        sender=asking.sender,
        recipient=asking.recipient,
        trusted=asking.trusted,
        client_address=asking.client,
        user=asking.user,
        tls=asking.tls,
        times=record.times,
        last_time=timestamp(record.last * 1_000_000),
        before=_outcome(before),
        after=_outcome(after),
        trace_before=trace_proto(before.trace),
        trace_after=trace_proto(after.trace),
    )
