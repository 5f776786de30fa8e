"""The shipped scanners against the programs themselves: clamd, c-icap and rspamd from Debian, each killed and stopped under load."""

import asyncio
import json
import os
import poplib
import signal
import smtplib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gatepost.client import GatepostClient, QuarantineFilter
from gatepost.config.scan import ScannerSettings
from gatepost.scan.facts import MailFacts
from gatepost.scan.scanners.blob import MemoryBlob
from gatepost.scan.scanners.breaker import State
from gatepost.scan.scanners.plugin import ScanAnswer
from gatepost.scan.scanners.pool import ScannerPool
from support.certificates import Authority
from support.gatepost import ALICE, PASSWORD, Gatepost
from support.processes import need, need_root, run, wait_until
from support.programs import message, send, unverified
from support.scan_daemons import UNWANTED, Daemon, c_icap, clamd, rspamd
from support.scanners import EICAR, FACTS, mail, pool_of, table, until
from support.sdk import call, queue, status

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def clam() -> Iterator[Daemon]:
    need("clamd")
    daemon = clamd()
    try:
        yield daemon.start()
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def icap(clam: Daemon, authority: Authority) -> Iterator[Daemon]:
    need("c-icap")
    need_root()
    daemon = c_icap(f"{clam.root}/clamd.sock", authority)
    try:
        yield daemon.start()
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def spam() -> Iterator[Daemon]:
    need("rspamd")
    need_root()
    daemon = rspamd()
    try:
        yield daemon.start()
    finally:
        daemon.stop()


async def _said(settings: ScannerSettings, *blobs: MemoryBlob, facts: MailFacts = FACTS) -> list[ScanAnswer]:
    async with pool_of(settings) as pool:
        await until(lambda: pool.states()[0].signatures, 10)
        return [(await pool.ask(blob, facts, pool.names))[0] for blob in blobs]


@pytest.mark.parametrize("way", ["unix:{root}/clamd.sock", "tcp:127.0.0.1:{port}"])
async def test_clamd_finds_what_its_signatures_know(clam: Daemon, way: str) -> None:
    blobs = mail(), mail(EICAR, name="x.com"), mail(UNWANTED), mail(b"y" * 3_000_000, name="y.bin"), mail(b"z" * 6_000_000)
    said = await _said(table("clamd", way.format(root=clam.root, port=clam.port)), *blobs)
    assert [answer.outcome for answer in said] == ["clean", "infected", "suspicious", "clean", "error"]
    assert said[0].signatures.startswith("ClamAV ")
    assert said[1].name == "Eicar-Test-Signature.UNOFFICIAL"
    assert (said[4].outage, said[4].name) == (False, "larger than clamd's StreamMaxLength")


@pytest.mark.parametrize("method", ["respmod", "reqmod"])
@pytest.mark.parametrize("preview", [True, False])
async def test_c_icap_scans_with_every_method_with_and_without_preview(icap: Daemon, method: str, preview: bool) -> None:
    settings = table("icap", f"icap://127.0.0.1:{icap.port}/virus_scan", options={"method": method, "preview": preview})
    blobs = mail(), mail(EICAR, name="x.com"), mail(b"y" * 1024, name="y.bin"), mail(b"\0" * 3_000_000, name="z.bin")
    said = await _said(settings, *blobs)
    assert [answer.outcome for answer in said] == ["clean", "infected", "clean", "clean"]
    assert (said[1].name, said[1].part) == ("Eicar-Test-Signature.UNOFFICIAL", "x.com")
    assert said[0].signatures


async def test_c_icap_is_asked_over_tls_and_only_if_its_certificate_is_good(icap: Daemon, authority: Authority) -> None:
    address = f"icaps://localhost:{icap.tls_port}/virus_scan"
    blobs = mail(b"fine", name="a.txt"), mail(EICAR, name="x.com"), mail(b"y" * 3_000_000, name="y.bin")
    said = await _said(table("icap", address, ca_file=str(authority.ca_file)), *blobs)
    assert [answer.outcome for answer in said] == ["clean", "infected", "clean"]
    async with pool_of(table("icap", address)) as pool:
        await until(lambda: pool.states()[0].state is State.OPEN, 10)
        assert "certificate verify failed" in pool.states()[0].fault


async def test_c_icap_echo_gives_everything_back_unchanged(icap: Daemon) -> None:
    settings = table("icap", f"icap://127.0.0.1:{icap.port}/echo", scan="message", options={"preview": False})
    said = await _said(settings, mail(), mail(EICAR), mail(bytes(range(256)) * 8_000))
    assert [answer.outcome for answer in said] == ["clean", "clean", "clean"]


async def test_a_service_that_c_icap_does_not_have_is_out_of_service(icap: Daemon) -> None:
    async with pool_of(table("icap", f"icap://127.0.0.1:{icap.port}/nothing")) as pool:
        await until(lambda: pool.states()[0].state is State.OPEN)
        assert "404" in pool.states()[0].fault


async def test_rspamd_gives_score_action_symbols_and_fields(spam: Daemon) -> None:
    facts = MailFacts("a@example.org", ("b@example.test",), client_address="192.0.2.7", helo="there.example")
    said = await _said(table("rspamd", f"http://127.0.0.1:{spam.port}"), mail(), mail(GTUBE + b"\r\n"), mail(UNWANTED), facts=facts)
    assert [(answer.outcome, answer.action) for answer in said] == [
        ("clean", "no action"),
        ("suspicious", "reject"),
        ("suspicious", "add header"),
    ]
    assert said[1].name == "GTUBE"
    assert said[1].score >= 15
    assert (said[2].name, said[2].score) == ("UNWANTED", 7.0)
    assert dict(said[2].fields)["X-Spam-Status"] == "Yes, helo=there.example"
    assert sorted(value for name, value in said[2].fields if name == "X-Twice") == ["one", "two"]


def test_score_action_symbols_and_fields_of_rspamd_reach_the_mailbox_and_the_history(spam: Daemon, tmp_path: Path) -> None:
    scanners = json.dumps([{"name": "rspamd", "kind": "rspamd", "address": f"http://127.0.0.1:{spam.port}"}])
    with Gatepost(tmp_path, environment={**os.environ, "GATEPOST_SCAN__SCANNERS": scanners}) as server:
        mail = message("spam", body=UNWANTED.decode())
        for name, value in (("X-Spam-Status", "No, forged"), ("X-Old", "first"), ("X-Old", "second"), ("X-Kept", "as it came")):
            mail.add_header(name, value)
        send(server.port("smtp"), mail)
        wait_until(lambda: not server.json("queue", "list"), 20, "it is delivered", interval=0.2)
        (trace,) = server.json("trace")
        story = "\n".join(event["text"] for event in server.json("trace", trace["message_id"])["events"])
        octets = delivered(server)
    head = octets.partition(b"\r\n\r\n")[0].replace(b"\r\n\t", b" ")
    assert b"tag; policy=shipped; rule=suspicious" in head
    assert b"rspamd=suspicious (UNWANTED, add header, 7)" in head
    found = [line for line in head.split(b"\r\n") if line.lower().startswith((b"x-spam", b"x-twice", b"x-old", b"x-kept"))]
    assert sorted(line[:24] for line in found[:3]) == [b"X-Spam-Status: Yes, helo", b"X-Twice: one", b"X-Twice: two"]
    assert found[3:] == [b"X-Old: second", b"X-Kept: as it came"]
    assert "scanned: tag, policy shipped, rule suspicious, rspamd suspicious UNWANTED (add header, 7)" in story


async def test_rspamd_says_where_a_field_goes_and_what_the_subject_is_to_be(spam: Daemon) -> None:
    (said,) = await _said(table("rspamd", f"http://127.0.0.1:{spam.port}"), mail(b"renamed-by-gatepost\r\n", subject="hello"))
    assert (said.action, said.subject) == ("rewrite subject", "*** hello")
    assert sorted(said.placed) == [("X-End", "yes", -1), ("X-Second", "yes", 1)]


class Load:
    """Eight senders who ask about one new message after the other, until the end."""

    def __init__(self, pool: ScannerPool) -> None:
        self._pool = pool
        self.answers: list[ScanAnswer] = []
        self.longest = 0.0
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(8)]

    async def _send(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        count = 0
        while True:
            begun = loop.time()
            count += 1
            self.answers += await self._pool.ask(mail(b"%d %d" % (number, count)), FACTS, self._pool.names)
            self.longest = max(self.longest, loop.time() - begun)
            await asyncio.sleep(0.002)

    def since(self, mark: int) -> set[str]:
        return {answer.outcome for answer in self.answers[mark:]}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)


def _clam(daemon: Daemon) -> ScannerSettings:
    return table("clamd", f"unix:{daemon.root}/clamd.sock", timeout_seconds=1, failures=3)


def _icap(daemon: Daemon) -> ScannerSettings:
    return table("icap", f"icap://127.0.0.1:{daemon.port}/virus_scan", timeout_seconds=1, failures=3)


def _spam(daemon: Daemon) -> ScannerSettings:
    return table("rspamd", f"http://127.0.0.1:{daemon.port}", timeout_seconds=1, failures=3)


@pytest.mark.parametrize(("name", "settings"), [("clam", _clam), ("icap", _icap), ("spam", _spam)])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
async def test_a_daemon_that_goes_under_load_is_noticed_left_alone_and_taken_back(
    request: pytest.FixtureRequest, name: str, settings: Callable[[Daemon], ScannerSettings], how: signal.Signals
) -> None:
    daemon: Daemon = request.getfixturevalue(name)
    back: list[str] = []
    async with pool_of(settings(daemon), deadline=2) as pool:
        pool.on_back(back.append)
        load = Load(pool)
        await until(lambda: len(load.answers) > 50, 20)
        before = load.since(0)
        try:
            daemon.signal(how)
            await until(lambda: pool.states()[0].state is State.OPEN, 10)
            gone = len(load.answers)
            await until(lambda: len(load.answers) > gone + 50, 5)
            during = load.since(gone)
        finally:
            if how is signal.SIGKILL:
                await asyncio.to_thread(daemon.restart)
            else:
                daemon.signal(signal.SIGCONT)
        await until(lambda: back, 15)
        await until(lambda: pool.states()[0].state is State.CLOSED, 15)
        mark = len(load.answers)
        await until(lambda: len(load.answers) > mark + 20, 10)
        after = load.since(mark)
        await load.stop()
    assert (before, during, after) == ({"clean"}, {"error"}, {"clean"})
    assert load.longest < 2.5, "nobody waits beyond the deadline"


def test_the_command_tries_every_scanner(clam: Daemon, spam: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    text = f'[[scan.scanners]]\nname = "clam"\nkind = "clamd"\naddress = "unix:{clam.root}/clamd.sock"\n'
    text += f'[[scan.scanners]]\nname = "spam"\nkind = "rspamd"\naddress = "http://127.0.0.1:{spam.port}"\n'
    config.write_text(text)
    done = run([sys.executable, "-m", "gatepost", "scanners", "--config", str(config)])
    good = [line.split()[:3] for line in done.stdout.splitlines() if line.startswith("ok")]
    assert good == [["ok", "clam", "clamd"], ["ok", "spam", "rspamd"]]
    assert "eicar: infected — Eicar-Test-Signature.UNOFFICIAL" in done.stdout
    config.write_text(text + '[[scan.scanners]]\nname = "gone"\nkind = "icap"\naddress = "icap://127.0.0.1:1/x"\n')
    done = run([sys.executable, "-m", "gatepost", "scanners", "--json", "--config", str(config)], check=False)
    assert done.returncode == 1
    assert '"outcome": "error"' in done.stdout


def test_the_server_does_not_start_with_a_scanner_that_cannot_be_made(tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    config.write_text('[[scan.scanners]]\nname = "a"\nkind = "yara"\naddress = "/nowhere"\n')
    done = run([sys.executable, "-m", "gatepost", "serve", "--data", str(tmp_path / "data"), "--config", str(config)], check=False)
    assert (done.returncode, done.stdout) == (1, "gatepost: scan.scanners.0.address: must be the directory of the rules (got '/nowhere')\n")


def test_a_server_refuses_what_clamd_finds_keeps_mail_while_it_is_away_and_delivers_when_it_is_back(clam: Daemon, tmp_path: Path) -> None:
    one = {"name": "clam", "kind": "clamd", "address": f"unix:{clam.root}/clamd.sock", "timeout_seconds": 2, "failures": 1}
    scanners = json.dumps([{**one, "retry_seconds": 0.2, "retry_max_seconds": 0.5, "probe_seconds": 0.5}])
    with Gatepost(tmp_path, environment={**os.environ, "GATEPOST_SCAN__SCANNERS": scanners}) as server:
        scanner_is(server, "in_service")
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(server.port("smtp"), message("bad", body=EICAR.decode()))
        assert refused.value.smtp_code == 550
        with an_outage(clam, signal.SIGKILL):
            scanner_is(server, "out_of_service")
            send(server.port("smtp"), message("meanwhile"))
            assert [[one.held for one in found.recipients] for found in queue(server)] == [[True]]
        wait_until(lambda: not queue(server), 20, "what waited is delivered", interval=0.2)
        assert status(server).scanners[0].state in ("in_service", "trying")
        octets = delivered(server)
    assert b"Subject: meanwhile" in octets
    head = octets.partition(b"\r\n\r\n")[0]
    assert b"X-Gatepost-Scan: gatepost.example.test; accept; policy=shipped; clam=clean" in head, "the newest verdict"
    assert head.count(b"X-Gatepost-Scan") == 1 and b"scanner-out" not in head


OUTAGES = {"open": "1@open.test", "closed": "2@closed.test", "hold": "3@hold.test"}


def test_each_domain_has_its_own_way_when_the_scanner_is_out(clam: Daemon, tmp_path: Path) -> None:
    """clamd is killed, and when all is well again stopped."""
    one = {"name": "clam", "kind": "clamd", "address": f"unix:{clam.root}/clamd.sock", "timeout_seconds": 1, "failures": 2}
    scan = {"scanners": json.dumps([{**one, "retry_seconds": 0.2, "retry_max_seconds": 0.5}])}
    with Gatepost(tmp_path, users=tuple(OUTAGES.values()), workers=1, scan=scan) as server:
        call(server, _bind_outages)
        scanner_is(server, "in_service")
        with an_outage(clam, signal.SIGKILL):
            _out(server, "killed")
        _back(server, "killed")
        with an_outage(clam, signal.SIGSTOP):
            _out(server, "stopped")
        _back(server, "stopped")


async def _bind_outages(client: GatepostClient) -> None:
    for outage, user in OUTAGES.items():
        text = f'outage = "{outage}"\n[[rules]]\nname = "virus"\naction = "reject"\noutcomes = ["infected"]\n'
        await client.policies.apply(outage, text)
        rule = await client.rules.get(user.partition("@")[2])
        await client.rules.update(replace(rule, policy=outage), ["policy"])


def _out(server: Gatepost, run: str) -> None:
    """What becomes of mail for each domain while clamd is out."""
    assert {name: reply(server, f"{run}, only {name}", [to]) for name, to in OUTAGES.items()} == {"open": 250, "closed": 451, "hold": 250}
    scanner_is(server, "out_of_service")
    assert reply(server, f"{run}, all", list(OUTAGES.values())) == 250, "SMTP has one reply: who would be put off waits"
    assert call(server, _waiting) == [f"{run}, all", f"{run}, only hold"]


def _back(server: Gatepost, run: str) -> None:
    """What waited is scanned and delivered by itself, and the history tells it."""
    wait_until(lambda: not queue(server), 30, "what waited is scanned and delivered by itself", interval=0.2)
    scanner_is(server, "in_service")
    assert reply(server, f"{run}, afterwards", [OUTAGES["closed"]]) == 250
    stories = call(server, _stories)
    assert "tag, policy open, rule scanner-out, clam error" in stories[f"{run}, only open"]
    assert "hold, policy hold, rule scanner-out, clam error" in stories[f"{run}, only hold"]
    assert "scanned again: accept, policy hold, clam clean (by gatepost)" in stories[f"{run}, only hold"]
    assert "accept, policy closed, clam clean" in stories[f"{run}, afterwards"]
    assert stories[f"{run}, all"].count("delivered") == len(OUTAGES)


async def _waiting(client: GatepostClient) -> list[str]:
    return sorted([found.subject async for found in client.quarantine.list(QuarantineFilter(state="waiting"))])


async def _stories(client: GatepostClient) -> dict[str, str]:
    """By subject, the history of every message, a line for each event."""
    found = [one async for one in client.history.search()]
    whole = [await client.history.get(one.message_id) for one in found]
    return {one.subject: "\n".join(f"{event.kind} {event.text}" for event in one.events) for one in whole}


def scanner_is(server: Gatepost, state: str) -> None:
    wait_until(lambda: status(server).scanners[0].state == state, 30, f"clamd is {state}", interval=0.1)


def reply(server: Gatepost, subject: str, to: list[str]) -> int:
    try:
        send(server.port("smtp"), message(subject), recipients=to)
    except smtplib.SMTPDataError as refused:
        return refused.smtp_code
    return 250


@contextmanager
def an_outage(daemon: Daemon, how: signal.Signals) -> Iterator[None]:
    """The daemon is gone, or does not move, within the block."""
    daemon.signal(how)
    try:
        yield
    finally:
        if how is signal.SIGKILL:
            daemon.restart()
        else:
            daemon.signal(signal.SIGCONT)


def delivered(server: Gatepost) -> bytes:
    """Alice's first message."""
    reader = poplib.POP3("127.0.0.1", server.port("pop3"), timeout=20)
    reader.stls(unverified())
    reader.user(ALICE)
    reader.pass_(PASSWORD)
    octets = b"\r\n".join(reader.retr(1)[1])
    reader.quit()
    return octets
