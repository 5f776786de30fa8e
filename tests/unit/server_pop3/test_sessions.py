"""The running POP3 server: the dialogs, the lock, deletion at QUIT only, and real clients (poplib, curl, fetchmail)."""

import asyncio
import poplib
import socket
import time
from pathlib import Path

import pytest

from support.access import ALICE, BOB, PASSWORD, AccessHost, HostProcess, pop3, unverified
from support.dialogs import Player, load
from support.processes import need, run, wait_until

DIALOGS = sorted((Path(__file__).parents[2] / "dialogs").glob("pop3-*.dialog"))
MAILDROP = [
    b"Subject: one\r\nTo: alice@example.test\r\n\r\nfirst body\r\n",
    b"Subject: two\r\nTo: alice@example.test\r\n\r\n.hidden dot\r\nlast line\r\n",
    b"Subject: three\r\nTo: alice@example.test\r\n\r\n",
]


def fill(host: AccessHost, messages: list[bytes] = MAILDROP) -> None:
    client = host.imap()
    for message in messages:
        assert client.append("INBOX", "", "", message)[0] == "OK"
    client.logout()


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_the_server_keeps_to_the_dialog(path: Path, tmp_path: Path) -> None:
    dialog = load(path)
    plain = dialog.head.get("plaintext") != "no"
    with AccessHost(tmp_path / "data", mail={"require_tls_for_plaintext_auth": not plain}) as host:
        await asyncio.to_thread(fill, host)
        reader, writer = await asyncio.open_connection("127.0.0.1", host.ports["pop3"])
        await Player(dialog, reader, writer).play(lambda: 0)
        writer.close()


def test_a_second_session_finds_the_mailbox_in_use_also_in_another_worker(host: AccessHost, other: HostProcess) -> None:
    first = host.pop3()
    for ports in (host.ports, other.ports):
        with pytest.raises(poplib.error_proto, match=r"\[IN-USE\]"):
            pop3(ports)
    assert pop3(other.ports, BOB).quit().startswith(b"+OK")
    first.quit()
    assert pop3(other.ports).quit().startswith(b"+OK")


def test_the_lock_is_free_again_when_a_connection_drops(host: AccessHost) -> None:
    host.pop3().close()

    def again() -> bool:
        try:
            host.pop3().quit()
        except poplib.error_proto:
            return False
        return True

    wait_until(again, 3, "the lock is free")


def test_a_dropped_connection_deletes_nothing(host: AccessHost) -> None:
    fill(host)
    client = host.pop3()
    client.dele(1)
    client.dele(2)
    client.close()
    time.sleep(0.2)
    client = wait_until(lambda: host.pop3(), 3, "the lock is free")
    assert client.stat()[0] == 3
    client.dele(2)
    client.quit()
    client = host.pop3()
    assert [line.split()[1] for line in client.list()[1]] == [b"52", b"42"]
    client.quit()


def test_unique_ids_stay_with_their_messages(host: AccessHost) -> None:
    fill(host)
    client = host.pop3()
    before = dict(line.split() for line in client.uidl()[1])
    client.dele(1)
    client.quit()
    client = host.pop3()
    assert dict(line.split() for line in client.uidl()[1]) == {b"1": before[b"2"], b"2": before[b"3"]}
    client.quit()


def test_a_message_removed_over_imap_meanwhile_is_an_error_of_that_message_only(host: AccessHost) -> None:
    fill(host)
    pop = host.pop3()
    imap = host.imap(folder="INBOX")
    imap.store("1", "+FLAGS", r"(\Deleted)")
    imap.expunge()
    with pytest.raises(poplib.error_proto):
        pop.retr(1)
    assert pop.retr(3)[1][0] == b"Subject: three"
    pop.dele(1)
    assert pop.quit().startswith(b"+OK")


def test_a_big_message_comes_whole(host: AccessHost) -> None:
    message = b"Subject: big\r\n\r\n" + b".line with a dot\r\n" * 300_000
    fill(host, [message])
    client = host.pop3()
    _, lines, octets = client.retr(1)
    assert b"\r\n".join(lines) + b"\r\n" == message
    assert octets > len(message) - 3
    assert len(client.top(1, 5)[1]) == 7
    client.quit()


def test_poplib_upgrades_with_stls(host: AccessHost) -> None:
    client = poplib.POP3("127.0.0.1", host.ports["pop3"], timeout=10)
    assert "STLS" in client.capa()
    client.stls(unverified())
    assert "STLS" not in client.capa()
    client.user(ALICE)
    client.pass_(PASSWORD)
    client.quit()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl_reads_with_each_mechanism(host: AccessHost, mechanism: str) -> None:
    need("curl")
    fill(host)
    base = ["curl", "-sk", "--max-time", "20", "--user", f"{ALICE}:{PASSWORD}", "--login-options", f"AUTH={mechanism}"]
    assert run([*base, f"pop3s://127.0.0.1:{host.ports['pop3s']}/"]).stdout.split() == ["1", "52", "2", "64", "3", "42"]
    answer = run([*base, "--ssl-reqd", f"pop3://127.0.0.1:{host.ports['pop3']}/2"]).stdout
    assert ".hidden dot" in answer.splitlines()


def test_fetchmail_takes_everything_away(host: AccessHost, tmp_path: Path) -> None:
    need("fetchmail")
    fill(host)
    config = tmp_path / "fetchmailrc"
    taken = tmp_path / "taken"
    config.write_text(
        f'poll 127.0.0.1 protocol pop3 service {host.ports["pop3s"]} user "{ALICE}" password "{PASSWORD}" '
        f'ssl no sslcertck mda "cat >> {taken}" fetchall no keep\n'
    )
    config.chmod(0o600)
    run(["fetchmail", "-f", str(config), "--pidfile", str(tmp_path / "pid"), "-i", str(tmp_path / "ids"), "--nosyslog"], HOME=str(tmp_path))
    text = taken.read_text()
    assert all(word in text for word in ("first body", ".hidden dot", "Subject: three"))
    client = host.pop3()
    assert client.stat() == (0, 0)
    client.quit()


def test_limits(tmp_path: Path) -> None:
    with AccessHost(
        tmp_path / "data",
        mail={"require_tls_for_plaintext_auth": False, "login_seconds": 1, "pop3_idle_seconds": 2, "max_failed_logins": 2},
    ) as host:

        def answers(sent: bytes, seconds: float) -> bytes:
            with socket.create_connection(("127.0.0.1", host.ports["pop3"]), seconds) as client:
                client.sendall(sent)
                got = b""
                while data := client.recv(4096):
                    got += data
                return got

        assert b"Login took too long" in answers(b"CAPA\r\n", 4)
        assert b"Idle for too long" in answers(f"USER {ALICE}\r\nPASS {PASSWORD}\r\n".encode(), 6)
        assert answers(b"USER x\r\nPASS y\r\n" * 3, 6).count(b"-ERR") == 2
        assert b"Too many errors" in answers(b"\xff\xff\r\n" * 30, 4)


def test_stopping_says_goodbye(host: AccessHost) -> None:
    client = host.pop3()
    host.call(lambda: host.servers["pop3s"].stop(3))
    assert client.file.readline().startswith(b"-ERR [SYS/TEMP] Server is shutting down")
