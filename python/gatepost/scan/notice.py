"""Texts that policies put into messages: the notice in place of a stripped part, the mark before a subject. Called by `gate`.

Pure. Invariant: whatever the names of files hold, they end neither a line nor a part, and turn no terminal's direction: all that is not
printable is written as its code point, and long names are cut. Content is never quoted.
"""

import base64
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header

MAX_NAME = 120
"""Characters shown of a file's name or path."""
MAX_LISTED = 20
"""Files named in one notice."""
MAX_TAG = 60
"""Characters of a subject's mark."""


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken out, and why."""

    path: str
    reason: str


def notice_text(removed: Sequence[Removed], hostname: str, contact: str) -> str:
    """What the reader sees where the attachment was. Lines end in LF."""
    many = len(removed) > 1
    lines = [f"{'Attachments were' if many else 'An attachment was'} removed from this message by {printable(hostname)}.", ""]
    for one in removed[:MAX_LISTED]:
        lines += [f"  Name:   {printable(one.path)}", f"  Reason: {printable(one.reason)}", ""]
    if len(removed) > MAX_LISTED:
        lines += [f"  and {len(removed) - MAX_LISTED} more", ""]
    lines.append(f"If you need {'them' if many else 'it'}, ask {printable(contact)}, or ask the sender to send it another way.")
    return "\n".join(lines) + "\n"


def notice_part(removed: Sequence[Removed], hostname: str, contact: str) -> bytes:
    """The notice as a whole MIME part: header, empty line, body; CRLF line ends, the last included (RFC 2046 4.1)."""
    text = notice_text(removed, hostname, contact)
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: inline\r\n"
    if text.isascii():
        return head + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + text.replace("\n", "\r\n").encode()
    body = base64.encodebytes(text.replace("\n", "\r\n").encode()).replace(b"\n", b"\r\n")
    return head + b"Content-Transfer-Encoding: base64\r\n\r\n" + body


def marked_subject(body: bytes, tag: str) -> bytes:
    """A whole Subject field with `tag` before the text it had: `body` is what followed the colon, as it stood, or b'' for none."""
    mark = printable(tag)[:MAX_TAG]
    shown = mark.encode() if mark.isascii() else Header(mark, "utf-8", maxlinelen=70).encode(linesep="\r\n").encode()
    text = body.strip(b" \t\r\n")
    if text.startswith(shown):
        return b"Subject: " + text + b"\r\n"
    return b"Subject: " + shown + (b"\r\n " + text if text else b"") + b"\r\n"


def in_ascii(text: str) -> str:
    """For a reply to a client that may not know UTF-8 (RFC 6531 3.7.4): letters without their marks, a question mark for all else."""
    if text.isascii():
        return text
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.encode("ascii", "replace").decode()


def printable(text: str, most: int = MAX_NAME) -> str:
    """One line that steers nothing: names come from strangers."""
    shown = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:most])
    return shown + "…" if len(text) > most else shown
