"""Mail that comes while the scanner is out waits, and goes where its verdict says once the scanner is back; later scans, by hand."""

import json
import smtplib
import socketserver
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from support.gatepost import ALICE, Gatepost
from support.processes import wait_until

BAD = b"harmless words that the scanner of this test takes for a virus"


class Clamd(socketserver.StreamRequestHandler):
    """zVERSION and zINSTREAM; finds BAD as long as it is in `signatures`."""

    signatures: ClassVar[set[bytes]] = set()

    def handle(self) -> None:
        command = b""
        while not command.endswith(b"\0"):
            octet = self.rfile.read(1)
            if not octet:
                return
            command += octet
        if command == b"zVERSION\0":
            self.wfile.write(b"ClamAV 1.0.0/%d/today\0" % len(self.signatures))
            return
        content = b""
        while length := int.from_bytes(self.rfile.read(4), "big"):
            content += self.rfile.read(length)
        found = any(one in content for one in self.signatures)
        self.wfile.write(b"stream: Test.Virus FOUND\0" if found else b"stream: OK\0")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@pytest.fixture
def port() -> int:
    with Server(("127.0.0.1", 0), Clamd) as probe:
        return int(probe.server_address[1])


@pytest.fixture
def clamd(port: int) -> Iterator[Any]:
    """Starts the scanner when called."""
    running: list[Server] = []

    def start() -> None:
        Clamd.signatures = {BAD}
        running.append(Server(("127.0.0.1", port), Clamd))
        threading.Thread(target=running[0].serve_forever, daemon=True).start()

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


def send(server: Gatepost, subject: str, text: bytes) -> None:
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=20) as client:
        client.sendmail("a@elsewhere.test", [ALICE], b"From: a@elsewhere.test\r\nSubject: %s\r\n\r\n%s\r\n" % (subject.encode(), text))


def listed(server: Gatepost, state: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.json("quarantine", "list", "--state", state)
    return found


def test_mail_waits_for_the_scanner_and_goes_where_the_verdict_says(gatepost_factory: Any, port: int, clamd: Any) -> None:
    scanner = {"name": "clamd", "kind": "clamd", "address": f"tcp:127.0.0.1:{port}", "retry_seconds": 0.2, "retry_max_seconds": 0.4}
    server: Gatepost = gatepost_factory(workers=1, scan={"scanners": json.dumps([{**scanner, "timeout_seconds": 2, "cache": False}])})
    send(server, "clean", b"hello")
    send(server, "bad", BAD)
    assert [one["subject"] for one in listed(server, "waiting")] == ["clean", "bad"]
    assert "scan-wait" in server.cli("queue", "list")
    clamd()
    wait_until(lambda: not listed(server, "waiting"), 30, "nothing waits any more")
    (bad,) = listed(server, "quarantined")
    assert bad["subject"] == "bad" and "clamd infected Test.Virus" in bad["verdict"]["text"]
    message_id = bad["message"]["message_id"]
    assert "scanned again: " in server.cli("trace", message_id) and "(by gatepost)" in server.cli("trace", message_id)
    wait_until(lambda: not server.queue("--recipient", ALICE, "--destination", "local:*"), 20, "the clean one is delivered")

    again = server.json("quarantine", "rescan", message_id, "--release-if-clean")
    assert [(one["verdict"]["answers"][0]["outcome"], one["released"]) for one in again] == [("infected", False)]
    Clamd.signatures = set()
    assert "accept" in server.cli("quarantine", "rescan", message_id)
    assert listed(server, "quarantined"), "a rescan alone lets nothing out"
    assert server.json("quarantine", "rescan", message_id, "--release-if-clean")[0]["released"]
    wait_until(lambda: not server.queue(), 20, "both are delivered")
    assert [one["messages"] for one in server.json("mailbox", "list") if one["address"] == ALICE] == [2]
