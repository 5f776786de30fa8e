"""Start, stop, reload: what scripts and administrators rely on, with the real process and an empty directory."""

import json
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from support.gatepost import ALICE, BOB, LISTENERS, PASSWORD, PROGRAM, CommandFailed, Gatepost
from support.processes import run, wait_until
from support.programs import exists, fetched, imap, message, send


def served_certificate(port: int) -> str:
    """The certificate a TLS listener shows."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10)


def test_serve_starts_on_a_missing_directory_and_status_tells_every_port(gatepost_factory):
    server = gatepost_factory(users=[])
    endpoints = server.endpoints()
    ports = [server.port(listener) for listener in LISTENERS]
    assert all(ports)
    assert len(set(ports)) == len(LISTENERS)
    told = server.cli("status", "--json")
    for listener in LISTENERS:
        assert endpoints[listener][0] in told
    assert (server.data / "tls" / "cert.pem").exists()
    assert (server.data / "tls" / "key.pem").stat().st_mode & 0o077 == 0
    assert (server.data / "control.sock").is_socket()


def test_the_environment_names_the_data_directory_for_server_and_cli(tmp_path):
    environment = {**os.environ, "GATEPOST_DATA": str(tmp_path / "here")}
    environment |= {f"GATEPOST_LISTEN__{name.upper()}": '["127.0.0.1:0"]' for name in LISTENERS}
    environment["GATEPOST_WORKERS"] = "1"
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([str(PROGRAM), "serve"], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "here" / "run" / "endpoints.json").exists, 60, "the server is ready")
        done = subprocess.run([str(PROGRAM), "status", "--json"], env=environment, capture_output=True, text=True, timeout=30, check=True)
        assert json.loads(done.stdout)
    finally:
        process.terminate()
        assert process.wait(15) == 0


def test_sigterm_drains_and_stops_within_ten_seconds_with_sessions_open(gatepost_factory):
    server = gatepost_factory(workers=2)
    sessions = [smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) for _ in range(5)]
    for session in sessions:
        session.ehlo()
    with imap(server.port("imaps"), ALICE, PASSWORD):
        workers = server.worker_pids()
        assert server.stop(12) < 10
    for pid in workers:
        assert not Path(f"/proc/{pid}").exists()
    for session in sessions:
        session.close()


START_MOMENTS = ("directory.db", "spool/p0", "control.sock", "run/worker-0.sock")
"""Files in the order in which a start makes them."""


def test_sigterm_at_any_moment_of_the_start_ends_it_without_a_complaint(tmp_path):
    for number, moment in enumerate(START_MOMENTS):
        room = tmp_path / str(number)
        room.mkdir()
        server = Gatepost(room)
        server.write_config()
        command = [str(PROGRAM), "serve", "--data", str(server.data), "--config", str(server.config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_until((server.data / moment).exists, 60, f"the start makes {moment}", interval=0.001)
        process.terminate()
        _, told = process.communicate(timeout=15)
        assert process.returncode in (0, -signal.SIGTERM), moment
        complaints = [line for line in told.splitlines() if re.search(r"asyncio|Traceback|Error|\"error\"|died", line)]
        assert complaints == [], moment


def test_a_restart_finds_the_queue_as_it_was(gatepost_factory):
    server = gatepost_factory()
    server.cli("rule", "add", "held.test", "--kind", "hold")
    for number in range(5):
        send(server.port("smtp"), message(f"keep {number}"), recipients=f"someone{number}@held.test")
    before = sorted(entry["message_id"] for entry in server.queue())
    assert len(before) == 5
    server.stop()
    server.start()
    assert sorted(entry["message_id"] for entry in server.queue()) == before


def test_a_restart_with_fewer_workers_leaves_no_partition_behind(gatepost_factory):
    server = gatepost_factory(workers=2)
    server.cli("rule", "add", "held.test", "--kind", "hold")
    kept = 0
    while {entry["worker"] for entry in server.queue()} != {0, 1}:  # which of them takes a connection is the kernel's choice
        assert kept < 60, "the kernel never chose one of the two workers"
        send(server.port("smtp"), message(f"keep {kept}"), recipients=f"someone{kept}@held.test")
        kept += 1
    server.stop()
    server.settings["workers"] = 1
    server.start()
    assert len(server.queue()) == kept


def test_mail_acknowledged_just_before_a_kill_is_there_after_the_restart(gatepost_factory):
    server = gatepost_factory()
    send(server.port("smtp"), message("before the kill"))
    server.kill()
    server.start()

    def arrived() -> bool:
        with imap(server.port("imaps"), ALICE, PASSWORD) as client:
            return exists(client) == 1

    wait_until(arrived, 15, "the message is in the mailbox")


def test_a_second_server_on_the_same_directory_is_refused_with_a_clear_line(gatepost_factory):
    server = gatepost_factory(users=[])
    command = [str(PROGRAM), "serve", "--data", str(server.data), "--config", str(server.config)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert str(server.data) in second.stderr
    assert "Traceback" not in second.stderr
    server.cli("status")


def test_a_wrong_setting_is_named_by_its_key(tmp_path):
    server = Gatepost(tmp_path, smtp={"max_recipients": "many"}, queue={"retry_faktor": 3})
    server.write_config()
    command = [str(PROGRAM), "serve", "--data", str(server.data), "--config", str(server.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "smtp.max_recipients" in done.stderr
    assert "queue.retry_faktor" in done.stderr
    assert "Traceback" not in done.stderr


def make_certificate(directory: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate made with openssl; (certificate file, key file)."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    run([*command, "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(certificate)])
    return str(certificate), str(key)


def test_sighup_serves_a_new_certificate_without_dropping_sessions(gatepost_factory, tmp_path):
    server = gatepost_factory(workers=2)
    port = server.port("imaps")
    before = served_certificate(port)
    certificate, key = make_certificate(tmp_path, "renewed.example.test")
    with imap(port, ALICE, PASSWORD) as client:
        server.settings["tls"] = {"cert_file": certificate, "key_file": key}
        server.reload()
        wait_until(lambda: all(served_certificate(port) != before for _ in range(6)), 10, "both workers show the new certificate")
        assert served_certificate(port).strip() == Path(certificate).read_text().strip()
        assert client.noop()[0] == "OK"


def test_sighup_takes_changed_limits_and_keeps_the_old_ones_when_the_file_is_wrong(gatepost_factory):
    server = gatepost_factory()

    def announced_size() -> int:
        with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=10) as client:
            client.ehlo()
            return int(client.esmtp_features["size"])

    server.settings["smtp"] = {"max_message_bytes": 1_000_000}
    server.reload()
    wait_until(lambda: announced_size() == 1_000_000, 10, "the new size is announced")
    server.settings["smtp"] = {"max_message_bytes": "wrong"}
    server.reload()
    wait_until(lambda: "max_message_bytes" in server.log(), 10, "the fault is logged")
    assert announced_size() == 1_000_000


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AssertionError, match="has ended") as failure:
            Gatepost(tmp_path, listen={"smtp": [address]}).start()
    assert address in str(failure.value)
    assert "Traceback" not in str(failure.value)


@pytest.mark.parametrize("fault", ["certificate", "control port"])
def test_what_keeps_the_server_from_starting_is_said_in_one_line(tmp_path, fault):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        missing = str(tmp_path / "missing.pem")
        wrong = {"tls": {"cert_file": missing, "key_file": missing}} if fault == "certificate" else {"listen": {"control_tcp": [address]}}
        with pytest.raises(AssertionError, match="has ended") as failure:
            Gatepost(tmp_path, **wrong).start()
    assert (missing if fault == "certificate" else address) in str(failure.value)
    assert "Traceback" not in str(failure.value)


def test_a_start_right_after_the_supervisor_was_killed_waits_for_its_workers(gatepost_factory):
    server = gatepost_factory()
    session = smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30)
    session.ehlo()
    session.docmd("MAIL", "FROM:<a@example.org>")
    session.docmd("RCPT", f"TO:<{ALICE}>")
    assert session.docmd("DATA")[0] == 354  # a message under way: the worker lets it finish before it leaves
    orphans = server.worker_pids()
    server.process.kill()
    server.process.wait(10)
    server.start()
    assert server.worker_pids() != orphans
    session.close()


def test_what_the_server_writes_is_for_its_owner_alone(gatepost_factory, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    server = gatepost_factory(users=[])
    server.cli("volume", "add", "second", str(shared))
    server.stop()
    server.start()
    open_to_others = [path for root in (server.data, shared) for path in root.rglob("*") if path.lstat().st_mode & 0o077]
    assert not [path for path in open_to_others if path.name != "cert.pem"]


def test_the_cli_says_clearly_that_no_server_runs(tmp_path):
    server = Gatepost(tmp_path)
    with pytest.raises(CommandFailed) as failure:
        server.cli("status")
    assert "Traceback" not in failure.value.output
    assert str(tmp_path) in failure.value.output


def test_one_worker_dying_is_replaced_and_the_mail_goes_on(gatepost_factory):
    server = gatepost_factory(workers=2)
    first = server.worker_pids()
    os.kill(first[0], 9)
    wait_until(lambda: server.cli_ready() and server.worker_pids()[0] != first[0], 20, "worker 0 is back")
    assert server.worker_pids()[1] == first[1]
    for number in range(4):
        send(server.port("smtp"), message(f"after {number}"), recipients=BOB)

    def all_there() -> bool:
        with imap(server.port("imaps"), BOB, PASSWORD) as client:
            return len(fetched(client, "BODY.PEEK[HEADER.FIELDS (SUBJECT)]")) == 4

    wait_until(all_there, 15, "all four messages are in the mailbox")
