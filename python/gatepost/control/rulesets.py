"""RulesetsService over the directory: documents, versions, drafts, secrets. Served by the supervisor.

As with single rules: a change is one directory transaction, then `changed` is awaited, so that the caller's answer means that workers use
it. Looking at documents is done in threads. Errors: see control.errors.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.api.rulesets.v1 import rulesets_pb2_grpc
from gatepost.config import Settings
from gatepost.control.access import author
from gatepost.control.candidate import Candidate, examine
from gatepost.control.convert import reply_proto, timestamp, trace_proto
from gatepost.control.errors import ControlError, Status, invalid
from gatepost.control.explain import Asked, Look, answer, listener_of
from gatepost.control.merge import MergedQueueServicer
from gatepost.control.origin import Origins
from gatepost.control.outlook import Outlooks, content
from gatepost.control.ports import StatusSource
from gatepost.control.rehearse import rehearse
from gatepost.control.replan import replan
from gatepost.control.server import Service
from gatepost.directory import Directory
from gatepost.directory.drafts import Draft
from gatepost.message.reply import Reply
from gatepost.queue.anew import Anew
from gatepost.routing.changes import Change, differences
from gatepost.routing.document import Document, dotted, render
from gatepost.routing.lints import OPEN_RELAY, Lint, Surroundings
from gatepost.routing.model import RuleSet
from gatepost.routing.schema import schema_text
from gatepost.routing.stage_facts import PartlyKnown

MAX_CHANGES = 1000
MAX_ROUTES = 100
"""Routes of an explanation whose hosts are looked up."""
MAX_MESSAGE = 10 << 20
MAX_VIOLATIONS = 50
EXAMINED_AT_ONCE = 2
"""Documents looked at side by side; each may be large, and further ones wait."""


class RulesetsServicer(rulesets_pb2_grpc.RulesetsServiceServicer):
    """`rule_set` and `settings` give what is in force now; `changed` spreads a change; `source` knows the listeners, `queue`
    the messages.
    """

    def __init__(
        self,
        directory: Directory,
        rule_set: Callable[[], RuleSet],
        settings: Callable[[], Settings],
        changed: Callable[[], Awaitable[None]],
        source: StatusSource,
        queue: MergedQueueServicer,
    ) -> None:
        self._directory = directory
        self._rule_set = rule_set
        self._settings = settings
        self._changed = changed
        self._source = source
        self._queue = queue
        self._outlooks = Outlooks(settings, source)
        self._origins = Origins(settings)
        self._examining = asyncio.Semaphore(EXAMINED_AT_ONCE)

    def service(self) -> Service:
        """For ControlServer."""
        return Service("gatepost.api.rulesets.v1.RulesetsService", self, rulesets_pb2_grpc.add_RulesetsServiceServicer_to_server)

    # ---- documents -------------------------------------------------------------------------------------------------

    async def GetDocument(self, request: api.GetDocumentRequest, context: object) -> api.GetDocumentResponse:
        """See the proto."""
        wanted = request.version if request.HasField("version") else None
        version, document = await asyncio.to_thread(self._directory.document, wanted)
        text = await asyncio.to_thread(render, document, f"Rules of {self._settings().hostname}, version {version}")
        return api.GetDocumentResponse(text=text, version=version)

    async def GetSchema(self, request: api.GetSchemaRequest, context: object) -> api.GetSchemaResponse:
        """See the proto."""
        return api.GetSchemaResponse(text=schema_text())

    async def CheckDocument(self, request: api.CheckDocumentRequest, context: object) -> api.CheckDocumentResponse:
        """See the proto."""
        found = await self._examined(request.source)
        rules = found.document.rules if found.document else ()
        return api.CheckDocumentResponse(
            problems=_problems(found),
            lints=[lint_proto(one, line) for one, line in found.lints],
            rule_count=len(rules),
            handler_count=sum(len(rule.handlers) for rule in rules),
        )

    async def PreviewDocument(self, request: api.PreviewDocumentRequest, context: object) -> api.PreviewDocumentResponse:
        """See the proto."""
        found = await self._examined(request.source)
        return api.PreviewDocumentResponse(
            base_version=found.base,
            problems=_problems(found),
            lints=[lint_proto(one, line) for one, line in found.lints],
            changes=changes_proto(found.changes),
            change_count=len(found.changes),
        )

    async def ApplyDocument(self, request: api.ApplyDocumentRequest, context: object) -> api.ApplyDocumentResponse:
        """See the proto."""
        unknown = [word for word in request.force if word != OPEN_RELAY]
        if unknown:
            raise invalid("force", f"only {OPEN_RELAY} can be forced (got {unknown[0]!r})")
        found = await self._examined(request.source)
        _refuse(found, request.force)
        assert found.document is not None  # else there were problems
        base = request.base_version if request.HasField("base_version") else None
        comment = request.comment or (
            f"back to version {request.source.version}" if request.source.WhichOneof("source") == "version" else ""
        )
        version, changes = await asyncio.to_thread(
            self._directory.apply_document, found.document, base=base, author=author(), comment=comment
        )
        await self._changed()
        return api.ApplyDocumentResponse(
            version=version,
            changes=changes_proto(changes),
            change_count=len(changes),
            lints=[lint_proto(one, line) for one, line in found.lints],
        )

    async def DiffVersions(self, request: api.DiffVersionsRequest, context: object) -> api.DiffVersionsResponse:
        """See the proto."""
        wanted = request.to_version if request.HasField("to_version") else None
        (_, before), (version, after) = await asyncio.to_thread(
            lambda: (self._directory.document(request.from_version), self._directory.document(wanted))
        )
        changes = await asyncio.to_thread(differences, before, after)
        return api.DiffVersionsResponse(changes=changes_proto(changes), change_count=len(changes), to_version=version)

    async def _examined(self, source: api.DocumentSource) -> Candidate:
        async with self._examining:
            text = await asyncio.to_thread(self._text, source)
            return await asyncio.to_thread(examine, self._directory, self._rule_set(), self._around(), text)

    def _text(self, source: api.DocumentSource) -> str | Document:
        """*blocking* The text of a draft, or what was in force."""
        match source.WhichOneof("source"):
            case "text":
                return source.text
            case "draft":
                return self._directory.drafts.get(source.draft).text
            case "version":
                return self._directory.document(source.version)[1]
        raise invalid("source", "is needed: a text, a draft or a version")

    def _around(self) -> Surroundings:
        return surroundings(self._settings(), self._source)

    async def ExplainMail(self, request: api.ExplainMailRequest, context: object) -> api.ExplainMailResponse:
        """See the proto."""
        if len(request.message) > MAX_MESSAGE:
            raise invalid("message", f"must be at most {MAX_MESSAGE:,} octets")
        rules = await self._rules_of(request) if request.HasField("source") else self._rule_set()
        assumed = request.assume_trusted if request.HasField("assume_trusted") else None
        size, now = request.size or len(request.message), int(time.time())
        asked = Asked(
            *(request.sender, request.recipient, request.client_address, request.user, size, assumed, request.tls, now),
            message=request.message,
            certificate=request.certificate,
            helo=request.helo,
            listener=listener_of(request.listener),
        )
        if not request.offline:
            asked = replace(asked, results=await self._origins.of(rules, asked))
        judged: list[api.ContentOutlook] = []
        if asked.message:
            async with self._examining:
                told = await asyncio.to_thread(answer, self._settings(), rules, asked, self._looking(rules, judged))
        else:
            told = answer(self._settings(), rules, asked)
        made = api.ExplainMailResponse(
            trusted=told.trusted,
            refused_at=told.refused_at,
            routes=await asyncio.gather(*(self._outlooks.of(*one, offline=request.offline) for one in told.ways[:MAX_ROUTES])),
            content=judged[0] if judged else None,
            trace=trace_proto(told.trace),
            rule_version=rules.version,
            size_limit=told.size_limit,
        )
        if told.reply is not None:
            made.reply.CopyFrom(reply_proto(told.reply))
        return made

    def _looking(self, rules: RuleSet, judged: list[api.ContentOutlook]) -> Look:
        """What looks into the message of a question; what it says is put into `judged`."""

        def look(asked: Asked, trusted: bool) -> tuple[object, Reply | None]:
            found, reply = content(rules, self._settings(), asked, trusted=trusted)
            judged.append(found)
            return PartlyKnown(action=found.action, policy=found.policy, rule=found.rule), reply

        return look

    async def PreviewReplan(self, request: api.PreviewReplanRequest, context: object) -> api.PreviewReplanResponse:
        """See the proto."""
        rules = await self._rules_of(request) if request.HasField("source") else self._rule_set()
        settings = self._settings()
        return await replan(self._queue, Anew(rules, settings.smtp.recipient_delimiter, settings.trust.networks), context)

    async def Rehearse(self, request: api.RehearseRequest, context: object) -> api.RehearseResponse:
        """See the proto."""
        rules = await self._rules_of(request)
        settings = self._settings()
        async with self._examining:
            return await asyncio.to_thread(rehearse, settings.data, settings, self._rule_set(), rules, min(request.limit or 50, 500))

    async def _rules_of(self, request: api.PreviewReplanRequest | api.RehearseRequest | api.ExplainMailRequest) -> RuleSet:
        """The rule set of a document. Raises ControlError for one with problems; lints do not matter here."""
        found = await self._examined(request.source)
        if found.rule_set is None:
            _refuse(found, (OPEN_RELAY,))
        return found.rule_set or self._rule_set()

    # ---- drafts and secrets ----------------------------------------------------------------------------------------

    async def ListDrafts(self, request: api.ListDraftsRequest, context: object) -> api.ListDraftsResponse:
        """See the proto."""
        found = await asyncio.to_thread(self._directory.drafts.listed)
        return api.ListDraftsResponse(drafts=[_draft(one, whole=False) for one in found])

    async def GetDraft(self, request: api.GetDraftRequest, context: object) -> api.GetDraftResponse:
        """See the proto."""
        return api.GetDraftResponse(draft=_draft(await asyncio.to_thread(self._directory.drafts.get, request.name)))

    async def PutDraft(self, request: api.PutDraftRequest, context: object) -> api.PutDraftResponse:
        """See the proto."""
        version, document = await asyncio.to_thread(self._directory.document)
        text = request.text if request.HasField("text") else await asyncio.to_thread(render, document)
        made = await asyncio.to_thread(self._directory.drafts.put, request.name, text, version, author(), request.etag or None)
        return api.PutDraftResponse(draft=_draft(made))

    async def DeleteDraft(self, request: api.DeleteDraftRequest, context: object) -> api.DeleteDraftResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.drafts.remove, request.name)
        return api.DeleteDraftResponse()

    async def PutSecret(self, request: api.PutSecretRequest, context: object) -> api.PutSecretResponse:
        """See the proto."""
        await asyncio.to_thread(self._directory.put_secret, request.name, request.secret)
        return api.PutSecretResponse()


def surroundings(settings: Settings, source: StatusSource) -> Surroundings:
    """What lints must know of this server."""
    facts = source.status()
    listeners = set()
    for one in facts.listeners:
        host, _, port = one.address.rpartition(":")
        if one.service in ("smtp", "lmtp", "submission", "submissions") and port.isdigit():
            listeners.add((host.strip("[]"), int(port)))
    names, verifies = frozenset({facts.hostname.lower()}), settings.authentication.verify != "off"
    return Surroundings(names, frozenset(listeners), settings.smtp.recipient_delimiter, int(time.time()), verifies)


def _refuse(found: Candidate, force: Sequence[str]) -> None:
    """Raise what keeps a document from being applied, all of it."""
    violations = [common.FieldViolation(field=one.field, problem=_on_line(one.line, one.problem)) for one in found.problems]
    for one, line in found.lints:
        if one.error and one.code not in force:
            word = f"; to do it all the same: --force {OPEN_RELAY}" if one.code == OPEN_RELAY else ""
            violations.append(common.FieldViolation(field=dotted(one.path), problem=_on_line(line, f"{one.message}{word}")))
    if violations:
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        first = violations[0]
        message = f"{first.field}: {first.problem}{more}" if first.field else f"{first.problem}{more}"
        info = common.ErrorInfo(reason=common.ERROR_REASON_INVALID_FIELD, message=message, violations=violations[:MAX_VIOLATIONS])
        raise ControlError(Status.INVALID_ARGUMENT, info)


def _on_line(line: int, text: str) -> str:
    return f"line {line}: {text}" if line else text


def _problems(found: Candidate) -> list[api.Problem]:
    return [api.Problem(line=one.line, field=one.field, problem=one.problem) for one in found.problems]


def lint_proto(one: Lint, line: int) -> api.Lint:
    """A lint as it is answered."""
    return api.Lint(error=one.error, code=one.code, field=dotted(one.path), line=line, message=one.message)


def changes_proto(changes: Sequence[Change]) -> list[api.Change]:
    """The first MAX_CHANGES."""
    return [
        api.Change(
            verb=one.verb,
            subject=one.subject,
            key=one.key,
            fields=[api.FieldChange(field=each.field, before=each.before, after=each.after) for each in one.fields],
        )
        for one in changes[:MAX_CHANGES]
    ]


def _draft(one: Draft, *, whole: bool = True) -> api.Draft:
    made = api.Draft(name=one.name, author=one.author, change_time=timestamp(one.changed_at), base_version=one.base, etag=one.etag)
    if whole:
        made.text = one.text
    return made
