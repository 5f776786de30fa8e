"""A whole server: what is attached to mail decides whether it is taken, and mailboxes hold mail that says it was looked at."""

import base64
import poplib
import smtplib
from email.message import EmailMessage

import pytest

from support.gatepost import ALICE, BOB, PASSWORD, CommandFailed, Gatepost
from support.processes import wait_until
from support.receiving import unverified

PROGRAM = b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + bytes(300)


def mail(subject: str, **files: bytes) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@elsewhere.test", ALICE, subject
    message.set_content("hello")
    for name, content in files.items():
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name.replace("_", "."))
    return message


def send(server: Gatepost, message: EmailMessage) -> None:
    with smtplib.SMTP("127.0.0.1", server.port("smtp"), timeout=20) as client:
        client.send_message(message)


def test_a_program_is_refused_with_the_reason_whatever_it_is_called(gatepost: Gatepost) -> None:
    for name in ("run_exe", "letter_txt"):
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(gatepost, mail("a program", **{name: PROGRAM}))
        assert refused.value.smtp_code == 550
        assert refused.value.smtp_error.startswith(b"5.7.1 ")
    # The server's log says what was found.
    assert "message refused" in gatepost.log()


def test_delivered_mail_says_that_it_was_looked_at_and_a_forged_word_of_it_is_gone(gatepost: Gatepost) -> None:
    for number, files in enumerate(({}, {"a_pdf": b"%PDF-1.4 x"})):
        message = mail(f"inspected {number}", **files)
        message["X-Gatepost-Scan"] = "gatepost.example.test; accept; policy=forged"
        send(gatepost, message)

    def found() -> list[bytes]:
        reader = poplib.POP3("127.0.0.1", gatepost.port("pop3"), timeout=20)
        reader.stls(unverified())
        reader.user(ALICE)
        reader.pass_(PASSWORD)
        octets = [b"\r\n".join(reader.retr(number + 1)[1]) for number in range(reader.stat()[0])]
        reader.quit()
        return [one for one in octets if b"inspected" in one]

    wait_until(lambda: len(found()) == 2, 20, "both are delivered")
    for octets in found():
        assert octets.count(b"X-Gatepost-Scan: gatepost.example.test; accept") == 1
        assert b"forged" not in octets


def test_sent_by_the_command_line_it_is_refused_too(gatepost: Gatepost) -> None:
    octets = mail("by command", run_exe=PROGRAM).as_bytes()
    assert base64.b64encode(PROGRAM)[:20] in octets
    with pytest.raises(CommandFailed, match=r"550 .*(blocked name|program)"):
        gatepost.cli("send", "-", "--from", ALICE, "--to", BOB, text=octets.decode())
