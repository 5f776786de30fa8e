"""A disk whose syncs fail, under the real server: nothing unacknowledged counts, one partition is closed, everybody is told, and it comes
back.

Guards against: a 250 for mail that did not reach the disk, a restart that believes the page cache, a server that looks healthy while it
refuses mail, and one that tries a bad disk for ever.
"""

import fcntl
import json
import smtplib
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support.faults import FailingDisk
from support.gatepost import ALICE, PROGRAM, Gatepost
from support.processes import wait_until
from support.programs import message, send
from support.sdk import queue, worker

HELD = "held.test"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def disk(tmp_path: Path) -> FailingDisk:
    return FailingDisk(tmp_path)


def health(server: Gatepost, name: str = "") -> int:
    """What the health service says of a name."""
    with grpc.insecure_channel(f"unix:{server.data}/control.sock") as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status


def try_to_send(server: Gatepost, name: str) -> tuple[int, str]:
    """One message to a held recipient: (code, text) of the reply that decided."""
    try:
        send(server.port("smtp"), message(name), recipients=f"{name}@{HELD}")
    except smtplib.SMTPResponseException as refusal:
        return refusal.smtp_code, str(refusal.smtp_error)
    except smtplib.SMTPRecipientsRefused as refusal:
        code, text = next(iter(refusal.recipients.values()))
        return code, str(text)
    return 250, ""


def send_until_refused(server: Gatepost, prefix: str, acknowledged: set[str]) -> str:
    """Send until a message is refused; those taken go into `acknowledged`. Returns the refusal."""
    for number in range(60):
        code, text = try_to_send(server, f"{prefix}-{number}")
        if code != 250:
            return f"{code} {text}"
        acknowledged.add(f"{prefix}-{number}@{HELD}")
    raise AssertionError("no message was refused")


def queued(server: Gatepost) -> set[str]:
    return {recipient.address for one in queue(server) for recipient in one.recipients}


def test_a_failed_sync_closes_one_partition_and_it_is_opened_again_when_the_disk_is_mended(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=2, environment=disk.environment, spool={"reopen_seconds": 1})
    server.cli("rule", "add", HELD, "--kind", "hold")
    acknowledged: set[str] = set()
    for number in range(6):
        assert try_to_send(server, f"before-{number}")[0] == 250
        acknowledged.add(f"before-{number}@{HELD}")
    assert health(server) == SERVING

    disk.break_under(server.data / "spool" / "p0")
    assert send_until_refused(server, "broken", acknowledged).startswith("421 ")
    wait_until(lambda: "opened again when the disk takes writes" in worker(server, 0).detail, 10, "status tells of the failure")
    assert worker(server, 0).state == "failed"
    assert str(server.data / "spool" / "p0") in worker(server, 0).detail
    wait_until(lambda: health(server) == NOT_SERVING, 10, "the whole does not serve")
    assert (health(server, "gatepost.worker.0"), health(server, "gatepost.worker.1")) == (NOT_SERVING, SERVING)
    pid = server.worker_pids()[0]
    wait_until(lambda: "the disk still fails" in server.log(), 20, "the disk was tried")
    wait_until(lambda: try_to_send(server, "other-worker")[0] == 250, 10, "the other worker takes mail")
    acknowledged.add(f"other-worker@{HELD}")
    assert server.worker_pids()[0] == pid, "a worker whose disk fails stays, to give an answer"

    disk.mend()
    wait_until(lambda: worker(server, 0).state == "running", 30, "the partition is open again", 0.3)
    wait_until(lambda: "opened again after a failed sync" in worker(server, 0).detail, 20, "status remembers")
    wait_until(lambda: health(server) == SERVING, 10, "the whole serves again")
    for number in range(8):
        assert try_to_send(server, f"after-{number}")[0] == 250
        acknowledged.add(f"after-{number}@{HELD}")
    assert acknowledged <= queued(server), "acknowledged, then lost"


def test_a_disk_that_fails_too_often_waits_for_a_person(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=1, environment=disk.environment, spool={"reopen_seconds": 0.5})
    server.cli("rule", "add", HELD, "--kind", "hold")
    acknowledged: set[str] = set()
    now = time.time()
    note = {"error": "earlier", "times": [now - 300, now - 200, now - 100], "trusted": True}
    (server.data / "spool" / "p0" / "sync-failed").write_text(json.dumps(note))
    disk.break_under(server.data / "spool" / "p0")
    send_until_refused(server, "broken", acknowledged)
    wait_until(lambda: "failed too often" in worker(server, 0).detail, 10, "status says that a person is needed")
    disk.mend()
    time.sleep(3)
    assert worker(server, 0).state == "failed"
    assert try_to_send(server, "still-closed")[0] == 421
    server.stop()
    server.start()
    assert try_to_send(server, "after")[0] == 250
    assert acknowledged <= queued(server)


def test_a_server_is_not_started_on_a_disk_that_failed_and_still_fails(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=1, environment=disk.environment, spool={"reopen_seconds": 0})
    server.cli("rule", "add", HELD, "--kind", "hold")
    disk.break_under(server.data / "spool" / "p0")
    send_until_refused(server, "broken", set())
    wait_until((server.data / "spool" / "p0" / "sync-failed").exists, 10, "the failure is noted")
    server.kill()
    with pytest.raises(AssertionError, match="has ended") as failure:
        server.start()
    assert "the disk still fails" in str(failure.value)
    disk.mend()
    server.start()
    assert try_to_send(server, "after")[0] == 250


def test_a_failed_volume_keeps_mail_in_the_queue_until_it_is_opened_again(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=1, environment=disk.environment, spool={"reopen_seconds": 1}, queue={"retry_initial_seconds": 2})
    disk.break_under(server.data / "volumes" / "main" / "log")
    send(server.port("smtp"), message("to a broken volume"))
    wait_until(lambda: worker(server, 0).state == "failed", 15, "status tells of the failure")
    assert "volumes/main" in worker(server, 0).detail
    wait_until(lambda: health(server) == NOT_SERVING, 10, "the whole does not serve")
    assert len(queue(server)) == 1
    send(server.port("smtp"), message("taken all the same"))
    disk.mend()
    wait_until(lambda: worker(server, 0).state == "running", 30, "the volume is open again", 0.3)
    wait_until(lambda: queue(server) == [], 30, "the mail is delivered", 0.3)


def test_a_partition_in_use_by_another_process_is_refused_by_name(tmp_path):
    server = Gatepost(tmp_path, users=[])
    place = server.data / "spool" / "p0"
    place.mkdir(parents=True)
    server.write_config()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242")
        lock.flush()
        command = [str(PROGRAM), "serve", "--data", str(server.data), "--config", str(server.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"{place}" in done.stderr and "in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_mail_for_alice_is_acknowledged_only_when_it_is_on_disk(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=1, environment=disk.environment, spool={"reopen_seconds": 0})
    disk.break_under(server.data / "spool" / "p0")
    client = smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=20)
    client.ehlo()
    client.mail("a@example.org")
    client.rcpt(ALICE)
    code, text = client.data(b"Subject: x\r\n\r\nx\r\n")
    client.close()
    assert code == 421 and text.startswith(b"4.3.0")


def test_a_session_that_goes_with_a_failed_queue_is_not_told_that_the_server_stops(gatepost_factory, disk: FailingDisk):
    server = gatepost_factory(workers=1, environment=disk.environment, spool={"reopen_seconds": 1})
    server.cli("rule", "add", HELD, "--kind", "hold")
    idle = smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=40)
    idle.ehlo()
    disk.break_under(server.data / "spool" / "p0")
    assert send_until_refused(server, "broken", set()).startswith("421 ")
    disk.mend()
    code, text = idle.getreply()
    idle.close()
    assert (code, text[:5]) == (421, b"4.3.0")
