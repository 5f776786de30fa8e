"""The rule set as a document: what an administrator exports, edits, checks and applies as a TOML file. docs/rule-files.md describes it.

Called by directory/documents.py and control/. A document holds domain rules with their handlers, attachment policies and
the small ordered lists (routing.parts); users,
passwords and allowed senders are not rules, and secrets are named, never held. `parse` never raises: it tells every fault with its line.
`render(document)` is canonical: the same rules always give the same text, and parse(render(d)) == d.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gatepost.config.toml_text import quoted
from gatepost.config.toml_text import render as toml
from gatepost.routing.model import DomainRule, RuleSet
from gatepost.routing.parts import parts_of
from gatepost.routing.senders import SenderRule
from gatepost.routing.stages import StagePolicy
from gatepost.routing.toml_lines import Lines
from gatepost.routing.tree import Fault, Path, decode, encode, shown
from gatepost.routing.trust import TrustEntry

FORMAT = 1
MAX_OCTETS = 12 << 20
"""Of a document; a call to the server carries 16 MiB."""
MAX_FAULTS = 200
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")
_SECRET_WORDS = ("password", "secret")


@dataclass(frozen=True, slots=True)
class Document:
    """rules: by domain; policies: attachment policies by name, as TOML text; the lists: in their order."""

    rules: tuple[DomainRule, ...] = ()
    policies: Mapping[str, str] = field(default_factory=dict)
    trust: tuple[TrustEntry, ...] = ()
    sender_rules: tuple[SenderRule, ...] = ()
    stage_policies: tuple[StagePolicy, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault as an administrator is told of it. line: from 1, 0 when it is of the text as a whole. field: 'rules."a.test".host'."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.field}: {self.problem}" if self.field else f"{where}{self.problem}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """`document` is None when there are problems. `text` is what was read."""

    document: Document | None
    problems: tuple[Problem, ...]
    text: str


def placed(text: str, faults: Iterable[Fault]) -> tuple[Problem, ...]:
    """Faults with their lines in the text they were found in, in the order of lines."""
    faults = list(faults)[:MAX_FAULTS]
    lines = Lines(text) if faults else None
    found = [Problem(lines.of(one.path) if lines else 0, dotted(one.path), one.problem) for one in faults]
    return tuple(sorted(found, key=lambda one: one.line))


def dotted(path: Path) -> str:
    """A path as it is written in a document."""
    return ".".join(map(quoted, path))


def of(rule_set: RuleSet) -> Document:
    """The document of a rule set: rules by domain, policies by name."""
    return Document(
        tuple(rule_set.rules[domain] for domain in sorted(rule_set.rules)),
        {name: rule_set.policies[name] for name in sorted(rule_set.policies)},
        **parts_of(rule_set),
    )


def render(document: Document, comment: str = "") -> str:
    """The canonical text. `comment` goes to its head."""
    tree: dict[str, Any] = {"format": FORMAT, **encode(document)}
    for rule in document.rules:
        if rule.port != usual_port(tree["rules"][rule.domain]):
            tree["rules"][rule.domain]["port"] = rule.port
        else:
            tree["rules"][rule.domain].pop("port", None)
    return toml(tree, comment)


def parse(text: str) -> Parsed:
    """What a text says, or everything that is wrong with it."""
    if len(text.encode("utf-8", "replace")) > MAX_OCTETS:
        return _refused(0, f"is longer than {MAX_OCTETS:,} octets; apply it in parts, or through the API")
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found.group(1)) if found and found.group(1) else text.count("\n") + 1
        return _refused(line, _AT_LINE.sub("", str(error)))
    except RecursionError:
        return _refused(0, "is nested too deeply")
    faults: list[Fault] = []
    wanted = tree.pop("format", FORMAT)
    if wanted != FORMAT:
        faults.append(Fault(("format",), f"is {shown(wanted)}; this Gatepost knows {FORMAT}"))
    _fill_ports(tree.get("rules"))
    document = decode(Document, tree, (), faults)
    return Parsed(None if faults else document, placed(text, map(_explained, faults)), text)


def _refused(line: int, problem: str) -> Parsed:
    return Parsed(None, (Problem(line, "", problem),), "")


def _explained(fault: Fault) -> Fault:
    name = fault.path[-1] if fault.path else ""
    if name in _SECRET_WORDS and len(fault.path) > 2:
        return Fault(fault.path, "a rule file holds no secrets: name one by password_ref, and store it with gatepost rules secret NAME")
    return fault


def usual_port(tree: Mapping[str, Any]) -> int:
    """The port of a gateway whose file names none: as the commands and the API take it."""
    return 24 if tree.get("lmtp") else 465 if tree.get("implicit_tls") else 25


def _fill_ports(rules: Any) -> None:
    for one in rules.values() if isinstance(rules, Mapping) else ():
        if isinstance(one, dict) and "port" not in one and usual_port(one) != 25:
            one["port"] = usual_port(one)
