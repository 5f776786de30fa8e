"""What a mailing list writes by itself: confirmations, help, notices to its owners, digests. Pure: values in, octets out.

Called by delivery/list_service and control/list_digests. Invariants: a text that came by mail is cut and cleaned, so that it can be neither
field nor line of its own; all of it is Auto-Submitted (RFC 3834 5), so that no responder answers; a digest is multipart/digest (RFC 2046
5.1.5), each post in it octet for octet as the list got it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from hashlib import sha256

from gatepost.delivery.list_fields import list_id
from gatepost.message.fields import HeaderView
from gatepost.message.verp import bounces_address

MAX_TEXT = 200


def about(address: str, word: str) -> str:
    """LIST-word@domain."""
    local, _, domain = address.rpartition("@")
    return f"{local}-{word}@{domain}"


def confirmation(address: str, member: str, what: str, token: str, link: str) -> bytes:
    """Asks whether `member` wants `what`; the token in the subject comes back with the answer."""
    way = f"\nor open {link}\n" if link else ""
    text = (
        f"Somebody, probably you, asked {address} to {what} {member}.\n\n"
        f"If that is what you want, answer this mail as it is (the subject must stay),\n{way}\n"
        "If not, do nothing: without your answer nothing is changed.\n"
    )
    return _mail(address, about(address, "request"), member, f"confirm {token}", text)


def done(address: str, member: str, text: str) -> bytes:
    """What became of a request."""
    return _mail(address, about(address, "request"), member, f"{address}: {clean(text)}", f"{clean(text, 500)}\n\n{_words(address)}")


def help_text(address: str, member: str) -> bytes:
    """What can be asked for by mail."""
    return _mail(address, about(address, "request"), member, f"Commands of {address}", _words(address))


def _words(address: str) -> str:
    return (
        f"Mail to {about(address, 'request')} with one of these as its subject:\n\n"
        "    subscribe      to become a member\n"
        "    unsubscribe    to be none any more\n"
        "    digest on      to get the posts of a day as one mail\n"
        "    digest off     to get each post by itself\n"
        "    help           for this text\n\n"
        f"{about(address, 'subscribe')} and {about(address, 'unsubscribe')} do as they say. Each asks back before anything is changed.\n"
        f"People answer at {about(address, 'owner')}.\n"
    )


def post_waits(address: str, owner: str, post: Sequence[tuple[str, str]], links: Sequence[tuple[str, str]], identity: str) -> bytes:
    """Tells an owner of a post that waits. `post`, `links`: names and values to be shown."""
    shown = "".join(f"    {name}: {clean(value)}\n" for name, value in post)
    ways = "".join(f"{name}: {value}\n" for name, value in links)
    text = (
        f"A post to {address} waits for your word:\n\n{shown}\n{ways}\n"
        f"On the server: gatepost list approve {address} {identity}\n"
        f"           or: gatepost list reject {address} {identity}\n"
    )
    return _mail(address, about(address, "owner"), owner, f"A post to {address} waits", text)


def member_disabled(address: str, owner: str, member: str, count: int) -> bytes:
    """Tells an owner whom bounces ended."""
    text = (
        f"{count} posts of {address} to {member} came back as undeliverable, so it gets no more of them.\n\n"
        f"When the address works again: gatepost list set {address} {member} --state subscribed\n"
    )
    return _mail(address, about(address, "owner"), owner, f"{member} gets no more posts of {address}", text)


@dataclass(frozen=True, slots=True)
class DigestMail:
    """One issue of a digest for one member. posts: their octets. one_click: as in ListLook."""

    address: str
    name: str
    number: int
    member: str
    posts: Sequence[bytes]
    now: datetime
    one_click: str = ""


def digest(mail: DigestMail) -> bytes:
    """multipart/mixed of a table of contents and a multipart/digest."""
    seed = sha256(f"{mail.address}\0{mail.number}".encode() + b"".join(sha256(one).digest() for one in mail.posts)).hexdigest()[:40]
    outer, inner = f"=_{seed}", f"=_{seed}-posts"
    body = b"8bit" if not all(one.isascii() for one in mail.posts) else b"7bit"
    parts = [_digest_head(mail, outer, body), f"--{outer}\r\n".encode(), _contents(mail)]
    parts += [f'--{outer}\r\nContent-Type: multipart/digest; boundary="{inner}"\r\n'.encode()]
    parts += [b"Content-Transfer-Encoding: " + body + b"\r\n\r\n"]
    for one in mail.posts:
        parts += [f"--{inner}\r\n\r\n".encode(), one if one.endswith(b"\r\n") else one + b"\r\n", b"\r\n"]
    return b"".join([*parts, f"--{inner}--\r\n\r\n--{outer}--\r\n".encode()])


def _digest_head(mail: DigestMail, boundary: str, encoding: bytes) -> bytes:
    address = mail.address
    head = EmailMessage(policy=SMTP)
    head["From"] = about(address, "request")
    head["To"] = mail.member
    head["Subject"] = f"{clean(mail.name) or address} digest {mail.number}"
    head["Date"] = format_datetime(mail.now.astimezone(UTC))
    head["Message-ID"] = (
        f"<digest.{mail.number}.{sha256(f'{address} {mail.member}'.encode()).hexdigest()[:16]}@{address.rpartition('@')[2]}>"
    )
    head["Sender"] = bounces_address(address)
    head["Precedence"] = "list"
    head["Auto-Submitted"] = "auto-generated"
    head["List-Id"] = f"<{list_id(address)}>"
    head["List-Post"] = f"<mailto:{address}>"
    leave = [f"<{one}>" for one in (mail.one_click, f"mailto:{about(address, 'unsubscribe')}") if one]
    lines = ["List-Unsubscribe: " + ",\r\n\t".join(leave)]
    if mail.one_click:
        lines.append("List-Unsubscribe-Post: List-Unsubscribe=One-Click")
    fields = head.as_bytes().partition(b"\r\n\r\n")[0] + "".join(f"\r\n{line}" for line in lines).encode()
    kind = f'\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="{boundary}"\r\nContent-Transfer-Encoding: '
    return fields + kind.encode() + encoding + b"\r\n\r\n"


def _contents(mail: DigestMail) -> bytes:
    """The table of contents, as a part."""
    part = EmailMessage(policy=SMTP)
    lines = []
    for place, octets in enumerate(mail.posts, 1):
        header = HeaderView(octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        lines.append(f"{place:3}. {clean(header.text('subject'), 100) or '(no subject)'} ({clean(header.text('from'), 60)})")
    text = f"{len(mail.posts)} posts of {mail.address}:\n\n" + "\n".join(lines) + "\n"
    part.set_content(text, cte="7bit" if text.isascii() else "quoted-printable")
    del part["MIME-Version"]
    return part.as_bytes() + b"\r\n"


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text from a message in one harmless line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _mail(address: str, sender: str, to: str, subject: str, text: str) -> bytes:
    mail = EmailMessage(policy=SMTP.clone(max_line_length=998))
    mail["From"] = sender
    mail["To"] = to
    mail["Subject"] = subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Auto-Submitted"] = "auto-generated"
    mail["List-Id"] = f"<{list_id(address)}>"
    mail.set_content(text, cte="7bit" if text.isascii() else "quoted-printable")
    return mail.as_bytes()
