"""The rule set as a whole: documents, versions, drafts. `client.rulesets` of GatepostClient."""

import builtins
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.api.rulesets.v1 import rulesets_pb2_grpc
from gatepost.client.connection import Connection
from gatepost.client.values import Reply, Route, TraceStep, reply_or_none, route_value, time_or_none, time_value

WHOLE_TIMEOUT = 300.0
"""A document may have 100,000s of handlers."""


@dataclass(frozen=True, slots=True)
class RuleProblem:
    """A fault that keeps a document from being taken. line: from 1, 0 for the document as a whole."""

    line: int
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class RuleLint:
    """What rules say that nobody can have meant. Errors keep a document from being applied."""

    error: bool
    code: str
    field: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class RuleFieldChange:
    """A field before and after, as text."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class RuleChange:
    """verb: add, change, remove. subject: rule, handler, policy."""

    verb: str
    subject: str
    key: str
    fields: tuple[RuleFieldChange, ...]


@dataclass(frozen=True, slots=True)
class RuleDocument:
    """A document and the version it is of."""

    text: str
    version: int


@dataclass(frozen=True, slots=True)
class RuleCheck:
    """Whether a document would be taken: without problems and without lints that are errors."""

    problems: tuple[RuleProblem, ...]
    lints: tuple[RuleLint, ...]
    rule_count: int
    handler_count: int


@dataclass(frozen=True, slots=True)
class RulePlan:
    """What applying a document would do. base_version: what apply is to name. `changes` are the first 1000 of change_count."""

    base_version: int
    problems: tuple[RuleProblem, ...]
    lints: tuple[RuleLint, ...]
    changes: tuple[RuleChange, ...]
    change_count: int


@dataclass(frozen=True, slots=True)
class RulesApplied:
    """The version in force now, what was changed, and the warnings."""

    version: int
    changes: tuple[RuleChange, ...]
    change_count: int
    lints: tuple[RuleLint, ...]


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A draft; `text` is empty in lists."""

    name: str
    author: str
    time: datetime
    base_version: int
    text: str
    etag: str


@dataclass(frozen=True, slots=True)
class RouteOutlook:
    """What becomes of one route. hosts: 'name[address]:port' in order; no_host says why there is none. Waits and spans in seconds.
    at_delivery: what stage policies would do at the first attempt; dkim_key: the key that would sign, or 'none: ' and why.
    """

    route: Route
    hosts: tuple[str, ...]
    no_host: str
    no_host_is_final: bool
    tls: str
    concurrency: int
    messages_per_connection: int
    rate_per_minute: int
    source_address: str
    helo: str
    retry_waits: tuple[float, ...]
    expire: float
    delay_notice: float
    at_delivery: tuple[str, ...] = ()
    dkim_key: str = ""


@dataclass(frozen=True, slots=True)
class ContentOutlook:
    """What the attachment policy says of the message."""

    policy: str
    action: str
    rule: str
    reason: str
    fate: str


@dataclass(frozen=True, slots=True)
class MailExplanation:
    """The whole way of one message. `reply` refuses it at the command `refused_at`; `routes` and `outlooks` belong together."""

    trusted: bool
    reply: Reply | None
    refused_at: str
    routes: tuple[Route, ...]
    outlooks: tuple[RouteOutlook, ...]
    trace: tuple[TraceStep, ...]
    rule_version: int
    content: ContentOutlook | None
    size_limit: int


@dataclass(frozen=True, slots=True)
class ReplanGroup:
    """Queued recipients that have one way and would get another; `hindrance` says why they cannot be rerouted."""

    before: str
    after: str
    hindrance: str
    recipients: int
    messages: int
    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replan:
    """Which queued mail would go another way. `more`: not all of the queue was looked at."""

    groups: tuple[ReplanGroup, ...]
    recipients: int
    messages: int
    examined: int
    more: bool


@dataclass(frozen=True, slots=True)
class Flip:
    """Recorded mail that would come out differently; `times` at least."""

    sender: str
    recipient: str
    trusted: bool
    times: int
    last: datetime
    before: str
    after: str
    trace_before: tuple[TraceStep, ...]
    trace_after: tuple[TraceStep, ...]
    client_address: str = ""
    user: str = ""
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What other rules would do to recorded mail. `flips` are the first of flip_count; `kinds` counts them by what became of them."""

    flips: tuple[Flip, ...]
    flip_count: int
    decisions: int
    since: datetime | None
    kinds: dict[str, int]


class Rulesets:
    """Every method raises the errors of gatepost.client.errors. `wanted`: see `source`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = rulesets_pb2_grpc.RulesetsServiceStub(connection.channel)

    async def document(self, version: int | None = None) -> RuleDocument:
        """The rules in force, or as of a version that is kept."""
        answer = await self._connection.call(self._stub.GetDocument, api.GetDocumentRequest(version=version), WHOLE_TIMEOUT)
        return RuleDocument(answer.text, answer.version)

    async def schema(self) -> str:
        """The JSON Schema of documents."""
        return str((await self._connection.call(self._stub.GetSchema, api.GetSchemaRequest())).text)

    async def check(self, wanted: api.DocumentSource) -> RuleCheck:
        """Whether a document would be taken."""
        answer = await self._connection.call(self._stub.CheckDocument, api.CheckDocumentRequest(source=wanted), WHOLE_TIMEOUT)
        return RuleCheck(_problems(answer.problems), _lints(answer.lints), answer.rule_count, answer.handler_count)

    async def plan(self, wanted: api.DocumentSource) -> RulePlan:
        """What applying it would change."""
        answer = await self._connection.call(self._stub.PreviewDocument, api.PreviewDocumentRequest(source=wanted), WHOLE_TIMEOUT)
        lints, changes = _lints(answer.lints), _changes(answer.changes)
        return RulePlan(answer.base_version, _problems(answer.problems), lints, changes, answer.change_count)

    async def apply(
        self, wanted: api.DocumentSource, *, base_version: int | None = None, comment: str = "", force: Sequence[str] = ()
    ) -> RulesApplied:
        """Make it the rules in force. base_version None: whatever is in force now."""
        request = api.ApplyDocumentRequest(source=wanted, base_version=base_version, comment=comment, force=force)
        answer = await self._connection.call(self._stub.ApplyDocument, request, WHOLE_TIMEOUT)
        return RulesApplied(answer.version, _changes(answer.changes), answer.change_count, _lints(answer.lints))

    async def diff(self, from_version: int, to_version: int | None = None) -> tuple[tuple[RuleChange, ...], int]:
        """What differs between two versions (None: the rules in force), and how many changes there are in all."""
        request = api.DiffVersionsRequest(from_version=from_version, to_version=to_version)
        answer = await self._connection.call(self._stub.DiffVersions, request, WHOLE_TIMEOUT)
        return _changes(answer.changes), answer.change_count

    async def drafts(self) -> builtins.list[RuleDraft]:
        """Drafts by name."""
        answer = await self._connection.call(self._stub.ListDrafts, api.ListDraftsRequest())
        return [_draft(one) for one in answer.drafts]

    async def draft(self, name: str) -> RuleDraft:
        """One draft."""
        return _draft((await self._connection.call(self._stub.GetDraft, api.GetDraftRequest(name=name))).draft)

    async def put_draft(self, name: str, text: str | None = None, *, etag: str = "") -> RuleDraft:
        """Add a draft or replace its text; None: the rules in force."""
        answer = await self._connection.call(self._stub.PutDraft, api.PutDraftRequest(name=name, text=text, etag=etag), WHOLE_TIMEOUT)
        return _draft(answer.draft)

    async def discard_draft(self, name: str) -> None:
        """Throw a draft away."""
        await self._connection.call(self._stub.DeleteDraft, api.DeleteDraftRequest(name=name))

    async def explain(
        self,
        recipient: str,
        *,
        sender: str = "",
        client_address: str = "",
        user: str = "",
        size: int = 0,
        assume_trusted: bool | None = None,
        tls: bool = False,
        certificate: str = "",
        helo: str = "",
        listener: str = "",
        message: bytes = b"",
        offline: bool = False,
        wanted: api.DocumentSource | None = None,
    ) -> MailExplanation:
        """The whole way of one message to `recipient`, without sending it; by other rules than those in force if `wanted` says so."""
        request = api.ExplainMailRequest(
            sender=sender, recipient=recipient, client_address=client_address, user=user, size=size, assume_trusted=assume_trusted
        )
        request.tls, request.message, request.offline, request.certificate = tls, message, offline, certificate
        request.helo, request.listener = helo, listener
        if wanted is not None:
            request.source.CopyFrom(wanted)
        return _explanation(await self._connection.call(self._stub.ExplainMail, request, WHOLE_TIMEOUT))

    async def replan(self, wanted: api.DocumentSource | None = None) -> Replan:
        """Which queued mail would go another way by the rules in force, or by a document."""
        request = api.PreviewReplanRequest(source=wanted)
        answer = await self._connection.call(self._stub.PreviewReplan, request, WHOLE_TIMEOUT)
        groups = tuple(
            ReplanGroup(one.before, one.after, one.hindrance, one.recipients, one.messages, tuple(one.message_ids)) for one in answer.groups
        )
        return Replan(groups, answer.recipients, answer.messages, answer.examined, answer.more)

    async def rehearse(self, wanted: api.DocumentSource, *, limit: int = 0) -> Rehearsal:
        """What a document would do to the recorded mail of the last days."""
        answer = await self._connection.call(self._stub.Rehearse, api.RehearseRequest(source=wanted, limit=limit), WHOLE_TIMEOUT)
        flips = tuple(_flip(one) for one in answer.flips)
        return Rehearsal(flips, answer.flip_count, answer.decisions, time_or_none(answer, "since"), dict(answer.kinds))

    async def put_secret(self, name: str, secret: str) -> None:
        """Store a secret that documents name."""
        await self._connection.call(self._stub.PutSecret, api.PutSecretRequest(name=name, secret=secret))


def source(text: str | None = None, *, draft: str = "", version: int | None = None) -> api.DocumentSource:
    """Which document is meant: a text, a draft, or a version."""
    if draft:
        return api.DocumentSource(draft=draft)
    return api.DocumentSource(version=version) if version is not None else api.DocumentSource(text=text or "")


def _problems(found: Iterable[api.Problem]) -> tuple[RuleProblem, ...]:
    return tuple(RuleProblem(one.line, one.field, one.problem) for one in found)


def _lints(found: Iterable[api.Lint]) -> tuple[RuleLint, ...]:
    return tuple(RuleLint(one.error, one.code, one.field, one.line, one.message) for one in found)


def _changes(found: Iterable[api.Change]) -> tuple[RuleChange, ...]:
    return tuple(
        RuleChange(one.verb, one.subject, one.key, tuple(RuleFieldChange(each.field, each.before, each.after) for each in one.fields))
        for one in found
    )


def _draft(one: api.Draft) -> RuleDraft:
    return RuleDraft(one.name, one.author, time_value(one.change_time), one.base_version, one.text, one.etag)


def _explanation(answer: api.ExplainMailResponse) -> MailExplanation:
    judged = answer.content
    content = ContentOutlook(judged.policy, judged.action, judged.rule, judged.reason, judged.fate) if answer.HasField("content") else None
    outlooks = tuple(_outlook(one) for one in answer.routes)
    return MailExplanation(
        answer.trusted,
        reply_or_none(answer, "reply"),
        answer.refused_at,
        tuple(one.route for one in outlooks),
        outlooks,
        tuple(TraceStep(step.step, step.detail) for step in answer.trace),
        answer.rule_version,
        content,
        answer.size_limit,
    )


def _outlook(one: api.RouteOutlook) -> RouteOutlook:
    return RouteOutlook(
        route_value(one.route),
        tuple(one.hosts),
        one.no_host,
        one.no_host_is_final,
        one.tls,
        one.concurrency,
        one.messages_per_connection,
        one.rate_per_minute,
        one.source_address,
        one.helo,
        tuple(wait.ToTimedelta().total_seconds() for wait in one.retry_waits),
        one.expire.ToTimedelta().total_seconds(),
        one.delay_notice.ToTimedelta().total_seconds(),
        tuple(one.at_delivery),
        one.dkim_key,
    )


def _flip(one: api.Flip) -> Flip:
    traces = [tuple(TraceStep(step.step, step.detail) for step in steps) for steps in (one.trace_before, one.trace_after)]
    known = one.sender, one.recipient, one.trusted, one.times, time_value(one.last_time), one.before, one.after
    return Flip(*known, traces[0], traces[1], one.client_address, one.user, one.tls)
