"""A rule document on its way to be the rules in force: read, checked, linted, compared. *Blocking*; control/rulesets.py has threads for it.

Users, secrets and listeners are those of now. Nothing here changes anything; what is wrong is told, not raised.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from gatepost.directory import Directory
from gatepost.directory.documents import normalised
from gatepost.routing.changes import Change, differences
from gatepost.routing.document import Document, Problem, dotted, parse, placed
from gatepost.routing.index import index_of
from gatepost.routing.lints import Lint, Surroundings, lint
from gatepost.routing.model import RuleKind, RuleSet
from gatepost.routing.parts import parts_of
from gatepost.routing.senders import SenderRule
from gatepost.routing.toml_lines import Lines
from gatepost.routing.tree import Fault
from gatepost.scan.files import PolicyError, parse_policy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that was looked at. `document` and `rule_set` are None when there are problems. base: the version it was compared with."""

    base: int
    document: Document | None
    rule_set: RuleSet | None
    problems: tuple[Problem, ...]
    lints: tuple[tuple[Lint, int], ...] = ()
    """Each with its line, 0 when not known."""
    changes: tuple[Change, ...] = ()


def examine(directory: Directory, rule_set: RuleSet, around: Surroundings, text: str | Document) -> Candidate:
    """`text`: what an administrator wrote, or a document that was in force once. `rule_set` is the one in force."""
    base, now = directory.document()
    document: Document | None
    if isinstance(text, str):
        parsed = parse(text)
        document, problems, text = parsed.document, parsed.problems, parsed.text
    else:
        document, problems, text = text, (), ""
    if document is not None:
        document, faults = normalised(document, rule_set.mailboxes.__contains__)
        faults = [*faults, *(_policy_faults(document) if document else ())]
        problems = placed(text, faults) if text else tuple(Problem(0, dotted(one.path), one.problem) for one in faults)
    if problems or document is None:
        return Candidate(base, None, None, problems)
    changed: dict[str, Any] = {"rules": {rule.domain: rule for rule in document.rules}, "policies": document.policies, **parts_of(document)}
    made = dataclasses.replace(rule_set, version=0, etag="", **changed)
    found = [*lint(made, around), *_no_secrets(directory, document), *_users_left(rule_set, made)]
    return Candidate(base, document, made, (), _on_lines(found, text), tuple(differences(now, document)))


def _policy_faults(document: Document) -> Iterator[Fault]:
    for name, text in document.policies.items():
        try:
            parse_policy(text)
        except PolicyError as error:
            yield Fault(("policies", name), str(error))


def _no_secrets(directory: Directory, document: Document) -> Iterator[Lint]:
    """Secrets that rules, handlers and sender rules name and nobody has stored."""
    for rule in document.rules:
        yield from _missing(directory, rule.password_ref, ("rules", rule.domain, "password_ref"))
        for handler in rule.handlers:
            if handler.options.transport is not None:
                path = ("rules", rule.domain, "handlers", handler.pattern, "options")
                yield from _missing(directory, handler.options.transport.password_ref, path)
    yield from no_secret(directory, "sender_rules", document.sender_rules)


def no_secret(directory: Directory, part: str, entries: Iterable[object]) -> Iterator[Lint]:
    """*blocking* Secrets that entries of one of the ordered lists name and nobody has stored."""
    for n, one in enumerate(entries):
        if isinstance(one, SenderRule):
            yield from _missing(directory, one.password_ref, (part, str(n), "password_ref"))


def _missing(directory: Directory, name: str, path: tuple[str, ...]) -> Iterator[Lint]:
    if name and not directory.has_secret(name):
        yield Lint(False, "no-secret", path, f"no secret {name!r} is stored here; store it with gatepost rules secret {name}")


def _users_left(before: RuleSet, after: RuleSet) -> Iterator[Lint]:
    """Domains whose users have got their mail so far and would not any more."""
    old, new = index_of(before), index_of(after)
    domains: dict[str, int] = {}
    for address in before.mailboxes:
        domain = address.rpartition("@")[2]
        domains[domain] = domains.get(domain, 0) + 1
    for domain, count in sorted(domains.items()):
        was, will = old.rule_for(domain), new.rule_for(domain)
        if was is not None and was.kind is RuleKind.HOSTED and (will is None or will.kind is not RuleKind.HOSTED):
            becomes = f"would be decided by the {will.kind} rule {will.domain}" if will else "would have no rule"
            yield Lint(False, "users-left", ("rules", domain), f"{domain} has {count} users and {becomes}")


def _on_lines(found: Iterable[Lint], text: str) -> tuple[tuple[Lint, int], ...]:
    lints = list(found)
    lines = Lines(text) if text and lints else None
    return tuple((one, lines.of(one.path) if lines else 0) for one in lints)
