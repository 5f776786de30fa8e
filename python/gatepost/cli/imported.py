"""What an import gathers: rules as the tree of a rule document, the users it needs, and what could not be carried over. Pure.

Called by the readers of Postfix maps and of hMailServer's tables. Nothing is dropped in silence: whatever has no rule here becomes a note.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gatepost.config.toml_text import render

FORMAT = 1


@dataclass(slots=True)
class Imported:
    """rules: as in a document. users: addresses that must have a mailbox here. notes: what was left out, or wants a look."""

    source: str
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, where: str, what: str) -> None:
        """Remember what could not be carried over."""
        self.notes.append(f"{where}: {what}")

    def rule(self, domain: str, kind: str, where: str, **fields: Any) -> dict[str, Any]:
        """The rule of a domain, made now if there is none; another kind than what is there is noted and not taken."""
        domain = domain.lower().rstrip(".")
        known = self.rules.get(domain)
        if known is None:
            self.rules[domain] = known = {"kind": kind, **fields}
        elif known["kind"] != kind:
            self.note(where, f"{domain} is {known['kind']} already, so this ({kind}) was left out")
        return known

    def lead(self, pattern: str, domain: str, targets: Iterable[str], where: str) -> None:
        """A handler that sends on; one that names the address itself keeps its mail and sends copies."""
        own, wanted = f"{pattern}@{domain}".lower(), list(dict.fromkeys(one.strip() for one in targets if one.strip()))
        others = [one for one in wanted if one.lower() != own]
        if len(others) < len(wanted):
            self.users[own] = None
        if others:
            kind = "forward" if len(others) == len(wanted) else "copy"
            self.handler(pattern, domain, {"kind": kind, "targets": others}, where)

    def handler(self, pattern: str, domain: str, value: dict[str, Any], where: str) -> None:
        """A handler of a domain's rule, which is made when there is none; the first one of a pattern stays."""
        rule = self.rules.setdefault(domain.lower(), {"kind": "hosted"})
        handlers = rule.setdefault("handlers", {})
        if pattern.lower() in handlers:
            self.note(where, f"{pattern}@{domain} has a handler already; this one was left out")
        else:
            handlers[pattern.lower()] = value

    def needed_users(self) -> list[str]:
        """Mailboxes to make first: those named, and targets in hosted domains that no handler takes."""
        needed = dict(self.users)
        for rule in self.rules.values():
            for handler in rule.get("handlers", {}).values():
                needed.update(dict.fromkeys(one.lower() for one in handler.get("targets", ()) if self._is_user(one.lower())))
        return sorted(needed)

    def _is_user(self, address: str) -> bool:
        local, _, domain = address.rpartition("@")
        rule = self.rules.get(domain)
        return rule is not None and rule["kind"] == "hosted" and local not in rule.get("handlers", {})

    def text(self) -> str:
        """The rule document."""
        ordered = {domain: self.rules[domain] for domain in sorted(self.rules)}
        return render({"format": FORMAT, "rules": ordered}, f"Imported from {self.source}")
