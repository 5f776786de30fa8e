"""Why a rule matched, in words: the conditions it has, each with what of the file or answer met it. Called by the dry runs; live mail needs
none.

Pure. Texts from messages are made printable.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from gatepost.message.verdict import MAX_TEXT, Action, Answer
from gatepost.native import name_matches
from gatepost.scan.notice import printable
from gatepost.scan.policy import Hit, Policy, Rule, Seen, decide
from gatepost.scan.report import Found

Key = tuple[str, str, Action]
"""Path, rule and action, as a Finding has them."""


def reasons(policies: Iterable[Policy], seen: Seen) -> dict[Key, str]:
    """Why each rule matched what it did, the first time it did."""
    found: dict[Key, str] = {}
    for policy in policies:
        for hit in decide(policy, seen).hits:
            found.setdefault((printable(hit.path, MAX_TEXT), hit.rule.name, hit.action), why(hit, seen))
    return found


def why(hit: Hit, seen: Seen) -> str:
    """'extensions: exe; min_bytes: 5,120'."""
    if hit.entry >= 0:
        met = [*_of_name(hit.rule, seen.report.entries[hit.entry]), *_of_content(hit.rule, seen.report.entries[hit.entry])]
        met += _of_report(hit.rule, seen)
    else:
        met = [part for answer in seen.answers if answer.scanner == hit.path for part in _of_answer(hit.rule, answer)]
    if hit.rule.when:
        met.append(("when", hit.rule.when))
    return "; ".join(f"{condition}: {printable(value)}" for condition, value in met)


def _of_name(rule: Rule, entry: Found) -> Iterator[tuple[str, str]]:
    if rule.names:
        yield "names", next(glob for glob in rule.names if name_matches(glob, entry.name))
    if rule.extensions:
        yield "extensions", entry.extension
    if rule.declared:
        yield "declared", entry.declared


def _of_content(rule: Rule, entry: Found) -> Iterator[tuple[str, str]]:
    if rule.types:
        yield "types", entry.kind if any(fnmatchcase(entry.kind, glob) for glob in rule.types) else entry.media_type
    if rule.families:
        yield "families", entry.family
    for condition, wanted, there in (("flags", rule.flags, entry.flags), ("defects", rule.defects, entry.defects)):
        if wanted:
            yield condition, ", ".join(one for one in wanted if one in there)
    if rule.signs:
        yield "signs", ", ".join(sign for sign in entry.signs if any(fnmatchcase(sign.lower(), glob) for glob in rule.signs))
    if rule.digests:
        listed = next((one.name for one in rule.read_lists() if entry.sha256 in one), "")
        yield ("sha256_files", listed) if listed else ("sha256", entry.sha256)
    if rule.min_bytes is not None:
        yield "min_bytes", f"{entry.size:,}"
    if rule.min_depth is not None:
        yield "min_depth", str(entry.depth)


def _of_report(rule: Rule, seen: Seen) -> Iterator[tuple[str, str]]:
    if rule.verdicts:
        yield "verdicts", f"{seen.report.verdict} ({seen.report.stop})" if seen.report.stop else seen.report.verdict
    if rule.min_entries is not None:
        yield "min_entries", str(len(seen.report.entries))


def _of_answer(rule: Rule, answer: Answer) -> Iterator[tuple[str, str]]:
    if rule.outcomes:
        yield "outcomes", answer.outcome
    if rule.scanners:
        yield "scanners", answer.scanner
    if rule.signatures:
        yield "signatures", answer.name
    if rule.min_score is not None:
        yield "min_score", f"{answer.score:g}"
