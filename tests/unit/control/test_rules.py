"""RulesService and DirectoryService over a real directory: etags, masks, pages, secrets, explain, and workers told of every change."""

from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from gatepost.api.common.v1 import common_pb2 as common
from gatepost.api.directory.v1 import directory_pb2 as directory_api
from gatepost.api.directory.v1 import directory_pb2_grpc
from gatepost.api.rules.v1 import rules_pb2 as api
from gatepost.api.rules.v1 import rules_pb2_grpc
from support.control import Plane

PASSWORD = "a long enough password"


@pytest.fixture
def rules(unix: grpc.aio.Channel) -> rules_pb2_grpc.RulesServiceStub:
    return rules_pb2_grpc.RulesServiceStub(unix)


@pytest.fixture
def users(unix: grpc.aio.Channel) -> directory_pb2_grpc.DirectoryServiceStub:
    return directory_pb2_grpc.DirectoryServiceStub(unix)


def hosted(domain: str, **more: Any) -> api.CreateDomainRuleRequest:
    return api.CreateDomainRuleRequest(rule=api.DomainRule(domain=domain, kind=api.RULE_KIND_HOSTED, **more))


def gateway(domain: str, **more: Any) -> api.DomainRule:
    return api.DomainRule(domain=domain, kind=api.RULE_KIND_GATEWAY, gateway=api.Gateway(**more))


async def fails(call: Any, code: grpc.StatusCode) -> common.ErrorInfo:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code() is code, failure.value.details()
    return common.ErrorInfo.FromString(dict(failure.value.trailing_metadata())["gatepost-error-bin"])


async def test_a_rule_is_created_read_and_deleted_and_workers_are_told_each_time(plane: Plane, rules):
    made = (await rules.CreateDomainRule(hosted("Example.TEST"))).rule
    assert made.domain == "example.test"
    assert made.etag
    assert (await rules.GetDomainRule(api.GetDomainRuleRequest(domain="example.test"))).rule == made
    await rules.DeleteDomainRule(api.DeleteDomainRuleRequest(domain="example.test", etag=made.etag))
    info = await fails(rules.GetDomainRule(api.GetDomainRuleRequest(domain="example.test")), grpc.StatusCode.NOT_FOUND)
    assert info.reason == common.ERROR_REASON_NOT_FOUND
    assert [worker.reloads for worker in plane.workers] == [[False, False], [False, False]]


async def test_a_second_rule_for_a_domain_exists_already(plane: Plane, rules):
    await rules.CreateDomainRule(hosted("a.test"))
    await fails(rules.CreateDomainRule(hosted("a.test")), grpc.StatusCode.ALREADY_EXISTS)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (api.DomainRule(domain="a.test"), "rule.kind"),
        (gateway("a.test", host="h.test", port=70000), "rule.gateway.port"),
        (gateway("a.test", host="h.test", tls=9), "rule.gateway.tls"),
        (gateway("a.test", host="h.test", password="p"), "rule.gateway.password"),
        (gateway("a.test"), "host"),
        (api.DomainRule(domain="not a domain", kind=api.RULE_KIND_MX), "domain"),
        (api.DomainRule(domain="*", kind=api.RULE_KIND_MX, accept_untrusted=True), "accept_untrusted"),
    ],
)
async def test_a_bad_rule_is_refused_by_the_name_of_its_field(plane: Plane, rules, rule: api.DomainRule, field: str):
    info = await fails(rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=rule)), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field == field


async def test_an_update_changes_what_the_mask_names_and_nothing_else(plane: Plane, rules):
    rule = gateway("g.test", host="one.test", port=2500, username="u", password="hush", tls=common.TLS_POLICY_REQUIRED)
    made = (await rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=rule))).rule
    assert made.gateway.has_password
    assert not made.gateway.password
    change = api.DomainRule(domain="g.test", gateway=api.Gateway(host="two.test"))
    request = api.UpdateDomainRuleRequest(rule=change, update_mask=FieldMask(paths=["gateway.host"]))
    changed = (await rules.UpdateDomainRule(request)).rule
    assert changed.gateway == api.Gateway(host="two.test", port=2500, username="u", tls=common.TLS_POLICY_REQUIRED, has_password=True)
    assert changed.etag != made.etag
    reference = plane.directory.get_rule("g.test").rule.password_ref
    assert plane.directory.secret(reference) == "hush"
    change.gateway.password = "new secret"
    await rules.UpdateDomainRule(api.UpdateDomainRuleRequest(rule=change, update_mask=FieldMask(paths=["gateway.password"])))
    assert plane.directory.secret(reference) == "new secret"


async def test_an_unknown_path_in_a_mask_is_refused(plane: Plane, rules):
    await rules.CreateDomainRule(hosted("a.test"))
    request = api.UpdateDomainRuleRequest(rule=api.DomainRule(domain="a.test"), update_mask=FieldMask(paths=["colour"]))
    info = await fails(rules.UpdateDomainRule(request), grpc.StatusCode.INVALID_ARGUMENT)
    assert "gateway.host" in info.violations[0].problem


async def test_a_stale_etag_is_refused_and_the_current_one_is_told(plane: Plane, rules):
    old = (await rules.CreateDomainRule(hosted("a.test"))).rule
    text = api.DomainRule(domain="a.test", text="one")
    mask = FieldMask(paths=["text"])
    now = (await rules.UpdateDomainRule(api.UpdateDomainRuleRequest(rule=text, update_mask=mask, etag=old.etag))).rule
    stale = api.UpdateDomainRuleRequest(rule=text, update_mask=mask, etag=old.etag)
    assert (await fails(rules.UpdateDomainRule(stale), grpc.StatusCode.ABORTED)).current_etag == now.etag
    deletion = api.DeleteDomainRuleRequest(domain="a.test", etag=old.etag)
    await fails(rules.DeleteDomainRule(deletion), grpc.StatusCode.ABORTED)


async def test_handlers_come_and_go_and_change_the_etag_of_their_rule(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password=PASSWORD))
    handler = api.Handler(pattern="team", kind=api.HANDLER_KIND_FORWARD, targets=["x@a.test"])
    made = await rules.CreateHandler(api.CreateHandlerRequest(domain="a.test", handler=handler))
    await fails(rules.CreateHandler(api.CreateHandlerRequest(domain="a.test", handler=handler)), grpc.StatusCode.ALREADY_EXISTS)
    change = api.Handler(pattern="team", kind=api.HANDLER_KIND_COPY)
    request = api.UpdateHandlerRequest(domain="a.test", handler=change, update_mask=FieldMask(paths=["kind"]), etag=made.etag)
    changed = await rules.UpdateHandler(request)
    assert (changed.handler.kind, list(changed.handler.targets)) == (api.HANDLER_KIND_COPY, ["x@a.test"])
    await fails(rules.UpdateHandler(request), grpc.StatusCode.ABORTED)
    listed = await rules.ListHandlers(api.ListHandlersRequest(domain="a.test"))
    assert [(one.pattern, listed.etag) for one in listed.handlers] == [("team", changed.etag)]
    await rules.DeleteHandler(api.DeleteHandlerRequest(domain="a.test", pattern="team"))
    await fails(rules.GetHandler(api.GetHandlerRequest(domain="a.test", pattern="team")), grpc.StatusCode.NOT_FOUND)


def full_settings() -> api.RuleSettings:
    delivery = api.DeliveryOptions(source_address="127.0.0.2", helo="gate.test", concurrency=2, rate_per_minute=60, priority=-5)
    delivery.retry_intervals.add(seconds=60)
    delivery.delay_notice.seconds = -1
    return api.RuleSettings(
        next_hops=[api.NextHop(host="b.test", port=26, priority=20, weight=1), api.NextHop(host="a.test", port=25, priority=10, weight=3)],
        delivery=delivery,
        size_limit=5000,
        disclaimer=api.Disclaimer(footer_text="Ltd."),
        journal="copies@far.test",
    )


async def test_settings_of_a_rule_come_back_and_change_field_by_field(plane: Plane, rules):
    rule = api.DomainRule(domain="g.test", kind=api.RULE_KIND_GATEWAY, gateway=api.Gateway(host="x.test"), settings=full_settings())
    made = (await rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=rule))).rule
    assert (made.gateway.host, made.gateway.port) == ("a.test", 25)
    wanted = full_settings()
    wanted.next_hops.sort(key=lambda hop: hop.priority)
    assert made.settings.delivery == wanted.delivery
    assert [hop.host for hop in made.settings.next_hops] == ["a.test", "b.test"]
    change = api.DomainRule(domain="g.test", settings=api.RuleSettings(delivery=api.DeliveryOptions(helo="other.test")))
    request = api.UpdateDomainRuleRequest(rule=change, update_mask=FieldMask(paths=["settings.delivery.helo", "settings.size_limit"]))
    changed = (await rules.UpdateDomainRule(request)).rule.settings
    assert (changed.delivery.helo, changed.delivery.concurrency, changed.size_limit, changed.journal) == (
        "other.test",
        2,
        0,
        "copies@far.test",
    )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        (api.RuleSettings(size_limit=-1), "size_limit"),
        (api.RuleSettings(delivery=api.DeliveryOptions(helo="-")), "delivery.helo"),
        (api.RuleSettings(delivery=api.DeliveryOptions(source_address="here")), "delivery.source_address"),
        (api.RuleSettings(delivery=api.DeliveryOptions(priority=101)), "delivery.priority"),
        (api.RuleSettings(next_hops=[api.NextHop(host="a"), api.NextHop(host="a")]), "next_hops"),
        (api.RuleSettings(unknown=api.UNKNOWN_RECIPIENTS_RELAY), "unknown"),
        (api.RuleSettings(alias_of="a.test"), "alias_of"),
        (api.RuleSettings(journal="no address"), "journal"),
    ],
)
async def test_a_setting_that_does_not_fit_is_named(plane: Plane, rules, settings, field):
    rule = api.DomainRule(domain="g.test", kind=api.RULE_KIND_GATEWAY, gateway=api.Gateway(host="x.test"), settings=settings)
    info = await fails(rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=rule)), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field.endswith(field)


@pytest.mark.parametrize(
    "handler",
    [
        api.Handler(pattern="l", kind=api.HANDLER_KIND_LIST, targets=["m@far.test"], options=api.HandlerOptions(
            list=api.ListSettings(name="L", owners=["o@far.test"], may_post=api.POSTERS_LISTED, posters=["p@far.test"], moderated=True,
                                  subject_tag="[L]", reply_to="list", footer_text="--", verp=True))),
        api.Handler(pattern="p", kind=api.HANDLER_KIND_TRANSPORT, options=api.HandlerOptions(transport=api.Transport(
            kind=api.TRANSPORT_KIND_PIPE, program=api.Program(argv=["/bin/cat"], seconds=5)))),
        api.Handler(pattern="r", kind=api.HANDLER_KIND_AUTO_REPLY, options=api.HandlerOptions(
            reply=api.AutoReply(text="away", interval_days=3), valid_from={"seconds": 1000}, valid_until={"seconds": 2000})),
        api.Handler(pattern="h", kind=api.HANDLER_KIND_HOLD, options=api.HandlerOptions(
            size_limit=10, block_attachments=True, require_tls=True)),
        api.Handler(pattern="/x[0-9]+/", kind=api.HANDLER_KIND_DISCARD),
    ],
    ids=lambda handler: handler.pattern,
)  # fmt: skip
async def test_every_kind_of_handler_comes_back_as_it_was_given(plane: Plane, rules, handler):
    await rules.CreateDomainRule(hosted("a.test"))
    made = (await rules.CreateHandler(api.CreateHandlerRequest(domain="a.test", handler=handler))).handler
    read = (await rules.GetHandler(api.GetHandlerRequest(domain="a.test", pattern=handler.pattern))).handler
    assert made == read
    assert read.kind == handler.kind
    assert handler.options.list == read.options.list
    assert handler.options.reply == read.options.reply
    assert handler.options.transport.program.argv == read.options.transport.program.argv
    assert (handler.options.valid_from, handler.options.size_limit) == (read.options.valid_from, read.options.size_limit)


async def test_the_password_of_a_transport_is_kept_apart_and_stays_in_an_update(plane: Plane, rules):
    await rules.CreateDomainRule(hosted("a.test"))
    transport = api.Transport(kind=api.TRANSPORT_KIND_SMTP, host="h.test", username="me", password="hush")
    options = api.HandlerOptions(transport=transport)
    handler = api.Handler(pattern="t", kind=api.HANDLER_KIND_TRANSPORT, options=options)
    made = (await rules.CreateHandler(api.CreateHandlerRequest(domain="a.test", handler=handler))).handler.options.transport
    assert (made.has_password, made.password) == (True, "")
    (stored,) = plane.directory.get_rule("a.test").rule.handlers
    assert plane.directory.secret(stored.options.transport.password_ref) == "hush"
    change = api.Handler(pattern="t", options=api.HandlerOptions(transport=api.Transport(kind=api.TRANSPORT_KIND_SMTP, port=26)))
    request = api.UpdateHandlerRequest(domain="a.test", handler=change, update_mask=FieldMask(paths=["options.transport.port"]))
    changed = (await rules.UpdateHandler(request)).handler.options.transport
    assert (changed.host, changed.port, changed.has_password) == ("h.test", 26, True)


async def test_mailboxes_of_a_domain_become_handlers_of_another(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    await rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=gateway("b.test", host="h.test")))
    for name in ("x", "y"):
        await users.CreateUser(directory_api.CreateUserRequest(address=f"{name}@a.test", password=PASSWORD))
    taken = api.Handler(pattern="y", kind=api.HANDLER_KIND_REJECT)
    await rules.CreateHandler(api.CreateHandlerRequest(domain="b.test", handler=taken))
    request = api.AddMailboxHandlersRequest(domain="b.test", source_domain="a.test")
    answer = await rules.AddMailboxHandlers(request)
    assert (list(answer.added), answer.left_alone) == (["x"], 1)
    again = await rules.AddMailboxHandlers(request)
    assert (list(again.added), again.left_alone, again.etag) == ([], 2, answer.etag)
    told = await rules.Explain(api.ExplainRequest(recipient="x@b.test"))
    assert [route.address for route in told.routes] == ["x@a.test"]
    nobody = api.AddMailboxHandlersRequest(domain="b.test", source_domain="nowhere.test")
    await fails(rules.AddMailboxHandlers(nobody), grpc.StatusCode.INVALID_ARGUMENT)


async def test_an_alias_stands_for_a_domain_that_is_there(plane: Plane, rules):
    alias = api.DomainRule(domain="alias.test", kind=api.RULE_KIND_ALIAS, settings=api.RuleSettings(alias_of="a.test"))
    info = await fails(rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=alias)), grpc.StatusCode.INVALID_ARGUMENT)
    assert info.violations[0].field.endswith("alias_of")
    await rules.CreateDomainRule(hosted("a.test"))
    assert (await rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=alias))).rule.settings.alias_of == "a.test"


async def test_rules_are_paged_by_domain_and_filtered_by_kind(plane: Plane, rules):
    for number in range(5):
        await rules.CreateDomainRule(hosted(f"d{number}.test"))
    await rules.CreateDomainRule(api.CreateDomainRuleRequest(rule=api.DomainRule(domain="z.test", kind=api.RULE_KIND_DISCARD)))
    first = await rules.ListDomainRules(api.ListDomainRulesRequest(page_size=4))
    rest = await rules.ListDomainRules(api.ListDomainRulesRequest(page_size=4, page_token=first.next_page_token))
    assert [one.domain for one in [*first.rules, *rest.rules]] == [*(f"d{number}.test" for number in range(5)), "z.test"]
    assert not rest.next_page_token
    only = await rules.ListDomainRules(api.ListDomainRulesRequest(kind=api.RULE_KIND_DISCARD))
    assert [one.domain for one in only.rules] == ["z.test"]
    await fails(rules.ListDomainRules(api.ListDomainRulesRequest(page_token="%%%")), grpc.StatusCode.INVALID_ARGUMENT)


async def test_versions_are_listed_newest_first_with_their_authors(plane: Plane, rules):
    await rules.CreateDomainRule(hosted("a.test"), metadata=[("gatepost-user", "karin")])
    await rules.CreateDomainRule(hosted("b.test"))
    versions = (await rules.ListRuleVersions(api.ListRuleVersionsRequest())).versions
    assert [one.version for one in versions] == sorted((one.version for one in versions), reverse=True)
    assert versions[1].author == "local:karin"


async def test_explain_answers_what_live_mail_would_get(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password=PASSWORD))
    known = await rules.Explain(api.ExplainRequest(recipient="x+lists@a.test"))
    assert (known.routes[0].kind, known.routes[0].destination) == (common.ROUTE_KIND_LOCAL, "local:main")
    assert known.trace
    unknown = await rules.Explain(api.ExplainRequest(recipient="nobody@a.test"))
    assert (unknown.reply.code, unknown.reply.enhanced) == (550, "5.1.1")


@pytest.mark.parametrize(
    ("fields", "trusted"),
    [
        ({}, False),
        ({"client_address": "192.0.2.77"}, True),
        ({"client_address": "::ffff:192.0.2.77"}, True),
        ({"client_address": "198.51.100.1"}, False),
        ({"user": "x@a.test"}, True),
        ({"user": "nobody@a.test"}, False),
        ({"client_address": "198.51.100.1", "assume_trusted": True}, True),
        ({"client_address": "192.0.2.77", "assume_trusted": False}, False),
    ],
)
async def test_explain_knows_who_may_relay(plane: Plane, rules, users, fields: dict[str, Any], trusted: bool):
    await rules.CreateDomainRule(hosted("a.test"))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password=PASSWORD))
    answer = await rules.Explain(api.ExplainRequest(recipient="someone@elsewhere.test", **fields))
    assert answer.trusted is trusted
    assert answer.HasField("reply") is not trusted
    await fails(rules.Explain(api.ExplainRequest(recipient="x@y.test", client_address="bogus")), grpc.StatusCode.INVALID_ARGUMENT)


async def test_explain_knows_what_mail_is_refused_for_before_any_recipient(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    for name in ("x", "y"):
        await users.CreateUser(directory_api.CreateUserRequest(address=f"{name}@a.test", password=PASSWORD))
    spoofed = await rules.Explain(api.ExplainRequest(sender="y@a.test", recipient="y@a.test", user="x@a.test"))
    assert (spoofed.reply.code, len(spoofed.routes)) == (553, 0)
    large = await rules.Explain(api.ExplainRequest(recipient="x@a.test", size=1 << 40))
    assert large.reply.code == 552
    assert (await rules.Explain(api.ExplainRequest(recipient="Postmaster"))).routes[0].kind == common.ROUTE_KIND_LOCAL
    for fields in ({"recipient": ""}, {"recipient": "no address"}, {"recipient": "x@a.test", "sender": "no address"}):
        await fails(rules.Explain(api.ExplainRequest(**fields)), grpc.StatusCode.INVALID_ARGUMENT)


async def test_users_are_created_changed_listed_and_deleted(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    made = (await users.CreateUser(directory_api.CreateUserRequest(address="X@a.test", password=PASSWORD))).user
    assert (made.address, made.volume, made.enabled, made.has_password) == ("x@a.test", "main", True, True)
    await fails(users.CreateUser(directory_api.CreateUserRequest(address="x@a.test")), grpc.StatusCode.ALREADY_EXISTS)
    await fails(users.CreateUser(directory_api.CreateUserRequest(address="x@unhosted.test")), grpc.StatusCode.INVALID_ARGUMENT)
    await users.SetPassword(directory_api.SetPasswordRequest(address="x@a.test", password="another long password"))
    await fails(users.SetPassword(directory_api.SetPasswordRequest(address="x@a.test")), grpc.StatusCode.INVALID_ARGUMENT)
    off = directory_api.UpdateUserRequest(user=directory_api.User(address="x@a.test"), update_mask=FieldMask(paths=["enabled"]))
    assert not (await users.UpdateUser(off)).user.enabled
    await fails(users.UpdateUser(directory_api.UpdateUserRequest(user={"address": "x@a.test"})), grpc.StatusCode.INVALID_ARGUMENT)
    assert [one.address for one in (await users.ListUsers(directory_api.ListUsersRequest(domain="a.test"))).users] == ["x@a.test"]
    await users.DeleteUser(directory_api.DeleteUserRequest(address="x@a.test", purge_mail=True))
    await fails(users.GetUser(directory_api.GetUserRequest(address="x@a.test")), grpc.StatusCode.NOT_FOUND)
    assert sum(len(worker.volumes.store.deleted) for worker in plane.workers) == 1


async def test_a_users_etag_guards_every_change_of_it(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    name = {"address": "x@a.test"}
    made = (await users.CreateUser(directory_api.CreateUserRequest(**name, password=PASSWORD))).user
    now = (await users.SetPassword(directory_api.SetPasswordRequest(**name, password=PASSWORD, etag=made.etag))).user
    assert now.etag not in ("", made.etag)
    assert (await users.GetUser(directory_api.GetUserRequest(**name))).user == now
    mask = FieldMask(paths=["enabled"])
    stale = (
        users.SetPassword(directory_api.SetPasswordRequest(**name, password=PASSWORD, etag=made.etag)),
        users.UpdateUser(directory_api.UpdateUserRequest(user=name, update_mask=mask, etag=made.etag)),
        users.DeleteUser(directory_api.DeleteUserRequest(**name, purge_mail=True, etag=made.etag)),
    )
    for call in stale:
        info = await fails(call, grpc.StatusCode.ABORTED)
        assert (info.reason, info.current_etag) == (common.ERROR_REASON_ETAG_MISMATCH, now.etag)
    assert not any(worker.volumes.store.deleted for worker in plane.workers)
    off = (await users.UpdateUser(directory_api.UpdateUserRequest(user=name, update_mask=mask, etag=now.etag))).user
    assert (off.enabled, off.etag != now.etag) == (False, True)
    assert list((await users.ListUsers(directory_api.ListUsersRequest())).users) == [off]
    await users.DeleteUser(directory_api.DeleteUserRequest(**name, etag=off.etag))


async def test_a_domain_with_users_is_deleted_by_force_only(plane: Plane, rules, users):
    await rules.CreateDomainRule(hosted("a.test"))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", password=PASSWORD))
    info = await fails(rules.DeleteDomainRule(api.DeleteDomainRuleRequest(domain="a.test")), grpc.StatusCode.FAILED_PRECONDITION)
    assert info.reason == common.ERROR_REASON_IN_USE
    await rules.DeleteDomainRule(api.DeleteDomainRuleRequest(domain="a.test", force=True))


async def test_tokens_show_their_secret_once(plane: Plane, users):
    made = await users.CreateToken(directory_api.CreateTokenRequest(name="ops", role=common.ROLE_OPERATOR))
    assert plane.directory.verify_token(made.secret).name == "ops"
    (listed,) = (await users.ListTokens(directory_api.ListTokensRequest())).tokens
    assert listed == made.token
    await fails(users.CreateToken(directory_api.CreateTokenRequest(name="x")), grpc.StatusCode.INVALID_ARGUMENT)
    await users.RevokeToken(directory_api.RevokeTokenRequest(name="ops"))
    assert plane.directory.verify_token(made.secret) is None
    await fails(users.RevokeToken(directory_api.RevokeTokenRequest(name="ops")), grpc.StatusCode.NOT_FOUND)


async def test_volumes_need_an_absolute_path(plane: Plane, users):
    await fails(users.CreateVolume(directory_api.CreateVolumeRequest(name="fast", path="fast")), grpc.StatusCode.INVALID_ARGUMENT)
    path = str(plane.data / "fast")
    assert (await users.CreateVolume(directory_api.CreateVolumeRequest(name="fast", path=path))).volume.path == path
    listed = (await users.ListVolumes(directory_api.ListVolumesRequest())).volumes
    assert [one.name for one in listed] == ["fast", "main"]


async def test_a_volume_is_shown_and_deleted_and_workers_are_told(plane: Plane, rules, users):
    path = str(plane.data / "fast")
    made = (await users.CreateVolume(directory_api.CreateVolumeRequest(name="fast", path=path))).volume
    assert (await users.GetVolume(directory_api.GetVolumeRequest(name="fast"))).volume == made
    stale = directory_api.DeleteVolumeRequest(name="fast", etag="old")
    assert (await fails(users.DeleteVolume(stale), grpc.StatusCode.ABORTED)).current_etag == made.etag
    await rules.CreateDomainRule(hosted("a.test"))
    await users.CreateUser(directory_api.CreateUserRequest(address="x@a.test", volume="fast"))
    for name in ("fast", "main"):
        info = await fails(users.DeleteVolume(directory_api.DeleteVolumeRequest(name=name)), grpc.StatusCode.FAILED_PRECONDITION)
        assert info.reason == common.ERROR_REASON_IN_USE
    await users.DeleteUser(directory_api.DeleteUserRequest(address="x@a.test"))
    told = [len(worker.reloads) for worker in plane.workers]
    await users.DeleteVolume(directory_api.DeleteVolumeRequest(name="fast", etag=made.etag))
    assert [len(worker.reloads) for worker in plane.workers] == [count + 1 for count in told]
    for call in (users.GetVolume(directory_api.GetVolumeRequest(name="fast")), users.DeleteVolume(stale)):
        await fails(call, grpc.StatusCode.NOT_FOUND)
    records = await plane.audit.read(9, "", "/gatepost.api.directory.v1.DirectoryService/DeleteVolume")
    assert [record["outcome"] for record in records] == ["NOT_FOUND", "OK", "FAILED_PRECONDITION", "FAILED_PRECONDITION", "ABORTED"]
    assert '"fast"' in records[1]["request"]
