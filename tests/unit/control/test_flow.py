"""FlowService over a real directory: roles, order, etags, what is refused, and explain's word on which entry decides."""

from dataclasses import replace

import pytest

from gatepost.client import DomainRule, GatepostClient, SenderRule, StagePolicy, TrustEntry
from gatepost.client.connection import find_target
from gatepost.client.errors import EtagMismatchError, InvalidRequestError, NotFoundError, PermissionDeniedError
from support.control import Plane

OFFICE = TrustEntry("trust", "office", networks=("10.0.0.0/24",), comment="the house")
PRINTER = TrustEntry("distrust", "printer", networks=("10.0.0.9/32",))


async def test_trust_entries_come_are_ordered_and_go_and_workers_are_told(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        etag = (await client.flow.put(OFFICE)).etag
        await client.flow.put(PRINTER, position=1, etag=etag)
        entries, newest = await client.flow.list(TrustEntry)
        assert list(entries) == [PRINTER, OFFICE]
        with pytest.raises(EtagMismatchError):
            await client.flow.put(OFFICE, etag=etag)
        told = await client.rulesets.explain("x@far.test", client_address="10.0.0.9", offline=True)
        assert not told.trusted
        assert "trust entry 'printer': distrust" in [step.detail for step in told.trace]
        assert (await client.rulesets.explain("x@far.test", client_address="10.0.0.8", offline=True)).trusted
        with pytest.raises(NotFoundError, match="did you mean 'printer'"):
            await client.flow.delete(TrustEntry, "primter")
        await client.flow.delete(TrustEntry, "printer", etag=newest)
        assert (await client.flow.list(TrustEntry))[0] == (OFFICE,)
    assert [len(worker.reloads) for worker in plane.workers] == [3, 3]


async def test_explain_knows_users_senders_and_certificates(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        await client.flow.put(TrustEntry("trust", "cert", certificates=("subject:CN=a,*",), senders=("*@b.test",)))
        given = {"offline": True, "client_address": "203.0.113.1", "certificate": "subject:CN=a,O=b"}
        assert (await client.rulesets.explain("x@far.test", sender="y@b.test", **given)).trusted
        assert not (await client.rulesets.explain("x@far.test", sender="y@c.test", **given)).trusted


async def test_what_is_wrong_with_an_entry_is_told_before_and_when_it_is_put(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        assert await client.flow.check(OFFICE) == ("", "")
        field, fault = await client.flow.check(TrustEntry("trust", "open", senders=("*@b.test",)))
        assert (field, "what the client says" in fault) == ("senders", True)
        with pytest.raises(ValueError, match="must be one of trust, distrust"):
            await client.flow.put(replace(OFFICE, action="trusted"))
        with pytest.raises(InvalidRequestError, match="open relay"):
            await client.flow.put(TrustEntry("trust", "open", networks=("0.0.0.0/0",)))


async def test_a_viewer_may_look_and_check_and_an_operator_may_not_change(plane: Plane) -> None:
    async with GatepostClient(plane.data) as admin:
        await admin.flow.put(OFFICE)
    for role, changes in (("viewer", False), ("operator", False), ("admin", True)):
        target = find_target(address=plane.tcp, token=plane.token(role), ca_file=plane.authority.ca_file)
        async with GatepostClient(target) as client:
            assert (await client.flow.list(TrustEntry))[0] == (OFFICE,)
            assert await client.flow.check(OFFICE) == ("", "")
            for call in (client.flow.put(OFFICE), client.flow.delete(TrustEntry, "office")):
                if changes:
                    await call
                    continue
                with pytest.raises(PermissionDeniedError):
                    await call


async def test_explain_tells_what_sender_rules_say(plane: Plane) -> None:
    rule = SenderRule(
        name="users",
        users=("*",),
        host="smart.test",
        tls="required",
        allowed_from=("*@example.test",),
        messages_per_hour=10,
        masquerade="example.org",
        count_by="client",
    )
    async with GatepostClient(plane.data) as client:
        await client.rules.create(DomainRule("example.test", "hosted"))
        await client.directory.create_user("alice@example.test")
        await client.flow.put(rule)
        assert (await client.flow.list(SenderRule))[0] == (rule,)
        given = {"user": "alice@example.test", "client_address": "203.0.113.1", "offline": True}
        told = await client.rulesets.explain("x@far.test", sender="alice@example.test", **given)
        trace = [step.detail for step in told.trace]
        assert "sender rule 'users': 10 messages in an hour, counted for client 203.0.113.1" in trace
        assert "sender rule 'users': the sender becomes alice@example.org" in trace
        assert "sender rule 'users': by smart.test:25, TLS required" in trace
        assert [one.host for one in told.routes] == ["smart.test"]
        refused = await client.rulesets.explain("x@far.test", sender="alice@private.test", **given)
        assert (refused.reply.code if refused.reply else 0, refused.refused_at) == (550, "mail")
        with pytest.raises(InvalidRequestError, match="does nothing"):
            await client.flow.put(SenderRule(name="idle", users=("*",)))
        with pytest.raises(InvalidRequestError, match="required or verified where a password"):
            await client.flow.put(SenderRule(name="open", host="smart.test", username="me", password_ref="x"))


async def test_policies_are_checked_put_and_explained(plane: Plane) -> None:
    reject = StagePolicy(name="bad", stage="mail", when="sender.domain == 'bad.test'", action="reject", text="bad domain")
    reroute = StagePolicy(name="out", stage="route", when="route.kind == 'smtp'", action="reroute", host="filter.test", enabled=True)
    helo = StagePolicy(name="helo", stage="helo", when="client.helo == 'x'", action="reject")
    subject = StagePolicy(name="subject", stage="data", when="message.header('subject')[0] == 'x'", action="reject", code=552)
    async with GatepostClient(plane.data) as client:
        assert await client.flow.check(reject) == ("", "")
        field, fault = await client.flow.check(replace(reject, when="sender.domian == 'a'"))
        assert (field, "did you mean 'domain'" in fault) == ("when", True)
        for one in (reject, reroute, helo, subject, replace(reject, name="off", enabled=False, when="true")):
            await client.flow.put(one)
        stored = (await client.flow.list(StagePolicy))[0]
        assert stored[0] == reject
        assert [(one.name, one.enabled) for one in stored][-1] == ("off", False)
        refused = await client.rulesets.explain("x@far.test", sender="a@bad.test", assume_trusted=True, offline=True)
        assert (refused.reply.text if refused.reply else "", refused.refused_at) == ("bad domain", "mail")
        told = await client.rulesets.explain("x@far.test", sender="a@good.test", assume_trusted=True, offline=True)
        said = [step.detail for step in told.trace if step.step == "policy"]
        assert said == [
            "helo: helo depends on what is not part of the question: helo is not known here",
            "mail: bad is not met",
            "route: out is met: reroute",
            "data: subject depends on what is not part of the question: header is not known here",
        ]
        assert [one.host for one in told.routes] == ["filter.test"]
        given = {"sender": "a@good.test", "assume_trusted": True, "offline": True}
        whole = await client.rulesets.explain("x@far.test", message=b"Subject: x\r\n\r\nx\r\n", **given)
        assert (whole.reply.code if whole.reply else 0, whole.refused_at) == (552, "data")


async def test_entries_that_lead_back_here_are_refused(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        with pytest.raises(InvalidRequestError, match=r"r: 127\.0\.0\.1:2525 is this server"):
            await client.flow.put(SenderRule(name="r", domains=("a.test",), host="127.0.0.1", port=2525))
        policy = StagePolicy(name="p", stage="deliver", when="true", action="reroute", host="127.0.0.1", port=2525)
        for stage in ("rcpt", "route", "deliver"):
            with pytest.raises(InvalidRequestError, match="is this server"):
                await client.flow.put(replace(policy, stage=stage))
        await client.flow.put(replace(policy, port=2526))


async def test_explain_tells_what_policies_do_at_delivery_and_that_nothing_signs(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        await client.flow.put(StagePolicy(name="slow", stage="deliver", when="recipient.domain == 'far.test'", action="limit", most=1))
        await client.flow.put(StagePolicy(name="old", stage="deliver", when="attempt.age > 60 || rate.client(60) > 5", action="reject"))
        await client.flow.put(StagePolicy(name="copy", stage="rcpt", when="recipient.local == 'x'", action="copy", address="y@copy.test"))
        told = await client.rulesets.explain("x@far.test", client_address="192.0.2.7", offline=True)
        assert [one.at_delivery for one in told.outlooks] == [("counted and limited by policy slow",), ()]
        assert {one.dkim_key for one in told.outlooks} == {"none: signing is not configured"}
        assert [one.address for one in told.routes] == ["x@far.test", "y@copy.test"]
        trace = [f"{step.step}: {step.detail}" for step in told.trace]
        assert "policy: deliver: slow is met: limit" in trace
        assert "policy: deliver: old depends on what is not part of the question: rate.client is not known here" in trace
        assert "copy: to y@copy.test: smtp:copy.test:opportunistic" in trace
        await client.flow.put(StagePolicy(name="gone", stage="connect", when="client.address == '192.0.2.7'", action="reject"))
        told = await client.rulesets.explain("x@far.test", client_address="192.0.2.7", offline=True)
        assert (told.refused_at, told.reply.code if told.reply else 0) == ("connect", 554)


async def test_explain_knows_the_greeting_and_the_listener_when_it_is_told_them(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        await client.flow.put(StagePolicy(name="early", stage="connect", when="client.helo == 'bad.test'", action="reject"))
        await client.flow.put(StagePolicy(name="greeting", stage="helo", when="client.helo == 'bad.test'", action="reject"))
        await client.flow.put(StagePolicy(name="door", stage="rcpt", when="client.listener == 'lmtp'", action="defer"))
        given = {"client_address": "192.0.2.7", "assume_trusted": True, "offline": True}
        for helo, refused_at in (("bad.test", "helo"), ("good.test", "")):
            assert (await client.rulesets.explain("x@far.test", helo=helo, **given)).refused_at == refused_at
            simple = await client.rules.explain("x@far.test", helo=helo, assume_trusted=True)
            assert bool(simple.reply) == bool(refused_at)
        told = await client.rulesets.explain("x@far.test", listener="lmtp", **given)
        assert (told.reply.code if told.reply else 0, told.refused_at) == (451, "rcpt")
        assert "connect: early is not met" in [step.detail for step in told.trace]  # nobody has greeted then
        nobody = await client.rulesets.explain("x@far.test", listener="submission", client_address="192.0.2.7", offline=True)
        assert (nobody.reply.code if nobody.reply else 0, nobody.refused_at) == (530, "mail")
        with pytest.raises(InvalidRequestError, match="must be one of smtp"):
            await client.rulesets.explain("x@far.test", listener="imap", **given)


async def test_who_logs_in_is_nobody_yet_at_connect_and_helo(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        await client.rules.create(DomainRule("example.test", "hosted"))
        await client.directory.create_user("alice@example.test")
        await client.flow.put(StagePolicy(name="known", stage="helo", when="client.user != '' || client.trusted", action="reject"))
        told = await client.rulesets.explain("x@far.test", sender="alice@example.test", user="alice@example.test", offline=True)
        assert told.reply is None
        assert "helo: known is not met" in [step.detail for step in told.trace]


async def test_what_is_odd_about_an_entry_is_told_when_it_is_saved(plane: Plane) -> None:
    async with GatepostClient(plane.data) as client:
        rule = SenderRule(name="hop", domains=("a.test",), host="smart.test", tls="required", username="me", password_ref="hop")
        assert [text.rpartition(" ")[2] for text in (await client.flow.put(rule)).warnings] == ["[unverified-login]", "[no-secret]"]
        await client.rulesets.put_secret("hop", "hush")
        assert (await client.flow.put(replace(rule, tls="verified"))).warnings == ()
        spoofed = StagePolicy(name="spoofed", stage="data", when="auth.dmarc == 'fail'", action="quarantine")
        assert (await client.flow.put(spoofed)).warnings == ()
        plane.settings = plane.settings.model_copy(
            update={"authentication": plane.settings.authentication.model_copy(update={"verify": "off"})}
        )
        (warning,) = (await client.flow.put(spoofed)).warnings
        assert "authentication.verify is off" in warning and warning.endswith("[never-verified]")
