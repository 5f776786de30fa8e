"""Header fields that scanners add to a message or take away from it (`ScanAnswer.fields`, `.removes`), as edits. Called by `edits`.

Pure. Added fields stand in front, where no reader takes them for anything else, folded, values in ASCII (RFC 2047); those of one scanner in
its order. Those with a place (`ScanAnswer.placed`) stand there. Left alone, whatever a scanner asks: fields that say how the content is to
be read, since the message was inspected with those it came with, and our own field. A value that cannot be folded into lines of LINE_MAX
octets is left out, which is logged.
"""

from collections.abc import Iterator, Sequence
from email.header import Header

import structlog

from gatepost.message.verdict import Answer
from gatepost.scan.scanners.plugin import ScanAnswer

LINE = 76
LINE_MAX = 998
"""RFC 5322 2.1.1, without the line end."""
OURS = frozenset(("mime-version", "x-gatepost-scan"))

_log = structlog.get_logger("gatepost.scan")

Place = tuple[str, int, int, int]
"""Name in lower case, start, where the value begins, end."""


def is_left_alone(name: str) -> bool:
    """Whether scanners may neither add nor remove fields of that name."""
    return name.lower() in OURS or name.lower().startswith("content-")


def added(answers: Sequence[Answer], without: frozenset[str] = frozenset()) -> bytes:
    """All fields that scanners add, each with its CRLF, but for names in `without` (lower case)."""
    lines: dict[bytes, None] = {}  # a scanner that was asked about several parts says the same of each
    for answer in answers:
        for name, value in answer.fields if isinstance(answer, ScanAnswer) else ():
            if line := _line(answer.scanner, name, value, without):
                lines[line] = None
    return b"".join(lines)


def placed(answers: Sequence[Answer], places: Sequence[Place], without: frozenset[str] = frozenset()) -> dict[int, bytes]:
    """Fields that scanners add at a place, by where: the start of a field of the message or the end of the last."""
    found: dict[int, dict[bytes, None]] = {}
    borders = [0, *(end for _, _, _, end in places)]
    for answer in answers:
        for name, value, order in answer.placed if isinstance(answer, ScanAnswer) else ():
            index = min(order, len(places)) if order >= 0 else max(0, len(places) + 1 + order)
            if line := _line(answer.scanner, name, value, without):
                found.setdefault(borders[index], {})[line] = None
    return {at: b"".join(lines) for at, lines in found.items()}


def _line(scanner: str, name: str, value: str, without: frozenset[str]) -> bytes:
    """The field with its CRLF; empty when it is left out."""
    if is_left_alone(name) or name.lower() in without:
        return b""
    line = folded(name, value)
    if any(len(one) > LINE_MAX for one in line.split(b"\r\n")):
        _log.warning("a scanner's header field is too long for a line", scanner=scanner, field=name)
        return b""
    return line


def new_subject(answers: Sequence[Answer]) -> str:
    """The subject that the first scanner that wants another one asks for; '' when none does."""
    return next((one.subject for one in answers if isinstance(one, ScanAnswer) and one.subject), "")


def removed(answers: Sequence[Answer], places: Sequence[Place], without: frozenset[str] = frozenset()) -> Iterator[tuple[int, int]]:
    """Where the fields stand that scanners take away, each once, ascending."""
    chosen: set[tuple[int, int]] = set()
    for answer in answers:
        for name, which in answer.removes if isinstance(answer, ScanAnswer) else ():
            known = name.lower()
            if is_left_alone(known) or known in without:
                continue
            all_of_it = [(start, end) for one, start, _, end in places if one == known]
            if which == 0:
                chosen.update(all_of_it)
            elif abs(which) <= len(all_of_it):
                chosen.add(all_of_it[which - 1 if which > 0 else which])
    yield from sorted(chosen)


def folded(name: str, value: str) -> bytes:
    """The field with its CRLF, folded at blanks (RFC 5322 2.2.3)."""
    if not value.isascii():
        encoded = Header(value, "utf-8", maxlinelen=LINE, header_name=name).encode(linesep="\r\n")
        return f"{name}: {encoded}\r\n".encode("ascii")
    first, *words = value.split() or [""]
    lines = [f"{name}: {first}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > LINE:
            lines.append(f"\t{word}")
        else:
            lines[-1] += f" {word}"
    return "\r\n".join([*lines, ""]).encode("ascii")
