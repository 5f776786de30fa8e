"""What routes change of a message on its way out: return paths and octets, as a real peer sees them."""

import time
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes

from gatepost.delivery.changes import RouteChanges
from gatepost.delivery.smtp import SmtpTransport
from gatepost.message.address import parse_address
from gatepost.message.srs import DAY_SECONDS, Srs
from gatepost.message.verp import verp
from gatepost.queue.transport import Delivered, Failed, Job
from gatepost.routing.settings import Disclaimer, ListSettings
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.delivery import MESSAGE, make_job, outcomes_of
from support.rules import KEY, make_rules
from support.smtp_peer import SmtpPeer

Make = Callable[..., SmtpTransport]

TEAM = ListSettings("The Team", ("boss@here.test",), reply_to="list", subject_tag="[team]", footer_text="-- the team", verp=True)
LIST = (("list", "team@here.test"),)
SIGNED = b"From: a@far.test\r\nDKIM-Signature: v=1; d=far.test; b=xx\r\nSubject: hello\r\n\r\nbody\r\n"


def with_routes(job: Job, *changes: dict[str, object]) -> Job:
    recipients = [replace(one, route=replace(one.route, **more)) for one, more in zip(job.recipients, changes, strict=True)]
    return replace(job, recipients=tuple(recipients))


async def test_a_forward_goes_under_our_own_domain_and_leads_back(transport: Make) -> None:
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, sender="alice@far.test", return_path="srs:here.test")
        await outcomes_of(transport(SIGNED, rules=make_rules()), job)
    path = peer.transactions[0].mail.partition("<")[2].partition(">")[0]
    today = int(time.time()) // DAY_SECONDS
    assert Srs(KEY).decode(parse_address(path).local, today) == "alice@far.test"
    assert peer.transactions[0].data == SIGNED  # not an octet is changed: signatures hold


async def test_a_null_sender_stays_null_through_a_forward(transport: Make) -> None:
    async with SmtpPeer() as peer:
        await outcomes_of(transport(rules=make_rules()), make_job("b@x.test", port=peer.port, sender="", return_path="srs:here.test"))
    assert peer.transactions[0].mail.startswith("MAIL FROM:<>")


async def test_each_member_of_a_list_has_a_return_path_of_its_own(transport: Make) -> None:
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", "c@x.test", port=peer.port, return_path="verp:team@here.test", edits=LIST)
        outcomes = await outcomes_of(transport(rules=make_rules(lists={"team": TEAM})), job)
    assert all(isinstance(one, Delivered) for one in outcomes)
    paths = {(one.mail.split(" ")[1], one.rcpts[0]) for one in peer.transactions}
    assert paths == {
        (f"FROM:<{verp('team@here.test', 'b@x.test', KEY)}>", "RCPT TO:<b@x.test>"),
        (f"FROM:<{verp('team@here.test', 'c@x.test', KEY)}>", "RCPT TO:<c@x.test>"),
    }


async def test_recipients_that_get_the_same_share_a_transaction_and_others_do_not(transport: Make) -> None:
    async with SmtpPeer() as peer:
        job = make_job("a@x.test", "b@x.test", "c@x.test", port=peer.port)
        job = with_routes(job, {}, {"return_path": "team-bounces@here.test", "edits": LIST}, {})
        await outcomes_of(transport(rules=make_rules(lists={"team": TEAM})), job)
    first, second = sorted(peer.transactions, key=lambda one: len(one.rcpts), reverse=True)
    assert len(first.rcpts) == 2 and first.data == MESSAGE
    assert len(second.rcpts) == 1 and b"List-Id" in second.data
    assert second.mail.startswith("MAIL FROM:<team-bounces@here.test>")


async def test_a_post_to_a_list_looks_as_its_settings_say_and_its_size_is_that_of_what_is_sent(transport: Make) -> None:
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, return_path="verp:team@here.test", edits=LIST)
        await outcomes_of(transport(SIGNED, rules=make_rules(lists={"team": TEAM})), job)
    sent = peer.transactions[0]
    message = message_from_bytes(sent.data)
    assert message["Subject"] == "[team] hello"
    assert message["List-Id"] == "The Team <team.here.test>"
    assert message["Reply-To"] == "The Team <team@here.test>"
    assert "breaks=dkim-signature" in message["X-Gatepost-Changed"]
    assert message["DKIM-Signature"]
    assert message.get_payload().splitlines()[-1] == "-- the team"
    assert f"SIZE={len(sent.data)}" in sent.mail


async def test_a_post_that_comes_round_again_is_refused(transport: Make) -> None:
    message = b"From: a@far.test\r\nList-Id: <team.here.test>\r\n\r\nbody\r\n"
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, edits=LIST)
        (outcome,) = await outcomes_of(transport(message, rules=make_rules(lists={"team": TEAM})), job)
    assert isinstance(outcome, Failed) and outcome.enhanced == "5.4.6"
    assert not peer.transactions


async def test_a_list_that_is_gone_changes_nothing_any_more(transport: Make) -> None:
    async with SmtpPeer() as peer:
        await outcomes_of(transport(rules=make_rules()), make_job("b@x.test", port=peer.port, edits=LIST))
    assert peer.transactions[0].data == MESSAGE


async def test_a_disclaimer_stands_around_the_text(transport: Make) -> None:
    rules = make_rules(disclaimer=Disclaimer("EXTERNAL", footer_text="confidential"))
    async with SmtpPeer() as peer:
        await outcomes_of(transport(rules=rules), make_job("b@x.test", port=peer.port, edits=(("disclaimer", "here.test"),)))
    assert peer.transactions[0].data.endswith(b"EXTERNAL\r\n\r\n.dot\r\nbody\r\n\r\nconfidential\r\n")


async def test_a_disclaimer_leaves_signed_mail_as_it_is_and_says_so(transport: Make) -> None:
    rules = make_rules(disclaimer=Disclaimer(footer_text="confidential"))
    notes: list[tuple[bytes, str]] = []
    changes = RouteChanges(lambda: rules, lambda: "here.test", note=lambda *note: notes.append(note))
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, edits=(("disclaimer", "here.test"),))
        made = transport(SIGNED, changes=changes)
        await outcomes_of(made, job)
        await outcomes_of(made, job)
    assert [one.data for one in peer.transactions] == [SIGNED, SIGNED]
    assert notes == [(job.message_id, "disclaimer of here.test left out: the mail is signed (DKIM)")]


async def test_a_disclaimer_that_its_rule_wants_on_signed_mail_breaks_the_signature_and_says_so(transport: Make) -> None:
    rules = make_rules(disclaimer=Disclaimer(footer_text="confidential", on_signed=True))
    notes: list[str] = []
    changes = RouteChanges(lambda: rules, lambda: "here.test", note=lambda _, text: notes.append(text))
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, edits=(("disclaimer", "here.test"),))
        await outcomes_of(transport(SIGNED, changes=changes), job)
    (sent,) = peer.transactions
    assert sent.data.endswith(b"confidential\r\n")
    assert b"X-Gatepost-Changed: here.test; breaks=dkim-signature\r\n" in sent.data
    assert notes == ["changed for this recipient, which breaks its DKIM signature"]


async def test_where_a_list_breaks_the_signature_a_disclaimer_is_not_held_back(transport: Make) -> None:
    rules = make_rules(lists={"team": TEAM}, disclaimer=Disclaimer(footer_text="confidential"))
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, edits=(*LIST, ("disclaimer", "here.test")))
        await outcomes_of(transport(SIGNED, rules=rules), job)
    assert b"confidential" in peer.transactions[0].data
    assert b"breaks=dkim-signature" in peer.transactions[0].data


async def test_a_list_that_is_a_member_of_another_sends_the_post_on_in_its_own_name_with_both_tags(transport: Make) -> None:
    outer = ListSettings("All", subject_tag="[all]", footer_text="-- all")
    edits = (("list", "team@here.test"), ("list", "all@here.test"))
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, return_path="team-bounces@here.test", edits=edits)
        (outcome,) = await outcomes_of(transport(SIGNED, rules=make_rules(lists={"team": TEAM, "all": outer})), job)
    assert isinstance(outcome, Delivered)
    message = message_from_bytes(peer.transactions[0].data)
    assert message.get_all("List-Id") == ["The Team <team.here.test>"]
    assert "[team]" in message["Subject"] and "[all]" in message["Subject"]


async def test_a_list_under_a_rule_for_a_whole_subtree_has_the_id_of_its_own_domain(transport: Make) -> None:
    rules = make_rules("*.here.test", lists={"team": TEAM})
    async with SmtpPeer() as peer:
        await outcomes_of(transport(rules=rules), make_job("b@x.test", port=peer.port, edits=(("list", "team@a.here.test"),)))
    assert message_from_bytes(peer.transactions[0].data)["List-Id"] == "The Team <team.a.here.test>"


async def test_stage_policies_change_what_goes_out_and_the_next_attempt_knows_nothing_of_it(transport: Make) -> None:
    policies = tuple(
        StagePolicy(name=name, stage=Stage.DELIVER, when="true", action=StageAction(action), **more)  # type: ignore[arg-type]
        for name, action, more in (
            ("t", "tag", {"text": "[out]"}),
            ("a", "add-header", {"header": "X-New", "text": "1"}),
            ("r", "remove-header", {"header": "from"}),
        )
    )
    rules = replace(make_rules(lists={"team": TEAM}), stage_policies=policies)
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, edits=(("stage", "t"), ("stage", "a"), ("stage", "r"), ("stage", "gone")))
        outcomes = await outcomes_of(transport(SIGNED, rules=rules), job)
        plain = make_job("b@x.test", port=peer.port)
        outcomes += await outcomes_of(transport(SIGNED, rules=rules), plain)
        listed = make_job("b@x.test", port=peer.port, edits=(("stage", "t"), *LIST))
        outcomes += await outcomes_of(transport(SIGNED, rules=rules), listed)
    assert all(isinstance(one, Delivered) for one in outcomes)
    first, second, third = (one.data for one in peer.transactions)
    assert first.startswith(b"X-New: 1\r\n")
    assert " ".join(message_from_bytes(first)["Subject"].split()) == "[out] hello"
    assert message_from_bytes(first)["From"] is None
    assert "breaks=dkim-signature" in message_from_bytes(first)["X-Gatepost-Changed"]
    assert second == SIGNED
    assert message_from_bytes(third)["Subject"] == "[team] hello"  # one word before the subject: the list's
