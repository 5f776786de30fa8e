"""What a judgement changes in a message, as edits for the native side: our field in front, forged copies gone, a subject marked, parts
replaced by a notice, fields that scanners add or take away. Called by `gate`. Pure: offsets in, offsets out; octets that no edit names stay
as they were received.
"""

import re
from collections.abc import Sequence

from gatepost.message.fields import HeaderView, field_places
from gatepost.message.verdict import MAX_TEXT, Answer, Verdict
from gatepost.scan.fields import added, folded, new_subject, placed, removed
from gatepost.scan.judge import Judgement
from gatepost.scan.notice import marked_subject, notice_part
from gatepost.scan.report import Place, Report

FIELD = "X-Gatepost-Scan"
"""Only ours are believed: fields of this name that come from outside are removed, as RFC 8601 5 asks for forged results."""
SCAN_EDIT = "scan"
"""Kind of a route's edit that puts our field, with the value it carries, in the place of the one that the message has."""
HEADER_SEEN = 262_144
"""Octets of a header that the native side shows."""
Edit = tuple[int, int, bytes]
"""Octets from … to … of the message as received, and what takes their place."""

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_LINE = 76
_CONTENT = ("content-type", "content-transfer-encoding", "content-disposition", "content-id", "content-description")


class NotStripped(Exception):
    """A part cannot be taken out so that no reader would still find it."""


def field_of(hostname: str, verdict: Verdict) -> bytes:
    """The field with its CRLF, in the grammar of RFC 8601 2.2 as far as it fits: who says it first, then what, folded."""
    parts = [hostname, verdict.action.value]
    for name, value in (("policy", verdict.policy), ("rule", verdict.rule)):
        if value:
            parts.append(f"{name}={_value(value)}")
    parts += [f"{_value(one.scanner)}={one.outcome}{_told(one)}" for one in verdict.answers[:8]]
    line = f"{FIELD}: {parts[0]}"
    lines: list[str] = []
    for part in parts[1:]:
        if len(line) + len(part) + 3 > _LINE:
            lines.append(f"{line};")
            line = f"\t{part}"
        else:
            line += f"; {part}"
    return "\r\n".join([*lines, line, ""]).encode("ascii", "replace")


def field_value(hostname: str, verdict: Verdict) -> str:
    """What the field says, on one line."""
    return field_of(hostname, verdict).decode().partition(": ")[2].replace("\r\n\t", " ").strip()


def renewed(header: HeaderView, value: str) -> list[Edit]:
    """Our field anew, in front; the one that is there goes."""
    old = [(one.start, one.end, b"") for one in header.named([FIELD.lower()])]
    return [(0, 0, folded(FIELD, value)), *old]


def _value(text: str) -> str:
    if _TOKEN.fullmatch(text):
        return text
    return '"' + re.sub(r"[^ !#-\[\]-~]", "?", text[:MAX_TEXT]) + '"'


def _told(answer: Answer) -> str:
    """Name, action and score as a comment (RFC 8601 2.2), as far as there are any."""
    parts = (_comment(answer.name), _comment(answer.action), f"{answer.score:g}" if answer.score else "")
    told = ", ".join(part for part in dict.fromkeys(parts) if part)
    return f" ({told})" if told else ""


def _comment(text: str) -> str:
    return re.sub(r"[^ !-'*-\[\]-~]", "?", text[:100])


def edits_of(judgement: Judgement, report: Report, header: bytes, hostname: str) -> list[Edit]:
    """All but the field in front. Raises NotStripped."""
    edits = [_marked(header, judgement.subject)] if judgement.subject else []
    edits += _of_scanners(judgement, header, sure=all("ambiguous" not in one.flags for one in report.entries[:1]))
    by_place: dict[tuple[int, int], list[int]] = {}
    for number, one in enumerate(judgement.strip):
        place = report.entries[one.entry].place
        if place is None or "ambiguous" in report.entries[0].flags:
            raise NotStripped
        by_place.setdefault((place.header, place.end), []).append(number)
    last = 0
    for (start, end), numbers in sorted(by_place.items()):
        if start < last:
            raise NotStripped
        last = end
        place = report.entries[judgement.strip[numbers[0]].entry].place
        assert place is not None
        notice = notice_part([judgement.strip[number].removed for number in numbers], hostname, judgement.contact)
        edits += _replaced(place, notice, header)
    return edits


def _replaced(place: Place, notice: bytes, header: bytes) -> list[Edit]:
    if place.header > 0:
        return [(place.header, place.end, notice.removesuffix(b"\r\n"))]
    # The message is one part: its header stays but for the fields that speak of the content.
    if header[place.body - 4 : place.body] != b"\r\n\r\n":
        raise NotStripped
    fields, _, body = notice.partition(b"\r\n\r\n")
    cuts = [(start, end, b"") for name, start, _, end in _fields(header) if name in _CONTENT]
    at = place.body - 2
    return [*cuts, (at, at, fields + b"\r\n"), (place.body, place.end, body)]


def _marked(header: bytes, tag: str) -> Edit:
    for name, start, value, end in _fields(header):
        if name == "subject":
            return start, end, marked_subject(header[value:end], tag)
    return 0, 0, marked_subject(b"", tag)


def _of_scanners(judgement: Judgement, header: bytes, *, sure: bool) -> list[Edit]:
    """What they add, cuts, and a subject of theirs. The subject is the policy's, if its rule marks it. All is added in front unless it is
    sure where the fields of the message stand.
    """
    answers, fields = judgement.verdict.answers, _fields(header)
    subject = "" if judgement.subject else new_subject(answers)
    theirs = frozenset(("subject",) if judgement.subject or subject else ())
    puts = placed(answers, fields if sure else [], theirs)
    puts[0] = added(answers, theirs) + puts.get(0, b"")
    edits = [(at, at, octets) for at, octets in puts.items() if octets]
    edits += [(start, end, b"") for start, end in removed(answers, fields, theirs)]
    if subject:
        at, end = next(((start, end) for name, start, _, end in fields if name == "subject"), (0, 0))
        edits.append((at, end, folded("Subject", subject)))
    return edits


def _fields(header: bytes) -> list[tuple[str, int, int, int]]:
    """(name in lower case, start, where the value begins, end) of each field whose end was seen."""
    found = [(one.name, one.start, one.value, one.end) for one in field_places(header)]
    if found and len(header) >= HEADER_SEEN and not header.endswith(b"\n\r\n"):
        found.pop()  # its end was not seen, and half a field must not be cut
    return found


def values_of(header: bytes, name: str) -> Sequence[bytes]:
    """Raw values of the fields of a name, unfolded."""
    wanted = name.lower()
    return [header[value:end].replace(b"\r\n", b"").strip() for known, _, value, end in _fields(header) if known == wanted]
