"""The quarantine: list, look, release, allow, delete, scan again, digests. `client.quarantine` of GatepostClient."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gatepost.api.quarantine.v1 import quarantine_pb2 as api
from gatepost.api.quarantine.v1 import quarantine_pb2_grpc
from gatepost.client.connection import BULK_TIMEOUT, Connection, Warn, pages
from gatepost.client.queue import Everything, bulk_value, history_value, message_value
from gatepost.client.values import BulkResult, HistoryEntry, QueueMessage, number, time_or_none, time_value, word


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which messages; all given must match. sender and recipient are globs, domain is exact, text is looked for in the newest verdict;
    state is 'quarantined' or 'waiting', '' both.
    """

    sender: str = ""
    recipient: str = ""
    domain: str = ""
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    text: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a rule matched in the part at `path`; sha256 is '' but for what was taken out of the message."""

    path: str
    what: str
    action: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ScannerAnswer:
    """outcome: 'clean', 'infected', 'suspicious' or 'error'; name is the signature, symbol or fault, action what it would do."""

    scanner: str
    outcome: str
    name: str
    score: float
    action: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What scanning decided and why; `text` is all of it in a line."""

    action: str
    policy: str
    rule: str
    reason: str
    findings: tuple[Finding, ...]
    answers: tuple[ScannerAnswer, ...]
    time: datetime | None
    omitted: int
    text: str


@dataclass(frozen=True, slots=True)
class Scan:
    """One time it was scanned; `by` is '' for the one at reception."""

    time: datetime
    by: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """state: 'quarantined' or 'waiting'. header_from and subject are those of the header, decoded. withheld_count: recipients it is
    withheld from; infected: a scanner named what is in it, and has not called it clean since.
    """

    message: QueueMessage
    state: str
    verdict: Verdict | None
    header_from: str
    subject: str
    expires: datetime | None
    withheld_count: int = 0
    infected: bool = False


@dataclass(frozen=True, slots=True)
class QuarantineDetails:
    """A message with every scan, its history and its header."""

    found: QuarantinedMessage
    scans: tuple[Scan, ...]
    history: tuple[HistoryEntry, ...]
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AllowedSender:
    """Mail of `sender` to `recipient` ('' is everybody) passes policy."""

    sender: str
    recipient: str
    author: str
    created: datetime


@dataclass(frozen=True, slots=True)
class Released:
    """What a release did; of `refused` messages a recipient stays, the first for the reason given."""

    result: BulkResult
    refused: int
    first_refusal: str
    allowed: tuple[AllowedSender, ...] = ()


@dataclass(frozen=True, slots=True)
class Rescanned:
    """The new verdict; `refusal` says why a clean message could not be released."""

    verdict: Verdict
    released: bool
    operation_id: str
    refusal: str


@dataclass(frozen=True, slots=True)
class DigestPreview:
    """The mail as octets, b'' when there would be none."""

    message: bytes
    listed: int
    omitted: int


@dataclass(frozen=True, slots=True)
class ResolvedLink:
    """What a digest's link does (action: 'release', 'allow', 'delete') and whether it was done."""

    action: str
    message_id: str
    recipient: str
    sender: str
    subject: str
    done: bool
    expires: datetime


Selection = str | Sequence[str] | QuarantineFilter | Everything
"""Ids or unambiguous prefixes of ids, a filter that has at least one field, or gatepost.client.ALL: all in quarantine."""


class Quarantine:
    """Every method raises the errors of gatepost.client.errors."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = quarantine_pb2_grpc.QuarantineServiceStub(connection.channel)

    async def list(
        self, wanted: QuarantineFilter | None = None, *, limit: int | None = None, page_size: int = 0, warn: Warn | None = None
    ) -> AsyncIterator[QuarantinedMessage]:
        """Messages, oldest first, fetched page by page; at most `limit`. `warn` hears of workers whose messages are missing."""
        proto = _filter(wanted) if wanted else None

        async def fetch(token: str) -> Any:
            request = api.ListQuarantinedRequest(filter=proto, page_size=page_size, page_token=token)
            return await self._connection.call(self._stub.ListQuarantined, request)

        async for one in pages(fetch, lambda answer: answer.messages, limit, warn=warn):
            yield _message(one)

    async def get(self, message_id: str) -> QuarantineDetails:
        """One message, by id or unambiguous prefix."""
        answer = await self._connection.call(self._stub.GetQuarantined, api.GetQuarantinedRequest(message_id=message_id))
        return QuarantineDetails(
            _message(answer.message),
            tuple(Scan(time_value(one.time), one.by, _verdict(one.verdict)) for one in answer.scans),
            tuple(map(history_value, answer.history)),
            tuple((field.name, field.value) for field in answer.headers),
        )

    async def content(self, message_id: str) -> AsyncIterator[bytes]:
        """The octets of a message, most likely harmful ones. Needs the role admin."""
        async for part in self._connection.stream(self._stub.ReadContent, api.ReadContentRequest(message_id=message_id)):
            yield part.chunk

    async def release(self, selection: Selection, *, recipients: Sequence[str] = (), dry_run: bool = False) -> Released:
        """Deliver to all withheld recipients, or to these."""
        request = api.ReleaseQuarantinedRequest(selection=_selection(selection), dry_run=dry_run, recipients=recipients)
        answer = await self._connection.call(self._stub.ReleaseQuarantined, request, BULK_TIMEOUT)
        return Released(bulk_value(answer), answer.refused, answer.first_refusal)

    async def allow(self, message_ids: Sequence[str], *, for_recipients_only: bool = False) -> Released:
        """Release, and let the senders' mail pass policy from now on."""
        request = api.ReleaseAndAllowRequest(message_ids=message_ids, for_recipients_only=for_recipients_only)
        answer = await self._connection.call(self._stub.ReleaseAndAllow, request, BULK_TIMEOUT)
        return Released(bulk_value(answer), answer.refused, answer.first_refusal, tuple(map(_allowed, answer.allowed)))

    async def delete(self, selection: Selection, *, recipients: Sequence[str] = (), dry_run: bool = False) -> BulkResult:
        """Take messages out of the queue; `client.queue.undo` brings them back for a while."""
        request = api.DeleteQuarantinedRequest(selection=_selection(selection), dry_run=dry_run, recipients=recipients)
        return bulk_value(await self._connection.call(self._stub.DeleteQuarantined, request, BULK_TIMEOUT))

    async def rescan(self, message_id: str, *, release_if_clean: bool = False) -> Rescanned:
        """Scan by today's policy and signatures."""
        request = api.RescanQuarantinedRequest(message_id=message_id, release_if_clean=release_if_clean)
        answer = await self._connection.call(self._stub.RescanQuarantined, request, BULK_TIMEOUT)
        return Rescanned(_verdict(answer.verdict), answer.released, answer.operation_id, answer.refusal)

    async def allowed_senders(self) -> AsyncIterator[AllowedSender]:
        """Senders whose mail passes policy."""

        async def fetch(token: str) -> Any:
            return await self._connection.call(self._stub.ListAllowedSenders, api.ListAllowedSendersRequest(page_token=token))

        async for one in pages(fetch, lambda answer: answer.senders):
            yield _allowed(one)

    async def allow_sender(self, sender: str, recipient: str = "") -> AllowedSender:
        """Let a sender's mail pass policy."""
        request = api.AllowSenderRequest(sender=sender, recipient=recipient)
        return _allowed((await self._connection.call(self._stub.AllowSender, request)).sender)

    async def disallow_sender(self, sender: str, recipient: str = "") -> None:
        """Take that back."""
        await self._connection.call(self._stub.DisallowSender, api.DisallowSenderRequest(sender=sender, recipient=recipient))

    async def digest(self, mailbox: str) -> DigestPreview:
        """The digest of a mailbox as it would be now."""
        answer = await self._connection.call(self._stub.PreviewDigest, api.PreviewDigestRequest(mailbox=mailbox), BULK_TIMEOUT)
        return DigestPreview(answer.message, answer.listed, answer.omitted)

    async def resolve_link(self, link_token: str, *, dry_run: bool = False) -> ResolvedLink:
        """Do what a link of a digest stands for, or tell it."""
        request = api.ResolveDigestLinkRequest(link_token=link_token, dry_run=dry_run)
        answer = await self._connection.call(self._stub.ResolveDigestLink, request, BULK_TIMEOUT)
        action = word(api.LinkAction, answer.action, "LINK_ACTION_")
        expires = time_value(answer.expire_time)
        return ResolvedLink(action, answer.message_id, answer.recipient, answer.sender, answer.subject, answer.done, expires)


def _filter(wanted: QuarantineFilter) -> api.QuarantineFilter:
    made = api.QuarantineFilter(
        sender=wanted.sender,
        recipient=wanted.recipient,
        domain=wanted.domain,
        text=wanted.text,
        state=number(api.QuarantineState, wanted.state, "QUARANTINE_STATE_", "state"),
    )
    if wanted.older_than is not None:
        made.older_than.FromTimedelta(wanted.older_than)
    if wanted.newer_than is not None:
        made.newer_than.FromTimedelta(wanted.newer_than)
    return made


def _selection(selection: Selection) -> api.QuarantineSelection:
    if isinstance(selection, Everything):
        return api.QuarantineSelection(all=True)
    if isinstance(selection, QuarantineFilter):
        return api.QuarantineSelection(filter=_filter(selection))
    return api.QuarantineSelection(message_ids=[selection] if isinstance(selection, str) else selection)


def _message(one: api.QuarantinedMessage) -> QuarantinedMessage:
    return QuarantinedMessage(
        message_value(one.message),
        word(api.QuarantineState, one.state, "QUARANTINE_STATE_"),
        _verdict(one.verdict) if one.HasField("verdict") else None,
        one.header_from,
        one.subject,
        time_or_none(one, "expire_time"),
        one.withheld_count,
        one.infected,
    )


def _verdict(one: api.Verdict) -> Verdict:
    return Verdict(
        _action(one.action),
        one.policy,
        one.rule,
        one.reason,
        tuple(Finding(found.path, found.what, _action(found.action), found.sha256) for found in one.findings),
        tuple(ScannerAnswer(answer.scanner, answer.outcome, answer.name, answer.score, answer.action) for answer in one.answers),
        time_or_none(one, "time"),
        one.omitted,
        one.text,
    )


def _action(value: int) -> str:
    return word(api.VerdictAction, value, "VERDICT_ACTION_")


def _allowed(one: api.AllowedSender) -> AllowedSender:
    return AllowedSender(one.sender, one.recipient, one.author, time_value(one.create_time))
