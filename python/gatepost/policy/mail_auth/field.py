"""The Authentication-Results field (RFC 8601): ours written, those that claim to be ours found. Used by sessions. Pure, never fails."""

import re
from collections.abc import Iterator

from gatepost.message.fields import FieldPlace, HeaderView
from gatepost.policy.mail_auth.results import Outcome, Results, Signed, Word

NAME = "Authentication-Results"
LINE = 76
VALUE_MAX = 254

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~@-]+\Z")
_LEAD = re.compile(r'(?:[ \t\r\n]|\\.)*(?:"((?:[^"\\]|\\.)*)"|([^\s;("]+))')


def field_of(hostname: str, results: Results, sender: str, helo: str) -> bytes:
    """The field with its CRLF, folded; `sender` is the envelope's."""
    spf, dmarc = results.spf, results.dmarc
    parts = [_method("spf", spf.sender, ("smtp.mailfrom", sender) if sender else ("smtp.helo", helo))]
    if sender and spf.helo.word is not Word.NONE:
        parts.append(_method("spf", spf.helo, ("smtp.helo", helo)))
    parts += [_signature(one) for one in results.signatures] or ["dkim=none"]
    asked = f" (p={results.policy})" if results.policy else ""
    parts.append(_method("dmarc", dmarc, ("header.from", dmarc.domain), comment=asked))
    return _folded(f"{NAME}: {hostname}", parts)


def _signature(one: Signed) -> str:
    return _method("dkim", one, ("header.d", one.domain), ("header.s", one.selector), ("header.b", one.start))


def _method(name: str, outcome: Outcome, *properties: tuple[str, str], comment: str = "") -> str:
    reason = f" reason={_quoted(outcome.reason)}" if outcome.reason and outcome.word is not Word.PASS else ""
    told = "".join(f" {key}={_value(value)}" for key, value in properties if value)
    return f"{name}={outcome.word}{comment}{reason}{told}"


def _value(text: str) -> str:
    return text[:VALUE_MAX] if _TOKEN.match(text[:VALUE_MAX]) else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + re.sub(r"[^ !#-\[\]-~]", "?", text[:VALUE_MAX]) + '"'


def _folded(first: str, parts: list[str]) -> bytes:
    lines = [first]
    for part in parts:
        lines[-1] += ";"
        lines.append(f"\t{part}")
    return "\r\n".join([*lines, ""]).encode("ascii", "replace")


def forged(view: HeaderView, hostname: str) -> Iterator[FieldPlace]:
    """The fields that say they are ours (RFC 8601 5)."""
    ours = hostname.lower().rstrip(".")
    for place in view.named([NAME.lower()]):
        if claimed(view.octets[place.value : place.end]) == ours:
            yield place


def claimed(value: bytes) -> str:
    """Who a field says it is from: its authserv-id, in lower case."""
    found = _LEAD.match(_without_comments(value.decode("utf-8", "replace")))
    if found is None:
        return ""
    name = re.sub(r"\\(.)", r"\1", found[1]) if found[1] is not None else found[2]
    return name.strip().lower().rstrip(".")


def _without_comments(text: str) -> str:
    """Comments (RFC 5322 3.2.2) as blanks, those outside of quotes; one that does not end is left out to the end."""
    kept: list[str] = []
    depth, quoted, escaped = 0, False, False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"' and not depth:
            quoted = not quoted
        elif char == "(" and not quoted:
            depth += 1
        elif char == ")" and depth and not quoted:
            depth -= 1
            char = " "
        if not depth:
            kept.append(char)
    return "".join(kept)
