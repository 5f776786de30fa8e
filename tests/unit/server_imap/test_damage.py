"""A message that is damaged on disk: an error of that message, the others and the session go on."""

import poplib
from pathlib import Path

import pytest

from support.access import ALICE, AccessHost

MARK = b"0123456789 this text is damaged on disk 9876543210"


def damage(volume: Path) -> None:
    """Change one octet of the marked text wherever the volume has it in a log."""
    hit = 0
    for path in volume.rglob("*"):
        if path.is_file() and (at := (content := path.read_bytes()).find(MARK)) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 5)
                file.write(bytes([content[at + 5] ^ 0xFF]))
            hit += 1
    assert hit


def test_a_damaged_message_is_an_error_of_that_message_only(host: AccessHost) -> None:
    with host.raw("imap", user=ALICE) as client:
        client.append(b"Subject: good\r\n\r\ngood body\r\n")
        client.append(b"Subject: bad\r\n\r\n" + MARK + b"\r\n")
        client.append(b"Subject: fine\r\n\r\nfine body\r\n")
        damage(host.data / "volumes")
        client.ok("SELECT INBOX")
        lines = client.command("FETCH 1:3 (UID BODY.PEEK[TEXT])")
        assert lines[-1].startswith("NO [SERVERBUG]")
        assert "good body" in lines
        assert "fine body" in lines
        assert client.ok("FETCH 3 BODY.PEEK[TEXT]")
    pop = host.pop3()
    with pytest.raises(poplib.error_proto):
        pop.retr(2)
    assert b"fine body" in pop.retr(3)[1]
    pop.quit()
