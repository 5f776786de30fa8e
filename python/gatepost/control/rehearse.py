"""A rehearsal: recorded mail decided by the rules in force and by others; what comes out differently is told. *Blocking*, in a thread.

Called by RulesetsService.Rehearse. Decides with decide() itself. The interpreter lock is given up every few decisions' time by the
interpreter; a pause after each BATCH keeps the control plane answering.
"""

import heapq
import time
from pathlib import Path

from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.control.convert import timestamp, trace_proto
from gatepost.queue.recorded import Key, read
from gatepost.routing.decide import decide
from gatepost.routing.model import Decision, Question, RuleSet

BATCH = 2000
PAUSE_SECONDS = 0.002
MAX_DECISIONS = 1_000_000


def rehearse(data: Path, before: RuleSet, after: RuleSet, delimiter: str, limit: int) -> api.RehearseResponse:
    """See the proto."""
    recorded = _recorded(data)
    answer = api.RehearseResponse(decisions=len(recorded))
    if recorded:
        answer.since.CopyFrom(timestamp(min(first for _, first, _ in recorded.values()) * 1_000_000))
    now = int(time.time())
    flips: list[tuple[int, Key]] = []
    # By recipient: decide() remembers its last answers, and many senders write to the same people.
    for n, (key, (times, _, _)) in enumerate(sorted(recorded.items(), key=lambda item: item[0][1:])):
        question = Question(*key, now=now)
        kind = _flipped(decide(before, question, delimiter=delimiter), decide(after, question, delimiter=delimiter))
        if kind:
            flips.append((times, key))
            answer.kinds[kind] += 1
        if n % BATCH == BATCH - 1:
            time.sleep(PAUSE_SECONDS)
    answer.flip_count = len(flips)
    for times, key in heapq.nlargest(limit, flips):
        answer.flips.append(_flip(key, times, recorded[key][2], before, after, delimiter))
    return answer


def _recorded(data: Path) -> dict[Key, tuple[int, int, int]]:
    """Times, first and last moment by what was asked."""
    found: dict[Key, tuple[int, int, int]] = {}
    for key, times, at in read(data, time.time()):
        known = found.get(key)
        if known is not None:
            found[key] = (known[0] + times, min(known[1], at), max(known[2], at))
        elif len(found) < MAX_DECISIONS:
            found[key] = (times, at, at)
    return found


def _flipped(before: Decision, after: Decision) -> str:
    """What became of it, '' when it comes out the same. Most do, and words cost more than the decision."""
    if before.routes == after.routes and before.reply == after.reply and before.policy == after.policy:
        return ""
    one, other = _outcome(before), _outcome(after)
    if one == other:
        return ""
    words = ["taken" if decision.reply is None else "refused" for decision in (before, after)]
    return "other way" if words[0] == words[1] else f"{words[0]} → {words[1]}"


def _outcome(decision: Decision) -> str:
    """In words: the reply, or the routes. Two outcomes with the same words are the same."""
    if decision.reply is not None:
        return f"{decision.reply.code} {decision.reply.enhanced} {decision.reply.text}"
    routes = (f"{one.address} {one.destination or 'discarded'}{' held' if one.hold else ''}" for one in decision.routes)
    policy = f", policy {decision.policy}" if decision.policy else ""
    return ", ".join(sorted(routes)) + policy


def _flip(key: Key, times: int, last: int, before: RuleSet, after: RuleSet, delimiter: str) -> api.Flip:
    one, other = (decide(rules, Question(*key, now=int(time.time())), delimiter=delimiter) for rules in (before, after))
    return api.Flip(
        sender=key[0],
        recipient=key[1],
        trusted=key[2],
        times=times,
        last_time=timestamp(last * 1_000_000),
        before=_outcome(one),
        after=_outcome(other),
        trace_before=trace_proto(one.trace),
        trace_after=trace_proto(other.trace),
    )
