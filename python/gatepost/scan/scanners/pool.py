"""Asks scanners about a message, side by side and within a deadline. Called by `scan/gate.py` at the end of data, and for rescans.

One pool per worker, on its event loop. Invariants: `ask` never raises and never outlasts `scan.deadline_seconds`; every scanner asked
answers at least once; what is unknown, late, malformed or out of service is `error`, never `clean`. What follows from an `error` is the
policy's matter (`scan/judge.py`).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from gatepost.config.scan import Scan
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import Blob, PartBlob
from gatepost.scan.scanners.entry import Entry, ScannerState
from gatepost.scan.scanners.plugin import Outcome, ScanAnswer, Scanner
from gatepost.scan.scanners.registry import make_scanners

PARTS_AT_ONCE = 8
"""Parts of one message put to one scanner side by side; the scanner's own bound holds for all messages together."""
_SEVERITY = {Outcome.CLEAN: 0, Outcome.SUSPICIOUS: 1, Outcome.INFECTED: 2}

log = structlog.get_logger("gatepost.scan")


class ScannerPool:
    """The configured scanners. `settings` were validated; ScannersError when a scanner cannot be made of them."""

    def __init__(self, settings: Scan, scanners: Sequence[Scanner] | None = None) -> None:
        made = make_scanners(settings.scanners) if scanners is None else scanners
        self._deadline = settings.deadline_seconds
        self._entries = {
            one.name: Entry(one, scanner, self._came_back, settings.deadline_seconds)
            for one, scanner in zip(settings.scanners, made, strict=True)
        }
        self._listeners: list[Callable[[str], None]] = []
        self._late: set[asyncio.Task[list[ScanAnswer]]] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all scanners, in the order of the settings."""
        return tuple(self._entries)

    def states(self) -> tuple[ScannerState, ...]:
        """Each scanner as it is now."""
        return tuple(entry.state for entry in self._entries.values())

    def on_back(self, callback: Callable[[str], None]) -> None:
        """Call it, on the loop, with the name of a scanner that was out of service and answers again. Mail that waits may be rescanned."""
        self._listeners.append(callback)

    async def start(self) -> None:
        """Begin to look after the scanners. Does not wait for any."""
        for entry in self._entries.values():
            entry.start()

    async def close(self) -> None:
        """Cancel what is still under way and let the scanners go."""
        for task in self._late:
            task.cancel()
        if self._late:
            await asyncio.wait(self._late, timeout=1.0)
        await asyncio.gather(*(entry.close() for entry in self._entries.values()))

    def wants(self, names: Iterable[str], *, attachments: bool) -> tuple[str, ...]:
        """Those of `names` that are to see a message with, or without, attachments. Unknown names stay: `ask` reports them."""
        entries = self._entries
        return tuple(name for name in names if attachments or name not in entries or entries[name].settings.when == "all")

    async def ask(self, blob: Blob, facts: MailFacts, names: Sequence[str]) -> tuple[ScanAnswer, ...]:
        """What each of `names` says, in their order: an answer each, or two where one part is bad and another could not be judged."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._deadline
        tasks: dict[str, asyncio.Task[list[ScanAnswer]]] = {}
        for name in dict.fromkeys(names):
            entry = self._entries.get(name)
            if entry is not None:
                tasks[name] = loop.create_task(_ask_one(entry, blob, facts, end))
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=self._deadline)
        finally:
            for task in tasks.values():
                self._leave(task)
        return tuple(answer for name in dict.fromkeys(names) for answer in self._outcome(name, tasks.get(name)))

    def _leave(self, task: asyncio.Task[list[ScanAnswer]]) -> None:
        """A scanner that will not be cancelled keeps its slot, but not the mail."""
        if not task.done():
            task.cancel()
            self._late.add(task)
            task.add_done_callback(self._late.discard)

    def _outcome(self, name: str, task: asyncio.Task[list[ScanAnswer]] | None) -> list[ScanAnswer]:
        if task is None:
            return [ScanAnswer(name, Outcome.ERROR.value, "no scanner of that name is configured")]
        if not task.done() or task.cancelled():
            return [ScanAnswer(name, Outcome.ERROR.value, "no answer in time", outage=True)]
        fault = task.exception()
        if fault is not None:
            log.error("scanner failed", scanner=name, exc_info=fault)
            return [ScanAnswer(name, Outcome.ERROR.value, f"{type(fault).__name__}", outage=True)]
        return task.result()

    def _came_back(self, name: str) -> None:
        for listener in self._listeners:
            try:
                listener(name)
            except Exception:
                log.exception("could not tell of a scanner that is back", scanner=name)


async def _ask_one(entry: Entry, blob: Blob, facts: MailFacts, end: float) -> list[ScanAnswer]:
    if not entry.by_parts or not blob.parts:
        return [await entry.judge(blob, facts, end)]
    parts = list({(part.sha256, part.media_type, part.name): part for part in blob.parts}.values())
    if len(parts) == 1:
        return [await entry.judge(parts[0], facts, end)]
    return _summary(await _ask_parts(entry, parts, facts, end))


async def _ask_parts(entry: Entry, parts: Sequence[PartBlob], facts: MailFacts, end: float) -> list[ScanAnswer]:
    """Answers to all parts, or to fewer with an infected one among them."""
    answers: list[ScanAnswer] = []
    left = iter(parts)

    async def work() -> None:
        for part in left:
            answers.append(await entry.judge(part, facts, end))
            if any(answer.outcome == Outcome.INFECTED for answer in answers):
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(PARTS_AT_ONCE, len(parts))):
            group.create_task(work())
    return answers


def _summary(answers: Sequence[ScanAnswer]) -> list[ScanAnswer]:
    """The worst that was said, and the first error beside it; `clean` only if nothing else was said."""
    said = [answer for answer in answers if answer.outcome != Outcome.ERROR]
    errors = sorted((answer for answer in answers if answer.outcome == Outcome.ERROR), key=lambda answer: not answer.outage)[:1]
    worst = max(said, key=lambda answer: (_SEVERITY[Outcome(answer.outcome)], answer.score), default=None)
    if worst is None or (errors and worst.outcome == Outcome.CLEAN):
        return errors
    return [worst, *errors]
