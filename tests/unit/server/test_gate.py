"""What the gate does to received mail, through real sockets: refused, withheld, changed or left alone; and what goes wrong on the way."""

import asyncio
import base64
import hashlib
import io
import socket
import struct
import threading
import zipfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gatepost.message.envelope import Envelope, Origin, Recipient
from gatepost.message.verdict import PLAIN, Action, Answer
from gatepost.native import MailContent, panic_on
from gatepost.queue.submit import SubmissionRefused, Submitter
from gatepost.routing.model import RuleSet
from gatepost.scan.facts import MailFacts
from gatepost.scan.gate import Gate, MessageBlob, inspect_content
from gatepost.scan.policies import Defaults, Policies
from gatepost.scan.policy import DEFAULT, Policy, Rule
from gatepost.scan.report import Limits, Report
from support.receiving import ALICE, BOB, HOST, PASSWORD, Client, Receiver
from support.receiving import plain as plain_login

Receive = Callable[..., Awaitable[Receiver]]

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
PROGRAM = b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + bytes(300)
HEAD = b"From: a@b.test\r\nSubject: report\r\nMIME-Version: 1.0\r\n"
TEXT = HEAD + b"\r\nonly text\r\n"


def zipped(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


def part(name: str, content: bytes) -> bytes:
    head = f'Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"\r\n'
    return head.encode() + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(content).replace(b"\n", b"\r\n").rstrip()


def mixed(*parts: bytes, head: bytes = HEAD) -> bytes:
    body = b"".join(b"--b\r\n" + one + b"\r\n" for one in (b"Content-Type: text/plain\r\n\r\nhello", *parts))
    return head + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + body + b"--b--\r\n"


def gate_of(*rules: Rule, look: Callable[[MailContent, Limits], Report] | None = None, **named: Policy) -> Callable[[RuleSet], Gate]:
    """A gate whose policy has these rules; without any it is the shipped one."""
    policy = Policy(rules=rules) if rules else DEFAULT

    def make(rule_set: RuleSet) -> Gate:
        policies = Policies(rule_set, {"test": policy, **named}, Defaults("test"))
        return Gate(lambda: policies, HOST, look=look)

    return make


def idle_gate(rule_set: RuleSet) -> Gate:
    """One whose policy has no rules: nothing is looked into."""
    return Gate(lambda: Policies(rule_set, {"test": Policy(rules=())}, Defaults("test")), HOST)


async def send(running: Receiver, octets: bytes, *recipients: str) -> str:
    """One message in a session of its own; the reply to the end of data."""
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    for one in recipients or (ALICE,):
        assert (await client.command(f"RCPT TO:<{one}>"))[:3] == "250"
    assert (await client.command("DATA"))[:3] == "354"
    client.send(octets.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    reply = await client.reply()
    await client.close()
    return reply


def states(running: Receiver) -> list[tuple[str, str, bool]]:
    """(address, destination's kind, held) of all recipients in the queue."""
    recipients = [one for message_id in running.spool.list_ids(None, 100) for one in running.spool.get(message_id)[6]]
    return [(one[0], one[2].partition(":")[0], bool(one[6])) for one in recipients]


def without_ours(octets: bytes) -> bytes:
    """What was received: our field in front and the trace field cut off."""
    assert octets.startswith(b"X-Gatepost-Scan: mx.example.test; ")
    rest = octets.split(b"\r\n")
    at = 1
    while rest[at].startswith(b"\t"):
        at += 1
    assert rest[at].startswith(b"Received: ")
    at += 1
    while rest[at].startswith(b"\t"):
        at += 1
    return b"\r\n".join(rest[at:])


@pytest.mark.parametrize("plain", [True, False], ids=["native", "session"])
async def test_text_passes_at_once_with_our_field_and_nothing_else_changed(receive: Receive, plain: bool) -> None:
    running = await receive(gate=gate_of())
    if not plain:
        running.server.plain = False
        running.server.wire.agree(None, None)
    assert (await send(running, TEXT))[:3] == "250"
    (queued,) = running.queued()
    assert queued.octets.startswith(b"X-Gatepost-Scan: mx.example.test; accept\r\nReceived: from ")
    assert without_ours(queued.octets) == TEXT
    assert queued.meta.verdict == PLAIN, "two octets say so"
    assert running.server.wire.plain[2] == int(plain)


@pytest.mark.parametrize("plain", [True, False], ids=["native", "session"])
@pytest.mark.parametrize("body", [TEXT[len(HEAD) :], mixed(part("a.pdf", b"%PDF-1.4 " + bytes(400_000)), head=b"")], ids=["text", "long"])
async def test_forged_copies_of_our_field_do_not_come_through(receive: Receive, plain: bool, body: bytes) -> None:
    running = await receive(gate=gate_of())
    if not plain:
        running.server.plain = False
        running.server.wire.agree(None, None)
    forged = b"X-Gatepost-Scan: mx.example.test; accept\r\n\tpolicy=x;\r\n rule=y\r\nx-gatepost-SCAN : b\r\n"
    assert (await send(running, forged + HEAD + forged + body))[:3] == "250"
    (queued,) = running.queued()
    assert queued.octets.lower().count(b"x-gatepost-scan") == 1
    assert without_ours(queued.octets) == HEAD + body


@pytest.mark.parametrize(
    ("odd", "code"),
    [(b"", "250"), (b"begin 644 a.exe\r\n#0V%T\r\n`\r\nend\r\n", "550"), (b"<!-- \x01 -->\r\n", "250")],
    ids=["text", "file", "control"],
)
@pytest.mark.parametrize("lines", [1_500, 15_000])
async def test_a_long_text_passes_without_an_inspection_and_what_hides_in_one_does_not(
    receive: Receive, lines: int, odd: bytes, code: str
) -> None:
    running = await receive(gate=gate_of())
    body = b"and so it went on until the end of the year, as letters do\r\n" * lines
    mail = HEAD + b"\r\n" + body + odd + body
    assert (await send(running, mail))[:3] == code
    assert [without_ours(queued.octets) for queued in running.queued()] == ([mail] if code == "250" else [])
    assert running.server.wire.plain[2] == int(not odd)


@pytest.mark.parametrize("looked_at", [True, False], ids=["inspected", "unseen"])
@pytest.mark.parametrize("filler", [60_000, 100_000, 250_000])
async def test_forged_copies_far_down_in_a_long_header_do_not_come_through(receive: Receive, filler: int, looked_at: bool) -> None:
    running = await receive(gate=gate_of() if looked_at else idle_gate)
    before = b"".join(b"X-Filler: %058d\r\n" % number for number in range(filler // 70))
    forged = b"X-Gatepost-Scan: mx.example.test; accept;\r\n\trule=y\r\n"
    body = b"\r\n" + b"text\r\n" * 100_000
    assert (await send(running, before + forged * 5 + HEAD + body))[:3] == "250"
    (queued,) = running.queued()
    assert queued.octets.count(b"X-Gatepost-Scan") == int(looked_at)
    assert queued.octets.endswith(b" +0000\r\n" + before + HEAD + body)


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_a_header_too_long_to_be_looked_through_is_refused(receive: Receive, verb: str) -> None:
    running = await receive(gate=gate_of())
    client = await running.hello()
    mail = b"X-Filler: 1234567890\r\n" * 12_000 + TEXT
    await client.command("MAIL FROM:<a@b.test>")
    await client.command(f"RCPT TO:<{ALICE}>")
    if verb == "DATA":
        await client.command("DATA")
        client.send(mail + b".\r\n")
    else:
        client.send(f"BDAT {len(mail)} LAST\r\n".encode() + mail)
    assert (await client.reply())[:9] == "552 5.3.4"
    assert (await client.send_mail("a@b.test", ALICE, TEXT + b".\r\n"))[:3] == "250"
    assert running.count() == 1
    await client.close()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.exe", b"anything"),
        ("a.txt", PROGRAM),
        ("a.zip", zipped("b.zip", zipped("c.scr", b"x"))),
        ("long.bin", PROGRAM + bytes(700_000)),
    ],
    ids=["name", "content", "zip in zip", "long"],
)
async def test_what_the_policy_refuses_is_refused_with_its_reason_and_nothing_is_kept(receive: Receive, name: str, content: bytes) -> None:
    running = await receive(gate=gate_of())
    reply = await send(running, mixed(part(name, content)))
    assert reply.startswith("550 5.7.1 ")
    assert "blocked name" in reply or "program" in reply
    assert running.count() == 0
    assert running.server.stats["refused"] == 1
    assert (await send(running, TEXT))[:3] == "250"


async def test_an_ambiguous_message_cannot_hide_a_program(receive: Receive) -> None:
    running = await receive(gate=gate_of())
    hidden = mixed(part("a.txt", b"x")).replace(b'boundary="b"', b'boundary="b"; boundary="c"')
    hidden += b"--c\r\n" + part("hidden.exe", PROGRAM) + b"\r\n--c--\r\n"
    assert (await send(running, hidden)).startswith("550 5.7.1 ")


async def test_a_quarantined_message_keeps_its_octets_and_its_verdict_and_is_not_delivered(receive: Receive) -> None:
    rule = Rule(name="programs", action=Action.QUARANTINE, flags=("executable",))
    running = await receive(gate=gate_of(rule))
    mail = mixed(part("a.txt", PROGRAM))
    assert (await send(running, mail))[:3] == "250"
    assert states(running) == [(ALICE, "quarantine", True)]
    (queued,) = running.queued()
    assert without_ours(queued.octets) == mail
    assert b"; quarantine; policy=test; rule=programs\r\n" in queued.octets
    assert queued.meta.verdict is not None
    assert (queued.meta.verdict.action, queued.meta.verdict.rule) == (Action.QUARANTINE, "programs")


async def test_a_held_message_keeps_its_destination(receive: Receive) -> None:
    running = await receive(gate=gate_of(Rule(name="macros", action=Action.HOLD, names=("*.txt",))))
    assert (await send(running, mixed(part("a.txt", b"x"))))[:3] == "250"
    assert states(running) == [(ALICE, "local", True)]


async def test_a_tagged_message_has_its_subject_marked_and_a_copy_goes_to_postmaster(receive: Receive) -> None:
    rule = Rule(name="pictures", action=Action.TAG, names=("*.png",), subject="[picture]", copy_to=BOB)
    running = await receive(gate=gate_of(rule))
    mail = mixed(part("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50)))
    assert (await send(running, mail))[:3] == "250"
    assert sorted(states(running)) == [(ALICE, "local", False), (BOB, "local", False)]
    (queued,) = running.queued()
    assert without_ours(queued.octets) == mail.replace(b"Subject: report\r\n", b"Subject: [picture]\r\n report\r\n")


@pytest.mark.parametrize("size", [0, 900_000], ids=["short", "long"])
async def test_a_stripped_part_becomes_a_notice_and_all_other_octets_stay(receive: Receive, size: int) -> None:
    rule = Rule(name="eicar", action=Action.STRIP, sha256=(hashlib.sha256(EICAR).hexdigest(),), reason="a test virus")
    running = await receive(gate=gate_of(rule))
    noise = part("before.bin", b"\0noise" * (size // 6)), part("after.bin", b"\1noise" * (size // 6))
    bad = part("dir.zip", zipped("eicar.com", EICAR) + bytes(size and 600_000))
    mail = mixed(noise[0], bad, noise[1])
    assert (await send(running, mail))[:3] == "250"
    (queued,) = running.queued()
    before, after = (one for one in mail.split(bad))
    octets = without_ours(queued.octets)
    assert octets.startswith(before + b"Content-Type: text/plain")
    assert octets.endswith(after)
    notice = octets[len(before) : -len(after)].decode()
    assert "dir.zip" in notice
    assert "a test virus" in notice
    assert b"; strip; " in queued.octets
    message_id = running.spool.list_ids(None, 1)[0]
    assert running.spool.get(message_id)[1] == len(queued.octets)


async def test_of_a_message_that_is_one_part_the_content_goes_and_the_header_stays(receive: Receive) -> None:
    running = await receive(gate=gate_of(Rule(name="eicar", action=Action.STRIP, names=("*.com",), reason="no")))
    assert (await send(running, HEAD + part("eicar.com", EICAR) + b"\r\n"))[:3] == "250"
    (queued,) = running.queued()
    octets = without_ours(queued.octets)
    header, _, body = octets.partition(b"\r\n\r\n")
    assert header.startswith(HEAD.rstrip())
    assert header.lower().count(b"content-type") == 1
    assert b"base64" not in header
    assert b"eicar.com" in body
    assert base64.b64encode(EICAR)[:40] not in octets


async def test_what_cannot_be_stripped_for_certain_is_quarantined(receive: Receive) -> None:
    running = await receive(gate=gate_of(Rule(name="eicar", action=Action.STRIP, names=("*.com",))))
    mail = mixed(part("a.com", EICAR)).replace(b'boundary="b"', b'boundary="b"; boundary="c"')
    assert (await send(running, mail))[:3] == "250"
    assert states(running) == [(ALICE, "quarantine", True)]


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_of_two_recipients_one_can_be_refused_over_lmtp_and_the_other_not(receive: Receive, verb: str) -> None:
    strict = Policy(rules=(Rule(name="no text", action=Action.REJECT, names=("*.txt",), reason="not here"),))

    class Two(Policies):
        def name_for(self, recipient: str, direction: Any, *, trusted: bool) -> str:
            return "strict" if recipient == BOB else "none"

    running = await receive("lmtp", gate=lambda rule_set: Gate(lambda: Two(rule_set, {"strict": strict}), HOST))
    client = await running.hello(verb="LHLO")
    await client.command("MAIL FROM:<a@b.test>")
    await client.command(f"RCPT TO:<{BOB}>")
    await client.command(f"RCPT TO:<{ALICE}>")
    mail = mixed(part("a.txt", b"x"))
    if verb == "DATA":
        await client.command("DATA")
        client.send(mail + b".\r\n")
    else:
        client.send(b"BDAT 100\r\n" + mail[:100])
        assert (await client.reply())[:3] == "250"
        client.send(f"BDAT {len(mail) - 100} LAST\r\n".encode() + mail[100:])
    assert [(await client.reply())[:9] for _ in range(2)] == ["550 5.7.1", "250 2.0.0"]
    assert states(running) == [(ALICE, "local", False)]
    await client.close()


async def test_over_lmtp_every_recipient_hears_of_a_refusal(receive: Receive) -> None:
    running = await receive("lmtp", gate=gate_of())
    client = await running.hello(verb="LHLO")
    await client.command("MAIL FROM:<a@b.test>")
    for one in (ALICE, BOB):
        await client.command(f"RCPT TO:<{one}>")
    await client.command("DATA")
    client.send(mixed(part("a.exe", b"x")) + b".\r\nNOOP\r\n")
    assert [(await client.reply())[:9] for _ in range(3)] == ["550 5.7.1", "550 5.7.1", "250 2.0.0"]
    await client.close()


async def test_bdat_passes_the_gate_too(receive: Receive) -> None:
    running = await receive(gate=gate_of())
    client = await running.hello()
    mail = mixed(part("a.exe", b"x"))
    for wanted, octets in (("550", mail), ("250", TEXT)):
        await client.command("MAIL FROM:<a@b.test>")
        await client.command(f"RCPT TO:<{ALICE}>")
        client.send(f"BDAT {len(octets)} LAST\r\n".encode() + octets)
        assert (await client.reply())[:3] == wanted
    assert running.count() == 1
    await client.close()


@pytest.mark.parametrize("how", ["submission", "submissions", "starttls"])
async def test_submission_and_tls_sessions_pass_the_gate(receive: Receive, how: str) -> None:
    running = await receive("smtp" if how == "starttls" else how, gate=gate_of())
    client = await running.hello(tls=how == "submissions")
    if how != "submissions":
        assert (await client.command("STARTTLS"))[:3] == "220"
        await client.start_tls()
        await client.command("EHLO client.test")
    if how != "starttls":
        assert (await client.command(f"AUTH PLAIN {plain_login(ALICE, PASSWORD)}"))[:3] == "235"
    forged = b"X-Gatepost-Scan: mx.example.test; accept\r\n"
    assert (await client.send_mail(ALICE, BOB, mixed(part("a.exe", b"x")) + b".\r\n"))[:9] == "550 5.7.1"
    assert (await client.send_mail(ALICE, BOB, forged + mixed(part("a.pdf", b"%PDF-1.4 x")) + b".\r\n"))[:3] == "250"
    assert (await client.send_mail(ALICE, BOB, forged + TEXT + b".\r\n"))[:3] == "250"
    await client.close()
    queued = running.queued()
    assert len(queued) == 2
    for one in queued:
        assert one.octets.startswith(b"X-Gatepost-Scan: mx.example.test; accept")
        assert one.octets.count(b"X-Gatepost-Scan") == 1


async def test_submitted_mail_passes_the_gate_and_our_own_reports_do_not(receive: Receive) -> None:
    running = await receive(gate=gate_of())
    context = running.server.context
    submitter = Submitter(running.spool, context.rule_set, context.settings, context.gate)
    mail = mixed(part("a.exe", b"x"))
    with pytest.raises(SubmissionRefused) as refused:
        await submitter.submit(Envelope("a@b.test", (Recipient(ALICE),), Origin("GRPC")), mail, trusted=True)
    assert refused.value.refused[0][1].code == 550
    await submitter.submit(Envelope("", (Recipient(ALICE),), Origin("INTERNAL")), mail, trusted=True)
    await submitter.submit(Envelope("a@b.test", (Recipient(ALICE),), Origin("GRPC")), TEXT, trusted=True)
    report, text = running.queued()
    assert not report.octets.startswith(b"X-Gatepost-Scan")
    assert text.octets.startswith(b"X-Gatepost-Scan: mx.example.test; accept\r\n")


class Asked:
    """A scanner that finds EICAR, and keeps what it was shown."""

    names = ("av",)

    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}

    def wants(self, names: Iterable[str], *, attachments: bool) -> tuple[str, ...]:
        return tuple(names) if attachments else ()

    async def ask(self, blob: MessageBlob, facts: MailFacts, names: Sequence[str]) -> tuple[Answer, ...]:
        for one in (blob, *blob.parts):
            octets = b"".join([piece async for piece in one.chunks()])
            assert (len(octets), hashlib.sha256(octets).hexdigest()) == (one.size, one.sha256)
            self.seen[one.name] = octets
        found = any(EICAR in octets for octets in self.seen.values())
        return (Answer("av", "infected", "Eicar") if found else Answer("av", "clean"),)


async def test_scanners_are_shown_the_message_and_its_parts_and_their_word_counts(receive: Receive) -> None:
    asked = Asked()
    policy = Policy(rules=(Rule(name="virus", action=Action.REJECT, outcomes=("infected",)),))
    running = await receive(gate=lambda rule_set: Gate(lambda: Policies(rule_set, {"test": policy}, Defaults("test")), HOST, pool=asked))
    clean = mixed(part("a.bin", bytes(700_000)))
    assert (await send(running, clean))[:3] == "250"
    assert asked.seen == {"": clean, "a.bin": bytes(700_000)}
    (queued,) = running.queued()
    assert b"accept; policy=test; av=clean\r\n" in queued.octets
    assert (await send(running, TEXT))[:3] == "250"
    assert (await send(running, mixed(part("eicar.com", EICAR))))[:9] == "550 5.7.1"
    assert running.count() == 2


# ---- while a message is inspected ------------------------------------------------------------------------------------


class Slow:
    """An inspection that lasts until it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, content: MailContent, limits: Limits) -> Report:
        self.begun.set()
        assert self.go_on.wait(10)
        return inspect_content(content, limits)


async def begin(running: Receiver, slow: Slow, behind: bytes = b"") -> Client:
    """A client whose message is being inspected."""
    client = await running.hello()
    await client.command("MAIL FROM:<a@b.test>")
    await client.command(f"RCPT TO:<{ALICE}>")
    await client.command("DATA")
    client.send(mixed(part("a.txt", b"x")) + b".\r\n" + behind)
    assert await asyncio.to_thread(slow.begun.wait, 10)
    return client


async def test_others_are_served_while_a_message_is_inspected(receive: Receive) -> None:
    slow = Slow()
    running = await receive(gate=gate_of(look=slow))
    client = await begin(running, slow)
    for _ in range(3):
        assert (await send(running, TEXT))[:3] == "250"
    slow.go_on.set()
    assert (await client.reply())[:3] == "250"
    assert running.count() == 4
    await client.close()


async def test_commands_behind_the_message_wait_for_its_reply(receive: Receive) -> None:
    slow = Slow()
    running = await receive(gate=gate_of(look=slow))
    client = await begin(running, slow, b"NOOP\r\nQUIT\r\n")
    client.writer.write_eof()
    asyncio.get_running_loop().call_later(0.2, slow.go_on.set)
    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "221"]
    assert running.count() == 1
    await client.close()


async def test_a_client_that_resets_the_connection_has_handed_over_nothing(receive: Receive) -> None:
    slow = Slow()
    running = await receive(gate=gate_of(look=slow))
    client = await begin(running, slow)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()
    for _ in range(100):
        if running.server.stats["sessions"] == 0:
            break
        await asyncio.sleep(0.02)
    assert running.server.stats["sessions"] == 0
    slow.go_on.set()
    assert (await send(running, mixed(part("a.txt", b"x"))))[:3] == "250"
    assert running.count() == 1


async def test_a_server_that_stops_answers_the_message_it_inspects_first(receive: Receive) -> None:
    slow = Slow()
    running = await receive(gate=gate_of(look=slow))
    client = await begin(running, slow)
    stopping = asyncio.ensure_future(running.server.stop(5.0))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    slow.go_on.set()
    assert (await client.reply())[:3] == "250"
    assert (await client.reply())[:3] == "421"
    await client.close()
    await stopping
    assert running.count() == 1


async def test_a_server_that_cannot_wait_drops_what_was_not_answered(receive: Receive) -> None:
    slow = Slow()
    running = await receive(gate=gate_of(look=slow))
    client = await begin(running, slow)
    await running.server.stop(0.1)
    assert await client.rest() == b""
    slow.go_on.set()
    await asyncio.sleep(0.1)
    assert running.count() == 0


def failing(content: MailContent, limits: Limits) -> Report:
    raise MemoryError("a fault of ours")


class Panic(BaseException):
    """As the native side raises it."""


def panicking(content: MailContent, limits: Limits) -> Report:
    raise Panic


def panicked(content: MailContent, limits: Limits) -> Report:
    """What the inspection reports of a panic of its own."""
    report = inspect_content(content, limits)
    first, *rest = report.entries
    return replace(report, entries=(replace(first, defects=("panicked",)), *rest))


@pytest.mark.parametrize("look", [failing, panicking, panicked])
async def test_a_fault_of_ours_is_a_451_and_the_session_goes_on(receive: Receive, look: Callable[[MailContent, Limits], Report]) -> None:
    running = await receive(gate=gate_of(look=look))
    client = await running.hello()
    assert (await client.send_mail("a@b.test", ALICE, mixed(part("a.txt", b"x")) + b".\r\n"))[:9] == "451 4.7.1"
    assert (await client.send_mail("a@b.test", ALICE, TEXT + b".\r\n"))[:3] == "250"
    assert running.count() == 1
    await client.close()


async def test_a_panic_in_native_code_is_a_451_and_the_server_goes_on(receive: Receive) -> None:
    panic_on(b"the octets at which this test asks for a panic")
    running = await receive(gate=gate_of())
    client = await running.hello()
    deep = zipped("a.txt", b"the octets at which this test asks for a panic")
    assert (await client.send_mail("a@b.test", ALICE, mixed(part("a.zip", deep)) + b".\r\n"))[:9] == "451 4.7.1"
    assert (await client.send_mail("a@b.test", ALICE, mixed(part("a.zip", zipped("a.txt", b"harmless"))) + b".\r\n"))[:3] == "250"
    assert running.count() == 1
    await client.close()


async def test_an_inspection_out_of_time_is_the_policys_affair(receive: Receive) -> None:
    rule = Rule(name="slow", action=Action.HOLD, verdicts=("timeout",))

    def hasty(content: MailContent, limits: Limits) -> Report:
        return inspect_content(content, Limits(milliseconds=0))

    running = await receive(gate=gate_of(rule, look=hasty))
    assert (await send(running, mixed(part("a.txt", b"x"))))[:3] == "250"
    assert states(running) == [(ALICE, "local", True)]


async def test_messages_beyond_the_room_wait_for_their_turn(receive: Receive) -> None:
    slow = Slow()

    def small(rule_set: RuleSet) -> Gate:
        return Gate(lambda: Policies(rule_set), HOST, look=slow, room=1_000)

    running = await receive(gate=small)
    client = await begin(running, slow)
    others = [asyncio.ensure_future(send(running, mixed(part("a.bin", bytes(900))))) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert not any(one.done() for one in others)
    slow.go_on.set()
    assert (await client.reply())[:3] == "250"
    assert [reply[:3] for reply in await asyncio.gather(*others)] == ["250"] * 3
    await client.close()
