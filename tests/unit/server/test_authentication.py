"""SPF, DKIM and DMARC in a running server, with a DNS server on loopback: when they are asked for, what conditions see, what is kept."""

import base64
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest

from gatepost.directory import part_checks
from gatepost.routing.stage_facts import auth_facts
from gatepost.routing.stages import Stage, StageAction, StagePolicy
from support.dkim import Signer
from support.dns import DnsStub, txt
from support.receiving import ALICE, PASSWORD, Receiver

Receive = Callable[..., Awaitable[Receiver]]

SIGNER = Signer()
MAIL = b"From: a@far.test\r\nTo: alice@here.test\r\nSubject: hello\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nbody\r\n"
ZONE = {
    ("far.test", "TXT"): [txt("v=spf1 ip4:127.0.0.1 -all")],
    ("bad.test", "TXT"): [txt("v=spf1 -all")],
    ("client.test", "TXT"): [txt("v=spf1 ?all")],
    ("_dmarc.far.test", "TXT"): [txt("v=DMARC1; p=reject")],
    ("_dmarc.bad.test", "TXT"): [txt("v=DMARC1; p=quarantine")],
    (SIGNER.key_name, "TXT"): [txt(SIGNER.key_record())],
}


@pytest.fixture(scope="module")
def stub() -> Iterator[DnsStub]:
    with DnsStub(ZONE) as server:
        yield server


@pytest.fixture
def verifying(receive: Receive, stub: DnsStub) -> Receive:
    """receive() with that DNS."""

    async def start(listener: str = "smtp", verify: str = "when needed", *, silent: Sequence[str] = (), **sections: Any) -> Receiver:
        stub.use(ZONE, silent=silent)
        dns = {"nameservers": ["127.0.0.1"], "port": stub.port, "timeout_seconds": 2, "lifetime_seconds": 2}
        authentication = {"verify": verify, "timeout_seconds": 0.4}
        return await receive(listener, dns=dns, authentication=authentication, **sections)

    return start


def put(running: Receiver, *policies: tuple[str, str, str]) -> None:
    """(stage, condition, action) each."""
    made = [
        StagePolicy(name=f"p{n}", stage=Stage(stage), when=when, action=StageAction(action), text="seen")
        for n, (stage, when, action) in enumerate(policies)
    ]
    running.put_rules(stage_policies=tuple(part_checks.entry("stage_policies", one) for one in made))


def results_of(octets: bytes) -> list[bytes]:
    header = octets.partition(b"\r\n\r\n")[0].replace(b"\r\n\t", b" ")
    return [line for line in header.split(b"\r\n") if line.lower().startswith(b"authentication-results:")]


def dotted(octets: bytes) -> bytes:
    return octets + b".\r\n"


async def test_conditions_see_what_was_verified_and_the_record_keeps_it(verifying: Receive) -> None:
    running = await verifying()
    put(
        running,
        ("mail", "auth.spf == 'fail'", "reject"),
        ("data", "auth.dmarc == 'pass' && 'far.test' in auth.dkim_domains && auth.dmarc_policy == 'reject'", "tag"),
    )
    client = await running.hello()
    assert (await client.command("MAIL FROM:<a@bad.test>")).startswith("550 5.7.1")
    assert (await client.send_mail("a@far.test", ALICE, dotted(SIGNER.sign(MAIL)))).startswith("250")
    (queued,) = running.queued()
    assert results_of(queued.octets) == [
        b"Authentication-Results: mx.example.test; spf=pass smtp.mailfrom=a@far.test;"
        b' spf=neutral reason="all of client.test" smtp.helo=client.test; dkim=pass'
        b" header.d=far.test header.s=sel header.b="
        + results_of(queued.octets)[0].partition(b"header.b=")[2].partition(b";")[0]
        + b"; dmarc=pass (p=reject) header.from=far.test"
    ]
    verdict = queued.meta.verdict
    assert verdict is not None
    assert verdict.text == "accept, spf pass far.test, dkim pass far.test, dmarc pass far.test (reject)"
    facts = auth_facts(verdict)
    assert (facts.spf, facts.dkim, facts.dkim_domains, facts.dmarc, facts.dmarc_policy) == ("pass", "pass", ("far.test",), "pass", "reject")


async def test_nothing_is_asked_unless_a_condition_asks_for_it(verifying: Receive, stub: DnsStub) -> None:
    running = await verifying()
    client = await running.hello()
    assert (await client.send_mail("a@far.test", ALICE, dotted(MAIL))).startswith("250")
    put(running, ("data", "sender.domain == 'other.test' && auth.dmarc == 'fail'", "reject"), ("mail", "client.helo == 'x'", "reject"))
    assert (await client.send_mail("a@far.test", ALICE, dotted(MAIL.replace(b"hello", b"again")))).startswith("250")
    running.put_rules(stage_policies=())
    assert (await client.send_mail("a@far.test", ALICE, dotted(MAIL))).startswith("250")
    asked = {name for name, _ in stub.questions}
    assert asked <= {"far.test", "client.test", "_dmarc.far.test", "_dmarc.test"}
    assert not results_of(running.queued()[0].octets)
    assert not results_of(running.queued()[2].octets)


async def test_mail_that_no_such_condition_can_concern_stays_native(verifying: Receive, stub: DnsStub) -> None:
    running = await verifying()
    put(running, ("data", "sender.domain == 'other.test' && auth.dmarc == 'fail'", "reject"))
    client = await running.hello()
    before = running.server.wire.plain[2]
    assert (await client.send_mail("a@far.test", ALICE, dotted(MAIL))).startswith("250")
    assert running.server.wire.plain[2] == before + 1
    assert not stub.questions
    assert (await client.send_mail("a@other.test", ALICE, dotted(MAIL))).startswith("550")
    assert running.server.wire.plain[2] == before + 1
    assert stub.questions


async def test_off_asks_nobody_and_everything_is_none(verifying: Receive, stub: DnsStub) -> None:
    running = await verifying(verify="off")
    put(running, ("mail", "auth.spf != 'none'", "reject"), ("data", "auth.dmarc != 'none' || auth.dkim_domains.size() > 0", "reject"))
    client = await running.hello()
    assert (await client.send_mail("a@bad.test", ALICE, dotted(MAIL))).startswith("250")
    assert not stub.questions
    assert not results_of(running.queued()[0].octets)


async def test_always_verifies_without_a_condition(verifying: Receive) -> None:
    running = await verifying(verify="always")
    client = await running.hello()
    assert (await client.send_mail("a@bad.test", ALICE, dotted(MAIL.replace(b"far.test", b"bad.test")))).startswith("250")
    (found,) = results_of(running.queued()[0].octets)
    assert b"spf=fail" in found
    assert b"dkim=none" in found
    assert b"dmarc=fail (p=quarantine)" in found


@pytest.mark.parametrize("how", ["network", "user", "lmtp"])
async def test_mail_of_trusted_senders_and_over_lmtp_is_not_verified(verifying: Receive, stub: DnsStub, how: str) -> None:
    if how == "lmtp":
        running = await verifying("lmtp", verify="always")
        client = await running.hello(verb="LHLO")
    elif how == "network":
        running = await verifying(verify="always", trust={"networks": ["127.0.0.0/8"]})
        client = await running.hello()
    else:
        running = await verifying("submission", verify="always", smtp={"require_tls_for_plaintext_auth": False})
        client = await running.hello()
        credentials = base64.b64encode(f"\0{ALICE}\0{PASSWORD}".encode()).decode()
        assert (await client.command(f"AUTH PLAIN {credentials}")).startswith("235")
    put(running, ("data", "auth.spf != 'none' || auth.dkim != 'none' || auth.dmarc != 'none'", "reject"))
    sender = ALICE if how == "user" else "a@bad.test"
    assert (await client.send_mail(sender, ALICE, dotted(MAIL))).startswith("250")
    assert not stub.questions


async def test_a_field_in_our_name_is_taken_out_and_that_of_others_stays(verifying: Receive) -> None:
    running = await verifying(verify="always")
    client = await running.hello()
    forged = b"Authentication-Results: (x) MX.Example.test 1;\r\n dmarc=pass\r\nAuthentication-Results: other.test; dkim=pass\r\n"
    assert (await client.send_mail("a@bad.test", ALICE, dotted(forged + MAIL))).startswith("250")
    found = results_of(running.queued()[0].octets)
    assert [b"mx.example.test" in one for one in found] == [True, False]
    assert b"dmarc=fail" in found[0]


async def test_a_policy_may_take_the_field_away_that_is_cut_already(verifying: Receive) -> None:
    running = await verifying(verify="always")
    gone = StagePolicy(name="p", stage=Stage.DATA, when="true", action=StageAction.REMOVE_HEADER, header="Authentication-Results")
    running.put_rules(stage_policies=(part_checks.entry("stage_policies", gone),))
    client = await running.hello()
    forged = b"Authentication-Results: mx.example.test; dmarc=pass\r\n"
    assert (await client.send_mail("a@bad.test", ALICE, dotted(forged + MAIL))).startswith("250")
    (found,) = results_of(running.queued()[0].octets)
    assert b"dmarc=none" in found or b"dmarc=fail" in found


async def test_a_dns_that_does_not_answer_costs_the_deadline_and_no_more(verifying: Receive) -> None:
    running = await verifying(silent=["far.test", "client.test", "_dmarc.far.test", SIGNER.key_name])
    put(running, ("mail", "auth.spf == 'fail'", "reject"), ("data", "auth.dmarc == 'fail'", "reject"))
    client = await running.hello()
    began = time.monotonic()
    assert (await client.send_mail("a@far.test", ALICE, dotted(SIGNER.sign(MAIL)))).startswith("250")
    assert time.monotonic() - began < 3.0
    (found,) = results_of(running.queued()[0].octets)
    assert found.count(b"=temperror") == 4


async def test_a_client_that_leaves_while_its_sender_is_looked_up_leaves_nothing(verifying: Receive) -> None:
    running = await verifying(verify="always", silent=["far.test"])
    client = await running.hello()
    client.send(b"MAIL FROM:<a@far.test>\r\n")
    await client.close()
    other = await running.hello()
    assert (await other.send_mail("a@bad.test", ALICE, dotted(MAIL))).startswith("250")
    assert running.count() == 1


async def test_pipelined_commands_wait_for_the_senders_results(verifying: Receive) -> None:
    running = await verifying(verify="always")
    client = await running.hello()
    client.send(b"MAIL FROM:<a@far.test>\r\nRCPT TO:<" + ALICE.encode() + b">\r\nDATA\r\n")
    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
    client.send(dotted(SIGNER.sign(MAIL)))
    assert (await client.reply()).startswith("250")
    assert b"dkim=pass" in results_of(running.queued()[0].octets)[0]


async def test_a_large_message_in_chunks_is_verified_whole(verifying: Receive) -> None:
    running = await verifying(verify="always")
    client = await running.hello()
    octets = SIGNER.sign(MAIL + b"a line\r\n" * 100_000)
    await client.command("MAIL FROM:<a@far.test>")
    await client.command(f"RCPT TO:<{ALICE}>")
    for start in range(0, len(octets), 300_000):
        piece = octets[start : start + 300_000]
        last = " LAST" if start + 300_000 >= len(octets) else ""
        client.send(f"BDAT {len(piece)}{last}\r\n".encode() + piece)
        assert (await client.reply()).startswith("250")
    assert b"dkim=pass" in results_of(running.queued()[0].octets)[0]


async def test_rules_that_come_into_force_within_a_transaction_put_its_recipients_off(verifying: Receive) -> None:
    """What the DNS says of the sender was not asked, and must not pass for 'none'."""
    running = await verifying()
    client = await running.hello()
    await client.command("MAIL FROM:<a@far.test>")
    put(running, ("rcpt", "auth.spf != 'pass'", "reject"))
    assert (await client.command(f"RCPT TO:<{ALICE}>")).startswith("451 4.7.1")
    await client.command("RSET")
    assert (await client.send_mail("a@far.test", ALICE, dotted(MAIL))).startswith("250")
