"""Programs people use, against one running server with two workers: each sends or reads real mail with its own code."""

import contextlib
import imaplib
import poplib
import re
import smtplib
import subprocess
import uuid
from email.policy import SMTP
from pathlib import Path
from urllib.parse import quote

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, Gatepost
from support.processes import find, need, run, wait_until
from support.programs import exists, fetched, imap, message, send, unverified


def subjects(server: Gatepost, user: str) -> str:
    """All subjects in the user's INBOX, as one text."""
    with imap(server.port("imaps"), user, PASSWORD) as client:
        return b"".join(fetched(client, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]")).decode() if exists(client) else ""


def arrives(server: Gatepost, subject: str, user: str = ALICE) -> None:
    """Wait until a message with this subject is in the INBOX, once."""
    wait_until(lambda: subject in subjects(server, user), 15, f"{subject!r} is in the INBOX of {user}")
    assert subjects(server, user).count(subject) == 1


def unique(what: str) -> str:
    """A subject that no other test uses."""
    return f"{what} {uuid.uuid4().hex[:12]}"


@pytest.fixture
def netrc(tmp_path: Path) -> str:
    """Keeps the password out of curl's command line."""
    file = tmp_path / "netrc"
    file.write_text(f'machine 127.0.0.1 login {ALICE} password "{PASSWORD}"\n')
    return str(file)


# ---- swaks ----


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("smtp", []),
        ("smtp", ["--pipeline"]),
        ("smtp", ["--tls"]),
        ("submission", ["--tls", "--auth", "PLAIN"]),
        ("submission", ["--tls", "--auth", "LOGIN"]),
        ("submissions", ["--tls-on-connect", "--auth", "PLAIN"]),
        ("lmtp", ["--protocol", "LMTP"]),
    ],
)
def test_swaks_sends(gatepost: Gatepost, listener: str, options: list[str]) -> None:
    need("swaks")
    subject = unique("swaks")
    if "--auth" in options:
        options = [*options, "--auth-user", ALICE, "--auth-password", PASSWORD]
    server = f"127.0.0.1:{gatepost.port(listener)}"
    run(["swaks", "--server", server, "--from", ALICE, "--to", BOB, "--header", f"Subject: {subject}", "--body", "Hello.", *options])
    arrives(gatepost, subject, BOB)


def test_swaks_is_refused_with_a_wrong_password(gatepost: Gatepost) -> None:
    need("swaks")
    server = f"127.0.0.1:{gatepost.port('submission')}"
    command = ["swaks", "--server", server, "--from", ALICE, "--to", BOB, "--tls", "--auth", "PLAIN"]
    done = run([*command, "--auth-user", ALICE, "--auth-password", "wrong"], check=False)
    assert done.returncode != 0
    assert " 535 5.7.8" in done.stdout


def test_swaks_is_not_offered_plaintext_authentication_without_tls(gatepost: Gatepost) -> None:
    need("swaks")
    server = f"127.0.0.1:{gatepost.port('submission')}"
    done = run(["swaks", "--server", server, "--from", ALICE, "--to", BOB, "--quit-after", "EHLO"])
    assert "PLAIN" not in done.stdout
    assert "STARTTLS" in done.stdout


# ---- curl ----


def test_curl_sends_over_smtp_and_submissions(gatepost: Gatepost, tmp_path: Path, netrc: str) -> None:
    need("curl")
    for scheme, listener, more in (("smtp", "smtp", []), ("smtps", "submissions", ["--insecure", "--netrc-file", netrc])):
        subject = unique(f"curl {scheme}")
        letter = tmp_path / scheme
        letter.write_bytes(message(subject, sender=ALICE).as_bytes(policy=SMTP))
        url = f"{scheme}://127.0.0.1:{gatepost.port(listener)}/client.example.test"
        run(["curl", "--silent", "--show-error", url, "--mail-from", ALICE, "--mail-rcpt", BOB, "--upload-file", str(letter), *more])
        arrives(gatepost, subject, BOB)


def test_curl_reads_over_pop3_and_imap_with_and_without_implicit_tls(gatepost: Gatepost, netrc: str) -> None:
    need("curl")
    subject = unique("for curl")
    send(gatepost.port("smtp"), message(subject))
    arrives(gatepost, subject)
    common = ["curl", "--silent", "--show-error", "--insecure", "--netrc-file", netrc]
    for scheme, listener, more in (
        ("pop3s", "pop3s", []),
        ("pop3", "pop3", ["--ssl-reqd"]),
    ):
        listing = run([*common, f"{scheme}://127.0.0.1:{gatepost.port(listener)}/", *more]).stdout.split()
        newest = listing[-2]
        assert subject in run([*common, f"{scheme}://127.0.0.1:{gatepost.port(listener)}/{newest}", *more]).stdout
    for scheme, listener, more in (("imaps", "imaps", []), ("imap", "imap", ["--ssl-reqd"])):
        base = f"{scheme}://127.0.0.1:{gatepost.port(listener)}/INBOX"
        found = run([*common, f"{base}?SUBJECT%20%22{quote(subject)}%22", *more]).stdout
        number = re.search(r"\* SEARCH (\d+)", found)
        assert number, found
        assert subject in run([*common, f"{base}/;MAILINDEX={number[1]}", *more]).stdout


# ---- msmtp, fetchmail, mbsync, neomutt ----


def test_msmtp_sends_with_starttls_and_authentication(gatepost: Gatepost, tmp_path: Path) -> None:
    need("msmtp")
    subject = unique("msmtp")
    config = tmp_path / "msmtprc"
    config.write_text(
        f"account default\nhost 127.0.0.1\nport {gatepost.port('submission')}\ntls on\ntls_certcheck off\nauth on\n"
        f"user {ALICE}\npassword {PASSWORD}\nfrom {ALICE}\n"
    )
    config.chmod(0o600)
    run(["msmtp", "--file", str(config), BOB], text=message(subject, sender=ALICE).as_string())
    arrives(gatepost, subject, BOB)


def test_msmtp_authenticates_by_scram_without_sending_the_password(gatepost: Gatepost, tmp_path: Path) -> None:
    need("msmtp")
    if "scram-sha-256" not in run(["msmtp", "--version"]).stdout.lower():
        pytest.skip("this msmtp knows no SCRAM-SHA-256")
    subject = unique("msmtp scram")
    config = tmp_path / "msmtprc"
    config.write_text(
        f"account default\nhost 127.0.0.1\nport {gatepost.port('submission')}\ntls off\nauth scram-sha-256\n"
        f"user {ALICE}\npassword {PASSWORD}\nfrom {ALICE}\n"
    )
    config.chmod(0o600)
    run(["msmtp", "--file", str(config), BOB], text=message(subject, sender=ALICE).as_string())
    arrives(gatepost, subject, BOB)


@pytest.mark.parametrize(("protocol", "listener"), [("pop3", "pop3"), ("imap", "imap")])
def test_fetchmail_collects_everything(gatepost_factory, tmp_path: Path, protocol: str, listener: str) -> None:
    need("fetchmail")
    server = gatepost_factory()
    for number in range(3):
        send(server.port("smtp"), message(f"fetch {number}"))
    wait_until(lambda: subjects(server, ALICE).count("fetch") == 3, 15, "three messages are there")
    collected, control = tmp_path / "collected", tmp_path / "fetchmailrc"
    control.write_text(
        f'set no bouncemail\npoll 127.0.0.1 protocol {protocol} port {server.port(listener)}\n user "{ALICE}" password "{PASSWORD}"\n'
        f' mda "cat >> {collected}"\n fetchall no keep\n sslproto "TLS1.2+" sslcertck no\n'
    )
    control.write_text(control.read_text().replace("sslcertck no", "no sslcertck"))
    control.chmod(0o600)
    run(["fetchmail", "--fetchmailrc", str(control), "--nodetach", "--nosyslog"], FETCHMAILHOME=str(tmp_path), HOME=str(tmp_path))
    text = collected.read_text()
    assert [f"Subject: fetch {number}" in text for number in range(3)] == [True] * 3
    assert subjects(server, ALICE) == ""


def test_mbsync_mirrors_both_ways(gatepost_factory, tmp_path: Path) -> None:
    need("mbsync")
    server = gatepost_factory()
    for number in range(3):
        send(server.port("smtp"), message(f"mirror {number}"))
    wait_until(lambda: subjects(server, ALICE).count("mirror") == 3, 15, "three messages are there")
    (tmp_path / "mail").mkdir()
    certificate = server.data / "tls" / "cert.pem"
    config = tmp_path / "mbsyncrc"
    config.write_text(
        f'IMAPAccount a\nHost localhost\nPort {server.port("imaps")}\nUser {ALICE}\nPass "{PASSWORD}"\nSSLType IMAPS\n'
        f"CertificateFile {certificate}\nAuthMechs LOGIN\n\nIMAPStore far\nAccount a\n\n"
        f"MaildirStore near\nPath {tmp_path}/mail/\nInbox {tmp_path}/mail/INBOX\nSubFolders Verbatim\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nExpunge Both\nSyncState *\n"
    )
    run(["mbsync", "--config", str(config), "all"], seconds=60, HOME=str(tmp_path))
    mirrored = [file for part in ("new", "cur") for file in (tmp_path / "mail" / "INBOX" / part).iterdir()]
    assert sorted(re.search(rb"Subject: (mirror \d)", file.read_bytes())[1] for file in mirrored) == [b"mirror 0", b"mirror 1", b"mirror 2"]

    own = message("written near", sender=ALICE).as_bytes()
    (tmp_path / "mail" / "INBOX" / "cur" / "1700000000.M1P1.near:2,S").write_bytes(own)
    victim = next(file for file in mirrored if b"mirror 1" in file.read_bytes())
    victim.unlink()
    run(["mbsync", "--config", str(config), "all"], seconds=60, HOME=str(tmp_path))
    now = subjects(server, ALICE)
    assert "written near" in now
    assert "mirror 1" not in now


def test_neomutt_sends_and_reads_in_batch_mode(gatepost: Gatepost, tmp_path: Path) -> None:
    need("neomutt")
    subject = unique("neomutt")
    config = tmp_path / "neomuttrc"
    lines = [
        f'set from="{ALICE}"',
        f'set smtp_url="smtps://alice%40example.test@127.0.0.1:{gatepost.port("submissions")}/"',
        f'set smtp_pass="{PASSWORD}"',
        f'set imap_user="{ALICE}"',
        f'set imap_pass="{PASSWORD}"',
        f'set certificate_file="{gatepost.data}/tls/cert.pem"',
        f'set folder="{tmp_path}"',
        "set ssl_verify_host=no ssl_verify_dates=no ssl_force_tls=yes copy=no",
    ]
    config.write_text("\n".join(lines) + "\n")
    base = ["neomutt", "-n", "-F", str(config)]
    run([*base, "-s", subject, "--", BOB], text="From neomutt.\n", HOME=str(tmp_path), TERM="dumb")
    arrives(gatepost, subject, BOB)
    reader = tmp_path / "reader"
    reader.write_text(config.read_text().replace(f'imap_user="{ALICE}"', f'imap_user="{BOB}"') + "set quit=yes\n")
    url = f"imaps://127.0.0.1:{gatepost.port('imaps')}/INBOX"
    command = f"{find('neomutt')} -n -F {reader} -R -f {url} -e \"push '<quit>'\""
    done = run(["script", "-qec", command, "/dev/null"], TERM="xterm", HOME=str(tmp_path), COLUMNS="120", LINES="50")
    assert subject in done.stdout


# ---- the standard library, openssl ----


def test_smtplib_sends_with_chunks_of_recipients_and_utf8(gatepost: Gatepost) -> None:
    subject = unique("smtplib")
    with smtplib.SMTP("127.0.0.1", gatepost.port("submission"), timeout=30) as client:
        client.starttls(context=unverified())
        client.login(ALICE, PASSWORD)
        assert client.has_extn("smtputf8")
        letter = message(subject, sender=ALICE, body="Grüße aus Zürich.\n")
        assert client.send_message(letter, ALICE, [ALICE, BOB]) == {}
    arrives(gatepost, subject, ALICE)
    arrives(gatepost, subject, BOB)


def test_poplib_reads_and_deletes(gatepost_factory) -> None:
    server = gatepost_factory()
    letter = message("for poplib", body="first line\n.leading dot\n..two\nlast\n")
    send(server.port("smtp"), letter)
    wait_until(lambda: "for poplib" in subjects(server, ALICE), 15, "the message is there")
    client = poplib.POP3("127.0.0.1", server.port("pop3"), timeout=30)
    assert "STLS" in client.capa()
    client.stls(unverified())
    client.user(ALICE)
    client.pass_(PASSWORD)
    assert client.stat()[0] == 1
    lines = client.retr(1)[1]
    assert lines[lines.index(b"") + 1 :] == [b"first line", b".leading dot", b"..two", b"last"]
    assert client.top(1, 1)[1][-1] == b"first line"
    uid = client.uidl(1)
    client.dele(1)
    client.rset()
    assert client.uidl(1) == uid
    client.dele(1)
    client.quit()
    assert subjects(server, ALICE) == ""


def test_imaplib_appends_flags_copies_and_expunges(gatepost_factory) -> None:
    server = gatepost_factory()
    client = imaplib.IMAP4("127.0.0.1", server.port("imap"), timeout=30)
    client.starttls(unverified())
    client.login(ALICE, PASSWORD)
    assert client.append("INBOX", r"(\Flagged)", None, message("appended", sender=ALICE).as_bytes())[0] == "OK"
    client.select("INBOX")
    assert client.search(None, "FLAGGED")[1] == [b"1"]
    assert client.create("Projects/2026")[0] == "OK"
    assert client.copy("1", "Projects/2026")[0] == "OK"
    assert client.store("1", "+FLAGS", r"(\Deleted)")[0] == "OK"
    assert client.expunge()[1] == [b"1"]
    assert exists(client, "Projects/2026") == 1
    client.select("Projects/2026")
    status, answers = client.uid("FETCH", "1:*", "(FLAGS ENVELOPE BODYSTRUCTURE)")
    assert status == "OK"
    assert b'"appended"' in answers[0]
    assert b'("text" "plain"' in answers[0].lower() or b'("TEXT" "PLAIN"' in answers[0]
    client.logout()


@pytest.mark.parametrize(
    ("listener", "starttls", "greeting"),
    [
        ("smtp", ["-starttls", "smtp"], b"250 "),
        ("submissions", [], b"220 "),
        ("imap", ["-starttls", "imap"], b". OK"),
        ("imaps", [], b"* OK"),
        ("pop3", ["-starttls", "pop3"], b"+OK"),
        ("pop3s", [], b"+OK"),
        ("lmtp", ["-starttls", "lmtp"], b"250 "),
    ],
)
def test_openssl_negotiates_tls_and_old_versions_are_refused(
    gatepost: Gatepost, listener: str, starttls: list[str], greeting: bytes
) -> None:
    need("openssl")
    base = ["openssl", "s_client", "-connect", f"127.0.0.1:{gatepost.port(listener)}", *starttls, "-ign_eof"]
    process = subprocess.Popen([*base, "-quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    farewell = {"i": b"a LOGOUT\r\n"}.get(listener[0], b"QUIT\r\n")
    out, err = process.communicate(farewell, timeout=20)
    assert greeting in out or starttls, (out, err)
    old = subprocess.run([*base, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], input=farewell, capture_output=True, timeout=20, check=False)
    assert b"Cipher is (NONE)" in old.stdout


def test_a_client_that_says_nothing_useful_is_answered_and_disconnected(gatepost: Gatepost) -> None:
    with contextlib.closing(smtplib.SMTP("127.0.0.1", gatepost.port("smtp"), timeout=30)) as client:
        codes = []
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            while len(codes) < 50:
                codes += [client.docmd("NONSENSE")[0]]
    assert 500 in codes
    assert len(codes) <= 12
