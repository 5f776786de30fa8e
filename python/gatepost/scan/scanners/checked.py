"""What a scanner said, made safe to keep, show and put into a header, or refused. Used by `entry` on every answer.

A plug-in's answer is foreign data: an outcome that does not exist, a score that is no number, a header field with a line end in it are
ScannerFault. Texts are cut and freed of control characters, since they may come from a message.
"""

import math
import re
from dataclasses import replace

from gatepost.message.verdict import MAX_TEXT
from gatepost.scan.scanners.plugin import Outcome, ScanAnswer, ScannerFault

MAX_FIELDS = 50
MAX_SUBJECT = 900
MAX_FIELD_OCTETS = 4_096
MAX_ADDED_OCTETS = 65_536
"""Of all fields of an answer."""
_FIELD_NAME = re.compile(r"[!-9;-~]{1,100}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_OUTCOMES = frozenset(Outcome)


def plain(text: str) -> str:
    """One line of at most MAX_TEXT characters."""
    return _CONTROL.sub(" ", text[:MAX_TEXT]).strip()


def checked(answer: object, scanner: str, part: str) -> ScanAnswer:
    """The answer under the scanner's configured name. Raises ScannerFault when it is none."""
    if not isinstance(answer, ScanAnswer) or answer.outcome not in _OUTCOMES:
        raise ScannerFault(f"not an answer: {answer!r:.100}")
    try:
        if not math.isfinite(answer.score):
            raise ScannerFault(f"score is {answer.score!r}")
        fields = [*answer.fields, *((name, value) for name, value, _ in answer.placed)]
        if len(fields) > MAX_FIELDS:
            raise ScannerFault(f"{len(fields)} header fields")
        for name, value in fields:
            if not _FIELD_NAME.match(name) or _CONTROL.search(value) or len(value.encode()) > MAX_FIELD_OCTETS:
                raise ScannerFault(f"header field {name!r:.100} cannot stand in a message")
        if sum(len(name) + len(value.encode()) for name, value in fields) > MAX_ADDED_OCTETS:
            raise ScannerFault(f"header fields of more than {MAX_ADDED_OCTETS} octets")
        if len(answer.removes) > MAX_FIELDS or not all(
            _FIELD_NAME.match(name) and abs(int(which)) < 1000 for name, which in answer.removes
        ):
            raise ScannerFault(f"header fields to remove: {answer.removes!r:.100}")
        return replace(
            answer,
            scanner=scanner,
            outcome=str(answer.outcome),
            name=plain(answer.name),
            score=float(answer.score),
            signatures=plain(answer.signatures),
            action=plain(answer.action),
            fields=tuple((name, value) for name, value in answer.fields),
            placed=tuple((name, value, int(order)) for name, value, order in answer.placed),
            subject=_CONTROL.sub(" ", answer.subject[:MAX_SUBJECT]).strip(),
            removes=tuple((name, int(which)) for name, which in answer.removes),
            part=plain(answer.part or part),
        )
    except (TypeError, ValueError, AttributeError) as fault:
        raise ScannerFault(f"not an answer: {fault}") from fault
