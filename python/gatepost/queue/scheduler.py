"""The scheduler: due messages by destination → transports → journal. One per worker; event-driven, there is no periodic scan.

Called by app (start, stop) and by service (pause, resume, forget_backoff, apply). The spool says which destinations have become ready;
each destination runs up to its limit of lanes (tasks that take, deliver and settle in a loop), destinations take turns under
total_concurrency. Local mail goes in rounds (rounds.py); a remote destination starts with one lane, which chains messages (chain.py), and
gets more as long as due jobs have to wait for one. One timer waits for the next due time. Mail of a destination that backs off waits with
the spool until one message has tried it again. Invariants: a job that was taken is settled by a change or given back, whatever happens;
a recipient is expired only after an attempt, or while its destination is down. Fails by letting the spool's fatal error stop all taking;
nothing is lost then, the journal is the truth.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence

import structlog

from gatepost.config import Settings
from gatepost.message.verdict import WITHHELD
from gatepost.native import K_DEFERRED, Change, CoreError, Spool
from gatepost.native import Job as RawJob
from gatepost.queue.attempt import attempt_fields, encode_detail
from gatepost.queue.chain import ChainLane
from gatepost.queue.changes import publish_changes
from gatepost.queue.deliver_stage import DeliverStage
from gatepost.queue.destination import DestinationState
from gatepost.queue.events import EventHub, QueueEvent
from gatepost.queue.jobs import decode_job
from gatepost.queue.outbox import Outbox
from gatepost.queue.paused import PausedDestinations
from gatepost.queue.report import Reporter
from gatepost.queue.retry import MICROSECONDS, RetryPolicy
from gatepost.queue.rounds import RoundLane
from gatepost.queue.settle import Moment, Settler
from gatepost.queue.transport import ChainTransport, Deferred, Job, JobResult, RoundResult, RoundTransport, Transport
from gatepost.queue.try_jobs import everywhere, try_jobs
from gatepost.spool import AsyncSpool

LOCAL_LANES = 2
SWEEP = 256
MAX_SLEEP_SECONDS = 300.0
"""The timer looks at the clock at least this often, so that a change of the wall clock cannot stop the queue."""
MAX_STATES = 50_000
HAS_OPTIONS = ":~"
"""In the name of a destination whose rule has options (Route.destination)."""
GROW_SECONDS = 0.02
"""How long due jobs of a destination may wait before it gets more lanes."""

log = structlog.get_logger()


class Scheduler:
    """Runs deliveries. `transports` by the destination's prefix: 'local', 'smtp', 'lmtp'."""

    def __init__(
        self,
        spool: AsyncSpool,
        transports: Mapping[str, Transport],
        settings: Callable[[], Settings],
        reporter: Reporter,
        paused: PausedDestinations,
        *,
        events: EventHub | None = None,
        stage: DeliverStage | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._spool = spool
        self._transports = transports
        self._settings = settings
        self._paused = paused
        self._stage = stage
        self._clock = clock
        self._rng = rng or random.Random()
        self.events = events or EventHub()
        self._outbox = Outbox(spool, self.advance)
        self.counters = self._outbox.counters
        self._settler = Settler(spool, reporter, self._policy, self._rng)
        self._states: dict[str, DestinationState] = {}
        self._waiting: deque[DestinationState] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._remote_lanes = 0
        self._chaining: dict[str, ChainTransport] = {}
        self._rounding: dict[str, RoundTransport] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._stopping = True

    # ---- life

    async def start(self) -> None:
        """Begin: everything that is due is ready at once."""
        self._stopping = False
        self._chaining = {name: one for name, one in self._transports.items() if isinstance(one, ChainTransport)}
        self._rounding = {name: one for name, one in self._transports.items() if isinstance(one, RoundTransport)}
        self._spool.on_ready(self._on_ready)
        self._spool.on_committed(self._on_committed)
        self.advance()
        self._on_ready([name for name, _, ready, _ in self._spool.destinations() if ready])
        if not self._spool.recovered:
            self._recovery = asyncio.create_task(self._begin_again(), name="recovery")

    async def _begin_again(self) -> None:
        """What was there before the start comes in later; destinations announce themselves, but the timer has to be told."""
        try:
            await self._spool.whole()
        except CoreError as error:
            log.critical("the queue cannot be read", error=str(error))
            return
        log.info("queue recovered", recovery=self._spool.recovery)
        self.advance()

    async def stop(self, seconds: float) -> None:
        """Take nothing more; attempts under way have `seconds` to end, then their jobs are given back. Closes the transports."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for state in self._states.values():
            while state.poke():
                pass
        if self._recovery is not None:
            self._recovery.cancel()
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=seconds)
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        self._outbox.flush()
        await asyncio.gather(*(transport.close() for transport in self._transports.values()))
        self.events.close()

    # ---- what the service calls

    def now(self) -> int:
        """Unix microseconds by the scheduler's clock."""
        return int(self._clock() * MICROSECONDS)

    def advance(self) -> None:
        """Let the spool make ready what is due, and set the timer for what comes next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._stopping or self._spool.fatal is not None:
            return
        now = self.now()
        due = self._spool.advance(now)
        if due:
            seconds = min(max((due - now) / MICROSECONDS, 0.001), MAX_SLEEP_SECONDS)
            self._timer = asyncio.get_running_loop().call_later(seconds, self.advance)

    async def pause(self, destination: str) -> bool:
        """Start nothing more for a destination, also after a restart. False when it was paused already."""
        return await asyncio.to_thread(self._paused.add, destination)

    async def resume(self, destination: str) -> bool:
        """End a pause and forget the back-off. False when it was not paused."""
        changed = await asyncio.to_thread(self._paused.discard, destination)
        self.forget_backoff([destination])
        self._on_ready([destination])
        return changed

    def is_paused(self, destination: str) -> bool:
        """True while an operator's pause is in force."""
        return destination in self._paused

    def paused_names(self) -> list[str]:
        """All paused destinations."""
        return self._paused.names()

    def state(self, destination: str) -> DestinationState | None:
        """What is known of a destination, None when nothing is."""
        return self._states.get(destination)

    def forget_backoff(self, destinations: Sequence[str]) -> None:
        """An operator asked for these to be tried now."""
        for name in destinations:
            state = self._states.get(name)
            if state is not None:
                state.forget()
                self._spool.done_waiting(name)

    # ---- ready destinations and lanes

    def _on_committed(self, message_id: bytes, reverse_path: str) -> None:
        self.counters["accepted"] += 1
        if self.events.watched:
            self.events.publish(QueueEvent(self.now(), "accepted", message_id, sender=reverse_path))

    def _on_ready(self, names: Sequence[str]) -> None:
        for name in names:
            state = self._state(name)
            state.ready = True
            if state.poke():
                self._want_more(state)
            else:
                self._enqueue(state)
        self._dispatch()

    def _want_more(self, state: DestinationState) -> None:
        """Due jobs have no lane of their own: look again soon whether they still wait."""
        if state.soft and state.growing is None and state.soft < state.limit and not state.failures:
            state.growing = asyncio.get_running_loop().call_later(GROW_SECONDS, self._grow, state)

    def _grow(self, state: DestinationState) -> None:
        state.growing = None
        waiting = self._spool.ready(state.name) if state.lanes and self.may_take(state) else 0
        if not waiting:
            return
        state.soft = min(state.limit, state.soft * 2)
        state.ready = True
        for _ in range(min(waiting, state.soft - state.lanes)):
            self._enqueue(state)
            self._dispatch()
        self._want_more(state)

    def _state(self, name: str) -> DestinationState:
        state = self._states.get(name)
        wanted = self._settings().queue.destination_concurrency
        if state is None:
            if len(self._states) >= MAX_STATES:
                now = self.now()
                for key in [key for key, one in self._states.items() if one.forgettable(now)]:
                    del self._states[key]
                    self._spool.done_waiting(key)
            local = name.startswith("local:")
            limit = wanted if not local else 1 if "local" in self._rounding else LOCAL_LANES
            soft = 1 if name.partition(":")[0] in self._chaining else 0
            state = self._states[name] = DestinationState(name, limit, limit, local, soft=soft)
        elif not state.local and state.maximum != (limit := _concurrency(state, wanted)):  # the settings were reloaded
            state.maximum = state.limit = limit
        return state

    def _learn(self, state: DestinationState, job: Job) -> None:
        """A message of the destination says what its rule wants of them all."""
        options = job.recipients[0].route.options
        if options is not state.options and options != state.options:
            state.options = options
            state.maximum = state.limit = _concurrency(state, self._settings().queue.destination_concurrency)

    def _enqueue(self, state: DestinationState) -> None:
        if not state.queued:
            state.queued = True
            place = len(self._waiting)
            while place and _priority(self._waiting[place - 1]) < _priority(state):
                place -= 1
            self._waiting.insert(place, state)

    def _dispatch(self) -> None:
        """Start lanes for waiting destinations, in turn, while there is room."""
        if self._stopping or self._spool.fatal is not None:
            return
        now = self.now()
        total = self._settings().queue.total_concurrency
        for _ in range(len(self._waiting)):
            state = self._waiting.popleft()
            if not state.ready or state.name in self._paused or state.name in WITHHELD:
                state.queued = False
            elif state.backing_off(now):
                state.queued = False
                if not state.sweeping:
                    state.sweeping = True
                    self._start(self._sweep(state))
            elif not state.room(now):
                state.queued = False  # a lane of its own goes on with it
                self._want_more(state)
            elif state.local or self._remote_lanes < total:
                state.queued = False
                state.lanes += 1
                self._remote_lanes += 0 if state.local else 1
                self._start(self._lane(state))
            else:
                self._waiting.append(state)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._lanes.add(task)
        task.add_done_callback(self._lanes.discard)

    async def _lane(self, state: DestinationState) -> None:
        transport = self._transports.get(state.name.partition(":")[0])
        chaining = self._chaining.get(state.name.partition(":")[0]) if not self._staged(state) else None
        rounding = self._rounding.get(state.name.partition(":")[0])
        try:
            if rounding is not None:
                await RoundLane(self, state, self._batch(state, transport)).run(rounding)
                return
            if chaining is not None:
                await ChainLane(self, state).run(chaining)
                return
            while jobs := self._take(state, self._batch(state, transport)):
                if state.lanes < state.limit and not state.failures:
                    self._enqueue(state)
                    self._dispatch()
                await self._attempt(state, transport, jobs)
                if self.must_yield(state):
                    break
        finally:
            state.lanes -= 1
            self._remote_lanes -= 0 if state.local else 1
            if not state.lanes:
                state.soft = min(state.soft, 1)
                if rounding is not None:
                    state.limit = state.maximum
            if state.ready:
                self._enqueue(state)
            self._dispatch()

    def must_yield(self, state: DestinationState) -> bool:
        """Others wait for the slot of this lane."""
        return bool(self._waiting) and not state.local and self._remote_lanes >= self._settings().queue.total_concurrency

    def may_chain(self, state: DestinationState) -> bool:
        """For a chain: False when it has to end."""
        return not self.must_yield(state) and not self._staged(state)

    def _staged(self, state: DestinationState) -> bool:
        """Whether a policy at deliver may hold for mail of a destination: then every message is looked at before it is tried."""
        return self._stage is not None and self._stage.concerns(state.name)

    def take_first(self, state: DestinationState) -> Job | None:
        """For a chain: the next job."""
        jobs = self._take(state, 1)
        return jobs[0] if jobs else None

    def take_next(self, state: DestinationState) -> Job | None:
        """For a chain: one more job, when every lane that the destination may have is busy already."""
        if state.room(self.now()) or state.failures or not self.may_chain(state):
            return None
        return self.take_first(state)

    def spool(self, state: DestinationState) -> Spool | None:
        """For a chain: what it may take from directly, unless somebody watches and every change has to become an event, or a rule has
        options that every message is to be measured by.
        """
        return None if self.events.watched or HAS_OPTIONS in state.name else self._spool.native

    def took(self, state: DestinationState, delivered: int) -> None:
        """For a chain: so many recipients were delivered and journaled without us."""
        self.counters["delivered"] += delivered
        self._succeeded(state, self.now())

    def return_raw(self, jobs: Sequence[RawJob]) -> None:
        """For a chain: undo the taking of jobs that were not decoded."""
        for job in jobs:
            self._spool.give_back(job[0], [one[0] for one in job[5]])

    def _batch(self, state: DestinationState, transport: Transport | None) -> int:
        return self._settings().queue.local_batch if state.local else getattr(transport, "batch", 1)

    def may_take(self, state: DestinationState) -> bool:
        """False when nothing may be started for this destination."""
        return not (self._stopping or state.name in self._paused or state.backing_off(self.now()) or self._spool.fatal is not None)

    def _take(self, state: DestinationState, count: int) -> list[Job]:
        """The next jobs; [] when there are none, or when nothing may be started."""
        if not self.may_take(state) or self._must_pause(state):
            return []
        jobs = self._decode(state.name, count)
        state.ready = bool(jobs)
        if jobs and HAS_OPTIONS in state.name:
            self._learn(state, jobs[0])
            state.began(len(jobs), self.now())
        return jobs

    def _must_pause(self, state: DestinationState) -> bool:
        """By the rule's rate; a timer announces the destination anew."""
        if not state.sent:
            return False
        now = self.now()
        due = state.pause_until(now)
        if due and state.pacing is None:
            seconds = max((due - now) / MICROSECONDS, 0.001)
            state.pacing = asyncio.get_running_loop().call_later(seconds, self._go_on, state)
        state.ready = state.ready and not due
        return bool(due)

    def _go_on(self, state: DestinationState) -> None:
        state.pacing = None
        self._on_ready([state.name])

    def _decode(self, destination: str, count: int) -> list[Job]:
        """Take jobs; [] only when the spool has no more that we can read."""
        try:
            while taken := self._spool.take(destination, count):
                if jobs := [job for raw in taken if (job := self.readable(destination, raw)) is not None]:
                    return jobs
        except CoreError as error:
            log.error("nothing can be taken from the queue", destination=destination, error=str(error))
        return []

    def readable(self, destination: str, raw: RawJob) -> Job | None:
        """A job decoded; None when it was put away because it cannot be read."""
        try:
            return decode_job(raw)
        except (ValueError, TypeError) as error:
            # A record of a format we do not know: keep it, out of the way, and say so.
            log.error("queue record cannot be read", destination=destination, error=str(error))
            wait = self.now() + int(self._settings().queue.retry_max_seconds * MICROSECONDS)
            self._outbox.put([(raw[0], one[0], K_DEFERRED, wait, b'{"reason":"queue record cannot be read"}') for one in raw[5]])
            return None

    # ---- one attempt

    async def _attempt(self, state: DestinationState, transport: Transport | None, jobs: list[Job]) -> None:
        if self._stage is not None and self._staged(state):
            jobs = await self._stage.pass_jobs(self, state, jobs)
            if not jobs:
                return
        started = self.now()
        try:
            results = await try_jobs(state.name, transport, jobs)
        except asyncio.CancelledError:
            self.give_back(jobs)
            raise
        await self._settle_results(state, jobs, results, started)

    async def settle_ruled(self, state: DestinationState, job: Job, result: JobResult, now: int) -> None:
        """For the stage deliver: what policies settle is no word of the destination's."""
        await self._settle(state, [job], [result], now, self.now())

    async def _settle_results(self, state: DestinationState, jobs: list[Job], results: Sequence[JobResult], started: int) -> None:
        try:
            now = self.now()
            self._judge_destination(state, results, started, now)
            await self._settle(state, jobs, results, started, now)
        except asyncio.CancelledError:
            self.give_back(jobs)
            raise
        except Exception:
            log.exception("outcomes not settled", destination=state.name)
            self.put_off(jobs)

    def one_by_one(self, state: DestinationState) -> bool:
        """For a lane of rounds: somebody watches, so every change has to become an event, or policies want to see every message."""
        return self.events.watched or self._staged(state)

    def wake(self, state: DestinationState) -> None:
        """For a lane of rounds: start another one, if there is room and something to do."""
        state.ready = True
        self._enqueue(state)
        self._dispatch()

    async def attempt_next(self, state: DestinationState, transport: Transport, count: int) -> int:
        """For a lane of rounds: the way of a transport that makes none."""
        jobs = self._take(state, count)
        if jobs:
            await self._attempt(state, transport, jobs)
        return len(jobs)

    async def settle_round(self, state: DestinationState, transport: Transport, result: RoundResult, started: int) -> None:
        """For a lane of rounds: count what was delivered, and finish what the round left."""
        self.counters["delivered"] += result.delivered
        if result.delivered:
            self._succeeded(state, self.now())
        untried: list[Job] = []
        tried: list[tuple[Job, JobResult]] = []
        for raw, outcomes in result.left:
            job = self.readable(state.name, raw)
            if job is not None and outcomes is not None:
                tried.append((job, outcomes))
            elif job is not None:
                untried.append(job)
        if tried:
            await self._settle_results(state, [job for job, _ in tried], [outcomes for _, outcomes in tried], started)
        if untried:
            await self._attempt(state, transport, untried)

    async def settle_one(self, state: DestinationState, job: Job, result: JobResult, started: int) -> None:
        """For a chain: judge the destination by one result, and journal it."""
        now = self.now()
        self._judge_destination(state, [result], started, now)
        await self._settle(state, [job], [result], started, now)

    def put_off(self, jobs: list[Job]) -> None:
        """After a fault of our own: try again later. Recipients whose outcome is journaled already are left alone by the spool."""
        due = self.now() + int(self._settings().queue.retry_initial_seconds * MICROSECONDS)
        detail = b'{"outcome":"deferred","reason":"internal error"}'
        self._outbox.put([(job.message_id, one.index, K_DEFERRED, due, detail) for job in jobs for one in job.recipients])

    def _judge_destination(self, state: DestinationState, results: Sequence[JobResult], started: int, now: int) -> None:
        """Back off when nothing got through to the host itself; a host that answers, even with a refusal, is up."""
        down = next((one for result in results for one in result.outcomes if isinstance(one, Deferred) and one.destination_down), None)
        answered = any(not (isinstance(one, Deferred) and one.destination_down) for result in results for one in result.outcomes)
        if answered:
            self._succeeded(state, now)
        if down is not None and state.failed(started, now, down, self._policy(), self._rng):
            log.info("destination backs off", destination=state.name, until=state.down_until // MICROSECONDS, reason=down.reason)
            self.wake(state)

    def _succeeded(self, state: DestinationState, now: int) -> None:
        """It answers: what waited for it is announced, and lanes are added one by one."""
        if state.succeeded(now):
            self._spool.done_waiting(state.name)

    async def _settle(self, state: DestinationState, jobs: list[Job], results: Sequence[JobResult], started: int, now: int) -> None:
        """Journal the outcomes. Those that need a report first (a commit of its own) come after the plain ones."""
        at = Moment(now, (now - started) // 1000, state.down_until if state.backing_off(now) else 0)
        changes, slow = self._settler.plain(jobs, results, at)
        self._finish(state, jobs, changes)
        for job, result in slow:
            self._finish(state, [job], await self._settler.reported(job, result, at))

    def _finish(self, state: DestinationState, jobs: Sequence[Job], changes: Sequence[Change]) -> None:
        self._outbox.put(changes)
        if self.events.watched:
            publish_changes(self.events, self.now(), state.name, jobs, changes)

    async def _sweep(self, state: DestinationState) -> None:
        """In a back-off: what comes due waits for the destination. What is too old, or whose sender is to be told, gets the destination's
        fault as its outcome.
        """
        try:
            while state.ready and not self._stopping and state.backing_off(self.now()):
                fault = state.fault or Deferred("destination is down", "4.4.1")
                jobs = await self._let_wait(state, fault)
                now = self.now()
                try:
                    await self._settle(state, jobs, [everywhere(job, fault) for job in jobs], now, now)
                except asyncio.CancelledError:
                    self.give_back(jobs)
                    raise
        finally:
            state.sweeping = False
            if not state.failures:  # it came up, or was asked for, meanwhile
                self._spool.done_waiting(state.name)
            if state.ready:
                self._enqueue(state)
            self._dispatch()

    async def _let_wait(self, state: DestinationState, fault: Deferred) -> list[Job]:
        """What is ready waits with the spool. Returns what cannot; `state.ready` says whether there may be more."""
        now = self.now()
        detail = encode_detail(attempt_fields(fault, now=now, ms=0))
        state.ready = False
        more, raw = await self._spool.wait_for(state.name, (now, state.down_until), self._policy().of(state.options).ages(), detail, SWEEP)
        state.ready = state.ready or more
        self.advance()
        return [job for one in raw if (job := self.readable(state.name, one)) is not None]

    def give_back(self, jobs: list[Job]) -> None:
        """Undo the taking of jobs: no attempt is counted. Recipients whose outcome is journaled already are left alone by the spool."""
        self._outbox.flush()
        for job in jobs:
            try:
                self._spool.give_back(job.message_id, [one.index for one in job.recipients])
            except CoreError as error:
                log.warning("job not given back", error=str(error))

    # ---- changes

    def apply(self, changes: Sequence[Change]) -> None:
        """Changes made by an operator, through the same gate."""
        self._outbox.put(changes)
        self._outbox.flush()

    def _policy(self) -> RetryPolicy:
        return RetryPolicy(self._settings().queue)


def _concurrency(state: DestinationState, usual: int) -> int:
    return (state.options.concurrency if state.options is not None else 0) or usual


def _priority(state: DestinationState) -> int:
    return state.options.priority if state.options is not None else 0
