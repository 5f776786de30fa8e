"""The stage `deliver`: what policies say of a message just before an attempt to deliver it. Asked by the scheduler, wired by app/.

Policies are those in force at the attempt, whatever version decided the routes. Invariants: without policies of this stage, and for
destinations that none can hold for, the scheduler's ways stay what they are (`concerns`); mail of our own (reports, answers, copies) meets
none, so that no copy is copied; hold, quarantine and reroute are done once for a recipient, noted in its route, and a copy once for a
message, noted in its journal: what an operator releases goes on, and no two policies send a message to and fro. A condition that cannot
be worked out defers. Fails with CoreError (nothing was decided then, or it was journaled).
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from gatepost.message.envelope import Envelope, Notify, Origin, Recipient
from gatepost.message.fields import HeaderView
from gatepost.message.ids import format_message_id
from gatepost.message.reply import SmtpError
from gatepost.message.verdict import QUARANTINE, WITHHELD, Action, Verdict
from gatepost.native import K_NOTE, NotFoundError, Reader
from gatepost.policy.notices import Notices
from gatepost.queue.attempt import decode_detail, encode_detail
from gatepost.queue.destination import DestinationState
from gatepost.queue.quarantine_views import note_of
from gatepost.queue.retry import MICROSECONDS
from gatepost.queue.submit import OWN, SubmissionRefused, Submitter
from gatepost.queue.transport import Deferred, Failed, Job, JobRecipient, JobResult
from gatepost.routing.model import Route, RuleSet
from gatepost.routing.rates import Known, counting
from gatepost.routing.route import DELIVER_EDIT, STAGE_EDIT
from gatepost.routing.senders import Want
from gatepost.routing.stage_facts import (
    AddressFacts,
    AttemptFacts,
    Facts,
    MessageFacts,
    PartlyKnown,
    RateFacts,
    RouteFacts,
    auth_facts,
    scan_facts,
)
from gatepost.routing.stages import Finding, Stage, StageAction, StagePolicies, StagePolicy, limit_want, rerouted, stage_policies
from gatepost.spool import AsyncSpool

MAX_HEADER = 262_144
MAX_DESTINATIONS = 10_000
MAX_COPIED = 50_000
PIECE = 65_536
COPIED = "policy-copy"
BY = "policy"
_NEVER = frozenset({*WITHHELD, "auto-reply:"})
_CHANGING = (StageAction.TAG, StageAction.ADD_HEADER, StageAction.REMOVE_HEADER)
_MOVING = (StageAction.HOLD, StageAction.QUARANTINE, StageAction.REROUTE)

log = structlog.get_logger()


class Counts(Protocol):
    """policy.counters.Counters."""

    def take(self, wants: Sequence[Want]) -> int:
        """Count it if it fits: seconds until it would, 0 when it was counted. Raises OSError."""
        ...

    def known(self, key: str, seconds: int) -> int:
        """How many are counted now. Raises OSError."""
        ...


class StageHost(Protocol):
    """The part of the scheduler that is called."""

    def now(self) -> int:
        """Unix microseconds."""
        ...

    async def settle_ruled(self, state: DestinationState, job: Job, result: JobResult, now: int) -> None:
        """Journal what policies settled."""
        ...

    def give_back(self, jobs: list[Job]) -> None:
        """Undo the taking."""
        ...

    def put_off(self, jobs: list[Job]) -> None:
        """Defer after a fault of our own."""
        ...


@dataclass(frozen=True, slots=True)
class Ruled:
    """What is left to try (None: nothing), and a part of the job that policies settled. Recipients they moved are in neither."""

    job: Job | None
    settled: tuple[Job, JobResult] | None = None


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a recipient is moved to; queue.actions.Way."""

    route: Route
    destination: str
    hold: bool


class DeliverStage:
    """One per worker. `may_relay` says whether who sent a message is trusted."""

    def __init__(
        self,
        spool: AsyncSpool,
        rule_set: Callable[[], RuleSet],
        submitter: Submitter,
        notices: Notices,
        counters: Counts | None,
        may_relay: Callable[[Origin], bool],
    ) -> None:
        self._spool = spool
        self._rule_set = rule_set
        self._submitter = submitter
        self._notices = notices
        self._counters = counters
        self._may_relay = may_relay
        self._seen: RuleSet | None = None
        self._policies: StagePolicies | None = None
        self._concerned: dict[str, bool] = {}
        self._one_copy = asyncio.Lock()
        self._copied: OrderedDict[tuple[bytes, str], None] = OrderedDict()

    def concerns(self, destination: str) -> bool:
        """Whether a policy may hold for mail of a destination."""
        rule_set = self._rule_set()
        if rule_set is not self._seen:
            self._seen, self._concerned = rule_set, {}
            found = stage_policies(rule_set)
            self._policies = found if found is not None and found.by_stage[Stage.DELIVER] else None
        if self._policies is None:
            return False
        known = self._concerned.get(destination)
        if known is None:
            if len(self._concerned) >= MAX_DESTINATIONS:
                self._concerned.clear()
            known = self._concerned[destination] = _may_concern(self._policies, destination)
        return known

    async def pass_jobs(self, host: StageHost, state: DestinationState, jobs: list[Job]) -> list[Job]:
        """What policies leave to be tried. A fault of ours puts a job off."""
        left: list[Job] = []
        for n, job in enumerate(jobs):
            now = host.now()
            try:
                ruled = await self.rule(state.name, job, now)
                if ruled.settled is not None:
                    await host.settle_ruled(state, *ruled.settled, now)
            except asyncio.CancelledError:
                host.give_back([*left, *jobs[n:]])
                raise
            except Exception:
                log.exception("policies at deliver could not be asked", destination=state.name)
                host.put_off([job])
                continue
            if ruled.job is not None:
                left.append(ruled.job)
        return left

    async def rule(self, destination: str, job: Job, now: int) -> Ruled:
        """What policies say of one job; what they move is on disk on return."""
        policies = self._policies
        if policies is None or job.meta.origin.protocol == OWN:
            return Ruled(job)
        facts = [self._facts(destination, job, one, now) for one in job.recipients]
        if policies.reads_header:
            found = await asyncio.to_thread(self._ask_all, policies, job, facts)
        else:
            found = [policies.ask(Stage.DELIVER, one) for one in facts]
        return await self._carry_out(job, facts, found, now)

    # ---- what conditions see

    def _facts(self, destination: str, job: Job, one: JobRecipient, now: int) -> Facts:
        origin, route = job.meta.origin, one.route
        client = PartlyKnown(
            address=origin.client_address,
            listener=origin.listener,
            user=origin.user,
            tls=bool(origin.tls),
            trusted=self._may_relay(origin),
            helo=origin.helo,
        )
        facts = Facts(client, AddressFacts(job.reverse_path), AddressFacts(one.address))
        facts.route = RouteFacts(route.kind.value, route.host, 1)
        facts.message = MessageFacts(job.size, [each.address for each in job.recipients])
        facts.scan, facts.auth = scan_facts(job.meta.verdict), auth_facts(job.meta.verdict)
        facts.attempt = AttemptFacts(one.attempts + 1, max(0, now - job.received_at) // MICROSECONDS, destination)
        facts.rate = RateFacts(count=counting(self._known(), facts))
        return facts

    def _known(self) -> Known | None:
        return self._counters.known if self._counters is not None else None

    def _ask_all(self, policies: StagePolicies, job: Job, facts: Sequence[Facts]) -> list[list[Finding]]:
        """*blocking* With the header, read once. Raises CoreError."""
        view = HeaderView(self._spool.open_message(job.message_id).header(MAX_HEADER))
        for one in facts:
            one.message.header = view.texts
        return [policies.ask(Stage.DELIVER, one) for one in facts]

    # ---- what is done

    async def _carry_out(self, job: Job, facts: Sequence[Facts], found: Sequence[Sequence[Finding]], now: int) -> Ruled:
        going: list[JobRecipient] = []
        settled: list[tuple[JobRecipient, Deferred | Failed]] = []
        ways: list[tuple[JobRecipient, _Way, StagePolicy]] = []
        copies: dict[str, StagePolicy] = {}
        for recipient, known, findings in zip(job.recipients, facts, found, strict=True):
            met = [one.policy for one in findings if one.holds]
            outcome = self._refusal(job, recipient, known, findings)
            if outcome is not None:
                settled.append((recipient, outcome))
                continue
            copies |= {one.name: one for one in met if one.action is StageAction.COPY}
            moving = [one for one in met if one.action in _MOVING and (DELIVER_EDIT, one.name) not in recipient.route.edits]
            if moving:
                ways.append((recipient, _way(recipient, moving, met), _reason(moving)))
            else:
                going.append(_edited(recipient, [one for one in met if one.action in _CHANGING]))
        await self._copy(job, list(copies.values()), now)
        await self._move(job, ways, now)
        done = JobResult(tuple(outcome for _, outcome in settled))
        return Ruled(
            replace(job, recipients=tuple(going)) if going else None,
            (replace(job, recipients=tuple(one for one, _ in settled)), done) if settled else None,
        )

    def _refusal(self, job: Job, recipient: JobRecipient, facts: Facts, findings: Sequence[Finding]) -> Deferred | Failed | None:
        """What keeps a recipient from being tried. Notices are given on the way, limits counted: once for an attempt, though a recipient
        that was moved is asked about twice.
        """
        for one in findings:
            policy = one.policy
            if one.holds is None:
                self._notices.fault(policy, one.why, facts)
                return Deferred(f"policy {policy.name} cannot be worked out now: {one.why}", "4.7.1")
            if not one.holds or _told(recipient, policy) in recipient.route.edits:
                continue
            if policy.action is StageAction.REJECT:
                return Failed(policy.text or f"refused by policy {policy.name}", "5.7.1")
            if policy.action is StageAction.DEFER:
                return Deferred(policy.text or f"not now by policy {policy.name}", "4.7.1")
            if policy.action is StageAction.NOTIFY:
                self._notices.notice(policy, facts, format_message_id(job.message_id))
            elif policy.action is StageAction.LIMIT and (seconds := self._wait(policy, facts)):
                return Deferred(f"limit of policy {policy.name}: {policy.most} in {policy.seconds} seconds", "4.7.1", wait=seconds)
        return None

    def _wait(self, policy: StagePolicy, facts: Facts) -> int:
        if self._counters is None:
            return 0
        try:
            return self._counters.take([limit_want(policy, facts)])
        except OSError as fault:
            self._notices.fault(policy, f"limits cannot be counted: {fault}", facts)
            return policy.seconds

    async def _move(self, job: Job, ways: Sequence[tuple[JobRecipient, _Way, StagePolicy]], now: int) -> None:
        for recipient, way, policy in ways:
            note = encode_detail({"t": now, "by": BY, "action": f"{policy.action} by policy {policy.name}", "policy": policy.name})
            row = (job.message_id, recipient.index, way.route.address, way.destination, way.route.encode(), way.hold)
            await self._spool.reroute_all([row], note)
        held = next((policy for _, way, policy in ways if way.hold), None)
        if held is not None:
            action = Action.QUARANTINE if held.action is StageAction.QUARANTINE else Action.HOLD
            reason = held.text or held.comment or f"policy {held.name} at stage deliver"
            verdict = Verdict(action, "stage:deliver", held.name, reason, at=now / MICROSECONDS)
            await self._spool.change([(job.message_id, -1, K_NOTE, 0, note_of(verdict, now=now, by=BY))])

    # ---- copies

    async def _copy(self, job: Job, policies: Sequence[StagePolicy], now: int) -> None:
        """Each policy's copy, once for the message. Raises CoreError: then the attempt is put off."""
        if not policies:
            return
        async with self._one_copy:  # two destinations of a message are tried side by side
            for policy in policies:
                await self._copy_once(job, policy, now)

    async def _copy_once(self, job: Job, policy: StagePolicy, now: int) -> None:
        if (job.message_id, policy.name) in self._copied or await self._was_copied(job, policy.name):
            return
        envelope = Envelope(
            *(job.reverse_path, (Recipient(policy.address, Notify.NEVER),), Origin(OWN)),
            body=job.meta.body,
            smtputf8=job.meta.smtputf8,
        )
        try:
            await self._submitter.submit(envelope, _octets(self._spool.open_message(job.message_id)), trusted=True)
        except (SubmissionRefused, SmtpError) as refused:
            self._notices.fault(policy, f"no copy to {policy.address}: {refused}", Facts())
        detail = encode_detail({"t": now, "by": BY, "action": COPIED, "policy": policy.name})
        await self._spool.change([(job.message_id, -1, K_NOTE, 0, detail)])
        self._remember(job.message_id, policy.name)

    async def _was_copied(self, job: Job, policy: str) -> bool:
        """By this process or one before it: the journal knows."""
        try:
            history = await self._spool.history(job.message_id)
        except NotFoundError:
            return True
        notes: list[Mapping[str, Any]] = [decode_detail(detail) for _, kind, _, detail in history if kind == K_NOTE]
        told = any(one.get("action") == COPIED and one.get("policy") == policy for one in notes)
        if told:
            self._remember(job.message_id, policy)
        return told

    def _remember(self, message_id: bytes, policy: str) -> None:
        self._copied[message_id, policy] = None
        if len(self._copied) > MAX_COPIED:
            self._copied.popitem(last=False)


def _may_concern(policies: StagePolicies, destination: str) -> bool:
    """By what the name of a destination says of its mail."""
    if destination in _NEVER or destination.startswith("list:"):
        return False
    kind, _, rest = destination.partition(":")
    known: dict[str, object] = {"kind": kind, "count": 1}
    facts = Facts(attempt=PartlyKnown(destination=destination))
    if kind in ("smtp", "lmtp"):
        known["host"] = rest[1:].partition("]")[0] if rest.startswith("[") else ""
        if not rest.startswith("["):
            facts.recipient = PartlyKnown(domain=rest.partition(":")[0])
    elif kind in ("local", "pipe"):
        known["host"] = ""
    facts.route = PartlyKnown(**known)
    facts.time = PartlyKnown()
    return policies.may_hold_at_delivery(facts)


def _edited(recipient: JobRecipient, policies: Sequence[StagePolicy]) -> JobRecipient:
    """With the changes of the header that policies want in this attempt."""
    if not policies:
        return recipient
    marks = tuple((STAGE_EDIT, one.name) for one in policies)
    return replace(recipient, route=replace(recipient.route, edits=(*recipient.route.edits, *marks)))


def _way(recipient: JobRecipient, moving: Sequence[StagePolicy], met: Sequence[StagePolicy]) -> _Way:
    """Where policies move a recipient. They are noted, so that they do it once, and what was told of or counted for this attempt."""
    route = recipient.route
    for policy in moving:
        if policy.action is StageAction.REROUTE:
            route = rerouted(route, policy)
    kept = [one for one in route.edits if not (one[0] == DELIVER_EDIT and "#" in one[1])]
    told = dict.fromkeys(_told(recipient, one) for one in met if one.action in (StageAction.NOTIFY, StageAction.LIMIT))
    route = replace(route, edits=(*kept, *((DELIVER_EDIT, one.name) for one in moving), *told))
    actions = {one.action for one in moving}
    hold = bool(actions & {StageAction.HOLD, StageAction.QUARANTINE})
    return _Way(route, QUARANTINE if StageAction.QUARANTINE in actions else route.destination, hold)


def _told(recipient: JobRecipient, policy: StagePolicy) -> tuple[str, str]:
    """The mark that a policy has told of the coming attempt, or counted it."""
    return DELIVER_EDIT, f"{policy.name}#{recipient.attempts + 1}"


def _reason(moving: Sequence[StagePolicy]) -> StagePolicy:
    """The policy that counts most."""
    return max(moving, key=lambda one: (one.action is StageAction.QUARANTINE, one.action is StageAction.HOLD))


async def _octets(reader: Reader) -> AsyncIterator[bytes]:
    while piece := await asyncio.to_thread(reader.read, PIECE):
        yield piece
