"""What differs between two rule documents: by rule, handler and policy, field by field. Pure.

Called by directory/documents.py and control/. A rule that is new or gone is one change with its handlers in it; of one that stays, its
own fields are one change and each handler another, so that 100,000 handlers of which one differs give one.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gatepost.routing.document import Document
from gatepost.routing.model import AddressHandler, DomainRule
from gatepost.routing.parts import PARTS
from gatepost.routing.tree import encode

MAX_SHOWN = 2000


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field before and after, as text; '' is its default."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """verb: add, change or remove. subject: rule, handler, policy, or a list of routing.parts. key: the domain, 'pattern@domain', or the
    name of the policy or entry.
    """

    verb: str
    subject: str
    key: str
    fields: tuple[FieldChange, ...] = ()

    def __str__(self) -> str:
        return f"{self.verb} {self.subject} {self.key}"


def differences(before: Document, after: Document) -> list[Change]:
    """Changes that lead from one to the other: policies, then rules by domain, each with its handlers behind it."""
    made = [*_of_policies(before.policies, after.policies)]
    for name in PARTS:
        made += _of_part(name, getattr(before, name), getattr(after, name))
    old, new = {rule.domain: rule for rule in before.rules}, {rule.domain: rule for rule in after.rules}
    for domain in sorted(old.keys() | new.keys()):
        one, other = old.get(domain), new.get(domain)
        if one is None or other is None:
            made.append(Change("remove" if other is None else "add", "rule", domain, _fields(_tree(one), _tree(other))))
        elif one != other:
            made += _of_rule(one, other)
    return made


def _of_policies(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one != other:
            verb = "add" if one is None else "remove" if other is None else "change"
            yield Change(verb, "policy", name, (FieldChange("text", _short(one or ""), _short(other or "")),))


def _of_part(name: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Change]:
    """Entries by name; their order is a change of its own."""
    old, new = {one.name: one for one in before}, {one.name: one for one in after}
    for key in dict.fromkeys((*new, *old)):
        one, other = old.get(key), new.get(key)
        if one != other:
            verb = "add" if one is None else "remove" if other is None else "change"
            yield Change(verb, name, key, _fields(_tree(one), _tree(other)))
    kept, order = [key for key in old if key in new], [key for key in new if key in old]
    if kept != order:
        yield Change("change", name, "order", (FieldChange("order", ", ".join(kept), ", ".join(order)),))


def _of_rule(before: DomainRule, after: DomainRule) -> Iterator[Change]:
    own = _fields(_tree(dataclasses.replace(before, handlers=())), _tree(dataclasses.replace(after, handlers=())))
    if own:
        yield Change("change", "rule", after.domain, own)
    old, new = _by_pattern(before), _by_pattern(after)
    for pattern in sorted(old.keys() | new.keys()):
        one, other = old.get(pattern), new.get(pattern)
        if one != other:
            verb = "add" if one is None else "remove" if other is None else "change"
            yield Change(verb, "handler", f"{pattern}@{after.domain}", _fields(_tree(one), _tree(other)))


def _by_pattern(rule: DomainRule) -> dict[str, AddressHandler]:
    return {one.pattern: one for one in rule.handlers}


def _tree(value: Any) -> dict[str, Any]:
    return {} if value is None else encode(value)


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[FieldChange, ...]:
    names = dict.fromkeys((*before, *after))
    return tuple(
        FieldChange(name, _text(before.get(name)), _text(after.get(name))) for name in names if before.get(name) != after.get(name)
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"
