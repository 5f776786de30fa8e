"""Rules on what is inside a message, and what they decide. Called at the end of data and by `gatepost scan`, with the same outcome.

Every entry of a report is put to the rules in order; the first that matches it decides for it, so an `accept` before a `reject` is an
exception. The message gets the severest of its entries' actions. Pure; a faulty rule is pydantic's ValidationError when it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gatepost.message.verdict import Action
from gatepost.native import name_matches
from gatepost.scan.report import Found, Report

SEVERITY = {action: rank for rank, action in enumerate(Action)}

Flag = Literal[
    "container",
    "encrypted",
    "macro",
    "autorun",
    "script",
    "executable",
    "launch",
    "embeds",
    "smuggles",
    "misnamed",
    "blocked-name",
    "deceptive-name",
]
Verdict = Literal["complete", "partial", "bomb", "timeout"]


class Rule(BaseModel):
    """A rule matches an entry when each of its conditions does; a condition with several values when one of them does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    action: Action
    reason: str = Field("", max_length=200)
    """Said in the reply to a refused message."""

    names: tuple[str, ...] = ()
    """Globs on the name as it is meant (look-alikes, case and trailing dots undone)."""
    extensions: tuple[str, ...] = ()
    """Without the dot."""
    declared: tuple[str, ...] = ()
    """Globs on the media type it claims."""
    types: tuple[str, ...] = ()
    """Globs on what it is by content: `pe`, `application/zip`, `image/*`."""
    families: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    signs: tuple[str, ...] = ()
    """Globs, e.g. `macro:*` or `pdf:javascript`."""
    defects: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    """In hex."""
    min_bytes: int | None = Field(None, ge=0)
    min_depth: int | None = Field(None, ge=0)
    """Containers around the entry; what is attached to a message has 1."""
    min_entries: int | None = Field(None, ge=1)
    """Of the whole report; decided once, for the message itself."""
    verdicts: tuple[Verdict, ...] = ()
    """Of the whole report; decided once, for the message itself."""

    def matches(self, entry: Found, report: Report) -> bool:
        """Whether it is about this entry."""
        return self._matches_whole(entry, report) and self._matches_name(entry) and self._matches_content(entry)

    def _matches_whole(self, entry: Found, report: Report) -> bool:
        if (self.verdicts or self.min_entries is not None) and entry.parent is not None:
            return False
        return (not self.verdicts or report.verdict in self.verdicts) and len(report.entries) >= (self.min_entries or 0)

    def _matches_name(self, entry: Found) -> bool:
        return (
            (not self.names or any(name_matches(glob, entry.name) for glob in self.names))
            and (not self.extensions or entry.extension in self.extensions)
            and (not self.declared or any(fnmatchcase(entry.declared, glob) for glob in self.declared))
        )

    def _matches_content(self, entry: Found) -> bool:
        return (
            (not self.types or any(fnmatchcase(entry.kind, glob) or fnmatchcase(entry.media_type, glob) for glob in self.types))
            and (not self.families or entry.family in self.families)
            and (not self.flags or not entry.flags.isdisjoint(self.flags))
            and (not self.signs or any(fnmatchcase(sign, glob) for sign in entry.signs for glob in self.signs))
            and (not self.defects or not set(entry.defects).isdisjoint(self.defects))
            and (not self.sha256 or entry.sha256 in self.sha256)
            and entry.size >= (self.min_bytes or 0)
            and entry.depth >= (self.min_depth or 0)
        )


class Policy(BaseModel):
    """Rules in order. `[[rules]]` tables in a TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that decided for an entry."""

    rule: str
    action: Action
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the message, and why."""

    action: Action
    reason: str
    hits: tuple[Hit, ...]


HITS_MAX = 100
"""Hits told; there may be as many as entries."""


def decide(policy: Policy, report: Report) -> Decision:
    """Put every entry to the rules."""
    hits: list[Hit] = []
    worst: Hit | None = None
    for entry in report.entries:
        hit = _first(policy.rules, entry, report)
        if hit is None:
            continue
        if worst is None or SEVERITY[hit.action] > SEVERITY[worst.action]:
            worst = hit
        if len(hits) < HITS_MAX:
            hits.append(hit)
    if worst is None:
        return Decision(Action.ACCEPT, "", ())
    return Decision(worst.action, worst.reason, tuple(hits))


def _first(rules: Sequence[Rule], entry: Found, report: Report) -> Hit | None:
    for rule in rules:
        if rule.matches(entry, report):
            return Hit(rule.name, rule.action, entry.path, rule.reason or f"{rule.name}: {entry.name or entry.kind}")
    return None


DEFAULT = Policy(
    rules=(
        Rule(name="bomb", action=Action.REJECT, verdicts=("bomb",), reason="an attachment expands beyond all measure"),
        Rule(name="timeout", action=Action.TAG, verdicts=("timeout",)),
        Rule(name="blocked name", action=Action.REJECT, flags=("blocked-name",)),
        Rule(name="program", action=Action.REJECT, flags=("executable",)),
        Rule(name="disguised script", action=Action.REJECT, families=("script",), flags=("misnamed", "deceptive-name")),
        Rule(name="password inside archive", action=Action.REJECT, families=("archive",), flags=("encrypted",), min_depth=2),
        Rule(name="smuggled file", action=Action.TAG, flags=("smuggles",)),
        Rule(name="macro that runs by itself", action=Action.TAG, flags=("autorun",)),
        Rule(name="encrypted", action=Action.TAG, flags=("encrypted",)),
    )
)
"""What Outlook and Gmail block (docs/scanning.md); what they only warn of is tagged."""
