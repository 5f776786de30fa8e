"""Policies from TOML, one by one or all in force. Called by `gatepost scan`, by the control plane before it stores one, by workers.

Fails by PolicyError, which names the place and, for a rule, its name; a stored policy that this version does not understand counts as the
shipped one, which is logged.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from gatepost.config.scan import Scan
from gatepost.config.settings import Settings
from gatepost.message.nearest import nearest
from gatepost.routing.model import RuleSet
from gatepost.scan.facts import Direction
from gatepost.scan.policies import Defaults, Policies
from gatepost.scan.policy import DEFAULT, Policy, Rule
from gatepost.scan.report import Limits

_QUOTED = re.compile(r"'([^']+)'")
_log = structlog.get_logger(__name__)


class PolicyError(Exception):
    """The text is not TOML, or has a faulty rule."""


def load_policy(path: Path) -> Policy:
    """From a file."""
    try:
        return parse_policy(path.read_text("utf-8"))
    except OSError as fault:
        raise PolicyError(f"{path}: {fault.strerror}") from fault
    except (UnicodeDecodeError, PolicyError) as fault:
        raise PolicyError(f"{path}: {fault}") from fault


@lru_cache(maxsize=1024)  # a few more than there may be policies
def parse_policy(text: str) -> Policy:
    """From TOML; compiled once for each text. Reads the lists of hashes that it names."""
    try:
        made = Policy.model_validate(tomllib.loads(text))
    except ValidationError as fault:
        raise PolicyError(_first_fault(fault, text)) from fault
    except (tomllib.TOMLDecodeError, RecursionError) as fault:
        raise PolicyError(str(fault) or "nested too deeply") from fault
    for rule in made.rules:
        rule.read_lists()
    return made


def unreadable_list(policy: Policy) -> str:
    """*blocking* 'rule 1 (known): sha256_files: …' for the first list that cannot be read; '' when there is none. A policy in force does
    without such a list, which is logged; who stores one wants to know.
    """
    for number, rule in enumerate(policy.rules, 1):
        for one in rule.read_lists():
            if not one.known:
                one.refresh()
            if not one.known:
                return f"rule {number} ({rule.name}): sha256_files: cannot read {one.name!r}"
    return ""


def _first_fault(fault: ValidationError, text: str) -> str:
    """'rule 2 (programs): flags.0: …'. Of several a key that does not exist: another fault may be that it is missing."""
    first = min(fault.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = list(first["loc"])
    message = _in_words(first)
    if len(where) > 1 and where[0] == "rules" and isinstance(where[1], int):
        named = tomllib.loads(text)["rules"][where[1]]
        name = named.get("name") if isinstance(named, dict) else None
        lead = f"rule {where[1] + 1}" + (f" ({name})" if isinstance(name, str) and name else "")
        return ": ".join(part for part in (lead, _dotted(where[2:]), message) if part)
    return ": ".join(part for part in (_dotted(where), message) if part)


def _in_words(fault: Any) -> str:
    """A fault of pydantic's, with the nearest name there is."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = list((Rule if fault["loc"][0] == "rules" else Policy).model_fields)
        return f"there is no such key{nearest(str(fault['loc'][-1]), known)}"
    if fault["type"] in ("enum", "literal_error"):
        known = _QUOTED.findall(str(fault.get("ctx", {}).get("expected", "")))
        return f"must be one of {', '.join(known)} (got {fault['input']!r:.60}){nearest(str(fault['input']), known)}"
    return message


def _dotted(where: list[Any]) -> str:
    return ".".join(str(part) for part in where)


def policies_of(rule_set: RuleSet, settings: Settings) -> Policies:
    """*blocking* All policies in force. May read files. Cheap for texts that were seen before."""
    return _with(rule_set, _parsed(rule_set), settings)


def _parsed(rule_set: RuleSet) -> Mapping[str, Policy]:
    named: dict[str, Policy] = {}
    for name, text in rule_set.policies.items():
        try:
            named[name] = parse_policy(text)
        except PolicyError as fault:
            _log.error("a stored policy is not understood; the shipped one is used instead", policy=name, error=str(fault))
            named[name] = DEFAULT
    return named


def _with(rule_set: RuleSet, named: Mapping[str, Policy], settings: Settings) -> Policies:
    scan = settings.scan
    return Policies(rule_set, named, _defaults(scan), enabled=scan.enabled, delimiter=settings.smtp.recipient_delimiter)


class PoliciesInForce:
    """`policies_of` what is in force, made anew when rule set or settings are others.

    `prepare` does what takes its time (parsing, reading lists of hashes) for a rule set that is about to be in force, in a thread; asking
    is then cheap enough for an event loop. A rule set that nobody prepared is parsed where it is asked for.
    """

    def __init__(self, rule_set: Callable[[], RuleSet], settings: Callable[[], Settings]) -> None:
        self._rule_set = rule_set
        self._settings = settings
        self._made: tuple[RuleSet, Settings, Policies] | None = None
        self._ready: dict[int, tuple[RuleSet, Mapping[str, Policy]]] = {}

    def prepare(self, rule_set: RuleSet) -> None:
        """*blocking* Get ready for it."""
        current = self._rule_set()
        kept = {id(one): (one, named) for one, named in self._ready.values() if one is current}
        self._ready = {**kept, id(rule_set): (rule_set, _parsed(rule_set))}

    def __call__(self) -> Policies:
        """Those of now; from any thread."""
        rule_set, settings, made = self._rule_set(), self._settings(), self._made
        if made is None or made[0] is not rule_set or made[1] is not settings:
            _, named = self._ready.get(id(rule_set)) or (rule_set, _parsed(rule_set))
            made = self._made = rule_set, settings, _with(rule_set, named, settings)
        return made[2]


def _defaults(scan: Scan) -> Defaults:
    directions = {Direction.INBOUND: scan.inbound, Direction.OUTBOUND: scan.outbound, Direction.INTERNAL: scan.internal}
    return Defaults(scan.policy, scan.trusted, directions)


def limits_of(scan: Scan) -> Limits:
    """The limits of an inspection."""
    return Limits(scan.max_bytes, scan.max_entries, scan.max_depth, scan.max_ratio, scan.memory_bytes, scan.max_milliseconds)
