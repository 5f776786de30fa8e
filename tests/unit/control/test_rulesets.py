"""RulesetsService through real channels: documents there and back, plans that went stale, lints that refuse, versions, drafts, secrets."""

import json
import time
from typing import Any

import grpc
import grpc.aio
import pytest

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.rules.v1 import rules_pb2 as rules_api
from gatepost.api.rules.v1 import rules_pb2_grpc
from gatepost.api.rulesets.v1 import rulesets_pb2 as api
from gatepost.api.rulesets.v1 import rulesets_pb2_grpc
from gatepost.routing.model import DomainRule, RuleKind
from support.control import Plane

Stub = rulesets_pb2_grpc.RulesetsServiceStub

HOSTED = '[rules."a.test"]\nkind = "hosted"\n'
HANDLER = HOSTED + '[rules."a.test".handlers]\nx = { kind = "forward", targets = ["y@far.test"] }\n'
OPEN = '[rules."*"]\nkind = "mx"\naccept_untrusted = true\n'


@pytest.fixture
def sets(unix: grpc.aio.Channel) -> Stub:
    return rulesets_pb2_grpc.RulesetsServiceStub(unix)


def text(document: str) -> api.DocumentSource:
    return api.DocumentSource(text=document)


async def apply(sets: Stub, document: str, **more: Any) -> api.ApplyDocumentResponse:
    return await sets.ApplyDocument(api.ApplyDocumentRequest(source=text(document), **more))


async def fails(call: Any, code: grpc.StatusCode) -> common.ErrorInfo:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code, failure.value.details()
    return common.ErrorInfo.FromString(dict(failure.value.trailing_metadata())["gatepost-error-bin"])


async def test_a_document_is_planned_and_applied_and_every_worker_is_told_once(plane: Plane, sets: Stub):
    plan = await sets.PreviewDocument(api.PreviewDocumentRequest(source=text(HANDLER)))
    assert [(one.verb, one.subject, one.key) for one in plan.changes] == [("add", "rule", "a.test")]
    made = await apply(sets, HANDLER, base_version=plan.base_version, comment="why")
    assert made.version == plan.base_version + 1
    assert plane.rules().rules["a.test"].handlers[0].targets == ("y@far.test",)
    assert [worker.reloads for worker in plane.workers] == [[False], [False]]
    found = await sets.GetDocument(api.GetDocumentRequest())
    assert found.version == made.version
    assert (await apply(sets, found.text)).change_count == 0
    assert plane.directory.rule_versions()[0].comment == "why"


async def test_a_plan_that_went_stale_is_refused(plane: Plane, sets: Stub):
    plan = await sets.PreviewDocument(api.PreviewDocumentRequest(source=text(HANDLER)))
    plane.directory.put_rule(DomainRule("b.test", RuleKind.MX), create=True, author="bob")
    await fails(apply(sets, HANDLER, base_version=plan.base_version), grpc.StatusCode.ABORTED)
    assert "a.test" not in plane.directory.snapshot().rules
    await apply(sets, HANDLER)


async def test_every_fault_of_a_document_comes_back_with_its_line(plane: Plane, sets: Stub):
    faulty = HOSTED + 'prt = 1\n[rules."b.test"]\nkind = "gatway"\n'
    checked = await sets.CheckDocument(api.CheckDocumentRequest(source=text(faulty)))
    assert [(one.line, one.field) for one in checked.problems] == [(3, 'rules."a.test".prt'), (5, 'rules."b.test".kind')]
    info = await fails(apply(sets, faulty), grpc.StatusCode.INVALID_ARGUMENT)
    assert [one.field for one in info.violations] == ['rules."a.test".prt', 'rules."b.test".kind']


async def test_a_policy_that_is_none_is_a_fault_of_the_document(plane: Plane, sets: Stub):
    checked = await sets.CheckDocument(api.CheckDocumentRequest(source=text('[policies]\nmine = "rules = 3"')))
    assert [(one.line, one.field) for one in checked.problems] == [(2, "policies.mine")]


async def test_an_open_relay_is_refused_unless_the_word_is_said(plane: Plane, sets: Stub):
    info = await fails(apply(sets, OPEN), grpc.StatusCode.INVALID_ARGUMENT)
    assert "--force open-relay" in info.violations[0].problem
    await fails(apply(sets, OPEN, force=["yes"]), grpc.StatusCode.INVALID_ARGUMENT)
    made = await apply(sets, OPEN, force=["open-relay"])
    assert [(one.code, one.error) for one in made.lints] == [("open-relay", True)]
    assert plane.rules().rules["*"].accept_untrusted


async def test_a_gateway_to_our_own_listener_cannot_be_forced(plane: Plane, sets: Stub):
    loop = '[rules."b.test"]\nkind = "gateway"\nhost = "127.0.0.1"\nport = 2525\n'
    info = await fails(apply(sets, loop, force=["open-relay"]), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field == 'rules."b.test".host'


async def test_warnings_are_told_and_do_not_refuse(plane: Plane, sets: Stub):
    rule = '[rules."b.test"]\nkind = "gateway"\nhost = "b.test"\nusername = "me"\npassword_ref = "smart"\n'
    assert {one.code for one in (await apply(sets, rule)).lints} == {"unverified-login", "no-secret"}
    await sets.PutSecret(api.PutSecretRequest(name="smart", secret="hush"))
    assert plane.directory.secret("smart") == "hush"
    assert {one.code for one in (await apply(sets, rule)).lints} == {"unverified-login"}
    assert "hush" not in (plane.data / "audit.log").read_text()


async def test_a_rule_with_users_cannot_go_and_one_that_stops_hosting_them_is_told(plane: Plane, sets: Stub):
    await apply(sets, HOSTED)
    plane.directory.add_user("bob@a.test", None, author="t")
    await plane.changed()
    assert "1 user" in (await fails(apply(sets, ""), grpc.StatusCode.FAILED_PRECONDITION)).message
    moved = await sets.PreviewDocument(api.PreviewDocumentRequest(source=text('[rules."a.test"]\nkind = "mx"\n')))
    assert [one.code for one in moved.lints] == ["users-left"]


async def test_versions_are_told_compared_and_gone_back_to(plane: Plane, sets: Stub):
    first = (await apply(sets, HOSTED)).version
    second = (await apply(sets, HANDLER)).version
    old = await sets.GetDocument(api.GetDocumentRequest(version=first))
    assert "far.test" not in old.text
    changes = (await sets.DiffVersions(api.DiffVersionsRequest(from_version=first, to_version=second))).changes
    assert [(one.verb, one.key) for one in changes] == [("add", "x@a.test")]
    back = await sets.ApplyDocument(api.ApplyDocumentRequest(source=api.DocumentSource(version=first)))
    assert back.version == second + 1
    assert plane.rules().rules["a.test"].handlers == ()
    assert plane.directory.rule_versions()[0].comment == f"back to version {first}"
    await sets.ApplyDocument(api.ApplyDocumentRequest(source=api.DocumentSource(version=0)))
    assert plane.rules().rules == {}
    await fails(sets.GetDocument(api.GetDocumentRequest(version=99)), grpc.StatusCode.NOT_FOUND)


async def test_a_draft_is_kept_changed_planned_and_applied(plane: Plane, sets: Stub):
    await apply(sets, HOSTED)
    begun = (await sets.PutDraft(api.PutDraftRequest(name="next"))).draft
    assert "a.test" in begun.text
    kept = (await sets.PutDraft(api.PutDraftRequest(name="next", text=HANDLER, etag=begun.etag))).draft
    await fails(sets.PutDraft(api.PutDraftRequest(name="next", text="", etag=begun.etag)), grpc.StatusCode.ABORTED)
    assert (await sets.GetDraft(api.GetDraftRequest(name="next"))).draft == kept
    assert [(one.name, one.text) for one in (await sets.ListDrafts(api.ListDraftsRequest())).drafts] == [("next", "")]
    draft = api.DocumentSource(draft="next")
    assert (await sets.PreviewDocument(api.PreviewDocumentRequest(source=draft))).change_count == 1
    await sets.ApplyDocument(api.ApplyDocumentRequest(source=draft))
    assert plane.rules().rules["a.test"].handlers
    await sets.DeleteDraft(api.DeleteDraftRequest(name="next"))
    await fails(sets.GetDraft(api.GetDraftRequest(name="next")), grpc.StatusCode.NOT_FOUND)
    await fails(sets.PutDraft(api.PutDraftRequest(name="../x", text="")), grpc.StatusCode.INVALID_ARGUMENT)


async def test_a_faulty_draft_is_kept_and_told(plane: Plane, sets: Stub):
    await sets.PutDraft(api.PutDraftRequest(name="bad", text="rules = 3"))
    checked = await sets.CheckDocument(api.CheckDocumentRequest(source=api.DocumentSource(draft="bad")))
    assert [one.field for one in checked.problems] == ["rules"]


async def test_a_request_without_a_document_is_told_what_is_missing(plane: Plane, sets: Stub):
    info = await fails(sets.CheckDocument(api.CheckDocumentRequest()), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field == "source"


# ---- explain ---------------------------------------------------------------------------------------------------------


async def explain(sets: Stub, recipient: str, **more: Any) -> api.ExplainMailResponse:
    return await sets.ExplainMail(api.ExplainMailRequest(sender="s@b.test", recipient=recipient, offline=True, **more))


GATEWAY = '[rules."g.test"]\nkind = "gateway"\nhost = "192.0.2.9"\nport = 2600\ntls = "verified"\n'


async def test_explain_tells_hosts_tls_limits_and_retries_of_each_route(plane: Plane, sets: Stub):
    await apply(sets, GATEWAY)
    told = await sets.ExplainMail(api.ExplainMailRequest(recipient="x@g.test"))
    (one,) = told.routes
    assert list(one.hosts) == ["192.0.2.9[192.0.2.9]:2600"]
    assert "certificate must be valid" in one.tls
    assert (one.concurrency, one.messages_per_connection, one.helo) == (20, 100, plane.settings.hostname)
    assert [wait.seconds for wait in one.retry_waits] == [60, 120, 240, 480, 960, 1920]
    assert (one.expire.seconds, one.delay_notice.seconds) == (432_000, 14_400)
    assert told.rule_version == 1


async def test_explain_asks_the_attachment_policy_about_a_message(plane: Plane, sets: Stub):
    await apply(sets, '[rules."a.test"]\nkind = "discard"\n')
    plain = b"Subject: x\r\n\r\nhello\r\n"
    program = (
        b"MIME-Version: 1.0\r\nContent-Type: application/octet-stream; name=run.exe\r\n"
        b"Content-Disposition: attachment; filename=run.exe\r\n\r\nMZ hello\r\n"
    )
    taken = await explain(sets, "x@a.test", message=plain)
    assert (taken.content.policy, taken.content.fate, taken.refused_at) == ("shipped", "deliver", "")
    refused = await explain(sets, "x@a.test", message=program)
    assert (refused.refused_at, refused.reply.code, refused.content.fate) == ("data", 550, "reject")
    assert refused.content.rule


async def test_explain_says_at_which_command_mail_is_refused(plane: Plane, sets: Stub):
    assert (await explain(sets, "x@far.test")).refused_at == "rcpt"
    assert (await explain(sets, "x@far.test", size=1 << 40)).refused_at == "mail"


async def test_explain_decides_by_a_draft_or_an_old_version_when_asked(plane: Plane, sets: Stub):
    await apply(sets, GATEWAY)
    await apply(sets, '[rules."g.test"]\nkind = "discard"\n')
    old = await explain(sets, "x@g.test", source=api.DocumentSource(version=1))
    assert old.routes[0].route.host == "192.0.2.9"
    draft = await explain(sets, "x@g.test", source=text('[rules."g.test"]\nkind = "reject"\ntext = "moved"\n'))
    assert (draft.reply.text, draft.rule_version) == ("moved", 0)
    await fails(explain(sets, "x@g.test", source=text("rules = 3")), grpc.StatusCode.INVALID_ARGUMENT)


# ---- rehearsals, and queued mail decided anew ------------------------------------------------------------------------


def record(plane: Plane, *asked: tuple[str, bool, int]) -> None:
    """As workers record it: recipient, trusted, times."""
    place = plane.data / "decisions"
    place.mkdir(exist_ok=True)
    now = int(time.time())
    lines = [json.dumps(["s@b.test", recipient, trusted, times, now]) for recipient, trusted, times in asked]
    (place / f"p0-{now // 86400}").write_text("\n".join([*lines, lines[0], ""]))


async def test_a_rehearsal_tells_only_what_comes_out_differently(plane: Plane, sets: Stub):
    await apply(sets, GATEWAY)
    record(plane, ("x@g.test", False, 3), ("y@g.test", False, 50), ("z@far.test", True, 7), ("w@far.test", False, 1))
    draft = GATEWAY + '[rules."g.test".handlers]\ny = { kind = "reject", text = "gone" }\n[rules."far.test"]\nkind = "discard"\n'
    found = await sets.Rehearse(api.RehearseRequest(source=text(draft)))
    assert (found.decisions, found.flip_count) == (4, 3)
    assert dict(found.kinds) == {"taken → refused": 1, "refused → taken": 1, "other way": 1}
    assert [(one.recipient, one.times) for one in found.flips] == [("y@g.test", 50), ("z@far.test", 7), ("w@far.test", 1)]
    assert found.flips[0].after == "550 5.7.1 gone"
    assert "handler" in {step.step for step in found.flips[0].trace_after} - {step.step for step in found.flips[0].trace_before}
    assert (await sets.Rehearse(api.RehearseRequest(source=text(GATEWAY)))).flip_count == 0
    assert plane.directory.document()[0] == 1, "a rehearsal changes nothing"


def record_client(plane: Plane, recipient: str, **more: object) -> None:
    """As a worker records a session of an untrusted client: who it was."""
    place = plane.data / "decisions"
    place.mkdir(exist_ok=True)
    now = int(time.time())
    line = ["s@b.test", recipient, False, 1, now, {"listener": "smtp", "client": "203.0.113.7", "helo": "mx.b.test", **more}]
    with (place / f"p1-{now // 86400}").open("a") as file:
        file.write(json.dumps(line) + "\n")


PARTS = {
    "trust": ('action = "trust"\nname = "x"\nnetworks = ["203.0.113.7/32"]\n', "far@away.test", {}, "refused → taken"),
    "sender_rules": (
        'name = "x"\nusers = ["carol@here.test"]\nhost = "192.0.2.99"\n',
        "c@away.test",
        {"user": "carol@here.test"},
        "other way",
    ),
    "stage_policies": (
        'name = "x"\nstage = "route"\naction = "reroute"\nhost = "192.0.2.98"\n'
        "when = \"client.helo == 'mx.b.test' && route.host == '192.0.2.9'\"\n",
        "x@g.test",
        {},
        "other way",
    ),
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_rehearsal_flips_when_a_list_changes_that_looks_at_the_client(plane: Plane, sets: Stub, part: str):
    entry, recipient, more, kind = PARTS[part]
    plane.directory.put_rule(DomainRule("here.test", RuleKind.HOSTED), create=True, author="test")
    plane.directory.add_user("carol@here.test", "a long password", author="test")
    await plane.changed()
    await apply(sets, GATEWAY + '[rules."here.test"]\nkind = "hosted"\n')
    record_client(plane, recipient, **more)
    record_client(plane, "x@g.test", client="203.0.113.8", helo="other.b.test")
    draft = GATEWAY + f'[rules."here.test"]\nkind = "hosted"\n[[{part}]]\n{entry}'
    found = await sets.Rehearse(api.RehearseRequest(source=text(draft)))
    assert (found.decisions, dict(found.kinds)) == (2, {kind: 1})
    (flip,) = found.flips
    assert (flip.recipient, flip.client_address, flip.user) == (recipient, "203.0.113.7", more.get("user", ""))
    told = [step.detail for step in flip.trace_after]
    assert any("'x'" in one or "x is met" in one for one in told), told


async def test_a_rehearsal_without_records_says_so(plane: Plane, sets: Stub):
    found = await sets.Rehearse(api.RehearseRequest(source=text(GATEWAY)))
    assert (found.decisions, found.flip_count, found.HasField("since")) == (0, 0, False)


async def test_queued_mail_that_would_go_another_way_is_told_in_groups(plane: Plane, sets: Stub):
    for worker, base in ((0, 1), (1, 100)):
        for n in range(3):
            plane.workers[worker].queue.add(base + n, f"x{n}@g.test", "same@far.test")
    assert (await sets.PreviewReplan(api.PreviewReplanRequest())).messages == 0
    draft = text(GATEWAY + '[rules."g.test".handlers]\nx2 = { kind = "reject" }\n')
    found = await sets.PreviewReplan(api.PreviewReplanRequest(source=draft))
    assert (found.examined, found.messages, found.recipients, found.more) == (6, 6, 6, False)
    told = {(one.after, one.hindrance[:16]): (one.messages, len(one.message_ids)) for one in found.groups}
    assert told == {("smtp:[192.0.2.9]:2600:verified", ""): (4, 4), ("", "would be refused"): (2, 2)}


# ---- the same when a single rule is saved ----------------------------------------------------------------------------


async def test_a_single_rule_that_leads_back_here_is_refused_and_an_odd_one_is_told(plane: Plane, unix: grpc.aio.Channel):
    rules = rules_pb2_grpc.RulesServiceStub(unix)

    def gateway(host: str, **more: Any) -> rules_api.CreateDomainRuleRequest:
        made = rules_api.Gateway(host=host, port=2525, **more)
        return rules_api.CreateDomainRuleRequest(rule=rules_api.DomainRule(domain="g.test", kind=rules_api.RULE_KIND_GATEWAY, gateway=made))

    info = await fails(rules.CreateDomainRule(gateway("127.0.0.1")), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field == "host"
    wide = rules_api.DomainRule(domain="*.com", kind=rules_api.RULE_KIND_MX, accept_untrusted=True)
    await fails(rules.CreateDomainRule(rules_api.CreateDomainRuleRequest(rule=wide)), grpc.StatusCode.INVALID_ARGUMENT)
    made = await rules.CreateDomainRule(gateway("mx.g.test", username="me", password="hush"))
    assert len(made.warnings) == 1
    assert "[unverified-login]" in made.warnings[0]
    for pattern, warnings in (("sales", 0), ("sales+*", 1)):
        handler = rules_api.Handler(pattern=pattern, kind=rules_api.HANDLER_KIND_DISCARD)
        saved = await rules.CreateHandler(rules_api.CreateHandlerRequest(domain="g.test", handler=handler))
        told = [one for one in saved.warnings if "[unreachable]" in one]
        assert len(told) == warnings, pattern
