"""Automatic answers: to what none is given, and what one looks like (RFC 3834; RFC 5230 4 for the rules of vacation notices). Pure.

Called by delivery/auto_reply. Invariants: nothing is answered that a program sent, that came through a list, or that was not written to
the address that answers; an answer goes to the return path and nowhere else; nothing of the message gets into the answer but its subject,
Message-ID and References, cleaned of line ends.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.headerregistry import Address as Mailbox
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import getaddresses

from gatepost.message.address import AddressError, parse_address
from gatepost.message.fields import HeaderView

MAX_SUBJECT = 200
MAX_REFERENCES = 10

_PROGRAMS = re.compile(
    r"(mailer-daemon|postmaster|no-?reply|do-?not-?reply|listserv|majordomo|mailman|owner-.*|.*-(owner|request|bounces?)|bounces?)\Z",
    re.IGNORECASE,
)
_ADDRESSED = ("to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc")
_LIST = ("list-id", "list-post", "list-unsubscribe", "list-help", "list-subscribe", "list-owner", "list-archive", "mailing-list")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,250}>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said. `address` answers, under `name` if there is one; `subject` '' is the one of the message behind 'Auto: '."""

    address: str
    text: str
    html: str = ""
    subject: str = ""
    name: str = ""


def why_not(header: HeaderView, reverse_path: str, addresses: Sequence[str]) -> str:
    """Why this message gets no answer; '' when it gets one. `addresses`: those that the message may have been written to."""
    try:
        sender = parse_address(reverse_path, lenient_dot=True)
    except AddressError:
        return "it has no return path"
    own = {_key(address) for address in addresses}
    if sender.key in own:
        return "the sender is the address that answers"
    if _PROGRAMS.match(sender.local.partition("+")[0]) or sender.local[:5].upper() in ("SRS0=", "SRS1="):
        return "the return path is that of a program"
    submitted = header.first("auto-submitted").partition(";")[0].strip().lower()
    if submitted not in ("", "no"):
        return f"it was sent by a program: Auto-Submitted is {submitted[:40]}"
    if header.first("precedence").strip().lower() in ("bulk", "list", "junk"):
        return "it was sent to many: Precedence says so"
    if (found := next((name for name in _LIST if name in header), "")) != "":
        return f"it came through a list: it has {found}"
    suppress = {one.strip() for one in header.first("x-auto-response-suppress").lower().split(",")}
    if suppress & {"all", "oof", "autoreply"}:
        return "the sender asks for none: X-Auto-Response-Suppress"
    if not own & _written_to(header):
        return "no field of its header names the address"
    return ""


def build_answer(header: HeaderView, reverse_path: str, answer: Answer) -> bytes:
    """The whole answer, CRLF lines; Date and Message-ID are added where it enters the queue."""
    message = EmailMessage(policy=SMTP.clone(max_line_length=78))
    local, _, domain = answer.address.rpartition("@")
    message["From"] = Mailbox(_cleaned(answer.name), local.strip('"'), domain)
    to_local, _, to_domain = reverse_path.rpartition("@")
    message["To"] = Mailbox("", parse_address(reverse_path, lenient_dot=True).local if to_local else "", to_domain)
    message["Subject"] = _cleaned(answer.subject) or f"Auto: {_cleaned(header.text('subject'))[:MAX_SUBJECT]}".rstrip()
    message["Auto-Submitted"] = "auto-replied"  # RFC 3834 5
    message["Precedence"] = "bulk"  # for programs older than RFC 3834
    if (original := _MESSAGE_ID.search(header.first("message-id"))) is not None:
        earlier = _MESSAGE_ID.findall(header.first("references")) or _MESSAGE_ID.findall(header.first("in-reply-to"))[:1]
        known = [one for one in earlier if one != original[0]]
        if len(known) >= MAX_REFERENCES:
            known = [known[0], *known[2 - MAX_REFERENCES :]]
        message["In-Reply-To"] = original[0]
        message["References"] = " ".join([*known, original[0]])
    if answer.text or not answer.html:
        message.set_content(answer.text or "", cte=None if answer.text.isascii() else "quoted-printable")
        if answer.html:
            message.add_alternative(answer.html, subtype="html", cte=None if answer.html.isascii() else "quoted-printable")
    else:
        message.set_content(answer.html, subtype="html", cte=None if answer.html.isascii() else "quoted-printable")
    return message.as_bytes()


def _written_to(header: HeaderView) -> set[str]:
    values = [value.decode("utf-8", "replace")[:10_000] for name in _ADDRESSED for value in header.raw(name)]
    return {_key(address) for _, address in getaddresses(values) if address}


def _key(address: str) -> str:
    try:
        return parse_address(address, lenient_dot=True).key
    except AddressError:
        return address.lower()


def _cleaned(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()
