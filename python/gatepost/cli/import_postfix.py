"""Postfix's lookup tables (as text, before postmap) to rules: virtual(5), transport(5), relay_domains, sender-dependent relay hosts,
aliases(5). Pure.

Called by cli/imports.py. What has no counterpart (programs, files, :include:, regular expressions, relay hosts by sender) becomes a note.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gatepost.cli.imported import Imported

_NEXT_HOP = re.compile(r"(?:\[(?P<exact>[^\]]+)\]|(?P<name>[^\[\]:\s]+))(?::(?P<port>\d+|smtp|smtps|submission|lmtp))?\Z")
_PORTS = {"smtp": 25, "smtps": 465, "submission": 587, "lmtp": 24}
_ALIAS = re.compile(r'("(?:[^"\\]|\\.)*"|[^:"]+)\s*:\s*(.*)\Z', re.S)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table: where it stands, key, value."""

    where: str
    key: str
    value: str


def entries(text: str, name: str, separator: str = "") -> Iterator[Entry]:
    """Logical lines: comments and blank lines go, a line that begins with a blank continues the one before (postmap(1))."""
    logical: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and logical:
            logical[-1] = (logical[-1][0], f"{logical[-1][1]} {line.strip()}")
        else:
            logical.append((number, line.strip()))
    for number, line in logical:
        where = f"{name}:{number}"
        if separator:
            match = _ALIAS.match(line)
            yield Entry(where, match.group(1).strip().strip('"'), match.group(2).strip()) if match else Entry(where, line, "")
        else:
            key, _, value = line.partition(" ") if " " in line.partition("\t")[0] else line.partition("\t")
            yield Entry(where, key, value.strip())


def relay_domains(made: Imported, text: str, name: str) -> None:
    """`domain anything`: mail of anybody is passed on to the domain's own exchangers."""
    for one in entries(text, name):
        for domain in re.split(r"[,\s]+", one.key):
            if not domain or "/" in domain or domain.startswith("$"):
                made.note(one.where, f"{one.key!r} is no domain")
            else:
                made.rule(_wildcard(domain), "mx", one.where, accept_untrusted=True)


def transport(made: Imported, text: str, name: str) -> None:
    """`domain transport:nexthop`, `.domain …`, `* …`, `user@domain …`."""
    for one in entries(text, name):
        kind, _, hop = one.value.partition(":")
        if "@" in one.key:
            made.note(one.where, f"{one.key}: a transport for one address is set with a transport handler")
        elif kind in ("smtp", "relay", "lmtp"):
            _gateway(made, one, kind, hop)
        elif kind == "error":
            rule = _replaced(made, one.key, "reject")
            rule["text"] = re.sub(r"\A\d\.\d+\.\d+\s+", "", hop)[:400]
        elif kind == "discard":
            _replaced(made, one.key, "discard")
        elif kind == "retry":
            _replaced(made, one.key, "hold")
        elif kind in ("local", "virtual"):
            made.rule(_wildcard(one.key), "hosted", one.where)
        elif one.value != ":":
            made.note(one.where, f"{one.key}: the transport {kind!r} has no counterpart")


def _gateway(made: Imported, one: Entry, kind: str, hop: str) -> None:
    found = _NEXT_HOP.match(hop)
    domain = _wildcard(one.key)
    if not hop:
        if domain != "*":
            _replaced(made, one.key, "mx")
        return
    if found is None:
        made.note(one.where, f"{one.key}: {hop!r} is no host")
        return
    host, port = found["exact"] or found["name"], found["port"]
    if found["exact"] is None and kind != "lmtp":
        made.note(one.where, f"{one.key}: Postfix looks up the MX of {host}; the rule goes to the host itself")
    rule = _replaced(made, one.key, "gateway")
    number = _PORTS.get(port, int(port) if port and port.isdigit() else 24 if kind == "lmtp" else 25)
    rule.update(host=host, port=number, **({"lmtp": True} if kind == "lmtp" else {}), **({"implicit_tls": True} if number == 465 else {}))


def _replaced(made: Imported, key: str, kind: str) -> dict[str, object]:
    """The rule of a domain, of this kind from now on: transport(5) says where mail of a relay domain goes."""
    rule = made.rules.setdefault(_wildcard(key).lower(), {})
    handlers = rule.get("handlers")
    rule.clear()
    rule["kind"] = kind
    if handlers:
        rule["handlers"] = handlers
    return rule


def _wildcard(domain: str) -> str:
    return f"*{domain}" if domain.startswith(".") else domain


def virtual(made: Imported, text: str, name: str, default_domain: str) -> None:
    """`user@domain targets`, `@domain target`, `domain anything` (declares it), `user targets`."""
    for one in entries(text, name):
        targets = [_qualified(part, default_domain) for part in re.split(r"[,\s]+", one.value) if part]
        local, at, domain = one.key.rpartition("@")
        if not at and "." in one.key:
            made.rule(one.key, "hosted", one.where)
        elif not at and not default_domain:
            made.note(one.where, f"{one.key} has no domain; say which by --domain")
        elif not at:
            made.lead(one.key, default_domain, targets, one.where)
        elif not local:
            _catch_all(made, one, domain, targets)
        else:
            made.lead(local, domain, targets, one.where)


def _catch_all(made: Imported, one: Entry, domain: str, targets: list[str]) -> None:
    renamed = [target for target in targets if target.startswith("@")]
    if renamed:
        made.rule(domain, "alias", one.where, settings={"alias_of": renamed[0][1:].lower()})
    else:
        made.handler("*", domain, {"kind": "forward", "targets": targets}, one.where)


def aliases(made: Imported, text: str, name: str, default_domain: str) -> None:
    """Names of one domain with their targets, as in /etc/aliases."""
    for one in entries(text, name, ":"):
        targets = []
        for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^,\s]+', one.value):
            bare = part.strip('"')
            if bare.startswith(("|", "/", ":include:")):
                made.note(one.where, f"{one.key}: {bare} is a program, file or list of addresses on that machine")
            else:
                targets.append(_qualified(bare.removeprefix("\\"), default_domain))
        made.lead(one.key, default_domain, targets, one.where)


def sender_relays(made: Imported, text: str, name: str) -> None:
    """`user@domain [host]:port`: chosen by the sender, for which domain rules have no word."""
    for one in entries(text, name):
        made.note(one.where, f"mail from {one.key} by {one.value}: a smart host chosen by the sender")


def _qualified(target: str, default_domain: str) -> str:
    return target if "@" in target or not default_domain else f"{target}@{default_domain}"
