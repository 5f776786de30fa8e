"""What the quarantine shows of itself: a message with what scanning found, and the filter over them. Pure, but `quarantined` *blocks*.

Made by quarantine.py, encoded by control/. Nothing of it is kept: verdicts are read from the journal when they are asked for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from email.errors import MessageError
from email.header import decode_header, make_header

from gatepost.message.verdict import QUARANTINE, SCAN_WAIT, Verdict
from gatepost.native import K_NOTE, CoreError
from gatepost.queue.attempt import decode_detail
from gatepost.queue.views import Filter, QueuedMessage
from gatepost.spool import AsyncSpool

MAX_HEADER = 65_536
MAX_SUBJECT = 300
SCANNED = "scanned"


@dataclass(frozen=True, slots=True)
class Scan:
    """One verdict: `time` in Unix µs, `by` whom it was asked for ('' for the one at reception)."""

    time: int
    by: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A message of which at least one pending recipient is withheld. `scans` oldest first; sender and subject of the header, decoded."""

    message: QueuedMessage
    scans: tuple[Scan, ...]
    header_from: str = ""
    subject: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """The newest one."""
        return self.scans[-1].verdict if self.scans else None

    @property
    def infected(self) -> bool:
        """A scanner named what is in it, and has not said otherwise since; an error says nothing."""
        last = {one.scanner: one.outcome for scan in self.scans for one in scan.verdict.answers if one.outcome != "error"}
        return "infected" in last.values()

    @property
    def waiting(self) -> bool:
        """It waits for a scanner rather than for somebody's decision."""
        return not any(one.pending and one.destination == QUARANTINE for one in self.message.recipients)


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which messages: conditions of the queue's filter, and text in the newest verdict (policy, rule, reason, findings, scanners' answers).

    waiting: None both, True those that wait for a scanner, False those in quarantine.
    """

    queue: Filter = field(default_factory=Filter)
    text: str = ""
    waiting: bool | None = None

    @property
    def parts(self) -> Sequence[Filter]:
        """The same for the queue, one for each destination."""
        names = (QUARANTINE, SCAN_WAIT) if self.waiting is None else (SCAN_WAIT,) if self.waiting else (QUARANTINE,)
        return [replace(self.queue, destination=name, state="PENDING") for name in names]

    def fits(self, found: Quarantined) -> bool:
        """Whether its text is in the newest verdict."""
        return not self.text or (found.verdict is not None and self.text.lower() in words_of(found.verdict).lower())


def words_of(verdict: Verdict) -> str:
    """Everything a verdict says, for searching."""
    findings = (f"{one.path} {one.what} {one.action}" for one in verdict.findings)
    answers = (f"{one.scanner} {one.outcome} {one.name} {one.action}" for one in verdict.answers)
    return "\n".join((verdict.text, verdict.reason, *findings, *answers))


def note_of(verdict: Verdict, *, now: int, by: str) -> bytes:
    """The journal's note of a later scan."""
    fields = {"t": now, "by": by, "action": f"{SCANNED} again: {verdict.text}", "verdict": verdict.encode()}
    return json.dumps(fields, separators=(",", ":")).encode()


def scan_of(time: int, detail: bytes) -> Scan | None:
    """The scan that a note tells of, None for any other note."""
    fields = decode_detail(detail)
    listed = fields.get("verdict")
    if not isinstance(listed, list):
        return None
    try:
        return Scan(time, str(fields.get("by", "")), Verdict.decode(listed))
    except (ValueError, TypeError):
        return None


def quarantined(spool: AsyncSpool, message: QueuedMessage, *, header: bool = True) -> Quarantined:
    """*blocking* A message with its verdicts. What cannot be read of it is left out: it must be seen to be removed."""
    first = message.meta.verdict
    scans = [Scan(message.received_at, "", first)] if first is not None else []
    try:
        notes = [row for row in spool.native.history(message.message_id) if row[1] == K_NOTE]
        scans += [one for time, _, _, detail in notes if (one := scan_of(time, detail)) is not None]
        section = spool.open_message(message.message_id).header(MAX_HEADER) if header else b""
    except CoreError:
        section = b""
    return Quarantined(message, tuple(scans), field_of(section, b"from"), field_of(section, b"subject"))


def field_of(section: bytes, name: bytes) -> str:
    """The first field of this name, unfolded, encoded words decoded (RFC 2047), at most MAX_SUBJECT characters; '' when there is none."""
    lines = section.replace(b"\r\n", b"\n").split(b"\n")
    for at, line in enumerate(lines):
        if not line:
            break
        if line[: len(name)].lower() == name and line[len(name) :].lstrip(b" \t")[:1] == b":":
            more = []
            for rest in lines[at + 1 : at + 40]:
                if rest[:1] not in (b" ", b"\t"):
                    break
                more.append(rest)
            return _decoded(b"".join([line.partition(b":")[2], *more])[:2000].decode("utf-8", "replace"))
    return ""


def _decoded(text: str) -> str:
    try:
        text = str(make_header(decode_header(text)))
    except (MessageError, ValueError, LookupError):
        pass
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_SUBJECT]
