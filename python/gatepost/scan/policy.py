"""Rules on what is inside a message, and what they decide. Called by `judge` at the end of data and by `gatepost scan`.

Every entry of a report, and every answer of a scanner, is put to the rules in order; the first that matches it decides for it, so an
`accept` before a `reject` is an exception. The message gets the severest of these actions. Pure; a faulty rule is pydantic's
ValidationError when it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from gatepost.expression import EvaluationError, ExpressionError
from gatepost.message.verdict import Action, Answer
from gatepost.native import name_matches
from gatepost.scan.conditions import Condition
from gatepost.scan.facts import MailFacts
from gatepost.scan.hashes import HashFile, hash_file
from gatepost.scan.report import Found, Report
from gatepost.scan.spelling import CopyAddress, Defect, Digest, Extension, Family, LowerGlob

_log = structlog.get_logger(__name__)

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
    "ambiguous",
]
Outcome = Literal["clean", "infected", "suspicious", "error"]
Outage = Literal["open", "closed", "hold"]
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
    extensions: tuple[Extension, ...] = ()
    """Folded, without the dot."""
    declared: tuple[LowerGlob, ...] = ()
    """Globs on the media type it claims."""
    types: tuple[LowerGlob, ...] = ()
    """Globs on what it is by content: `pe`, `application/zip`, `image/*`."""
    families: tuple[Family, ...] = ()
    flags: tuple[Flag, ...] = ()
    signs: tuple[LowerGlob, ...] = ()
    """Globs, e.g. `macro:*` or `pdf:javascript`; case does not count."""
    defects: tuple[Defect, ...] = ()
    sha256: tuple[Digest, ...] = ()
    """In hex."""
    sha256_files: tuple[str, ...] = Field((), max_length=8)
    """Paths of lists of digests, a line each; with `sha256` one list."""
    min_bytes: int | None = Field(None, ge=0)
    min_depth: int | None = Field(None, ge=0)
    """Containers around the entry; what is attached to a message has 1."""
    min_entries: int | None = Field(None, ge=1)
    """Of the whole report; decided once, for the message itself."""
    verdicts: tuple[Verdict, ...] = ()
    """Of the whole report; decided once, for the message itself."""

    outcomes: tuple[Outcome, ...] = ()
    """What a scanner said. A rule with this or the three below is put to the scanners' answers, not to entries."""
    scanners: tuple[str, ...] = ()
    """Globs on the scanner's name."""
    signatures: tuple[LowerGlob, ...] = ()
    """Globs on the name of what it found, or on one of several names; case does not count."""
    min_score: float | None = Field(None, allow_inf_nan=False)

    when: str = ""
    """A condition in CEL over entry, report, mail and answers. One that does not name `entry` is decided once, for the message itself."""

    subject: str = Field("", max_length=60)
    """Put before the subject of a message that goes on."""
    copy_to: CopyAddress = Field("", max_length=320)
    """Who gets a copy besides, whatever the action, but for a message that is refused. With the action `copy` by default postmaster."""

    _condition: Condition | None = PrivateAttr(None)
    _lists: tuple[HashFile, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.about_answers and self.about_entries:
            raise ValueError("conditions on scanners and on attachments exclude each other")
        if self.when:
            try:
                self._condition = Condition(self.when)
            except ExpressionError as fault:
                raise ValueError(f"when: {fault}") from fault
        if not (self.about_answers or self.about_entries or self.when):
            raise ValueError("has no condition; one for every message is when = 'true'")
        if any(not path.startswith("/") for path in self.sha256_files):
            raise ValueError("sha256_files: must be absolute paths")
        return self

    @property
    def about_answers(self) -> bool:
        """Whether it is put to answers."""
        return bool(self.outcomes or self.scanners or self.signatures or self.min_score is not None)

    @property
    def about_entries(self) -> bool:
        """Whether it has a condition on entries or on the whole report."""
        lists = (self.names, self.extensions, self.declared, self.types, self.families, self.flags, self.signs, self.defects)
        numbers = (self.min_bytes, self.min_depth, self.min_entries)
        named = self._condition is not None and self._condition.about_entry
        return named or any(lists) or bool(self.digests or self.verdicts) or any(number is not None for number in numbers)

    def read_lists(self) -> tuple[HashFile, ...]:
        """*blocking* Its lists of digests, read when it is first asked; they stay in memory as long as the rule."""
        if not self._lists and self.sha256_files:
            self._lists = tuple(map(hash_file, self.sha256_files))
        return self._lists

    @property
    def digests(self) -> bool:
        """Whether it asks for the content's digest."""
        return bool(self.sha256 or self.sha256_files)

    @property
    def may_match_text(self) -> bool:
        """Whether it could match a message of nothing but text, as far as its conditions tell."""
        if self.about_answers:
            return False  # such mail is judged whenever a scanner is asked
        if self.verdicts and "complete" not in self.verdicts:
            return False
        if self.flags or self.signs or self.defects or self.extensions or (self.min_depth or 0) > 1 or (self.min_entries or 0) > 2:
            return False
        if self.families and not {"text", "mail", "data"} & set(self.families):
            return False
        return not self.names or any(name_matches(glob, "") for glob in self.names)

    def matches_answer(self, answer: Answer, seen: "Seen") -> bool:
        """Whether it is about what this scanner said."""
        return (
            self.about_answers
            and (not self.outcomes or answer.outcome in self.outcomes)
            and (not self.scanners or any(fnmatchcase(answer.scanner, glob) for glob in self.scanners))
            and (not self.signatures or any(fnmatchcase(name, glob) for name in _names(answer) for glob in self.signatures))
            and (self.min_score is None or answer.score >= self.min_score)
            and self._holds(seen.report.entries[0], seen)
        )

    def matches(self, entry: Found, seen: "Seen") -> bool:
        """Whether it is about this entry."""
        return (
            not self.about_answers
            and self._matches_whole(entry, seen.report)
            and self._matches_name(entry)
            and self._matches_content(entry)
            and self._holds(entry, seen)
        )

    def _holds(self, entry: Found, seen: "Seen") -> bool:
        """A condition that has no answer for these values (division by zero) does not hold."""
        if self._condition is None:
            return True
        try:
            return self._condition.holds(entry, seen.report, seen.mail, seen.answers)
        except EvaluationError as fault:
            _log.warning("a policy's condition has no answer", rule=self.name, error=str(fault))
            return False

    def _matches_whole(self, entry: Found, report: Report) -> bool:
        once = self.verdicts or self.min_entries is not None or not self.about_entries
        if once and entry.parent is not None:
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
            and (not self.signs or any(fnmatchcase(sign.lower(), glob) for sign in entry.signs for glob in self.signs))
            and (not self.defects or not set(entry.defects).isdisjoint(self.defects))
            and (not self.digests or self._knows(entry.sha256))
            and entry.size >= (self.min_bytes or 0)
            and entry.depth >= (self.min_depth or 0)
        )

    def _knows(self, digest: str) -> bool:
        return digest in self.sha256 or any(digest in one for one in self.read_lists())


def _names(answer: Answer) -> tuple[str, ...]:
    """What was found, as a whole and word by word: rspamd and YARA name several things."""
    found = answer.name.lower()
    return found, *(found.split() if " " in found else ())


NO_MAIL = MailFacts("", ())
"""For a file that came in no mail."""


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the rules look at: what was found, about which mail, and what scanners said."""

    report: Report
    mail: MailFacts = NO_MAIL
    answers: tuple[Answer, ...] = ()


class Policy(BaseModel):
    """Rules in order: `[[rules]]` tables in a TOML text, and before them what holds for the whole policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field("", max_length=400)
    contact: str = Field("postmaster", min_length=1, max_length=320)
    """Whom a notice tells to ask."""
    scanners: tuple[str, ...] | None = Field(None, max_length=8)
    """Names of those to ask; all that are configured by default."""
    outage: Outage = "hold"
    """When a scanner gave no answer: take the mail (open), put the sender off (closed), or keep it until the scanner is back (hold)."""
    outage_minutes: int = Field(60, ge=1, le=10_080)
    """How long mail is kept for a scanner; then it goes where `quarantine.after_wait` says."""
    rules: tuple[Rule, ...] = Field((), max_length=1000)

    def asks(self, scanner: str) -> bool:
        """Whether it wants that scanner's answer."""
        return bool(self.rules) and (self.scanners is None or scanner in self.scanners)

    @cached_property
    def needs_plain(self) -> bool:
        """Whether a message that is nothing but short text could be matched."""
        return any(rule.may_match_text for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that decided for an entry (`entry` is its index) or for an answer of a scanner (`entry` is -1)."""

    rule: Rule
    path: str
    reason: str
    entry: int = -1

    @property
    def action(self) -> Action:
        """What the rule asks for."""
        return self.rule.action


@dataclass(frozen=True, slots=True)
class Decision:
    """What one policy makes of a message. `worst` is the severest hit, the first of these; None when no rule matched."""

    worst: Hit | None
    hits: tuple[Hit, ...]
    omitted: int = 0
    """Hits beyond HITS_MAX; none of them is more severe than `worst`."""
    strips: tuple[Hit, ...] = ()
    """Those that ask for something to be taken out."""
    subject: str = ""
    copies: tuple[str, ...] = ()

    @property
    def action(self) -> Action:
        """Of the whole message."""
        return self.worst.action if self.worst else Action.ACCEPT

    @property
    def reason(self) -> str:
        """Of the action."""
        return self.worst.reason if self.worst else ""


HITS_MAX = 100
"""Hits told; there may be as many as entries."""
COPIES_MAX = 10
"""Addresses that copies of one message go to."""
POSTMASTER = "postmaster"


def decide(policy: Policy, seen: Seen) -> Decision:
    """Put every answer and every entry to the rules."""
    hits = [hit for answer in seen.answers if (hit := _first_for_answer(policy.rules, answer, seen)) is not None]
    hits += [hit for number in range(len(seen.report.entries)) if (hit := _first(policy.rules, number, seen)) is not None]
    return _summed(hits)


def _summed(hits: Sequence[Hit]) -> Decision:
    worst = max(hits, key=lambda hit: SEVERITY[hit.action], default=None)  # of equals the first
    copies = dict.fromkeys(hit.rule.copy_to or POSTMASTER for hit in hits if hit.rule.copy_to or hit.action is Action.COPY)
    return Decision(
        worst,
        tuple(hits[:HITS_MAX]),
        max(0, len(hits) - HITS_MAX),
        tuple(hit for hit in hits if hit.action is Action.STRIP),
        next((hit.rule.subject for hit in hits if hit.rule.subject), ""),
        tuple(copies)[:COPIES_MAX],
    )


def _first(rules: Sequence[Rule], number: int, seen: Seen) -> Hit | None:
    entry = seen.report.entries[number]
    for rule in rules:
        if rule.matches(entry, seen):
            return Hit(rule, entry.path, rule.reason or f"{rule.name}: {entry.name or entry.kind}", number)
    return None


def _first_for_answer(rules: Sequence[Rule], answer: Answer, seen: Seen) -> Hit | None:
    for rule in rules:
        if rule.matches_answer(answer, seen):
            return Hit(rule, answer.scanner, rule.reason or f"{rule.name}: {answer.name or answer.outcome}")
    return None


ARCHIVES = ("7z", "arj", "bz2", "cab", "gz", "img", "iso", "lzh", "rar", "tar", "tgz", "xz", "z", "zip")
NOT_TOLD_OTHERWISE = "!report.flags.exists(one, one in ['encrypted', 'smuggles', 'autorun', 'ambiguous'])"
"""A rule that names what it is goes before one that only says that not all was seen."""
DEFAULT = Policy(
    description="refuses what Outlook and Gmail block, tags what they warn of",
    rules=(
        Rule(name="infected", action=Action.REJECT, outcomes=("infected",)),
        Rule(name="suspicious", action=Action.TAG, outcomes=("suspicious",)),
        Rule(name="bomb", action=Action.REJECT, verdicts=("bomb",), reason="an attachment expands beyond all measure"),
        Rule(name="timeout", action=Action.TAG, verdicts=("timeout",)),
        Rule(name="blocked name", action=Action.REJECT, flags=("blocked-name",)),
        Rule(name="program", action=Action.REJECT, flags=("executable",)),
        Rule(name="disguised script", action=Action.REJECT, families=("script",), flags=("misnamed", "deceptive-name")),
        Rule(name="password inside archive", action=Action.REJECT, families=("archive",), flags=("encrypted",), min_depth=2),
        Rule(name="archive behind a password", action=Action.REJECT, extensions=ARCHIVES, flags=("encrypted",)),
        Rule(name="smuggled file", action=Action.TAG, flags=("smuggles",)),
        Rule(name="macro that runs by itself", action=Action.TAG, flags=("autorun",)),
        Rule(name="encrypted", action=Action.TAG, flags=("encrypted",)),
        Rule(name="ambiguous", action=Action.TAG, flags=("ambiguous",)),
        Rule(name="partly seen", action=Action.TAG, verdicts=("partial",), when=NOT_TOLD_OTHERWISE),
    ),
)
"""What Outlook and Gmail block (docs/scanning.md); what they only warn of is tagged."""
NO_ATTACHMENTS = Policy(
    description="refuses every attachment",
    rules=(Rule(name="attachment", action=Action.REJECT, names=("?*",), reason="this address takes no attachments"),),
)
"""For address handlers that block attachments: whatever has a file name."""
NOTHING = Policy(description="takes everything, looks into nothing")
"""No rules: everything is taken, nothing is looked into."""
