"""Messages to send and boxes to look into, with the standard library's clients: what the tests of every protocol share."""

import contextlib
import imaplib
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from email.utils import formatdate, make_msgid


def message(subject: str, *, sender: str = "sender@example.org", to: str = "alice@example.test", body: str = "Hello.\n") -> EmailMessage:
    """A plain message with the fields RFC 5322 asks for."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, to, subject
    mail["Date"], mail["Message-ID"] = formatdate(), make_msgid(domain="example.org")
    mail.set_content(body)
    return mail


def unverified() -> ssl.SSLContext:
    """A TLS client that takes the self-signed certificate of a fresh server."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def send(port: int, mail: EmailMessage, sender: str = "sender@example.org", recipients: str | list[str] = "alice@example.test") -> None:
    """Send over SMTP on 127.0.0.1. Raises smtplib's errors."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.send_message(mail, sender, recipients)


@contextlib.contextmanager
def imap(port: int, user: str, password: str, folder: str = "INBOX") -> Iterator[imaplib.IMAP4_SSL]:
    """A logged-in IMAP session over TLS with `folder` selected read-only."""
    client = imaplib.IMAP4_SSL("127.0.0.1", port, ssl_context=unverified(), timeout=30)
    try:
        client.login(user, password)
        client.select(folder, readonly=True)
        yield client
    finally:
        with contextlib.suppress(OSError, imaplib.IMAP4.error):
            client.logout()


def fetched(client: imaplib.IMAP4, item: str, which: str = "1:*") -> list[bytes]:
    """The literals of FETCH `item` for `which` messages, in order."""
    status, answers = client.fetch(which, f"({item})")
    assert status == "OK", answers
    return [answer[1] for answer in answers if isinstance(answer, tuple)]


def exists(client: imaplib.IMAP4, folder: str = "INBOX") -> int:
    """Number of messages by STATUS."""
    status, answers = client.status(folder, "(MESSAGES)")
    assert status == "OK", answers
    return int(answers[0].split(b"MESSAGES ")[1].split(b")")[0])
