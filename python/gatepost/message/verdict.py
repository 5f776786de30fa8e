"""What scanning decided about one message, as the journal keeps it. Made by `scan/`, kept in `Meta`, shown by queue and history.

A verdict is bounded (`MAX_OCTETS` in its encoded form): beyond that findings are left out and counted, never the action or its reason.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum

MAX_OCTETS = 8_192
"""Of the encoded form."""
MAX_TEXT = 300
"""Characters kept of any text that comes from a message or a scanner."""

QUARANTINE = "quarantine"
"""Destination of recipients whose mail is in quarantine. Nothing delivers it."""
SCAN_WAIT = "scan-wait"
"""Destination of recipients whose mail waits for a scanner. Nothing delivers it."""
WITHHELD = frozenset({QUARANTINE, SCAN_WAIT})


class Action(StrEnum):
    """What becomes of the message, mildest first."""

    ACCEPT = "accept"
    TAG = "tag"
    COPY = "copy"
    STRIP = "strip"
    QUARANTINE = "quarantine"
    HOLD = "hold"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule matched: `path` names the part (outermost container first), `what` the rule or flag."""

    path: str
    what: str
    action: Action = Action.ACCEPT


@dataclass(frozen=True, slots=True)
class Answer:
    """What one scanner said. outcome: 'clean', 'infected', 'suspicious', 'error'; `name` is the signature, symbol or fault."""

    scanner: str
    outcome: str
    name: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Action and why. `policy` and `rule` decided ('' when none did); `at` is Unix seconds; `omitted` counts findings left out."""

    action: Action
    policy: str = ""
    rule: str = ""
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    answers: tuple[Answer, ...] = ()
    at: float = 0.0
    omitted: int = 0

    def encode(self) -> list[object]:
        """A JSON-able list in field order, at most `MAX_OCTETS` long when dumped."""
        short = replace(
            self,
            reason=self.reason[:MAX_TEXT],
            findings=tuple(Finding(f.path[:MAX_TEXT], f.what[:MAX_TEXT], f.action) for f in self.findings),
            answers=tuple(Answer(a.scanner[:MAX_TEXT], a.outcome, a.name[:MAX_TEXT], a.score) for a in self.answers[:8]),
        )
        listed = _as_list(short)
        while short.findings and len(json.dumps(listed)) > MAX_OCTETS:
            kept = short.findings[: len(short.findings) // 2]
            short = replace(short, findings=kept, omitted=short.omitted + len(short.findings) - len(kept))
            listed = _as_list(short)
        return listed

    @property
    def infected(self) -> bool:
        """A scanner named what is in it."""
        return any(answer.outcome == "infected" for answer in self.answers)

    @property
    def text(self) -> str:
        """In words, on one line: 'quarantine, policy default, rule program, clamd infected Eicar'."""
        told = [a for a in self.answers if a.outcome != "clean"]
        score = {a.scanner: f" ({a.score:g})" if a.score else "" for a in told}
        parts = [
            self.action.value,
            f"policy {self.policy}" if self.policy else "",
            f"rule {self.rule}" if self.rule else "",
            *(" ".join(part for part in (a.scanner, a.outcome, a.name) if part) + score[a.scanner] for a in told),
        ]
        return ", ".join(part for part in parts if part)

    @classmethod
    def decode(cls, listed: list[object]) -> "Verdict":
        """Inverse of `encode`. Raises ValueError or TypeError on anything else."""
        action, policy, rule, reason, findings, answers, at, omitted = listed
        if not isinstance(findings, list) or not isinstance(answers, list):
            raise TypeError("findings and answers of a verdict are lists")
        return cls(
            Action(str(action)),
            str(policy),
            str(rule),
            str(reason),
            tuple(Finding(str(path), str(what), Action(done)) for path, what, done in findings),
            tuple(Answer(str(scanner), str(outcome), str(name), float(score)) for scanner, outcome, name, score in answers),
            float(str(at)),
            int(str(omitted)),
        )


def _as_list(verdict: Verdict) -> list[object]:
    return [
        verdict.action.value,
        verdict.policy,
        verdict.rule,
        verdict.reason,
        [[f.path, f.what, f.action.value] for f in verdict.findings],
        [[a.scanner, a.outcome, a.name, a.score] for a in verdict.answers],
        verdict.at,
        verdict.omitted,
    ]
