"""Policies through a whole server: stored by the SDK or the command line, and the very next mail gets the outcome.

Tables: every condition once with mail that fits and mail that does not; every action; every place a policy can be bound to. One server with
two workers, and behind it a clamd and an rspamd that say what the mail tells them to.
"""

import hashlib
import io
import json
import smtplib
import socketserver
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage, Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gatepost.client import GatepostClient
from support.archives import PROGRAM, seven_zip
from support.gatepost import ALICE, BOB, PASSWORD, Gatepost, start_gatepost
from support.processes import wait_until
from support.programs import imap, unverified

CAROL, DAVE, POSTMASTER = "carol@plain.test", "dave@plain.test", "postmaster@example.test"
OUTSIDE = "a@elsewhere.test"
VIRUS, SPAM = b"words of a test virus", b"words of test spam"


class Clamd(socketserver.StreamRequestHandler):
    """Finds Test.Virus in what holds VIRUS."""

    def handle(self) -> None:
        command = b""
        while not command.endswith(b"\0"):
            command += self.rfile.read(1) or b"\0"
        if command == b"zVERSION\0":
            self.wfile.write(b"ClamAV 1.0.0/1/today\0")
        elif command == b"zINSTREAM\0":
            content = b""
            while length := int.from_bytes(self.rfile.read(4), "big"):
                content += self.rfile.read(length)
            self.wfile.write(b"stream: Test.Virus FOUND\0" if VIRUS in content else b"stream: OK\0")


class Rspamd(BaseHTTPRequestHandler):
    """A score of 7 for what holds SPAM."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"pong\r\n")

    def do_POST(self) -> None:
        spam = SPAM in self.rfile.read(int(self.headers["Content-Length"]))
        said = {"action": "add header" if spam else "no action", "score": 7.0 if spam else 0.1, "symbols": {"TEST": {"score": 7.0}}}
        self._answer(json.dumps(said).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def scanners() -> Iterator[list[dict[str, str]]]:
    servers = [socketserver.ThreadingTCPServer(("127.0.0.1", 0), Clamd), ThreadingHTTPServer(("127.0.0.1", 0), Rspamd)]
    for one in servers:
        one.daemon_threads = True
        threading.Thread(target=one.serve_forever, daemon=True).start()
    clamd, rspamd = (one.server_address[1] for one in servers)
    yield [
        {"name": "av", "kind": "clamd", "address": f"tcp:127.0.0.1:{clamd}", "scan": "parts"},
        {"name": "spam", "kind": "rspamd", "address": f"http://127.0.0.1:{rspamd}"},
    ]
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scanners: list[dict[str, str]]) -> Iterator[Gatepost]:
    """example.test has the policy `row`; plain.test names none, so that settings decide about it."""
    scan = {"scanners": json.dumps(scanners), "inbound": "by-inbound", "internal": "by-internal", "trusted": "by-trusted"}
    users = (ALICE, BOB, POSTMASTER, CAROL, DAVE)
    with start_gatepost(tmp_path_factory.mktemp("gatepost"), users=users, workers=2, scan=scan) as made:
        made.cli("policy", "apply", "row", "-", text='[[rules]]\nname = "none"\naction = "tag"\nnames = ["nothing"]\n')
        made.cli("rule", "set", "example.test", "--policy", "row")
        yield made


@pytest.fixture
async def client(server: Gatepost) -> AsyncIterator[GatepostClient]:
    async with GatepostClient(server.data) as made:
        yield made


def mail(subject: str, *files: tuple[str, bytes], text: bytes = b"hello", kind: str = "application/octet-stream") -> EmailMessage:
    made = EmailMessage()
    made["From"], made["Subject"] = OUTSIDE, subject
    made.set_content(text.decode())
    for name, content in files:
        made.add_attachment(content, maintype=kind.split("/")[0], subtype=kind.split("/")[1], filename=name)
    return made


def send(server: Gatepost, made: EmailMessage | bytes, to: str = ALICE, *, login: str = "") -> str:
    """The reply to the end of data; with `login` over submission, from there."""
    octets = made if isinstance(made, bytes) else made.as_bytes().replace(b"\n", b"\r\n")
    with smtplib.SMTP("127.0.0.1", server.port("submission" if login else "smtp"), timeout=20) as smtp:
        if login:
            smtp.starttls(context=unverified())
            smtp.login(login, PASSWORD)
        smtp.ehlo_or_helo_if_needed()
        smtp.mail(login or OUTSIDE)
        assert smtp.rcpt(to)[0] == 250
        code, said = smtp.data(octets)
        return f"{code} {said.decode()}"


def inbox(server: Gatepost, user: str, subject: str) -> Message:
    """The message with these words in its subject, once it is there."""
    found: list[bytes] = []

    def look() -> bool:
        with imap(server.port("imaps"), user, PASSWORD) as box:
            numbers = box.search(None, "SUBJECT", f'"{subject}"')[1][0].split()
            found.extend(box.fetch(number.decode(), "(BODY.PEEK[])")[1][0][1] for number in numbers)
        return bool(found)

    wait_until(look, 20, f"{subject!r} is in {user}'s mailbox", interval=0.1)
    return message_from_bytes(found[0])


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return out.getvalue()


SCRIPTED = b"%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
BOMB = zipped(zeros=bytes(40 << 20))
AMBIGUOUS = b"From: a@b.test\r\nSubject: two\r\nContent-Type: text/plain\r\nContent-Type: text/html\r\n\r\n<b>hello</b>\r\n"
DAMAGED = zipped(a_txt=b"some text that is long enough to be cut" * 20)[:60]
KNOWN = b"a file that is known by its digest"
PLAIN = mail("plain", ("notes.txt", b"harmless"))
Mail = EmailMessage | bytes

CONDITIONS: dict[str, tuple[str, Mail, Mail]] = {
    "names": ('names = ["invoice*.doc?"]', mail("n", ("Invoice-7.DOCX", b"x")), mail("n", ("voice.docx", b"x"))),
    "extensions": ('extensions = ["foo"]', mail("e", ("a.tar.FOO. ", b"x")), mail("e", ("a.foo.tar", b"x"))),
    "declared": ('declared = ["application/x-odd*"]', mail("d", ("a", b"x"), kind="application/x-oddly"), PLAIN),
    "types": ('types = ["pe", "image/*"]', mail("t", ("letter.txt", PROGRAM)), PLAIN),
    "families": ('families = ["executable"]', mail("f", ("letter.txt", PROGRAM)), mail("f", ("a.zip", zipped(a_txt=b"x")))),
    "flags": (
        'flags = ["encrypted"]',
        mail("g", ("a.7z", seven_zip({"a": b"x"}, method="aes"))),
        mail("g", ("a.7z", seven_zip({"a": b"x"}))),
    ),
    "flags: ambiguous": ('flags = ["ambiguous"]', AMBIGUOUS, PLAIN),
    "defects": ('defects = ["truncated", "damaged"]', mail("x", ("a.zip", DAMAGED)), mail("x", ("a.zip", zipped(a_txt=b"x")))),
    "signs": ('signs = ["pdf:*"]', mail("s", ("a.pdf", SCRIPTED)), mail("s", ("a.pdf", b"%PDF-1.4 nothing"))),
    "sha256": (f'sha256 = ["{hashlib.sha256(KNOWN).hexdigest()}"]', mail("h", ("a.bin", KNOWN)), mail("h", ("a.bin", KNOWN + b"."))),
    "min_bytes": ("min_bytes = 5000", mail("b", ("a.bin", bytes(5000))), mail("b", ("a.bin", bytes(2000)))),
    "min_depth": ("min_depth = 2", mail("p", ("a.zip", zipped(b_txt=b"x"))), mail("p", ("a.txt", b"x"))),
    "min_entries": ("min_entries = 10", mail("m", *((f"{n}.txt", b"x") for n in range(10))), mail("m", ("1.txt", b"x"))),
    "verdicts": ('verdicts = ["bomb"]', mail("v", ("a.zip", BOMB)), mail("v", ("a.zip", zipped(a_txt=b"x")))),
    "outcomes": ('outcomes = ["infected"]', mail("o", ("a.bin", VIRUS)), mail("o", ("a.bin", b"fine"))),
    "scanners": ('scanners = ["av"]\noutcomes = ["infected", "suspicious"]', mail("c", ("a.bin", VIRUS)), mail("c", text=SPAM)),
    "signatures": ('signatures = ["Test.*"]', mail("i", ("a.bin", VIRUS)), mail("i", ("a.bin", b"fine"))),
    "min_score": ("min_score = 5.0", mail("k", text=SPAM), mail("k", text=b"no spam")),
    "when: entry": (
        "when = 'entry.name.endsWith(\".odd\") && entry.size > 3'",
        mail("w", ("a.odd", b"1234")),
        mail("w", ("a.odd", b"123")),
    ),
    "when: mail": ('when = \'mail.header("subject").exists(s, s.contains("sale"))\'', mail("the sale"), mail("the boat")),
    "when: report": ("when = 'report.entries > 4'", mail("r", *((f"{n}.txt", b"x") for n in range(4))), mail("r", ("1.txt", b"x"))),
    "when: answers": ("when = 'answers.exists(a, a.action == \"add header\")'", mail("a", text=SPAM), mail("a", text=b"no spam")),
}


@pytest.mark.parametrize("name", CONDITIONS)
async def test_a_condition_holds_for_the_next_mail_that_fits_and_for_no_other(server: Gatepost, client: GatepostClient, name: str) -> None:
    condition, fits, other = CONDITIONS[name]
    await client.policies.apply("row", f'[[rules]]\nname = "the row"\naction = "reject"\nreason = "because of {name}"\n{condition}\n')
    assert send(server, fits) == f"550 5.7.1 because of {name}"
    assert send(server, other)[:3] == "250"


async def test_a_list_of_digests_holds_and_a_change_of_the_file_does(server: Gatepost, client: GatepostClient, tmp_path: Path) -> None:
    digests = tmp_path / "digests"
    digests.write_text(f"{hashlib.sha256(KNOWN).hexdigest()}  known\n")
    await client.policies.apply("row", f'[[rules]]\nname = "listed"\naction = "reject"\nsha256_files = ["{digests}"]\n')
    known, another = mail("1", ("a.bin", KNOWN)), mail("2", ("a.bin", b"another"))
    assert (send(server, known)[:3], send(server, another)[:3]) == ("550", "250")
    digests.write_text(f"{hashlib.sha256(b'another').hexdigest()}  another\n")
    wait_until(lambda: send(server, another)[:3] == "550", 10, "the change holds", interval=0.2)
    wait_until(lambda: send(server, known)[:3] == "250", 10, "in both workers", interval=0.2)


def test_every_condition_of_a_rule_is_in_the_table() -> None:
    from gatepost.scan.policy import Rule

    conditions = set(Rule.model_fields) - {"name", "action", "reason", "subject", "copy_to"}
    assert {name.partition(":")[0] for name in CONDITIONS} == conditions - {"sha256_files"}


# ---- actions -------------------------------------------------------------------------------------------------------------


def field_of(found: Message) -> str:
    return " ".join(found["X-Gatepost-Scan"].split())


def accepted(server: Gatepost, subject: str) -> None:
    assert "; accept; policy=row; rule=first" in field_of(inbox(server, ALICE, subject))


def tagged(server: Gatepost, subject: str) -> None:
    found = inbox(server, ALICE, subject)
    assert (" ".join(found["Subject"].split()), "; tag; policy=row; rule=first" in field_of(found)) == (f"[marked] {subject}", True)


def copied(server: Gatepost, subject: str) -> None:
    assert inbox(server, ALICE, subject) is not None
    assert "; copy; policy=row" in field_of(inbox(server, POSTMASTER, subject))


def stripped(server: Gatepost, subject: str) -> None:
    found = inbox(server, ALICE, subject)
    parts = [part.get_payload(decode=True) for part in found.walk() if not part.is_multipart()]
    assert (parts[0].strip(), parts[2]) == (b"hello", b"kept")
    assert b"file.odd" in parts[1] and b"An attachment was removed" in parts[1]
    (trace,) = server.json("trace", "--subject", subject)
    story = server.cli("trace", trace["message_id"])
    assert f"strip, policy row, rule first, av clean, spam clean, removed file.odd (sha256 {hashlib.sha256(KNOWN).hexdigest()})" in story


def quarantined(server: Gatepost, subject: str) -> None:
    (found,) = [one for one in server.json("quarantine", "list") if one["subject"] == subject]
    assert (found["state"], found["verdict"]["rule"]) == ("quarantined", "first")
    server.cli("quarantine", "delete", found["message"]["message_id"], "--yes")


def held(server: Gatepost, subject: str) -> None:
    (found,) = [one for one in server.queue("--held") if one["sender"] == OUTSIDE]
    assert found["recipients"][0]["destination"].startswith("local:")
    server.cli("queue", "release", found["message_id"])
    assert "; hold; policy=row" in field_of(inbox(server, ALICE, subject))


def refused(server: Gatepost, subject: str) -> None:
    assert server.json("trace", "--subject", subject) == []


ACTIONS: dict[str, tuple[str, Callable[[Gatepost, str], None]]] = {
    "accept": ("", accepted),
    "tag": ('subject = "[marked]"', tagged),
    "copy": (f'copy_to = "{POSTMASTER}"', copied),
    "strip": ("", stripped),
    "quarantine": ("", quarantined),
    "hold": ("", held),
    "reject": ("", refused),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_stored_by_the_command_line_is_carried_out_on_the_next_mail(server: Gatepost, tmp_path: Path, action: str) -> None:
    more, check = ACTIONS[action]
    text = f'[[rules]]\nname = "first"\naction = "{action}"\nextensions = ["odd"]\n{more}\n'
    text += '[[rules]]\nname = "second"\naction = "reject"\nextensions = ["odd"]\n'
    (tmp_path / "row.toml").write_text(text)
    server.cli("policy", "apply", "row", str(tmp_path / "row.toml"))
    reply = send(server, mail(f"action {action}", ("file.odd", KNOWN), ("file.txt", b"kept")))
    assert reply[:9] == ("550 5.7.1" if action == "reject" else "250 2.0.0"), reply
    check(server, f"action {action}")


# ---- bindings ------------------------------------------------------------------------------------------------------------


async def test_each_place_a_policy_is_bound_to_decides_for_its_mail(server: Gatepost, client: GatepostClient) -> None:
    def text(place: str) -> str:
        return f'[[rules]]\nname = "odd"\naction = "reject"\nreason = "by {place}"\nextensions = ["odd"]\n'

    for name in ("row", "by-handler", "by-inbound", "by-internal", "by-trusted"):
        await client.policies.apply(name, text(name))
    server.cli("handler", "add", "example.test", "bob", "--kind", "mailbox", "--policy", "by-handler")
    server.cli("handler", "add", "example.test", "postmaster", "--kind", "mailbox", "--policy", "none")
    odd = mail("bound", ("a.odd", b"x"))
    rows = {
        "rule": (ALICE, "", "by row"),
        "rule, whoever sends": (ALICE, DAVE, "by row"),
        "handler": (BOB, "", "by by-handler"),
        "handler with none": (POSTMASTER, "", "250 2.0.0"),
        "inbound": (CAROL, "", "by by-inbound"),
        "internal": (CAROL, ALICE, "by by-internal"),
        "outbound, so trusted": ("x@far.invalid", ALICE, "by by-trusted"),
    }
    replies = {name: send(server, odd, to, login=login) for name, (to, login, _) in rows.items()}
    for name, (_, _, said) in rows.items():
        assert said in replies[name], (name, replies)
    assert "by-handler" in server.cli("explain", BOB)
    server.cli("handler", "remove", "example.test", "bob")
    assert "by row" in send(server, odd, BOB)
    await client.policies.delete("by-inbound")
    assert send(server, odd, CAROL)[:3] == "250", "a setting that names nothing means shipped"
