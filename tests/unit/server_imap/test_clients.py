"""Real IMAP clients: imaplib, curl, mbsync, neomutt."""

import imaplib
import time
from pathlib import Path

import pytest

from support.access import ALICE, PASSWORD, AccessHost, unverified
from support.processes import need, run

MESSAGE = b"From: a@example.org\r\nTo: alice@example.test\r\nSubject: %b\r\nMessage-ID: <%b@example.org>\r\n\r\nbody of %b\r\n"


def message(name: str) -> bytes:
    raw = name.encode()
    return MESSAGE % (raw, raw, raw)


def fill(host: AccessHost, *names: str, folder: str = "INBOX") -> None:
    client = host.imap()
    for name in names:
        assert client.append(folder, "", "", message(name))[0] == "OK"
    client.logout()


# ---- imaplib


def test_imaplib_does_everything(host: AccessHost) -> None:
    client = host.imap(folder="INBOX")
    assert client.append("INBOX", r"(\Seen)", imaplib.Time2Internaldate(0), message("one"))[0] == "OK"
    assert client.create("Work") == ("OK", [b"CREATE completed"])
    assert client.noop()[0] == "OK"
    assert client.search(None, "SUBJECT", "one") == ("OK", [b"1"])
    status, answer = client.fetch("1", "(RFC822 FLAGS)")
    assert status == "OK"
    assert isinstance(answer[0], tuple)
    assert answer[0][1] == message("one")
    assert client.store("1", "+FLAGS", r"(\Flagged)")[0] == "OK"
    assert client.copy("1", "Work")[0] == "OK"
    assert client.uid("MOVE", "1", "Work")[0] == "OK"
    assert client.select("Work") == ("OK", [b"2"])
    assert client.rename("Work", "Play")[0] == "OK"
    assert b'(\\HasNoChildren) "/" "Play"' in client.list()[1]
    assert client.delete("Play")[0] == "OK"
    assert client.logout()[0] == "BYE"


def test_imaplib_starttls_and_scram_free_login(host: AccessHost) -> None:
    client = imaplib.IMAP4("127.0.0.1", host.ports["imap"])
    client.starttls(unverified())
    assert client.authenticate("PLAIN", lambda _: f"\0{ALICE}\0{PASSWORD}".encode())[0] == "OK"
    client.logout()


def test_imaplib_idles(host: AccessHost) -> None:
    client = host.imap(folder="INBOX")
    client.send(b"z IDLE\r\n")
    assert client.readline().startswith(b"+")
    fill(host, "new")
    began = time.monotonic()
    assert client.readline() == b"* 1 EXISTS\r\n"
    assert time.monotonic() - began < 1
    client.shutdown()


# ---- curl


def curl(host: AccessHost, path: str, *options: str, listener: str = "imaps") -> str:
    need("curl")
    address = f"{listener}://127.0.0.1:{host.ports[listener]}/{path}"
    return run(["curl", "-sk", "--max-time", "20", "--user", f"{ALICE}:{PASSWORD}", address, *options]).stdout


def test_curl_lists_searches_fetches_and_appends(host: AccessHost, tmp_path: Path) -> None:
    fill(host, "one", "two")
    assert '"/" "INBOX"' in curl(host, "")
    assert curl(host, "INBOX;MAILINDEX=2").splitlines() == message("two").decode().splitlines()
    assert curl(host, "INBOX;UID=1;SECTION=TEXT").strip() == "body of one"
    assert curl(host, "INBOX?SUBJECT%20two").strip() == "* SEARCH 2"
    upload = tmp_path / "up.eml"
    upload.write_bytes(message("three"))
    curl(host, "INBOX", "--upload-file", str(upload))
    assert curl(host, "INBOX?ALL").strip() == "* SEARCH 1 2 3"


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl_logs_in_with_each_mechanism(host: AccessHost, mechanism: str) -> None:
    assert "INBOX" in curl(host, "", "--login-options", f"AUTH={mechanism}")


def test_curl_upgrades_with_starttls(host: AccessHost) -> None:
    assert "INBOX" in curl(host, "", "--ssl-reqd", listener="imap")


# ---- mbsync


class Mbsync:
    """A two-way mirror of the mailbox in a Maildir."""

    def __init__(self, host: AccessHost, directory: Path) -> None:
        need("mbsync")
        self.maildir = directory / "mail"
        for part in ("cur", "new", "tmp"):
            (self.maildir / "INBOX" / part).mkdir(parents=True)
        self.config = directory / "mbsyncrc"
        self.config.write_text(
            f'IMAPAccount a\nHost localhost\nPort {host.ports["imaps"]}\nUser {ALICE}\nPass "{PASSWORD}"\nSSLType IMAPS\n'
            f"CertificateFile {host.data}/tls/cert.pem\n\nIMAPStore far\nAccount a\n\n"
            f"MaildirStore near\nPath {self.maildir}/\nInbox {self.maildir}/INBOX\nSubFolders Verbatim\n\n"
            "Channel c\nFar :far:\nNear :near:\nPatterns *\nCreate Both\nRemove None\nExpunge Both\nSyncState *\n"
        )

    def sync(self) -> None:
        run(["mbsync", "-c", str(self.config), "c"], seconds=60)

    def files(self, folder: str = "INBOX") -> dict[str, Path]:
        """Subject to file."""
        paths = [path for part in ("cur", "new") for path in (self.maildir / folder / part).iterdir()]
        return {next(line for line in path.read_text().splitlines() if line.startswith("Subject:"))[9:]: path for path in paths}


def test_mbsync_keeps_both_sides_the_same(host: AccessHost, tmp_path: Path) -> None:
    mirror = Mbsync(host, tmp_path)
    fill(host, "one", "two", "three")
    mirror.sync()
    assert sorted(mirror.files()) == ["one", "three", "two"]
    # The near side: one gets a flag, two is removed, four is new, and there is a new folder with five in it.
    files = mirror.files()
    files["one"].rename(mirror.maildir / "INBOX" / "cur" / (files["one"].name.split(":")[0] + ":2,F"))
    files["two"].unlink()
    (mirror.maildir / "INBOX" / "new" / "1.four").write_bytes(message("four").replace(b"\r\n", b"\n"))
    for part in ("cur", "new", "tmp"):
        (mirror.maildir / "Private" / part).mkdir(parents=True)
    (mirror.maildir / "Private" / "cur" / "1.five:2,S").write_bytes(message("five").replace(b"\r\n", b"\n"))
    mirror.sync()
    client = host.imap(folder="INBOX")
    assert client.search(None, "FLAGGED")[1] == client.search(None, "SUBJECT", "one")[1]
    assert client.search(None, "SUBJECT", "two") == ("OK", [b""])
    assert len(client.search(None, "ALL")[1][0].split()) == 3
    # The far side: three is answered, four is removed.
    [three] = client.search(None, "SUBJECT", "three")[1]
    [four] = client.search(None, "SUBJECT", "four")[1]
    client.store(three.decode(), "+FLAGS", r"(\Answered)")
    client.store(four.decode(), "+FLAGS", r"(\Deleted)")
    client.expunge()
    assert client.select("Private") == ("OK", [b"1"])
    client.logout()
    mirror.sync()
    assert sorted(mirror.files()) == ["one", "three"]
    assert "R" in mirror.files()["three"].name.split(":2,")[1]
    assert sorted(mirror.files("Private")) == ["five"]


# ---- neomutt


def test_neomutt_flags_and_deletes(host: AccessHost, tmp_path: Path) -> None:
    need("neomutt", "script")
    fill(host, "one", "two")
    url = f"imaps://localhost:{host.ports['imaps']}"
    config = tmp_path / "muttrc"
    config.write_text(
        f'set imap_user="{ALICE}"\nset imap_pass="{PASSWORD}"\nset certificate_file="{host.data}/tls/cert.pem"\n'
        f'set folder="{url}/"\nset spoolfile="{url}/INBOX"\nset quit=yes\nset delete=yes\nset wait_key=no\nset mark_old=no\n'
        'push "<limit>~s one<enter><flag-message><limit>~s two<enter><delete-message><limit>all<enter><sync-mailbox><exit>"\n'
    )
    # It has no batch mode for this: `script` gives it the terminal it wants, the keys are in its configuration.
    run(["script", "-qec", f"neomutt -n -F {config}", "/dev/null"], seconds=30, TERM="xterm", HOME=str(tmp_path))
    client = host.imap(folder="INBOX")
    assert client.search(None, "ALL") == ("OK", [b"1"])
    assert client.search(None, "SUBJECT", "one", "FLAGGED") == ("OK", [b"1"])
    client.logout()
