"""What scanning decided about one message, as the journal keeps it. Made by `scan/`, kept in `Meta`, shown by queue and history.

A verdict is bounded (`MAX_OCTETS` in its encoded form): beyond that findings are left out and counted, never the action or its reason.
"""

import json
from dataclasses import dataclass, replace
from enum import StrEnum

MAX_OCTETS = 8_192
"""Of the encoded form."""
ANSWERS_MAX = 16
"""Of scanners, and of those who verified where a message comes from."""
MAX_TEXT = 300
"""Characters kept of any text that comes from a message or a scanner."""
STORY_MAX = 10
"""Things taken out that a line tells of."""

QUARANTINE = "quarantine"
"""Destination of recipients whose mail is in quarantine. Nothing delivers it."""
SCAN_WAIT = "scan-wait"
"""Destination of recipients whose mail waits for a scanner. Nothing delivers it."""
WITHHELD = frozenset({QUARANTINE, SCAN_WAIT})


PLAIN_MARK = 1
"""Stands for PLAIN where a verdict is encoded: most mail is such mail."""


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
    """One thing a rule matched: `path` names the part (outermost container first), `what` the rule or flag.

    sha256: of what was taken out of the message, in hex; '' for what stays in it, and for what was not read to its end.
    """

    path: str
    what: str
    action: Action = Action.ACCEPT
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one scanner said. outcome: 'clean', 'infected', 'suspicious', 'error'; `name` is the signature, symbol or fault.

    action: what the scanner would do, in its own words ('add header', 'reject'); '' when it has no opinion.
    """

    scanner: str
    outcome: str
    name: str = ""
    score: float = 0.0
    action: str = ""


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
            findings=tuple(Finding(f.path[:MAX_TEXT], f.what[:MAX_TEXT], f.action, f.sha256) for f in self.findings),
            answers=tuple(
                Answer(a.scanner[:MAX_TEXT], a.outcome, a.name[:MAX_TEXT], a.score, a.action[:40]) for a in self.answers[:ANSWERS_MAX]
            ),
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
        parts = [
            self.action.value,
            f"policy {self.policy}" if self.policy else "",
            f"rule {self.rule}" if self.rule else "",
            *(_said(answer) for answer in self.answers),
        ]
        return ", ".join(part for part in parts if part)

    @property
    def story(self) -> str:
        """`text`, and what was taken out of the message, by name and digest."""
        removed = [f"removed {f.path} (sha256 {f.sha256 or 'unknown'})" for f in self.findings if f.action is Action.STRIP]
        kept = removed if self.action is Action.STRIP else []
        return ", ".join([self.text, *kept[:STORY_MAX], *([f"and {len(kept) - STORY_MAX} more"] if len(kept) > STORY_MAX else [])])

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
            tuple(Finding(str(path), str(what), Action(done), *map(str, more[:1])) for path, what, done, *more in findings),
            tuple(
                Answer(str(scanner), str(outcome), str(name), float(score), *map(str, more[:1]))
                for scanner, outcome, name, score, *more in answers
            ),
            float(str(at)),
            int(str(omitted)),
        )


PLAIN = Verdict(Action.ACCEPT)
"""Of mail that is nothing but text and was looked at in place: no rule and no scanner had anything to say."""


def _said(answer: Answer) -> str:
    """'rspamd suspicious GTUBE (reject, 15)'; of a clean one no more than that it is."""
    if answer.outcome == "clean":
        return f"{answer.scanner} clean"
    opinion = ", ".join(part for part in (answer.action, f"{answer.score:g}" if answer.score else "") if part)
    return " ".join(part for part in (answer.scanner, answer.outcome, answer.name, f"({opinion})" if opinion else "") if part)


def _as_list(verdict: Verdict) -> list[object]:
    return [
        verdict.action.value,
        verdict.policy,
        verdict.rule,
        verdict.reason,
        [[f.path, f.what, f.action.value, *([f.sha256] if f.sha256 else [])] for f in verdict.findings],
        [[a.scanner, a.outcome, a.name, a.score, *([a.action] if a.action else [])] for a in verdict.answers],
        verdict.at,
        verdict.omitted,
    ]
