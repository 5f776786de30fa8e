"""Rules of YARA-X over each part, in processes of their own (`yara_process` says why). Made by the registry for kind `yara`.

Needs the extra `gatepost[yara]`. Invariants: at most `processes` of them; one that is late, dies or talks nonsense is killed and the
next scan starts another. A rule that matches is `infected`, one tagged `suspicious` (or with meta `outcome = "suspicious"`) that.
"""

import asyncio
import importlib.util
import json
import math
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field

from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import PartBlob
from gatepost.scan.scanners.plugin import ContentRefused, Outcome, ScanAnswer, ScannerFault, options

MAX_ANSWER = 65_536
HEAD = struct.Struct("!cII")

log = structlog.get_logger("gatepost.scan")


class Options(BaseModel):
    """`[scan.scanners.options]` of kind yara."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(1, ge=1, le=64)
    """Scans at once, per worker."""
    memory_bytes: int = Field(4 << 30, ge=256 << 20)
    """Address space of each process; YARA-X reserves far more than it uses."""


class Yara:
    """Scanner by the rules of one directory."""

    by_content = True
    by_parts = True

    def __init__(self, settings: ScannerSettings) -> None:
        self._options = options(settings, Options)
        self._name = settings.name
        self._directory = Path(settings.address)
        if not self._directory.is_dir():
            raise ValueError(f"address: must be the directory of the rules (got {settings.address!r})")
        if importlib.util.find_spec("yara_x") is None:
            raise ValueError("kind: needs the package yara-x: pip install 'gatepost[yara]' (got 'yara')")
        self._slots = asyncio.Semaphore(self._options.processes)
        self._idle: list[Process] = []
        self.running: set[Process] = set()
        """Processes at work."""
        self._dying: set[asyncio.Task[None]] = set()
        self._version = ""
        self._warned = ""
        self._closed = False

    async def scan(self, content: PartBlob, facts: MailFacts, deadline: float) -> ScanAnswer:
        """Part of Scanner."""
        said = await self._ask(b"S", deadline, content)
        found = said["rules"]
        if not found:
            return ScanAnswer("", Outcome.CLEAN, signatures=said["version"])
        outcome = Outcome.INFECTED if any(one == Outcome.INFECTED for _, one, _ in found) else Outcome.SUSPICIOUS
        name = " ".join(str(rule) for rule, _, _ in found)
        score = max(float(score) for _, _, score in found)
        return ScanAnswer("", outcome, name, score if math.isfinite(score) else 0.0, signatures=said["version"])

    async def probe(self, deadline: float) -> str:
        """Looks for changed rules; the version is a digest of them."""
        said = await self._ask(b"P", deadline, None)
        if said["version"] != self._version:
            self._version = said["version"]
            idle, self._idle = self._idle[:-1], self._idle[-1:]
            for process in idle:
                self._kill(process)  # those have the old rules; what is scanning now ends when it is done
        if said.get("warning") and said["warning"] != self._warned:
            log.warning("rules are faulty", scanner=self._name, fault=said["warning"])
        self._warned = str(said.get("warning", ""))
        return self._version

    async def close(self) -> None:
        """Part of Scanner."""
        self._closed = True
        for process in [*self._idle, *self.running]:
            self._kill(process)
        self._idle.clear()
        if self._dying:
            await asyncio.wait(self._dying, timeout=5)

    def _kill(self, process: Process) -> None:
        try:
            process.kill()
        except ProcessLookupError:
            pass
        task = asyncio.create_task(_reap(process))
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)

    async def _ask(self, letter: bytes, deadline: float, content: PartBlob | None) -> dict[str, Any]:
        async with self._slots:
            process = self._idle.pop() if self._idle else await self._start()
            if process.returncode is not None:
                self._kill(process)
                process = await self._start()
            self.running.add(process)
            try:
                said = await _exchange(process, letter, deadline, content)
            except BaseException:
                self._kill(process)
                raise
            finally:
                self.running.discard(process)
            if self._closed or (letter == b"S" and said.get("version") != self._version and self._version):
                self._kill(process)
            else:
                self._idle.append(process)
        if "refused" in said:
            raise ContentRefused(str(said["refused"]))
        if "fault" in said or "rules" not in said:
            raise ScannerFault(str(said.get("fault", "not an answer")))
        return said

    async def _start(self) -> Process:
        command = (sys.executable, "-m", "gatepost.scan.scanners.yara_process", str(self._directory), str(self._options.memory_bytes))
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=MAX_ANSWER, start_new_session=True
        )


def make(settings: ScannerSettings) -> Yara:
    """The registry's factory. Raises ValueError without the package or the directory, and for an unknown option."""
    return Yara(settings)


async def _exchange(process: Process, letter: bytes, deadline: float, content: PartBlob | None) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    left = max(deadline - asyncio.get_running_loop().time(), 0.0)
    size = content.size if content is not None else 0
    process.stdin.write(HEAD.pack(letter, int(left * 0.9), size))
    try:
        if content is not None:
            async for chunk in content.chunks():
                process.stdin.write(chunk)
                await process.stdin.drain()
        line = await process.stdout.readline()
        said = json.loads(line)
    except (ConnectionError, ValueError) as fault:
        raise ScannerFault("the process has died") from fault
    if not isinstance(said, dict):
        raise ScannerFault("not an answer")
    return said


async def _reap(process: Process) -> None:
    """Wait until a killed process and its pipes are gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    await process.stdout.read()
    await process.wait()
