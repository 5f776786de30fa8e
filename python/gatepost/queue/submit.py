"""Submitter: a message that is not received over SMTP or LMTP enters the queue here (gRPC Submit, `gatepost send`, our own reports).

Invariants: routes come from routing.decide like those of any other message, and it passes the same gate (our own reports do not); memory is
bounded by the header section (MAX_HEADER), the native buffer and the gate's room; line ends become CRLF. Fails with SubmissionRefused (no
recipient is acceptable, or the message is not), SmtpError (too big), CoreError (disk).
"""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate

from gatepost.config import Settings
from gatepost.message.envelope import Envelope, Recipient
from gatepost.message.ids import format_message_id
from gatepost.message.reply import Reply, SmtpError
from gatepost.native import Incoming, new_message_id
from gatepost.queue.authors import judge_authors
from gatepost.queue.passage import copies, pass_through
from gatepost.queue.plan import Planned, Planner, Refused, merge_planned, size_limit
from gatepost.queue.recorded import Asking, Recorder
from gatepost.routing.model import RuleSet
from gatepost.scan.gate import UNSEEN, Gate, Passage
from gatepost.spool import AsyncSpool

MAX_HEADER = 262_144
FEED = 65_536
OWN = "INTERNAL"
"""Protocol of our own reports, which are not looked into."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """An accepted message; `refused` are the recipients that were not taken, with their replies."""

    message_id: bytes
    size: int
    refused: tuple[tuple[str, Reply], ...] = ()


class SubmissionRefused(Exception):
    """Every recipient was refused; `refused` has (address, Reply) for each."""

    def __init__(self, refused: tuple[tuple[str, Reply], ...]) -> None:
        first = f"{refused[0][0]}: {refused[0][1].code} {refused[0][1].text}" if refused else "no recipients"
        super().__init__(first if len(refused) < 2 else f"{first} (and {len(refused) - 1} more)")
        self.refused = refused


class Submitter:
    """One per worker, whose planner it uses. `rule_set` and `settings` give what is in force at the moment of the call. What is asked of
    the rules is told to `recorder`, but for our own reports.
    """

    def __init__(
        self,
        spool: AsyncSpool,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        gate: Gate | None = None,
        planner: Planner | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._spool = spool
        self._planner = planner or Planner()
        self._recorder = recorder
        self._gate = gate
        self._rule_set = rule_set
        self._settings = settings

    async def submit(
        self, envelope: Envelope, body: AsyncIterator[bytes] | bytes, *, trusted: bool, hold: bool = False, received: str = ""
    ) -> Submitted:
        """Queue one message; on return it is on disk. `received` is the from-clause of our Received field ('' = none but 'by')."""
        rule_set, settings = self._rule_set(), self._settings()
        delimiter = settings.smtp.recipient_delimiter
        taken, plans, refused = self._plan(rule_set, envelope, trusted, delimiter)
        if not plans:
            raise SubmissionRefused(refused)
        message_id = new_message_id()
        octets = _Octets(body)
        head = await octets.header()
        prefix = self._prefix(head, envelope, message_id, received, settings.hostname)
        own = size_limit(plans)
        most = min(own, settings.smtp.max_message_bytes) if own else settings.smtp.max_message_bytes
        incoming = self._spool.receive(prefix=prefix, max_bytes=most, allow_bare=True, message_id=message_id)
        try:
            size = await self._fill(incoming, head, octets)
            mailed, passage = await self._pass(incoming, rule_set, envelope, taken, trusted=trusted)
        except BaseException:
            incoming.abort()
            raise
        plans = judge_authors(plans, lambda: head)
        passed = pass_through(passage, mailed, taken, plans)
        passed += copies(self._planner, passage, rule_set, settings.hostname, delimiter)
        recipients = merge_planned(passed)
        if hold:
            recipients = [replace(one, held=True) for one in recipients]
        if passage.verdict is not None:
            envelope = replace(envelope, verdict=passage.verdict)
        await self._spool.commit(incoming, envelope, recipients, rule_set.version)
        return Submitted(incoming.message_id, size, refused)

    def _plan(
        self, rule_set: RuleSet, envelope: Envelope, trusted: bool, delimiter: str
    ) -> tuple[list[Recipient], list[Planned], tuple[tuple[str, Reply], ...]]:
        """Recipients that are taken, a plan for each, and those that are refused."""
        sender, user = envelope.reverse_path, envelope.origin.user
        if self._recorder is not None and envelope.origin.protocol != OWN:
            for one in envelope.recipients:
                self._recorder.note(Asking(sender, one.address, trusted, user=user, tls=True))
        answers = self._planner.plan_all(rule_set, sender, envelope.recipients, trusted=trusted, delimiter=delimiter, tls=True, user=user)
        refused = tuple((plan.recipient.address, plan.reply) for plan in answers if isinstance(plan, Refused))
        both = [(one, plan) for one, plan in zip(envelope.recipients, answers, strict=True) if not isinstance(plan, Refused)]
        return [one for one, _ in both], [plan for _, plan in both], refused

    async def _pass(
        self, incoming: Incoming, rule_set: RuleSet, envelope: Envelope, taken: Sequence[Recipient], *, trusted: bool
    ) -> tuple[tuple[str, ...], Passage]:
        """The gate; our own reports pass unseen. Raises SubmissionRefused with the reply of a message that is refused."""
        origin = envelope.origin
        if self._gate is None or origin.protocol == OWN:
            return (), UNSEEN
        addresses = [one.address for one in taken]
        mail = self._gate.facts(rule_set, addresses, trusted=trusted, sender=envelope.reverse_path, origin=origin)
        passage = self._gate.glance(incoming, mail) or await self._gate.inspect(incoming, mail)
        if passage.refused is not None:
            raise SubmissionRefused(tuple((address, passage.refused) for address in mail.recipients))
        return mail.recipients, passage

    async def _fill(self, incoming: Incoming, head: bytes, octets: "_Octets") -> int:
        self._feed(incoming, head)
        async for piece in octets.rest():
            self._feed(incoming, piece)
            await self._spool.drain()
        incoming.finish()
        _check(incoming.verdict()[0])
        return incoming.size

    def _feed(self, incoming: Incoming, data: bytes) -> None:
        for start in range(0, len(data), FEED):
            incoming.feed_raw(data[start : start + FEED])
            _check(incoming.defect)

    def _prefix(self, head: bytes, envelope: Envelope, message_id: bytes, received: str, hostname: str) -> bytes:
        """Received (RFC 5321 4.4), then Date and Message-ID where the header lacks them (RFC 5322 3.6)."""
        date = formatdate(time.time(), localtime=True)
        origin = envelope.origin
        source = f"from {received} " if received else ""
        with_ = f" with {origin.protocol}" if origin.protocol else ""
        lines = [f"Received: {source}by {hostname}{with_} id {format_message_id(message_id)};", f"\t{date}"]
        names = _field_names(head)
        if b"date" not in names:
            lines.append(f"Date: {date}")
        if b"message-id" not in names:
            lines.append(f"Message-ID: <{format_message_id(message_id)}@{hostname}>")
        if not names:
            lines.append("")  # the message is all body: it must not run into our header
        return "".join(f"{line}\r\n" for line in lines).encode("utf-8")


def _check(defect: str | None) -> None:
    if defect in ("too-big", "long-header"):
        raise SmtpError(552, "5.3.4", f"{'message' if defect == 'too-big' else 'header section'} is larger than this server takes")
    if defect is not None:
        raise SmtpError(452, "4.3.1", f"message cannot be stored now ({defect})")


def _field_names(head: bytes) -> set[bytes]:
    """Lower-case names of the header fields, empty when the text does not begin with a header section."""
    names: set[bytes] = set()
    for line in head.split(b"\r\n"):
        if not line:
            break
        if line[:1] in b" \t":
            continue
        name, colon, _ = line.partition(b":")
        name = name.rstrip()
        if not colon or not name or not all(33 <= octet <= 126 for octet in name):
            break
        names.add(name.lower())
    return names


class _Octets:
    """The message as CRLF-terminated pieces: first all that holds the header section, then the rest."""

    def __init__(self, body: AsyncIterator[bytes] | bytes) -> None:
        self._body = body
        self._held = b""

    async def header(self) -> bytes:
        """Pieces up to the end of the header section, or MAX_HEADER octets, or everything."""
        if isinstance(self._body, bytes):
            whole, self._body = self._normal(self._body) + self._flush(), b""
            return whole
        head = b""
        async for piece in self._body:
            head += self._normal(piece)
            if b"\r\n\r\n" in head or head.startswith(b"\r\n") or len(head) >= MAX_HEADER:
                return head
        self._body = b""
        return head + self._flush()

    async def rest(self) -> AsyncIterator[bytes]:
        """What follows `header()`."""
        if isinstance(self._body, bytes):
            return
        async for piece in self._body:
            yield self._normal(piece)
        yield self._flush()

    def _normal(self, piece: bytes) -> bytes:
        """LF and CR become CRLF; a CR at the end waits for the next piece."""
        piece = self._held + piece
        self._held = b""
        if piece.endswith(b"\r"):
            piece, self._held = piece[:-1], b"\r"
        if piece.count(b"\n") == piece.count(b"\r\n") == piece.count(b"\r"):
            return piece
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def _flush(self) -> bytes:
        held, self._held = self._held, b""
        return b"\r\n" if held else b""
