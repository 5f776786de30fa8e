"""Which delivery status notifications are due (RFC 3461), and putting them into the queue (RFC 3464 text comes from delivery.dsn).

Called by scheduler and service. Invariants: nothing is ever sent for a null reverse-path; NOTIFY decides; a report is committed to the
spool BEFORE the outcome it reports is journaled, so a crash may repeat a report (same Message-ID) but cannot lose one. A report whose
addressee is refused by our own rules is dropped and logged: there is nobody else to tell.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import structlog

from gatepost.config import Settings
from gatepost.message.envelope import Envelope, Meta, Notify, Origin, Recipient
from gatepost.message.reply import RemoteReply
from gatepost.native import DamagedError, NotFoundError, Reader
from gatepost.queue.submit import SubmissionRefused, Submitter

MAX_RETURNED = 1_048_576
"""RET=FULL returns at most this many octets of the message; a larger one comes back as its header section."""
MAX_UNASKED = 65_536
"""Without RET the whole message is returned up to this size."""
MAX_HEADER = 65_536

log = structlog.get_logger()


class Action(StrEnum):
    """RFC 3464 2.3.3 Action values that we use."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class RecipientReport:
    """One recipient's part of a report. `reason` is for people and Diagnostic-Code; will_retry_until (Unix µs) is for delays."""

    address: str
    orcpt: str
    action: Action
    status: str
    reason: str
    reply: RemoteReply | None = None
    last_attempt: int = 0
    will_retry_until: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a DSN says. `original` is the header section, or the whole message when `full`. Times are Unix microseconds."""

    message_id: bytes
    key: str
    sender: str
    hostname: str
    envid: str
    received_at: int
    now: int
    recipients: tuple[RecipientReport, ...]
    original: bytes
    full: bool
    utf8: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """The message a report is about."""

    message_id: bytes
    size: int
    received_at: int
    reverse_path: str
    meta: Meta


def is_due(notify: Notify, action: Action, reverse_path: str) -> bool:
    """RFC 3461 4.1: UNSET asks for failures and, at our discretion, delays."""
    if not reverse_path or notify & Notify.NEVER:
        return False
    if action in (Action.DELIVERED, Action.RELAYED):
        return bool(notify & Notify.SUCCESS)
    wanted = Notify.FAILURE if action is Action.FAILED else Notify.DELAY
    return not notify or bool(notify & wanted)


class Reporter:
    """Builds and queues reports. `build` makes the message (delivery.dsn.build_report); it is pure."""

    def __init__(
        self,
        open_message: Callable[[bytes], Reader],
        submitter: Submitter,
        build: Callable[[Report], bytes],
        settings: Callable[[], Settings],
    ) -> None:
        self._open_message = open_message
        self._submitter = submitter
        self._build = build
        self._settings = settings

    async def send(self, subject: Subject, recipients: Sequence[RecipientReport], now: int) -> bool:
        """Commit one report about these recipients; True when it is on disk, False when nobody can be told. Raises CoreError."""
        if not subject.reverse_path or not recipients:
            return False
        original, full = await asyncio.to_thread(self._original, subject, recipients[0].action)
        report = self._report(subject, recipients, original, full, now)
        message = await asyncio.to_thread(self._build, report) if len(original) > MAX_UNASKED else self._build(report)
        envelope = Envelope(
            "",
            (Recipient(subject.reverse_path, Notify.NEVER),),
            Origin("INTERNAL"),
            body="7BIT" if message.isascii() else "8BITMIME",
            smtputf8=report.utf8,
        )
        try:
            await self._submitter.submit(envelope, message, trusted=True)
        except SubmissionRefused as error:
            log.warning("delivery report dropped", sender=subject.reverse_path, reason=str(error))
            return False
        return True

    def _report(self, subject: Subject, recipients: Sequence[RecipientReport], original: bytes, full: bool, now: int) -> Report:
        texts = [subject.reverse_path, *(one.address for one in recipients), *(one.orcpt for one in recipients)]
        first = recipients[0]
        return Report(
            message_id=subject.message_id,
            key=f"{subject.message_id.hex()}.{first.action}.{_digest(recipients)}",
            sender=subject.reverse_path,
            hostname=self._settings().hostname,
            envid=subject.meta.envid,
            received_at=subject.received_at,
            now=now,
            recipients=tuple(recipients),
            original=original,
            full=full,
            utf8=not all(text.isascii() for text in texts) or (subject.meta.smtputf8 and not original.isascii()),
        )

    def _original(self, subject: Subject, action: Action) -> tuple[bytes, bool]:
        """RFC 3461 4.3: RET is about failures only; other reports carry the header section. What is gone or damaged is left out: without a
        report the message could never leave the queue.
        """
        try:
            return self._read(self._open_message(subject.message_id), subject, action)
        except (NotFoundError, DamagedError) as error:
            log.warning("delivery report goes without the original", sender=subject.reverse_path, error=str(error))
            return b"", False

    def _read(self, reader: Reader, subject: Subject, action: Action) -> tuple[bytes, bool]:
        limit = {"FULL": MAX_RETURNED, "": MAX_UNASKED}.get(subject.meta.ret, 0)
        if action is not Action.FAILED or subject.size > limit:
            return reader.header(MAX_HEADER), False
        pieces = []
        while piece := reader.read(MAX_HEADER):
            pieces.append(piece)
        return b"".join(pieces), True


def _digest(recipients: Sequence[RecipientReport]) -> str:
    """The same recipients give the same Message-ID, so that a report repeated after a crash can be told from a new one."""
    value = 0
    for one in recipients:
        for octet in one.address.encode("utf-8", "replace"):
            value = (value * 131 + octet) % 0xFFFFFFFB
    return f"{value:08x}"
