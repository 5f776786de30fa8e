"""Quarantine: mail that scanning withheld from its recipients, in one worker's partition. Called by control/quarantine; wired by app/.

A quarantined message is queue mail: each such recipient is held, with the destination `quarantine`; mail that waits for a scanner has
`scan-wait` (waiting.py settles that). Release decides routes again by the rules as they are now and lets go of the recipient; policy is not
asked again. Every change is an operation that can be undone within the queue's grace.

Invariants: a recipient is released once, however many ask (one release at a time, and only what is withheld then); what a crash left
between its new route and its letting go is let go at the next start; verdicts are read when asked for, never kept. Fails with
NotFoundError, NoScannerError, CoreError.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import structlog

from gatepost.config import Settings
from gatepost.message.ids import format_message_id, parse_message_id
from gatepost.message.verdict import QUARANTINE, SCAN_WAIT, WITHHELD, Verdict
from gatepost.native import K_NOTE, K_RELEASED, K_REMOVED, K_REROUTED, NotFoundError, Reader
from gatepost.queue import withheld
from gatepost.queue.actions import Done, Order, QueueActions, RerouteRefusedError, Ways
from gatepost.queue.anew import Anew
from gatepost.queue.attempt import decode_detail
from gatepost.queue.quarantine_search import Shares, TextHint
from gatepost.queue.quarantine_views import Quarantined, QuarantineFilter, note_of, quarantined
from gatepost.queue.retry import MICROSECONDS
from gatepost.queue.views import Filter, QueuedMessage, RecipientStatus, decode_summary
from gatepost.queue.withheld import ID
from gatepost.routing.model import Route, RouteKind, RuleSet
from gatepost.routing.route import DELIVER_EDIT
from gatepost.scan.edits import SCAN_EDIT, field_value
from gatepost.scan.judge import Fate, Judgement
from gatepost.spool import AsyncSpool

MAX_PAGE = 1000
LOOK_SECONDS = 0.25
"""How long a page looks for messages whose verdict fits a text; it may be short then, and still have a next one."""
BATCH = 2000
"""Expired messages removed as one operation."""
LONGEST_SLEEP = 3600.0
ACTOR = "gatepost"
RELEASE = "quarantine release"
DELETE = "quarantine delete"
EXPIRE = "quarantine expire"
CONFINE = "quarantine confine"

Single = Mapping[bytes, Collection[int]]
"""Recipients of messages: their indices, by message id."""
Choice = Callable[[QueuedMessage, int, RecipientStatus], bool]
"""Whether this recipient (its index, itself) of the message is meant."""

log = structlog.get_logger()


class Rescanner(Protocol):
    """Judges a queued message by today's policy (rescan.Rescan)."""

    def __call__(self, message: QueuedMessage, recipients: Sequence[RecipientStatus]) -> Awaitable[Judgement]:
        """What would become of it for these recipients (`fates` are theirs, in order); nothing is changed. Raises CoreError."""
        ...


class Outlook(Enum):
    """What a judgement means for mail that is in the queue already."""

    CLEAN = "clean"
    HELD = "held"
    BAD = "bad"
    """Quarantined, refused, or to be delivered without some of its parts: a message in the queue is not changed."""
    OUT = "out"
    """A scanner gave no answer."""


_OUTLOOKS = {
    Fate.WAIT: Outlook.OUT,
    Fate.DEFER: Outlook.OUT,
    Fate.QUARANTINE: Outlook.BAD,
    Fate.REJECT: Outlook.BAD,
    Fate.HOLD: Outlook.HELD,
    Fate.DELIVER: Outlook.CLEAN,
}


def outlook_of(judgement: Judgement, fate: Fate) -> Outlook:
    """For a recipient of that fate."""
    found = _OUTLOOKS[fate]
    return Outlook.BAD if judgement.strip and found in (Outlook.CLEAN, Outlook.HELD) else found


class NoScannerError(Exception):
    """This server does not scan."""


@dataclass(frozen=True, slots=True)
class QuarantinePage:
    """Messages in id order; next_page_token '' on the last page. `partial`: the queue is still being read after a start."""

    messages: tuple[Quarantined, ...]
    next_page_token: str = ""
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Rescanned:
    """The new verdict, and what was released because of it."""

    verdict: Verdict
    released: Done | None = None


class Quarantine:
    """One per worker. `start` begins to expire; `stop` ends that."""

    def __init__(
        self,
        spool: AsyncSpool,
        actions: QueueActions,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        rescan: Rescanner | None = None,
    ) -> None:
        self._spool = spool
        self._actions = actions
        self._rule_set = rule_set
        self._settings = settings
        self._rescan = rescan
        self._one_release = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Finish what was cut short, then expire what is too old, from now on."""
        self._tasks.append(asyncio.create_task(self._keep(), name="quarantine"))

    async def stop(self) -> None:
        """End that."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- seeing

    async def page(self, wanted: QuarantineFilter, page_token: str = "", limit: int = 100) -> QuarantinePage:
        """Messages in id order after `page_token`. Raises ValueError on a bad token."""
        after = parse_message_id(page_token) if page_token else None
        return await asyncio.to_thread(self._look, wanted, after, max(1, min(limit, MAX_PAGE)))

    async def get(self, message_id: bytes) -> Quarantined:
        """One message. Raises NotFoundError when it is not in the queue, or nothing of it is withheld."""
        await self._spool.whole()
        return await asyncio.to_thread(self._get, message_id)

    async def describe(self, ids: Sequence[bytes]) -> list[Quarantined]:
        """Those of these messages of which something is withheld yet."""
        await self._spool.whole()
        return await asyncio.to_thread(self._describe, ids)

    def open(self, message_id: bytes) -> Reader:
        """Reader over the message; its methods block. Raises NotFoundError."""
        return self._spool.open_message(message_id)

    async def shares(self, since: int, until: int, keep: int) -> Shares:
        """What is in quarantine by recipient, of what was received from `since` until `until` (Unix µs), with the `keep` newest of each."""
        await self._spool.whole()
        made = Shares(self._spool, since, until, keep)
        after = await asyncio.to_thread(made.step, None)
        while after is not None:
            after = await asyncio.to_thread(made.step, after)
        return made

    async def select(self, wanted: QuarantineFilter) -> bytes:
        """Packed ids of all that match, oldest first."""
        await self._spool.whole()
        return await asyncio.to_thread(self._select, wanted)

    # ---- acting; ids are packed

    async def release(self, ids: bytes, order: Order, recipients: Collection[str] = ()) -> Done:
        """Deliver by the rules as they are now, to these of its recipients or all. Those that cannot go there are counted as refused."""
        wanted = withheld.chooser(recipients)
        return await self._send_on(ids, order, lambda _, __, one: wanted(one.address))

    async def send_waiting(self, some: Single, order: Order, *, hold: bool = False) -> Done:
        """The same for single recipients that wait for a scanner; with `hold` they are only put on their way."""
        return await self._send_on(b"".join(some), order, lambda one, index, _: index in some[one.message_id], hold=hold)

    async def _send_on(self, ids: bytes, order: Order, wanted: Choice, *, hold: bool = False) -> Done:
        stays: list[str] = []

        def choose(message: QueuedMessage) -> Ways:
            ways = self._ways(message, wanted, stays)
            return {index: replace(route, hold=True) for index, route in ways.items()} if hold else ways

        async with self._one_release:
            done = await self._actions.send_on(RELEASE, ids, choose, order)
        return replace(done, refused=max(done.refused, bool(stays)), first_refusal=done.first_refusal or next(iter(stays), ""))

    async def delete(self, ids: bytes, order: Order, recipients: Collection[str] = ()) -> Done:
        """Take it out of the queue, with the queue's grace. No sender is told."""
        wanted = withheld.chooser(recipients)
        return await self._remove(DELETE, ids, order, lambda one: wanted(one.address))

    async def _remove(self, kind: str, ids: bytes, order: Order, chosen: Callable[[RecipientStatus], bool]) -> Done:
        async with self._one_release:
            await self._spool.whole()
            some = await asyncio.to_thread(withheld.those, self._spool, ids, chosen)
            return await self._actions.change_some(kind, K_REMOVED, some, order)

    async def rescan(self, message_id: bytes, order: Order, *, release_if_clean: bool = False) -> Rescanned:
        """Scan a withheld message by today's policy and signatures; the verdict goes into its history. Raises NotFoundError,
        NoScannerError.
        """
        found = await self.get(message_id)
        verdict, outlooks = await self._scan(found.message, order.actor, WITHHELD)
        if not release_if_clean or set(outlooks.values()) != {Outlook.CLEAN}:
            return Rescanned(verdict)
        return Rescanned(verdict, await self.release(message_id, order))

    async def scan_waiting(self, message: QueuedMessage, actor: str) -> Mapping[int, Outlook]:
        """Scan it again for the recipients that wait for a scanner, by index; notes the verdict, unless it is out for all of them. Raises
        NoScannerError.
        """
        return (await self._scan(message, actor, (SCAN_WAIT,)))[1]

    async def _scan(self, message: QueuedMessage, actor: str, destinations: Collection[str]) -> tuple[Verdict, Mapping[int, Outlook]]:
        if self._rescan is None:
            raise NoScannerError("nothing scans mail on this server")
        chosen = {index: one for index, one in enumerate(message.recipients) if one.pending and one.destination in destinations}
        judgement = await self._rescan(message, list(chosen.values()))
        outlooks = {index: outlook_of(judgement, fate) for index, fate in zip(chosen, judgement.fates, strict=True)}
        if set(outlooks.values()) - {Outlook.OUT}:
            note = note_of(judgement.verdict, now=_now(), by=actor)
            await self._spool.change([(message.message_id, -1, K_NOTE, 0, note)])
        return judgement.verdict, outlooks

    async def confine(self, some: Single, order: Order) -> Done:
        """Put single recipients that wait for a scanner into quarantine."""
        async with self._one_release:
            return await self._actions.send_on(CONFINE, b"".join(some), lambda one: _confined(one, some[one.message_id]), order)

    # ---- inside; what begins with a look at the spool blocks

    def _look(self, wanted: QuarantineFilter, after: bytes | None, limit: int) -> QuarantinePage:
        partial = not self._spool.recovered
        give_up = time.monotonic() + LOOK_SECONDS
        found: list[Quarantined] = []
        while True:
            # For a text many are read and few are shown: headers of these only, and larger steps.
            messages, after = self._step(wanted, after, MAX_PAGE if wanted.text else limit - len(found))
            for message in messages:
                if wanted.text and not wanted.fits(quarantined(self._spool, message, header=False)):
                    continue
                found.append(quarantined(self._spool, message))
                if len(found) == limit and message is not messages[-1]:
                    return QuarantinePage(tuple(found), format_message_id(message.message_id), partial)
            if after is None or len(found) >= limit or time.monotonic() > give_up:
                return QuarantinePage(tuple(found), format_message_id(after) if after else "", partial)

    def _step(self, wanted: QuarantineFilter, after: bytes | None, limit: int) -> tuple[list[QueuedMessage], bytes | None]:
        """The next messages by id that may fit, and where to go on: nothing beyond what was looked at for every destination."""
        hint = TextHint(self._spool, wanted.text) if wanted.text else None
        pages = [self._spool.page(part.native(_now()), after, limit) for part in wanted.parts]
        found = {row[0]: row for rows, _ in pages for row in rows}
        nearest = min((end for _, end in pages if end is not None), default=None)
        ids = sorted(one for one in found if nearest is None or one <= nearest)
        if len(ids) > limit:
            ids, nearest = ids[:limit], ids[limit - 1]
        return [decode_summary(found[one]) for one in ids if hint is None or hint.may_have(found[one])], nearest

    def _select(self, wanted: QuarantineFilter) -> bytes:
        if wanted.text:
            return b"".join(self._with_text(wanted))
        parts = [self._spool.select(part.native(_now()), withheld.EVERYTHING) for part in wanted.parts]
        return b"".join(sorted({one for part in parts for one in withheld.split(part)}))

    def _with_text(self, wanted: QuarantineFilter) -> Iterator[bytes]:
        """Ids of all whose verdict has the text, in order."""
        after: bytes | None = None
        while True:
            messages, after = self._step(wanted, after, MAX_PAGE)
            yield from (one.message_id for one in messages if wanted.fits(quarantined(self._spool, one, header=False)))
            if after is None:
                return

    def _get(self, message_id: bytes) -> Quarantined:
        message = decode_summary(self._spool.get(message_id))
        if not withheld.is_withheld(message):
            raise NotFoundError(f"{format_message_id(message_id)} is not in quarantine; its history tells who released it")
        return quarantined(self._spool, message)

    def _describe(self, ids: Sequence[bytes]) -> list[Quarantined]:
        messages = (withheld.read(self._spool, message_id) for message_id in ids)
        return [quarantined(self._spool, one) for one in messages if one is not None and withheld.is_withheld(one)]

    def _ways(self, message: QueuedMessage, wanted: Choice, stays: list[str]) -> dict[int, Route]:
        """Where the withheld recipients are to go. Raises RerouteRefusedError when none of them can."""
        chosen = [
            (index, one)
            for index, one in enumerate(message.recipients)
            if one.pending and one.destination in WITHHELD and wanted(message, index, one)
        ]
        ways: dict[int, Route] = {}
        edits = self._scanned_again(message) if chosen else ()
        for index, one in chosen:
            try:
                route = self._route(message, one)
                marks = (mark for mark in one.route.edits if mark[0] == DELIVER_EDIT)  # what policies at delivery did once is done
                ways[index] = replace(route, edits=(*route.edits, *edits, *marks))
            except RerouteRefusedError as error:
                stays.append(str(error))
        if not ways:
            raise RerouteRefusedError(stays[-1] if chosen else f"nothing of {format_message_id(message.message_id)} is in quarantine")
        return ways

    def _scanned_again(self, message: QueuedMessage) -> tuple[tuple[str, str], ...]:
        """The edit that has our field say the newest verdict, for mail that was scanned since it was taken."""
        scans = quarantined(self._spool, message, header=False).scans
        later = bool(scans) and scans[-1].by
        return ((SCAN_EDIT, field_value(self._settings().hostname, scans[-1].verdict)),) if later else ()

    def _route(self, message: QueuedMessage, one: RecipientStatus) -> Route:
        """By the rules now. An address that also copies to others has its own way among theirs."""
        settings = self._settings()
        anew = Anew(self._rule_set(), settings.smtp.recipient_delimiter, settings.trust.networks)
        decision = anew.decide(message.meta.origin, message.reverse_path, one.address, message.size, one.orcpt)
        if decision.reply is not None:
            raise RerouteRefusedError(f"{one.address} would be refused now: {decision.reply.code} {decision.reply.text}")
        own = [route for route in decision.routes if route.address.lower() == one.address.lower()] or list(decision.routes)
        if len(own) != 1:
            raise RerouteRefusedError(f"{one.address} leads to {len(own)} recipients now; give it another address by `queue reroute --to`")
        if own[0].kind is RouteKind.DISCARD:
            raise RerouteRefusedError(f"the rules discard mail to {one.address} now: delete it instead")
        return own[0]

    # ---- what happens by itself

    async def _keep(self) -> None:
        await self._spool.whole()
        await self._finish_releases()
        while self._spool.fatal is None:
            try:
                await self.expire()
            except Exception as error:
                log.error("quarantined mail that is too old could not be removed; tried again later", error=str(error))
            await asyncio.sleep(await self._until_next())

    async def expire(self) -> int:
        """Remove what is older than quarantine.keep_days, a batch at a time; how many messages. Who waits for a scanner goes on waiting."""
        days, total = self._settings().quarantine.keep_days, 0
        while days:
            wanted = Filter(destination=QUARANTINE, state="PENDING", older_than=days * 86_400)
            ids = await asyncio.to_thread(self._spool.select, wanted.native(_now()), BATCH)
            order = Order(ACTOR, selection=f"in quarantine for more than {days:g} days")
            done = await self._remove(EXPIRE, ids, order, lambda one: one.destination == QUARANTINE)
            total += done.changed
            if not done.changed or len(ids) < BATCH * ID:
                break
        if total:
            log.info("quarantined mail was too old and is removed", messages=total, days=days)
        return total

    async def _until_next(self) -> float:
        """Seconds until the oldest message expires, at most LONGEST_SLEEP: settings may change."""
        keep = self._settings().quarantine.keep_days * 86_400
        if not keep:
            return LONGEST_SLEEP
        wanted = Filter(destination=QUARANTINE, state="PENDING").native(_now())
        rows, _ = await asyncio.to_thread(self._spool.page, wanted, None, 1)
        due = keep - (_now() - rows[0][2]) / MICROSECONDS if rows else keep
        return max(1.0, min(due, LONGEST_SLEEP))

    async def _finish_releases(self) -> None:
        """A new route and the letting go are two records: a crash between them left the recipient held."""
        for operation in self._actions.operations():
            if operation.kind == RELEASE and operation.state == "interrupted":
                ids = await self._actions.ids_of(operation)
                single = await asyncio.to_thread(self._half_released, ids, operation.operation_id)
                order = Order(ACTOR, selection=f"the rest of {operation.operation_id}")
                done = await self._actions.change_some(RELEASE, K_RELEASED, withheld.Some(b"", single), order)
                log.info("a release that was cut short is finished", operation=operation.operation_id, messages=done.changed)

    def _half_released(self, ids: bytes, operation: str) -> list[tuple[bytes, int]]:
        """Recipients whose last record is the operation's new route."""
        found = []
        for message_id in withheld.split(ids):
            message = withheld.read(self._spool, message_id)
            if message is None:
                continue
            last = {index: (kind, detail) for _, kind, index, detail in self._spool.native.history(message_id)}
            for index, one in enumerate(message.recipients):
                kind, detail = last.get(index, (0, b""))
                if one.pending and one.held and not one.route.hold and kind == K_REROUTED and decode_detail(detail).get("op") == operation:
                    found.append((message_id, index))
        return found


@dataclass(frozen=True, slots=True)
class Confined:
    """The way into quarantine: the route that was decided stays noted."""

    route: Route
    destination: str = QUARANTINE
    hold: bool = True

    @property
    def address(self) -> str:
        """As before."""
        return self.route.address

    def encode(self) -> bytes:
        """The route that was decided."""
        return self.route.encode()


def _confined(message: QueuedMessage, indices: Collection[int]) -> Ways:
    waiting = {
        index: Confined(one.route)
        for index, one in enumerate(message.recipients)
        if index in indices and one.pending and one.destination == SCAN_WAIT
    }
    if not waiting:
        raise RerouteRefusedError("it does not wait for a scanner any more")
    return waiting


def _now() -> int:
    return time.time_ns() // 1000
