"""`gatepost scanners`: does each configured scanner answer, and does it find the EICAR test file?

Called by `app.main`; needs no server, and asks the scanners as a worker would. Exit status 0: all answer, and those that can know the
test file find it; 1: not so; 2: the settings cannot be used. rspamd and YARA rules need not know the file, so they only have to answer.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatepost.app import logs
from gatepost.config import Settings, SettingsError, load_settings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import MemoryBlob, MemoryPart
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.plugin import Outcome, ScanAnswer
from gatepost.scan.scanners.pool import ScannerPool

EICAR = base64.b64decode("WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9JEVJQ0FSLVNUQU5EQVJELUFOVElWSVJVUy1URVNULUZJTEUhJEgrSCo=")
"""The test file of eicar.org, kept encoded so that no scanner takes offence at this source."""
KNOWS_EICAR = ("clamd", "icap")
HEAD = (
    b"From: postmaster@localhost\r\nTo: postmaster@localhost\r\nSubject: test of the scanners\r\nMIME-Version: 1.0\r\n"
    b'Content-Type: application/octet-stream; name="eicar.com"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one scanner."""

    name: str
    kind: str
    signatures: str
    harmless: ScanAnswer
    eicar: ScanAnswer

    @property
    def good(self) -> bool:
        """Whether mail can rely on it."""
        answers = Outcome.ERROR not in (self.harmless.outcome, self.eicar.outcome)
        return answers and (self.kind not in KNOWS_EICAR or self.eicar.outcome == Outcome.INFECTED)


def main(words: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="gatepost scanners", description="Ask each configured scanner about the EICAR test file.")
    parser.add_argument("--config", type=Path, help="TOML file of settings, as for serve")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(words)
    try:
        settings = load_settings(options.config)
        logs.configure(settings, "scanners")
        trials = asyncio.run(try_scanners(settings))
    except SettingsError as fault:
        print(f"gatepost: {fault}", file=sys.stderr)
        return 2
    print(json.dumps([_table(trial) for trial in trials], indent=2) if options.json else _text(trials))
    return 0 if all(trial.good for trial in trials) else 1


async def try_scanners(settings: Settings) -> list[Trial]:
    """Probe all, then put a harmless message and the test file to each. Raises SettingsError."""
    pool = ScannerPool(settings.scan)
    try:
        await pool.start()
        end = asyncio.get_running_loop().time() + settings.scan.deadline_seconds
        while asyncio.get_running_loop().time() < end and not all(one.signatures or one.state is State.OPEN for one in pool.states()):
            await asyncio.sleep(0.01)
        facts = MailFacts("postmaster@localhost", ("postmaster@localhost",))
        harmless = MemoryBlob(HEAD + b"aGFybWxlc3M=\r\n", parts=(MemoryPart(b"harmless", "harmless.txt", "text/plain"),))
        eicar = MemoryBlob(HEAD + base64.b64encode(EICAR) + b"\r\n", parts=(MemoryPart(EICAR, "eicar.com"),))
        said = [{answer.scanner: answer for answer in await pool.ask(blob, facts, pool.names)} for blob in (harmless, eicar)]
        return [Trial(one.name, one.kind, one.signatures, said[0][one.name], said[1][one.name]) for one in pool.states()]
    finally:
        await pool.close()


def _table(trial: Trial) -> dict[str, object]:
    return {
        "name": trial.name,
        "kind": trial.kind,
        "signatures": trial.signatures,
        "good": trial.good,
        **{what: {"outcome": one.outcome, "name": one.name, "score": one.score} for what, one in _answers(trial)},
    }


def _answers(trial: Trial) -> tuple[tuple[str, ScanAnswer], ...]:
    return ("harmless", trial.harmless), ("eicar", trial.eicar)


def _text(trials: Sequence[Trial]) -> str:
    if not trials:
        return "no scanners are configured (docs/scanners.md)"
    lines = []
    for trial in trials:
        lines.append(f"{'ok ' if trial.good else 'BAD'}  {trial.name}  {trial.kind}  {trial.signatures or '(no version)'}")
        lines += [f"     {what}: {one.outcome}{f' — {one.name}' if one.name else ''}" for what, one in _answers(trial)]
    return "\n".join(lines)
