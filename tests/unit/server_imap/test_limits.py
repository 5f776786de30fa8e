"""What a bad, slow or greedy client gets."""

import random
import socket
import time
from pathlib import Path

import pytest

from support.access import ALICE, PASSWORD, AccessHost
from support.dialogs import load

PLAIN = {"require_tls_for_plaintext_auth": False}


def test_a_client_that_does_not_log_in_is_sent_away(tmp_path: Path) -> None:
    with AccessHost(tmp_path / "data", mail={**PLAIN, "login_seconds": 1}) as host, host.raw("imap") as client:
        client.ok("NOOP")
        client.until("* BYE Login took too long", 4)
        assert client.line() == ""


def test_an_idle_client_is_logged_out(tmp_path: Path) -> None:
    with AccessHost(tmp_path / "data", mail={**PLAIN, "imap_idle_seconds": 1}) as host, host.raw("imap", user=ALICE) as client:
        client.until("* BYE Idle for too long", 4)


def test_failed_logins_end_the_session(tmp_path: Path) -> None:
    with AccessHost(tmp_path / "data", mail={**PLAIN, "max_failed_logins": 2}) as host, host.raw("imap") as client:
        assert client.command(f"LOGIN {ALICE} wrong")[-1].startswith("NO [AUTHENTICATIONFAILED]")
        client.send(f"x LOGIN {ALICE} wrong\r\n".encode())
        client.until("* BYE Too many failed logins", 5)


def test_too_many_connections_are_refused(tmp_path: Path) -> None:
    with AccessHost(tmp_path / "data", mail={**PLAIN, "max_connections": 2}) as host:
        kept = [host.raw("imap"), host.raw("imap")]
        with host.raw("imap") as third:
            assert third.greeting == "* BYE Too many connections"
        kept[0].close()
        deadline = time.monotonic() + 2
        while (again := host.raw("imap")).greeting.startswith("* BYE"):
            assert time.monotonic() < deadline
        again.close()
        kept[1].close()


@pytest.mark.parametrize("name", ["imaps", "pop3s"])
def test_clients_that_connect_and_begin_no_tls_handshake_are_counted(tmp_path: Path, name: str) -> None:
    with AccessHost(tmp_path / "data", mail={"max_connections": 2}) as host:
        address = ("127.0.0.1", host.ports[name])
        silent = [socket.create_connection(address, 5) for _ in range(2)]
        with socket.create_connection(address, 5) as third:
            assert third.recv(1) == b""
        silent.pop().close()
        deadline = time.monotonic() + 5
        while host.servers[name].sessions > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (host.imap if name == "imaps" else host.pop3)().noop()
        silent.pop().close()


def test_an_unending_line_ends_the_session(host: AccessHost) -> None:
    with host.raw("imap") as client:
        client.send(b"a " + b"x" * 40_000)
        client.until("* BYE", 5)


def test_a_literal_announced_and_not_sent_costs_nothing(host: AccessHost) -> None:
    clients = [host.raw("imap") for _ in range(50)]
    for client in clients:
        client.send(b"a LOGIN {16000}\r\n")
        assert client.line().startswith("+")
    assert host.servers["imap"].sessions == 50
    for client in clients:
        client.close()


def test_a_client_that_does_not_read_does_not_fill_memory(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.append(b"Subject: x\r\n\r\n" + b"y" * 4_000_000 + b"\r\n")
        client.ok("SELECT INBOX")
        for _ in range(20):
            client.send(b"a FETCH 1 BODY.PEEK[]\r\n")
        time.sleep(1)
        [session] = host.servers["imap"]._sessions
        assert session._transport is not None
        assert session._transport.get_write_buffer_size() < 1_000_000


def test_pipelined_commands_are_answered_in_order(host: AccessHost) -> None:
    with host.raw("imap") as client:
        client.send(f'a LOGIN {ALICE} "{PASSWORD}"\r\nb SELECT INBOX\r\nc NOOP\r\nd FETCH 1:* FLAGS\r\ne LOGOUT\r\n'.encode())
        lines = client.until("e OK", 5)
        assert [line[0] for line in lines if line[0] != "*"] == ["a", "b", "c", "d", "e"]


def test_a_half_closed_connection_gets_its_answers(host: AccessHost) -> None:
    with host.raw("imap") as client:
        client.send(b"a CAPABILITY\r\nb NOOP\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        client.until("b OK", 3)
        assert client.line() == ""


@pytest.mark.parametrize("seed", range(4))
def test_random_octets_never_break_the_server(host: AccessHost, seed: int) -> None:
    chance = random.Random(seed)
    words = [
        b"a ",
        b"FETCH 1 ",
        b"SEARCH ",
        b"{3+}\r\n",
        b"\r\n",
        b"(",
        b")",
        b'"',
        b"*",
        b"LIST ",
        b"UID ",
        b"STORE 1:* FLAGS ",
        b"\\Seen ",
        b"\xff",
        b"\0",
    ]
    for _ in range(10):
        client = host.raw("imap", user=ALICE, folder="INBOX")
        try:
            for _ in range(30):
                client.send(b"".join(chance.choice(words) for _ in range(20)) + b"\r\n")
        except OSError:
            pass
        client.close()
    with host.raw("imap", user=ALICE) as client:
        client.ok("NOOP")


def test_the_messages_dialog_in_single_octets(host: AccessHost) -> None:
    dialog = load(Path(__file__).parents[2] / "dialogs" / "imap-login.dialog")
    with host.raw("imap") as client:
        for step in dialog.steps:
            if step.kind == "C":
                for octet in step.text.encode() + b"\r\n":
                    client.send(bytes([octet]))
                client.until(step.text.split(" ")[0] + " ", 5)
