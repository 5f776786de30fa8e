"""The digest of a mailbox's quarantine: its text, and the signed links in it. Pure; control/digest collects, sends and resolves.

Invariants: nothing that came from a message is markup, a link, a line or a control in the digest (texts are cut, escaped and defanged);
entries are bounded; a link names one message, one recipient and one action, expires, and cannot be changed (HMAC-SHA256 over all of it).
A link by itself does nothing when it is merely opened: the page behind it asks first (as RFC 8058 demands of one-click links). Reading
one fails with LinkError.
"""

import base64
import binascii
import hashlib
import hmac
import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime

from gatepost.message.address import domain_key

MAX_ENTRIES = 100
MAX_TEXT = 120
MAX_TOKEN = 1000
MAC = 32
VERSION = 1
ACTIONS = ("release", "allow", "delete")
_HEAD = 22
"""Octets before the recipient: version, action, message id, expiry."""
_BOUNDARY = "=_digest"
"""Cannot stand in a part: quoted-printable has hexadecimal digits behind an equals sign."""
_WORDS = {"release": "Release", "allow": "Release and allow sender", "delete": "Delete"}


class LinkError(Exception):
    """No link of ours, or `expired`; the text is for whoever followed it."""

    def __init__(self, text: str, *, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


@dataclass(frozen=True, slots=True)
class Link:
    """What a link does: `action` of ACTIONS for one recipient of one message, until `expires` (Unix seconds)."""

    action: str
    message_id: bytes
    recipient: str
    expires: int

    @property
    def releases(self) -> bool:
        """It lets the message out."""
        return self.action != "delete"

    def sign(self, key: bytes) -> str:
        """The token, fit for a URL."""
        head = bytes([VERSION, ACTIONS.index(self.action)]) + self.message_id + self.expires.to_bytes(4, "big")
        data = head + self.recipient.encode()
        return base64.urlsafe_b64encode(data + _mac(key, data)).decode().rstrip("=")


def read_link(token: str, key: bytes, now: float) -> Link:
    """Inverse of `sign`. Raises LinkError."""
    if len(token) > MAX_TOKEN:
        raise LinkError("this is no link of this server")
    try:
        octets = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise LinkError("this is no link of this server") from None
    data, mac = octets[:-MAC], octets[-MAC:]
    if len(data) <= _HEAD or not hmac.compare_digest(mac, _mac(key, data)) or data[0] != VERSION:
        raise LinkError("this is no link of this server, or it was changed")
    link = Link(ACTIONS[data[1]], data[2:18], data[_HEAD:].decode(), int.from_bytes(data[18:_HEAD], "big"))
    if link.expires < now:
        raise LinkError("this link has expired; the message may still be in quarantine: ask the administrator", expired=True)
    return link


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"gatepost digest link\0" + data, hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Entry:
    """One message in quarantine for `recipient`. `why` in words; an infected one cannot be released by a link."""

    message_id: bytes
    recipient: str
    sender: str
    header_from: str
    subject: str
    received: datetime
    why: str
    infected: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """What all digests of a run have in common. `key` signs; links work until `expires` (Unix seconds)."""

    hostname: str
    link_base: str
    key: bytes
    expires: int
    now: datetime

    def url(self, action: str, entry: Entry) -> str:
        """The link for one action."""
        return self.link_base + Link(action, entry.message_id, entry.recipient, self.expires).sign(self.key)


@dataclass(frozen=True, slots=True)
class Digest:
    """The mail (RFC 5322), how many messages it lists, and how many more there are."""

    octets: bytes
    listed: int
    omitted: int


def build_digest(setting: Setting, mailbox: str, entries: Sequence[Entry], omitted: int = 0) -> Digest:
    """The mail for one mailbox: the newest MAX_ENTRIES, newest first. Takes milliseconds."""
    chosen = sorted(entries, key=lambda one: one.message_id, reverse=True)[:MAX_ENTRIES]
    omitted += len(entries) - len(chosen)
    items = [_item(setting, entry) for entry in chosen]
    parts = (("plain", _text(setting, items, omitted)), ("html", _html(setting, items, omitted)))
    body = b"".join(_part(subtype, text) for subtype, text in parts)
    return Digest(_header(setting, mailbox, len(chosen) + omitted) + body + f"--{_BOUNDARY}--\r\n".encode(), len(chosen), omitted)


def _header(setting: Setting, mailbox: str, count: int) -> bytes:
    """With the empty line behind it. An address that is not ASCII stands there in UTF-8 (RFC 6532 3.2): an encoded word may not."""
    mail = EmailMessage(policy=SMTP if mailbox.isascii() else SMTPUTF8)
    mail["From"] = f"Quarantine <postmaster@{domain_key(setting.hostname)}>"
    mail["To"] = mailbox
    mail["Subject"] = f"{count} {'message' if count == 1 else 'messages'} in quarantine for you"
    mail["Date"] = format_datetime(setting.now)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834 5
    mail["MIME-Version"] = "1.0"
    kind = f'Content-Type: multipart/alternative; boundary="{_BOUNDARY}"\r\n\r\n'
    return mail.as_bytes().removesuffix(b"\r\n") + kind.encode()


def _part(subtype: str, text: str) -> bytes:
    """A body part, its delimiter in front."""
    head = f'--{_BOUNDARY}\r\nContent-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n'
    return head.encode() + binascii.b2a_qp(text.replace("\n", "\r\n").encode()) + b"\r\n"


def actions_for(entry: Entry) -> Sequence[str]:
    """What its recipient may do."""
    return ("delete",) if entry.infected else ACTIONS if entry.sender else ("release", "delete")


def plain(text: str, limit: int = MAX_TEXT) -> str:
    """Text from a message in one harmless line: no controls or direction marks, cut, nothing that a mail program makes a link of."""
    line = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    line = line.replace("://", "[:]//").replace("www.", "www[.]").replace("WWW.", "WWW[.]").replace("mailto:", "mailto[:]")
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclass(frozen=True, slots=True)
class _Item:
    """What both parts say of an entry: lines, and links with their words."""

    subject: str
    lines: Sequence[str]
    links: Sequence[tuple[str, str]]


def _item(setting: Setting, entry: Entry) -> _Item:
    lines = [
        f"From: {plain(entry.header_from or entry.sender or '<>')}",
        f"Sender: {plain(entry.sender or '<>')}",
        f"To: {plain(entry.recipient)}",
        f"Received: {entry.received.strftime('%Y-%m-%d %H:%M %Z')}",
        f"Why: {plain(entry.why, 2 * MAX_TEXT)}",
        *(["Infected: only the administrator may release it."] if entry.infected else []),
    ]
    links = [(_WORDS[action], setting.url(action, entry)) for action in actions_for(entry)]
    return _Item(plain(entry.subject) or "(no subject)", lines, links)


def _lead(setting: Setting) -> str:
    day = datetime.fromtimestamp(setting.expires, setting.now.tzinfo).strftime("%Y-%m-%d")
    return (
        f"The mail server {setting.hostname} kept these messages back from you. You need not do anything: they are deleted after a while. "
        f"The links work until {day}; each asks before it does anything."
    )


def _text(setting: Setting, items: Sequence[_Item], omitted: int) -> str:
    parts = [_lead(setting), ""]
    for item in items:
        parts += [item.subject, *(f"  {line}" for line in item.lines), *(f"  {words}: {url}" for words, url in item.links), ""]
    return "\n".join([*parts, *_rest(omitted)]) + "\n"


def _rest(omitted: int) -> list[str]:
    return [f"… and {omitted} more, which are not listed here."] if omitted else []


def _html(setting: Setting, items: Sequence[_Item], omitted: int) -> str:
    rows = []
    for item in items:
        fields = "".join(f"<br>{html.escape(line)}" for line in item.lines)
        links = " &middot; ".join(f'<a href="{html.escape(url)}">{words}</a>' for words, url in item.links)
        rows.append(f"<p><b>{html.escape(item.subject)}</b>{fields}<br>{links}</p>")
    rest = "".join(f"<p>{html.escape(line)}</p>" for line in _rest(omitted))
    body = "\n".join([f"<p>{html.escape(_lead(setting))}</p>", *rows, rest])
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Quarantine</title></head>\n<body>\n{body}\n</body></html>\n'
