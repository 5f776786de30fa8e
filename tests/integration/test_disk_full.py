"""A disk that runs full under the real server: senders get 452, what is queued goes out and frees space, reception comes back by itself.

Guards against: mail acknowledged that did not fit, a queue that cannot finish its work for want of space, reception that flaps or stays
off.
"""

import imaplib
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost.client import ServerRefusedError
from support.gatepost import ALICE, PASSWORD, PROGRAM, Gatepost
from support.processes import free_port, wait_until
from support.programs import imap
from support.sdk import call, queue, worker
from support.small_disk import SmallDisk, small_disk
from support.smtp_sink import smtp_sink

MIB = 1 << 20
MIN_FREE, RESUME = 24 * MIB, 40 * MIB  # a volume takes a segment of 64 MiB for itself at once
HELD, AWAY = "held.test", "away.test"
BODY = b"x" * 76 + b"\r\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 168) as made:
        yield made


@pytest.fixture
def server(disk: SmallDisk) -> Iterator[Gatepost]:
    spool = {"segment_bytes": 4 * MIB, "min_free_bytes": MIN_FREE, "resume_free_bytes": RESUME}
    with Gatepost(disk.path, workers=1, spool=spool, queue={"retry_initial_seconds": 1, "undo_seconds": 0}) as running:
        running.cli("rule", "add", HELD, "--kind", "hold")
        yield running


def deliver(server: Gatepost, name: str, size: int, recipient: str) -> tuple[str, int, bytes]:
    """One message of about `size` octets: (stage of the deciding reply, code, text)."""
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=20) as client:
        client.ehlo()
        code, text = client.mail("sender@example.org")
        if code != 250:
            return "MAIL", code, text
        client.rcpt(recipient)
        code, text = client.docmd("DATA")
        if code != 354:
            return "DATA", code, text
        client.send(f"Subject: {name}\r\n\r\n".encode() + BODY * (size // len(BODY)) + b".\r\n")
        return "END", *client.getreply()


def fill(server: Gatepost, prefix: str, recipient: str) -> tuple[set[str], tuple[str, int, bytes]]:
    """Send messages of 800 KB until one is refused. Returns the names of those taken, and the refusal."""
    taken: set[str] = set()
    for number in range(400):
        reply = deliver(server, f"{prefix}-{number}", 800_000, recipient)
        if reply[1] != 250:
            return taken, reply
        taken.add(f"{prefix}-{number}")
    raise AssertionError("the disk did not run full")


def subjects(server: Gatepost, user: str) -> list[str]:
    with imap(server.port("imaps"), user, PASSWORD) as client:
        if not int(client.select("INBOX", readonly=True)[1][0]):
            return []
        _, answers = client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    return [answer[1].decode().split(":", 1)[1].strip() for answer in answers if isinstance(answer, tuple)]


def takes_mail(server: Gatepost) -> bool:
    return deliver(server, "probe", 100, f"probe@{HELD}")[1] == 250


@pytest.mark.timeout(300)
def test_a_full_disk_stops_senders_and_the_queue_empties_and_reception_comes_back(server: Gatepost, disk: SmallDisk):
    call(server, lambda client: client.queue.pause("local:main"))
    taken, (_, code, text) = fill(server, "fill", ALICE)
    assert code == 452 and text.startswith(b"4.3.1")
    wait_until(lambda: deliver(server, "late", 100, ALICE)[:2] == ("MAIL", 452), 10, "refused at MAIL already")
    assert len(taken) > 10
    assert disk.free > MIN_FREE // 2
    wait_until(lambda: "disk nearly full" in worker(server, 0).detail, 5, "status says so")
    assert len(queue(server)) == len(taken)

    with imap(server.port("imaps"), ALICE, PASSWORD) as client:
        answer, texts = client.append("INBOX", "", imaplib.Time2Internaldate(0), b"Subject: appended\r\n\r\nx\r\n")
        assert answer == "NO" and b"OVERQUOTA" in texts[0]
    with pytest.raises(ServerRefusedError, match="disk full"):  # RESOURCE_EXHAUSTED
        call(server, lambda client: client.queue.submit(ALICE, [f"x@{HELD}"], b"Subject: x\r\n\r\nx\r\n"))

    call(server, lambda client: client.queue.resume("local:main"))
    wait_until(lambda: queue(server) == [], 120, "the mail is delivered although the disk is nearly full", 0.5)
    assert set(subjects(server, ALICE)) == taken
    assert len(subjects(server, ALICE)) == len(taken)
    with imap(server.port("imaps"), ALICE, PASSWORD, folder="INBOX") as client:
        client.select("INBOX")
        client.store("1:*", "+FLAGS", r"(\Deleted)")
        client.expunge()
    server.stop()
    server.start()
    # A volume gives space back in its upkeep, twice a minute.
    wait_until(lambda: takes_mail(server), 90, "mail is taken again once there is room", 0.5)
    assert "nearly full" not in worker(server, 0).detail


@pytest.mark.timeout(300)
def test_relayed_mail_frees_a_disk_without_a_free_octet_and_reception_comes_back_by_itself(server: Gatepost, disk: SmallDisk):
    port = free_port()
    server.cli("rule", "add", AWAY, "--kind", "gateway", "--host", "127.0.0.1", "--port", str(port))
    taken, (_, code, text) = fill(server, "away", f"someone@{AWAY}")
    assert code == 452 and text.startswith(b"4.3.1")
    disk.leave(0)
    wait_until(lambda: deliver(server, "late", 100, f"x@{AWAY}")[:2] == ("MAIL", 452), 10, "refused at MAIL already")
    with smtp_sink(port) as sink:
        wait_until(lambda: queue(server) == [], 120, "all of it is relayed although nothing can be written beside the reserve", 0.5)
        wait_until(lambda: takes_mail(server), 30, "mail is taken again, nobody having done anything", 0.5)
        assert sink.count() == len(taken)
    assert disk.free > MIN_FREE


@pytest.mark.timeout(300)
def test_reception_comes_back_with_hysteresis_and_nothing_acknowledged_is_lost(server: Gatepost, disk: SmallDisk):
    taken, (_, code, _) = fill(server, "held", f"someone@{HELD}")
    assert code == 452
    disk.leave(MIN_FREE // 2)
    ids = [one.message_id for one in queue(server)]
    assert len(ids) == len(taken)
    call(server, lambda client: client.queue.release(ids[:1]))  # the journal can still be written
    server.kill()
    server.start()  # and the partition recovered
    assert len(queue(server)) == len(taken)
    assert not takes_mail(server)

    disk.empty()
    disk.leave((MIN_FREE + RESUME) // 2)
    if disk.free < RESUME:
        wait_until(lambda: "nearly full" in worker(server, 0).detail, 5, "between the two limits it stays as it is")
        assert not takes_mail(server)
    disk.empty()
    call(server, lambda client: client.queue.remove(ids[len(taken) // 4 :]))
    wait_until(lambda: disk.free > RESUME, 60, "removed mail gives its space back", 0.5)
    wait_until(lambda: takes_mail(server), 10, "mail is taken again", 0.5)
    left = queue(server)
    assert len([one for one in left if one.recipients[0].address.startswith("someone@")]) == len(taken) // 4


@pytest.mark.timeout(300)
def test_a_disk_that_runs_full_in_the_middle_of_a_message_is_told_at_the_end_of_data(server: Gatepost, disk: SmallDisk):
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=30) as client:
        client.ehlo()
        client.mail("sender@example.org")
        client.rcpt(f"big@{HELD}")
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: big\r\n\r\n" + BODY * 10_000)
        disk.leave(MIN_FREE // 4)
        client.send(BODY * 200_000 + b".\r\n")
        code, text = client.getreply()
    assert code == 452 and text.startswith(b"4.3.1")
    assert queue(server) == []
    disk.empty()
    wait_until(lambda: takes_mail(server), 20, "mail is taken again", 0.5)


def test_a_start_on_a_disk_without_a_free_octet_says_what_to_do(disk: SmallDisk):
    disk.leave(0)
    run = subprocess.run([PROGRAM, "serve", "--data", disk.path / "data"], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "No space left on device" in run.stderr
    assert "Traceback" not in run.stderr
