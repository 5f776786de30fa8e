"""The gate between the end of data and the commit: looks into a message, asks scanners, judges, and changes the message as judged.

Called by the SMTP and LMTP sessions and by `queue/submit.py`; the native plain path (rust_core/py/src/plain.rs) asks once per recipient
(`plain`) and looks by itself. `glance` ends at once for a message that need not be looked into or is only text; all others wait in
`inspect`: they are read from the log, inspected (natively, at low priority) and judged in threads, so that other sessions go on.

Invariants: nothing is committed here, and a message is left as it came unless its passage says otherwise; messages being inspected take
at most ROOM octets together and at most WAITING wait for room, for WAIT_SECONDS at most. Fails by its reply, 451: a fault of ours (a
panic, a message that cannot be read, no room) is never the message's fate.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from email.header import decode_header, make_header
from typing import Protocol, TypeVar, TypeVarTuple

import structlog

from gatepost.message.envelope import Origin
from gatepost.message.reply import Reply
from gatepost.message.verdict import PLAIN, Action, Answer, Verdict
from gatepost.native import CoreError, Incoming, MailContent
from gatepost.routing.model import RuleSet
from gatepost.scan.edits import FIELD, NotStripped, edits_of, field_of, values_of
from gatepost.scan.facts import MailFacts, direction_of
from gatepost.scan.judge import Fate, Judgement, Needs, judge, needs
from gatepost.scan.notice import in_ascii
from gatepost.scan.policies import Policies
from gatepost.scan.report import Found, Limits, Report, report_of
from gatepost.scan.scanners.entry import ScannerState

ROOM = 128 << 20
"""Octets of messages under inspection and of what is decoded from them; one that needs more passes alone."""
WAITING = 1_000
WAIT_SECONDS = 60.0
PIECE = 262_144

BUSY = Reply(451, "4.7.1", "too many messages are being inspected, try again later")
FAULT = Reply(451, "4.7.1", "message could not be inspected, try again later")

Args = TypeVarTuple("Args")
T = TypeVar("T")

log = structlog.get_logger("gatepost.scan")


class Pool(Protocol):
    """The scanners: see scanners/pool.py."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that are configured."""

    def states(self) -> tuple[ScannerState, ...]:
        """Each scanner as it is now."""

    def wants(self, names: Sequence[str], *, attachments: bool) -> tuple[str, ...]:
        """Those that are to see a message with, or without, attachments."""

    def ask(self, blob: "MessageBlob", facts: MailFacts, names: Sequence[str]) -> Awaitable[Sequence[Answer]]:
        """Never raises, and ends in time."""


@dataclass(frozen=True, slots=True)
class Passage:
    """How a message passes. `fates` has one for each of the mail's recipients, in order; empty means that all get it as planned."""

    verdict: Verdict | None = None
    fates: tuple[Fate, ...] = ()
    refused: Reply | None = None
    """For the whole message: nothing is committed."""
    copies: tuple[str, ...] = ()

    def refusal(self, fate: Fate) -> Reply | None:
        """What a recipient of that fate is told, if not that the message was taken."""
        reason = in_ascii(self.verdict.reason) if self.verdict else ""
        if fate is Fate.REJECT:
            return Reply(550, "5.7.1", reason or "message refused by policy")
        return Reply(451, "4.7.1", reason or "message cannot be inspected now, try again later") if fate is Fate.DEFER else None


UNSEEN = Passage()
LOOKED_AT = Passage(PLAIN)
"""Of mail that is nothing but text."""


class Gate:
    """One per worker. `policies` gives those in force; `inspect` and `clock` are for tests."""

    def __init__(
        self,
        policies: Callable[[], Policies],
        hostname: str,
        limits: Callable[[], Limits] = Limits,
        pool: Pool | None = None,
        *,
        threads: int = 2,
        room: int = ROOM,
        look: Callable[[MailContent, Limits], Report] | None = None,
    ) -> None:
        self.policies = policies
        self.pool = pool
        self._hostname = hostname
        self._limits = limits
        self._look = look or inspect_content
        self._room = Room(room)
        self._threads = ThreadPoolExecutor(threads, "judge")
        self._plain = field_of(hostname, PLAIN)

    def close(self) -> None:
        """No more inspections; those under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def facts(
        self,
        rule_set: RuleSet,
        recipients: Sequence[str],
        *,
        trusted: bool,
        sender: str = "",
        origin: Origin | None = None,
        replies_each: bool = False,
    ) -> MailFacts:
        """With the direction that follows."""
        unique = tuple(dict.fromkeys(recipients))
        direction = direction_of(rule_set, unique, trusted=trusted)
        if origin is None:
            return MailFacts(sender, unique, direction, trusted, replies_each=replies_each)
        return MailFacts(sender, unique, direction, trusted, origin.client_address, origin.helo, origin.user, replies_each=replies_each)

    def plain(self, rule_set: RuleSet, recipient: str, *, trusted: bool) -> tuple[bytes | None, bool]:
        """For mail to one recipient: the field before a message that is only text, None if none is looked into; and whether text, too, has
        to be judged.
        """
        wanted = needs(self.policies(), self.facts(rule_set, [recipient], trusted=trusted))
        if not wanted.inspect:
            return None, False
        return self._plain, wanted.plain or bool(self._scanners(wanted, attachments=False))

    def glance(self, incoming: Incoming, mail: MailFacts) -> Passage | None:
        """The passage of a message that needs no inspection, or is small and only text; None: `inspect` it. Raises CoreError."""
        wanted = needs(self.policies(), mail)
        if not wanted.inspect:
            incoming.edit(b"", FIELD.encode())
            return UNSEEN
        if wanted.plain or self._scanners(wanted, attachments=False) or not incoming.plain:
            return None
        incoming.edit(self._plain, FIELD.encode())
        return LOOKED_AT

    def _scanners(self, wanted: Needs, *, attachments: bool) -> tuple[str, ...]:
        if self.pool is None:
            return ()
        return self.pool.wants(self.pool.names if wanted.scanners is None else wanted.scanners, attachments=attachments)

    async def inspect(self, incoming: Incoming, mail: MailFacts) -> Passage:
        """Never raises but CancelledError; a fault of ours is a passage refused with 451."""
        if not await self._room.enter(_needed(incoming.size)):
            log.warning("no room to inspect a message", sender=mail.sender, size=incoming.size)
            return Passage(refused=BUSY)
        try:
            return await self._inspect(incoming, replace(mail, size=incoming.size, header=_Header(incoming)))
        except asyncio.CancelledError:
            raise
        except BaseException as fault:
            if isinstance(fault, KeyboardInterrupt | SystemExit):
                raise
            log.exception("message could not be inspected", sender=mail.sender, size=incoming.size)
            return Passage(refused=FAULT)
        finally:
            self._room.leave(_needed(incoming.size))

    async def _inspect(self, incoming: Incoming, mail: MailFacts) -> Passage:
        content, report, answers = await self._examine(incoming.content(), mail)
        del content
        if "panicked" in report.entries[0].defects:
            log.error("inspection panicked", sender=mail.sender, size=mail.size)
            return Passage(refused=FAULT)
        return await self._in_thread(self._carry_out, incoming, mail, report, answers)

    async def _examine(self, content: MailContent, mail: MailFacts) -> tuple[MailContent, Report, tuple[Answer, ...]]:
        report = await self._in_thread(self._look, content, self._limits())
        parts = parts_of(report)
        names = self._scanners(needs(self.policies(), mail), attachments=bool(parts))
        answers: tuple[Answer, ...] = ()
        if names and self.pool is not None:
            answers = tuple(await self.pool.ask(MessageBlob(content, report.entries[0].sha256, parts, self._threads), mail, names))
        return content, report, answers

    async def judge_again(self, incoming: Incoming, mail: MailFacts) -> Judgement:
        """The judgement of a message in the queue, fed into a reception which is not committed; nothing is changed. Raises CoreError,
        TimeoutError when there is no room.
        """
        if not await self._room.enter(_needed(incoming.size)):
            raise TimeoutError("too many messages are being inspected")
        try:
            mail = replace(mail, size=incoming.size, header=_Header(incoming))
            _, report, answers = await self._examine(incoming.content(), mail)
            return await self._in_thread(judge, self.policies(), mail, report, answers, time.time())
        finally:
            self._room.leave(_needed(incoming.size))

    def _carry_out(self, incoming: Incoming, mail: MailFacts, report: Report, answers: tuple[Answer, ...]) -> Passage:
        """Judge and change the message. Runs in a thread."""
        judgement = judge(self.policies(), mail, report, answers, time.time())
        verdict, fates = judgement.verdict, judgement.fates
        passage = Passage(verdict, fates, copies=judgement.copies)
        refusal = passage.refusal(judgement.refused) if judgement.refused else None
        if refusal is not None:
            return replace(passage, refused=refusal)
        try:
            edits = edits_of(judgement, report, incoming.header(), self._hostname)
        except NotStripped:
            edits = edits_of(replace(judgement, strip=()), report, incoming.header(), self._hostname)
            verdict = replace(verdict, action=Action.QUARANTINE, reason=verdict.reason or "an attachment cannot be taken out")
            fates = tuple(Fate.QUARANTINE if fate is Fate.DELIVER else fate for fate in fates)
            passage = replace(passage, verdict=verdict, fates=fates)
        incoming.edit(field_of(self._hostname, verdict), FIELD.encode(), edits)
        return passage

    async def _in_thread(self, work: Callable[[*Args], T], *args: *Args) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def inspect_content(content: MailContent, limits: Limits) -> Report:
    """Read and inspect; to be called in a thread."""
    return report_of(
        content.inspect(
            max_bytes=limits.max_bytes,
            max_entries=limits.max_entries,
            max_depth=limits.max_depth,
            max_ratio=limits.max_ratio,
            memory_bytes=limits.memory_bytes,
            milliseconds=limits.milliseconds,
        )
    )


def _needed(size: int) -> int:
    """Octets that the inspection of a message of this size holds at most, but for what the budget counts: itself, and all of it decoded."""
    return size + size * 3 // 4


class Room:
    """Who may hold how many octets; first come, first served."""

    def __init__(self, octets: int) -> None:
        self._octets = octets
        self._taken = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def enter(self, octets: int) -> bool:
        """False when there was no room in time, or too many wait already."""
        if not self._waiting and self._fits(octets):
            self._taken += octets
            return True
        if len(self._waiting) >= WAITING:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((octets, turn))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except TimeoutError:
            return self._gave_up(octets, turn, stays=True)
        except asyncio.CancelledError:
            self._gave_up(octets, turn, stays=False)
            raise
        return True

    def _gave_up(self, octets: int, turn: asyncio.Future[None], *, stays: bool) -> bool:
        if turn.done() and not turn.cancelled():
            if not stays:
                self.leave(octets)
            return True
        self._waiting = deque(one for one in self._waiting if one[1] is not turn)
        self._admit()
        return False

    def _fits(self, octets: int) -> bool:
        return self._taken == 0 or self._taken + octets <= self._octets

    def leave(self, octets: int) -> None:
        """Give it back; whose turn it is may enter."""
        self._taken -= octets
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            octets, turn = self._waiting.popleft()
            if not turn.done():
                self._taken += octets
                turn.set_result(None)


class _Header:
    """Values of header fields, decoded; looked up when a rule asks."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def __call__(self, name: str) -> Sequence[str]:
        return [_decoded(value) for value in values_of(self._incoming.header(), name)]


def _decoded(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    try:
        return str(make_header(decode_header(text)))
    except (ValueError, LookupError):
        return text


# ---- what scanners are shown ------------------------------------------------------------------------------------------


def parts_of(report: Report) -> list[Found]:
    """The parts of the message that are more than its own text."""
    return [one for one in report.entries if one.place is not None and one.sha256 and (one.name or one.family not in ("text", "markup"))]


class MessageBlob:
    """A received message: `Blob` of scanners/blob.py."""

    name = ""
    media_type = "message/rfc822"

    def __init__(self, content: MailContent, sha256: str, parts: Sequence[Found], threads: ThreadPoolExecutor) -> None:
        self._content = content
        self._threads = threads
        self.sha256 = sha256
        self.size = content.size
        self.parts = tuple(PartBlob(content, one, threads) for one in parts)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The octets as they were received. Raises OSError."""
        loop = asyncio.get_running_loop()
        for start in range(0, self.size, PIECE):
            try:
                yield await loop.run_in_executor(self._threads, self._content.read, start, PIECE)
            except CoreError as fault:
                raise OSError(str(fault)) from fault


class PartBlob:
    """A decoded part."""

    def __init__(self, content: MailContent, part: Found, threads: ThreadPoolExecutor) -> None:
        self._content = content
        self._part = part
        self._threads = threads
        self.sha256 = part.sha256
        self.name = part.name
        self.media_type = part.declared or "application/octet-stream"
        self.size = part.size

    async def chunks(self) -> AsyncIterator[bytes]:
        """Decoded octets. Raises OSError."""
        place = self._part.place
        assert place is not None
        loop = asyncio.get_running_loop()
        try:
            octets = await loop.run_in_executor(self._threads, self._content.part, place.body, place.end, place.coding)
        except CoreError as fault:
            raise OSError(str(fault)) from fault
        for start in range(0, len(octets), PIECE):
            yield octets[start : start + PIECE]
