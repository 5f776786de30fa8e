"""SmtpTransport against a scripted peer on a real socket."""

import asyncio
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost.delivery.smtp import SmtpTransport
from gatepost.message.envelope import Meta, Notify, Origin
from gatepost.queue.transport import Deferred, Delivered, Failed
from gatepost.routing.model import TlsPolicy
from support.certificates import Authority
from support.delivery import MESSAGE, make_job, outcomes_of
from support.smtp_peer import CLOSE, SILENCE, SmtpPeer

Make = Callable[..., SmtpTransport]


async def test_a_message_arrives_octet_for_octet(transport: Make) -> None:
    async with SmtpPeer() as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert outcome.reply is not None
        assert (outcome.reply.code, outcome.reply.enhanced) == (250, "2.0.0")
        assert outcome.reply.host == f"127.0.0.1[127.0.0.1]:{peer.port}"
        assert peer.transactions[0].data == MESSAGE
        assert peer.commands[0] == "EHLO here.test"


async def test_without_extensions_the_commands_go_one_by_one(transport: Make) -> None:
    async with SmtpPeer(capabilities=()) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.commands[1:] == ["MAIL FROM:<a@here.test>", "RCPT TO:<b@x.test>", "DATA"]
        assert not outcome.relayed_dsn


async def test_helo_is_tried_when_ehlo_is_unknown(transport: Make) -> None:
    async with SmtpPeer({"EHLO": ["502 5.5.1 what?\r\n"]}) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.verbs()[:2] == ["EHLO", "HELO"]


async def test_one_refused_recipient_does_not_stop_the_others(transport: Make) -> None:
    refuse_one = {"RCPT": ["250 2.1.5 Ok\r\n", "550 5.1.1 no such user\r\n", "451 4.7.1 greylisted\r\n"]}
    for capabilities in (("PIPELINING",), ()):
        async with SmtpPeer(refuse_one, capabilities=capabilities) as peer:
            outcomes = await outcomes_of(transport(), make_job("b@x.test", "c@x.test", "d@x.test", port=peer.port))
            assert isinstance(outcomes[0], Delivered)
            assert isinstance(outcomes[1], Failed)
            assert outcomes[1].enhanced == "5.1.1"
            assert isinstance(outcomes[2], Deferred)
            assert (outcomes[2].enhanced, outcomes[2].destination_down) == ("4.7.1", False)
            assert peer.transactions[0].rcpts == ["RCPT TO:<b@x.test>"]


async def test_all_refused_but_354_ends_the_data_at_once(transport: Make) -> None:
    answers = {"RCPT": ["550 5.1.1 no\r\n"], "DATA": ["354 well\r\n"], "end": ["554 5.5.1 no valid recipients\r\n"]}
    async with SmtpPeer(answers) as peer:
        one = transport()
        (outcome,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Failed)
        assert peer.octets_of_data == 0
        peer.answers.clear()
        (outcome,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.connections == 1


async def test_a_refused_sender_fails_every_recipient(transport: Make) -> None:
    for capabilities in (("PIPELINING",), ()):
        async with SmtpPeer({"MAIL": ["550 5.7.1 not you\r\n"], "RCPT": ["503 5.5.1 MAIL first\r\n"]}, capabilities=capabilities) as peer:
            outcomes = await outcomes_of(transport(), make_job("b@x.test", "c@x.test", port=peer.port))
            assert [type(outcome) for outcome in outcomes] == [Failed, Failed]
            assert outcomes[0].enhanced == "5.7.1"


async def test_the_session_is_used_again_and_reset_after_a_refusal(transport: Make) -> None:
    async with SmtpPeer({"RCPT": ["550 5.1.1 no\r\n", "250 Ok\r\n"]}) as peer:
        one = transport()
        (first,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        (second,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        (third,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert (type(first), type(second), type(third)) == (Failed, Delivered, Delivered)
        assert peer.connections == 1
        assert peer.verbs().count("RSET") == 1


async def test_a_session_is_closed_after_its_share_of_messages(transport: Make) -> None:
    async with SmtpPeer() as peer:
        one = transport(delivery={"max_deliveries_per_connection": 2})
        for _ in range(4):
            await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert peer.connections == 2


async def test_an_idle_session_says_quit(transport: Make) -> None:
    async with SmtpPeer() as peer:
        one = transport(delivery={"connection_idle_seconds": 0.05})
        await outcomes_of(one, make_job("b@x.test", port=peer.port))
        await asyncio.sleep(0.2)
        assert peer.verbs()[-1] == "QUIT"


async def test_a_kept_session_that_died_is_replaced_without_a_failed_attempt(transport: Make) -> None:
    async with SmtpPeer() as peer:
        one = transport()
        await outcomes_of(one, make_job("b@x.test", port=peer.port))
        peer.drop_connections()
        (outcome,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.connections == 2


async def test_a_kept_session_that_answers_421_is_replaced(transport: Make) -> None:
    async with SmtpPeer({"MAIL": ["250 Ok\r\n", f"421 4.4.2 idle too long\r\n{CLOSE}", "250 Ok\r\n"]}) as peer:
        one = transport()
        await outcomes_of(one, make_job("b@x.test", port=peer.port))
        (outcome,) = await outcomes_of(one, make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.connections == 2


@pytest.mark.parametrize(
    ("answers", "enhanced", "down"),
    [
        ({"greeting": ["421 4.3.2 too busy\r\n"]}, "4.3.2", True),
        ({"greeting": ["554 5.7.1 go away\r\n"]}, "4.3.2", True),
        ({"greeting": ["SSH-2.0-OpenSSH\r\n"]}, "4.4.2", True),
        ({"greeting": [SILENCE]}, "4.4.2", True),
        ({"EHLO": [CLOSE]}, "4.4.2", True),
        ({"MAIL": [SILENCE], "RCPT": [SILENCE], "DATA": [SILENCE]}, "4.4.2", True),
        ({"MAIL": ["421 4.3.2 shutting down\r\n" + CLOSE]}, "4.3.2", True),
        ({"RCPT": ["452 4.2.2 over quota\r\n"]}, "4.2.2", False),
        ({"DATA": ["451 4.3.0 later\r\n"]}, "4.3.0", False),
        ({"end": ["451 4.3.0 later\r\n"]}, "4.3.0", False),
        ({"end": [CLOSE]}, "4.4.2", False),
        ({"end": [SILENCE]}, "4.4.2", False),
    ],
)
async def test_temporary_faults_defer(transport: Make, answers: dict[str, list[str]], enhanced: str, down: bool) -> None:
    async with SmtpPeer(answers) as peer:
        limits = {"connect_seconds": 0.3, "command_seconds": 0.3, "data_seconds": 0.3}
        (outcome,) = await outcomes_of(transport(delivery=limits), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Deferred)
        assert (outcome.enhanced, outcome.destination_down) == (enhanced, down), outcome


async def test_a_refused_connection_means_the_destination_is_down(transport: Make) -> None:
    async with SmtpPeer() as peer:
        port = peer.port
    (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=port))
    assert isinstance(outcome, Deferred)
    assert outcome.destination_down
    assert outcome.enhanced == "4.4.1"


async def test_a_refusal_at_the_end_of_data_is_final(transport: Make) -> None:
    async with SmtpPeer({"end": ["554 5.7.1 spam\r\n"]}) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Failed)
        assert outcome.reply is not None
        assert outcome.reply.command == "end of data"


async def test_a_message_beyond_the_peers_size_is_not_sent(transport: Make) -> None:
    async with SmtpPeer(capabilities=("SIZE 1000",)) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, size=1001))
        assert isinstance(outcome, Failed)
        assert outcome.enhanced == "5.3.4"
        assert "MAIL" not in peer.verbs()


async def test_parameters_are_sent_when_offered(transport: Make) -> None:
    meta = Meta(Origin("ESMTP"), envid="ID+1", ret="HDRS", body="8BITMIME")
    job = make_job("b@x.test", size=77, meta=meta, notify=Notify.SUCCESS | Notify.DELAY, orcpt="rfc822;o@x.test")
    async with SmtpPeer() as peer:
        job = make_job("b@x.test", port=peer.port, size=77, meta=meta, notify=Notify.SUCCESS | Notify.DELAY, orcpt="rfc822;o@x.test")
        (outcome,) = await outcomes_of(transport(), job)
        assert isinstance(outcome, Delivered)
        assert outcome.relayed_dsn
        assert peer.transactions[0].mail == "MAIL FROM:<a@here.test> SIZE=77 BODY=8BITMIME RET=HDRS ENVID=ID+2B1"
        assert peer.transactions[0].rcpts == ["RCPT TO:<b@x.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@x.test"]


async def test_an_address_beyond_ascii_needs_smtputf8(transport: Make) -> None:
    meta = Meta(Origin("ESMTP"), smtputf8=True)
    async with SmtpPeer() as peer:
        (outcome,) = await outcomes_of(transport(), make_job("ü@x.test", port=peer.port, meta=meta))
        assert isinstance(outcome, Delivered)
        assert peer.transactions[0].mail.endswith("SMTPUTF8")
    async with SmtpPeer(capabilities=("PIPELINING",)) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("ü@x.test", port=peer.port, meta=meta))
        assert isinstance(outcome, Failed)
        assert outcome.enhanced == "5.6.7"
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, meta=meta))
        assert isinstance(outcome, Delivered)
        utf8 = "Subject: ü\r\n\r\nx\r\n".encode()
        (outcome,) = await outcomes_of(transport(utf8), make_job("b@x.test", port=peer.port, meta=meta))
        assert isinstance(outcome, Failed)


async def test_a_sender_goes_to_a_peer_without_smtputf8_under_its_own_domain(transport: Make) -> None:
    async with SmtpPeer(capabilities=("PIPELINING",)) as peer:
        job = make_job("b@x.test", sender="a@straße.test", port=peer.port, meta=Meta(Origin("ESMTP"), smtputf8=True))
        (outcome,) = await outcomes_of(transport(), job)
        assert isinstance(outcome, Delivered)
        assert peer.transactions[0].mail == "MAIL FROM:<a@xn--strae-oqa.test>"


async def test_more_recipients_than_a_transaction_takes_go_in_several(transport: Make) -> None:
    addresses = [f"u{number}@x.test" for number in range(250)]
    async with SmtpPeer() as peer:
        outcomes = await outcomes_of(transport(), make_job(*addresses, port=peer.port))
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        assert [len(heard.rcpts) for heard in peer.transactions] == [100, 100, 50]


async def test_452_too_many_recipients_sends_the_rest_at_once(transport: Make) -> None:
    answers = {
        "RCPT": ["250 Ok\r\n", "452 4.5.3 too many\r\n", "452 4.5.3 too many\r\n", "250 Ok\r\n", "452 4.5.3 too many\r\n", "250 Ok\r\n"]
    }
    async with SmtpPeer(answers) as peer:
        outcomes = await outcomes_of(transport(), make_job("a@x.test", "b@x.test", "c@x.test", port=peer.port))
        assert all(isinstance(outcome, Delivered) for outcome in outcomes)
        assert [heard.rcpts for heard in peer.transactions] == [[f"RCPT TO:<{one}@x.test>"] for one in "abc"]


async def test_control_characters_never_reach_the_wire(transport: Make) -> None:
    async with SmtpPeer() as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, sender="a\r\nRCPT TO:<v@x.test>"))
        assert isinstance(outcome, Failed)
        assert "MAIL" not in peer.verbs()


# ---- TLS


async def test_starttls_is_used_when_offered_and_nothing_is_verified(transport: Make, tmp_path: Path) -> None:
    async with SmtpPeer(tls=Authority(tmp_path).server_context("other.test")) as peer:
        one = transport()
        (result,) = await one.deliver("d", [make_job("b@x.test", port=peer.port)])
        assert isinstance(result.outcomes[0], Delivered)
        assert result.tls.startswith("TLSv1.3 ")
        assert peer.verbs()[:3] == ["EHLO", "STARTTLS", "EHLO"]


async def test_tls_that_is_never_wanted_is_not_used_though_it_is_offered(transport: Make, tmp_path: Path) -> None:
    async with SmtpPeer(tls=Authority(tmp_path).server_context("127.0.0.1")) as peer:
        one = transport()
        (result,) = await one.deliver("d", [make_job("b@x.test", port=peer.port, tls=TlsPolicy.NONE)])
        assert isinstance(result.outcomes[0], Delivered)
        assert (result.tls, "STARTTLS" in peer.verbs()) == ("", False)


async def test_a_failed_handshake_falls_back_to_plain_only_when_tls_is_an_opportunity(transport: Make, tmp_path: Path) -> None:
    context = Authority(tmp_path).server_context("other.test")
    context.set_ciphers("ECDHE-ECDSA-AES128-SHA")
    context.maximum_version = context.minimum_version  # below what we take
    no_tls = {"STARTTLS": ["220 ready\r\nnot a handshake\r\n"]}
    async with SmtpPeer(no_tls, capabilities=("PIPELINING", "STARTTLS")) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Deferred)  # injected octets are an attack, not a failed handshake
    broken = {"STARTTLS": ["220 ready\r\n" + CLOSE]}
    async with SmtpPeer(broken, capabilities=("PIPELINING", "STARTTLS")) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port))
        assert isinstance(outcome, Delivered)
        assert peer.connections == 2
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, tls=TlsPolicy.REQUIRED))
        assert isinstance(outcome, Deferred)
        assert outcome.destination_down


async def test_required_tls_that_is_not_offered_defers(transport: Make) -> None:
    async with SmtpPeer() as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, tls=TlsPolicy.REQUIRED))
        assert isinstance(outcome, Deferred)
        assert outcome.enhanced == "4.7.4"
        assert "MAIL" not in peer.verbs()


async def test_a_verified_name_must_match(transport: Make, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    trusted = {"verify_ca_file": str(authority.ca_file)}
    for name, expected in (("127.0.0.1", Delivered), ("wrong.test", Deferred)):
        async with SmtpPeer(tls=authority.server_context(name)) as peer:
            job = make_job("b@x.test", port=peer.port, tls=TlsPolicy.VERIFIED)
            (outcome,) = await outcomes_of(transport(delivery=trusted), job)
            assert isinstance(outcome, expected), outcome
    async with SmtpPeer(tls=authority.server_context("127.0.0.1")) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, tls=TlsPolicy.VERIFIED))
        assert isinstance(outcome, Deferred)  # the system's authorities do not know ours
        assert outcome.enhanced == "4.7.5"


async def test_implicit_tls_speaks_tls_from_the_first_octet(transport: Make, tmp_path: Path) -> None:
    async with SmtpPeer(tls=Authority(tmp_path).server_context("x.test"), implicit_tls=True) as peer:
        (outcome,) = await outcomes_of(transport(), make_job("b@x.test", port=peer.port, implicit_tls=True))
        assert isinstance(outcome, Delivered)
        assert peer.tls_connections == 1


# ---- AUTH


async def test_credentials_are_sent_to_a_gateway(transport: Make) -> None:
    secret = {"ref": "pass word"}.__getitem__
    async with SmtpPeer({"AUTH": ["235 2.7.0 Ok\r\n"]}, capabilities=("PIPELINING", "AUTH PLAIN LOGIN")) as peer:
        job = make_job("b@x.test", port=peer.port, username="me", password_ref="ref")
        (outcome,) = await outcomes_of(transport(secret=secret), job)
        assert isinstance(outcome, Delivered)
        assert peer.commands[1] == "AUTH PLAIN AG1lAHBhc3Mgd29yZA=="
    login = {"AUTH": ["334 VXNlcm5hbWU6\r\n"], "BWU=": ["334 UGFzc3dvcmQ6\r\n"], "CGFZCYB3B3JK": ["235 2.7.0 Ok\r\n"]}
    async with SmtpPeer(login, capabilities=("AUTH LOGIN",)) as peer:
        job = make_job("b@x.test", port=peer.port, username="me", password_ref="ref")
        (outcome,) = await outcomes_of(transport(secret=secret), job)
        assert isinstance(outcome, Delivered)


async def test_mail_of_another_secret_does_not_go_over_a_session_that_is_logged_in(transport: Make) -> None:
    async with SmtpPeer({"AUTH": ["235 2.7.0 Ok\r\n"] * 2}, capabilities=("PIPELINING", "AUTH PLAIN")) as peer:
        sender = transport(secret={"one": "first", "other": "second"}.__getitem__)
        for ref in ("one", "other", "one"):
            (outcome,) = await outcomes_of(sender, make_job("b@x.test", port=peer.port, username="me", password_ref=ref))
            assert isinstance(outcome, Delivered)
        logins = [line.partition("PLAIN ")[2] for line in peer.commands if line.startswith("AUTH")]
        assert [b64decode(one) for one in logins] == [b"\0me\0first", b"\0me\0second"]


async def test_a_refused_password_keeps_the_mail(transport: Make) -> None:
    async with SmtpPeer({"AUTH": ["535 5.7.8 no\r\n"]}, capabilities=("AUTH PLAIN",)) as peer:
        job = make_job("b@x.test", port=peer.port, username="me", password_ref="ref")
        (outcome,) = await outcomes_of(transport(secret=lambda _: "x"), job)
        assert isinstance(outcome, Deferred)
        assert (outcome.enhanced, outcome.destination_down) == ("4.7.8", True)


# ---- LMTP


async def test_lmtp_has_an_outcome_per_recipient(transport: Make) -> None:
    answers = {
        "end": ["250 2.0.0 Ok\r\n", "452 4.2.2 full\r\n", "550 5.2.1 gone\r\n"],
        "RCPT": ["250 Ok\r\n", "550 5.1.1 who\r\n", "250 Ok\r\n"],
    }
    async with SmtpPeer(answers, lmtp=True) as peer:
        outcomes = await outcomes_of(transport(lmtp=True), make_job("a@x.test", "b@x.test", "c@x.test", "d@x.test", port=peer.port))
        assert [type(outcome) for outcome in outcomes] == [Delivered, Failed, Deferred, Failed]
        assert peer.verbs()[0] == "LHLO"


async def test_lmtp_that_breaks_off_defers_those_without_a_reply(transport: Make) -> None:
    async with SmtpPeer({"end": ["250 2.0.0 Ok\r\n", CLOSE]}, lmtp=True) as peer:
        outcomes = await outcomes_of(transport(lmtp=True), make_job("a@x.test", "b@x.test", port=peer.port))
        assert [type(outcome) for outcome in outcomes] == [Delivered, Deferred]


async def test_a_large_message_is_streamed(transport: Make) -> None:
    large = b"Subject: large\r\n\r\n" + b".x" * 39 + b"\r\n" + (b"y" * 76 + b"\r\n") * 20_000
    async with SmtpPeer() as peer:
        (outcome,) = await outcomes_of(transport(large), make_job("b@x.test", port=peer.port, size=len(large)))
        assert isinstance(outcome, Delivered)
        assert peer.transactions[0].data == large
