"""One configured scanner under the pool's care: bounded, timed, remembered, taken out of service and brought back.

Used by `pool` only, on one event loop. `judge` never raises but for its own cancellation; whatever the scanner does becomes an answer.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.breaker import Breaker, State
from gatepost.scan.scanners.cache import AnswerCache, key_of
from gatepost.scan.scanners.checked import checked, plain
from gatepost.scan.scanners.plugin import ContentRefused, Outcome, ScanAnswer, Scanner, ScannerFault

PROBE_TIMEOUT = 10.0

log = structlog.get_logger("gatepost.scan")


@dataclass(frozen=True, slots=True)
class ScannerState:
    """A scanner as `status` shows it. Counters are since the worker's start."""

    name: str
    kind: str
    state: State
    signatures: str
    fault: str
    """Why it is not in service, or the last failure while it is; '' none."""
    asked: int
    """Contents put to it, those answered from memory included."""
    remembered: int
    """Of those, answered from memory."""
    errors: int
    running: int
    waiting: int


class Entry:
    """Made by the pool; `start` begins the probing."""

    def __init__(self, settings: ScannerSettings, scanner: Scanner, back: Callable[[str], None], deadline: float) -> None:
        self.settings = settings
        self._longest = min(settings.timeout_seconds, deadline)
        self.scanner = scanner
        self.by_parts = settings.scan == "parts" or (not settings.scan and scanner.by_parts)
        self._back = back
        self._breaker = Breaker(settings.failures, settings.retry_seconds, settings.retry_max_seconds)
        self._cache = AnswerCache(settings.cache_entries, settings.cache_seconds)
        self._remembers = settings.cache and scanner.by_content
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._running = self._waiting = self._asked = self._remembered = self._errors = 0
        self._opened = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    @property
    def state(self) -> ScannerState:
        """As it is now."""
        return ScannerState(
            self.settings.name,
            self.settings.kind,
            self._breaker.state,
            self._cache.signatures,
            self._breaker.fault,
            self._asked,
            self._remembered,
            self._errors,
            self._running,
            self._waiting,
        )

    def start(self) -> None:
        """Begin to look after it. At once, so that a scanner that is not there is known before mail waits for it."""
        if self._prober is None:
            self._prober = asyncio.create_task(self._look_after(), name=f"scanner {self.settings.name}")

    async def close(self) -> None:
        """Stop probing and let the scanner go."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self.scanner.close()
        except Exception as fault:
            log.warning("scanner did not close", scanner=self.settings.name, fault=_words(fault))

    # ---- one content

    async def judge(self, content: PartBlob, facts: MailFacts, end: float) -> ScanAnswer:
        """The scanner's answer by `end` (the loop's time), or `error`."""
        now = asyncio.get_running_loop().time()
        self._asked += 1
        if self._remembers:
            known = self._cache.get(key_of(content), now)
            if known is not None:
                self._remembered += 1
                return known
        if self._breaker.state is State.OPEN:
            return self._error(f"out of service: {self._breaker.fault}", content, outage=True)
        if content.size > self.settings.max_bytes:
            return self._error(f"larger than {self.settings.max_bytes} octets", content, outage=False)
        if self._slots.locked() and self._waiting >= self.settings.max_waiting:
            return self._error("too many scans wait for it", content, outage=True)
        return await self._in_turn(content, facts, min(end, now + self._longest))

    async def _in_turn(self, content: PartBlob, facts: MailFacts, end: float) -> ScanAnswer:
        self._waiting += 1
        try:
            async with asyncio.timeout_at(end):
                await self._slots.acquire()
        except TimeoutError:
            return self._error("busy with other mail", content, outage=True)  # says nothing about its health: those it is busy with do
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            if self._breaker.state is State.OPEN:
                return self._error(f"out of service: {self._breaker.fault}", content, outage=True)
            return await self._scan(content, facts, end)
        finally:
            self._running -= 1
            self._slots.release()

    async def _scan(self, content: PartBlob, facts: MailFacts, end: float) -> ScanAnswer:
        period, signatures = self._breaker.enter(), self._cache.signatures
        fair = end - asyncio.get_running_loop().time() >= self._longest / 2
        try:
            async with asyncio.timeout_at(end):
                answer = checked(await self.scanner.scan(content, facts, end), self.settings.name, content.name)
        except ContentRefused as refusal:
            self._breaker.succeeded(period)
            return self._error(plain(str(refusal)), content, outage=False)
        except TimeoutError:
            if not fair:  # most of its time went by while it waited for its turn
                return self._error("busy with other mail", content, outage=True)
            return self._failed(period, "no answer in time", content)
        except (ScannerFault, OSError) as fault:
            return self._failed(period, plain(str(fault)) or type(fault).__name__, content)
        except Exception as fault:  # a plug-in is somebody else's code, and its mistakes are not this message's
            log.error("scanner raised", scanner=self.settings.name, fault=_words(fault), exc_info=True)
            return self._failed(period, _words(fault), content)
        if answer.outcome == Outcome.ERROR:
            return self._failed(period, answer.name, content) if answer.outage else self._error(answer.name, content, outage=False)
        self._breaker.succeeded(period)
        if answer.signatures and answer.signatures != self._cache.signatures:
            self._cache.renew(answer.signatures)
            signatures = answer.signatures
        if self._remembers:
            self._cache.put(key_of(content), answer, signatures, asyncio.get_running_loop().time())
        return answer

    def _failed(self, period: int, fault: str, content: PartBlob) -> ScanAnswer:
        if self._breaker.failed(period, asyncio.get_running_loop().time(), fault):
            self._went()
        return self._error(fault, content, outage=True)

    def _error(self, fault: str, content: PartBlob, *, outage: bool) -> ScanAnswer:
        self._errors += 1
        return ScanAnswer(self.settings.name, Outcome.ERROR.value, fault, outage=outage, part=plain(content.name))

    # ---- its health

    def _went(self) -> None:
        log.warning("scanner out of service", scanner=self.settings.name, fault=self._breaker.fault)
        self._opened.set()

    async def _look_after(self) -> None:
        """Probe at the start, every `probe_seconds` in service, and when the breaker says so out of service."""
        loop = asyncio.get_running_loop()
        first = True
        while True:
            await self._probe(trip=first)
            first = False
            while True:
                out = self._breaker.state is State.OPEN
                wait = max(self._breaker.probe_at - loop.time(), 0.0) if out else self.settings.probe_seconds
                self._opened.clear()
                try:
                    async with asyncio.timeout(wait):  # not wait_for: in Python 3.11 it can swallow a cancellation
                        await self._opened.wait()
                except TimeoutError:
                    break

    async def _probe(self, *, trip: bool) -> None:
        loop = asyncio.get_running_loop()
        period = self._breaker.enter()
        seconds = min(self.settings.timeout_seconds, PROBE_TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                signatures = plain(await self.scanner.probe(loop.time() + seconds))
        except Exception as fault:
            words = "no answer to a probe in time" if isinstance(fault, TimeoutError) else _words(fault)
            if self._breaker.state is State.OPEN:
                self._breaker.trip(loop.time(), words)
            elif trip:
                self._breaker.trip(loop.time(), words)
                self._went()
            elif self._breaker.failed(period, loop.time(), words):
                self._went()
            return
        self._cache.renew(signatures)
        if self._breaker.answered_probe():
            self._cache.clear()  # it may have come back with other signatures under the same version
            log.info("scanner is back", scanner=self.settings.name, signatures=signatures)
            self._back(self.settings.name)


def _words(fault: Exception) -> str:
    text = plain(str(fault))
    return text if isinstance(fault, ScannerFault | OSError) and text else f"{type(fault).__name__}: {text}".rstrip(": ")
