"""Text put before and after what a message says: disclaimers of a rule, the footer of a list. Pure: a header in, edits out.

Called by delivery/changes. A message of one text part gets the text in that part, in its own charset and encoding, where that can be done
without touching an octet of what is there; everything else becomes a part of a new multipart/mixed, beside parts of ours that hold the
text. So a signed or encrypted body (RFC 1847, S/MIME, PGP) stays whole whatever is put around it. Invariants: of the body nothing is cut
or changed; of the header only the fields that speak of content. Never raises.
"""

import base64
import quopri
import re
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from email.policy import compat32
from hashlib import sha256

from gatepost.message.fields import HeaderView

Edit = tuple[int, int, bytes]
"""Octets from … to … of the message as stored, and what takes their place."""

_CONTENT = frozenset({"content-type", "content-transfer-encoding", "content-disposition", "content-id", "content-description"})
_ASCII_BASED = re.compile(r"(us-ascii|ascii|utf-?8|iso-?8859-\d{1,2}|windows-125\d|koi8-[ru]|latin-?1)\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Words:
    """One text in its two forms; lines end in LF. Where only one is given it serves both."""

    plain: str = ""
    html: str = ""

    def __bool__(self) -> bool:
        """False when there is nothing to say."""
        return bool(self.plain or self.html)

    def in_plain(self) -> str:
        """Without markup."""
        return self.plain or _plain_of(self.html)

    def in_html(self) -> str:
        """As a block of HTML."""
        return self.html or f"<p>{_escaped(self.plain)}</p>"


@dataclass(frozen=True, slots=True)
class Around:
    """What stands above and below, and `seed`: octets that no sender can know beforehand, for the boundary."""

    above: Words
    below: Words
    seed: bytes


def surround(header: HeaderView, size: int, around: Around) -> list[Edit]:
    """Edits that put the words around the content; `header` ends with its empty line, `size` is that of the whole message."""
    if not (around.above or around.below):
        return []
    return _inside(header, size, around) or _wrapped(header, size, around)


# ---- into the one part


def _inside(header: HeaderView, size: int, around: Around) -> list[Edit]:
    """[] when the words cannot be put into the part itself."""
    content = _parsed(header)
    kind = content.get_content_type()
    if kind not in ("text/plain", "text/html") or _has(content, "content-disposition", "attachment"):
        return []
    charset = content.get_content_charset("us-ascii")
    encoding = str(content.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if not _ASCII_BASED.match(charset) or encoding not in ("7bit", "8bit", "quoted-printable"):
        return []
    html = kind == "text/html"
    start = len(header.octets)
    try:
        above = _encoded(_block(around.above, html, above=True), charset, encoding)
        below = _encoded(_block(around.below, html, above=False), charset, encoding)
    except (UnicodeEncodeError, LookupError):
        return []
    edits = [(start, start, above)] if above else []
    return [*edits, (size, size, below)] if below else edits


def _block(words: Words, html: bool, *, above: bool) -> str:
    """The words as lines of the part, set apart by an empty line or, in HTML, as a block of their own."""
    if not words:
        return ""
    if html:
        body = words.in_html()
        return f"{body}\r\n" if above else f"\r\n{body}\r\n"
    body = words.in_plain().strip("\n").replace("\n", "\r\n")
    return f"{body}\r\n\r\n" if above else f"\r\n{body}\r\n"


def _encoded(text: str, charset: str, encoding: str) -> bytes:
    octets = text.encode(charset)
    if encoding == "quoted-printable":
        return _quoted(octets)
    if encoding == "7bit" and not octets.isascii():
        raise UnicodeEncodeError("ascii", text, 0, 1, "the part is declared as 7bit")
    return octets


def _quoted(octets: bytes) -> bytes:
    return quopri.encodestring(octets.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")


# ---- around everything


def _wrapped(header: HeaderView, size: int, around: Around) -> list[Edit]:
    """The content becomes a part between ours."""
    boundary = b"=_" + sha256(b"surround" + around.seed).hexdigest()[:40].encode()
    moved = header.named(_CONTENT)
    fields = b"".join(header.octets[one.start : one.end] for one in moved)
    declared = str(_parsed(header).get("Content-Transfer-Encoding", "")).strip().lower()
    head = b'Content-Type: multipart/mixed;\r\n\tboundary="' + boundary + b'"\r\n'
    if declared in ("8bit", "binary"):
        head += b"Content-Transfer-Encoding: " + declared.encode() + b"\r\n"
    if "mime-version" not in header:
        head += b"MIME-Version: 1.0\r\n"
    end = len(header.octets)
    above = b"--" + boundary + b"\r\n" + _part(around.above, boundary) if around.above else b""
    opening = above + b"--" + boundary + b"\r\n" + fields + b"\r\n"
    closing = b"\r\n--" + boundary + (b"\r\n" + _part(around.below, boundary) + b"--" + boundary if around.below else b"") + b"--\r\n"
    at = end - 2 if header.octets.endswith(b"\r\n\r\n") else end
    cuts = [(one.start, one.end, b"") for one in moved]
    separator = b"" if header.octets.endswith(b"\r\n\r\n") else b"\r\n"
    return [*cuts, (at, at, head + separator), (end, end, opening), (size, size, closing)]


def _part(words: Words, boundary: bytes) -> bytes:
    """The words as an entity, CRLF at its end: text, or both forms as multipart/alternative (RFC 2046 5.1.4)."""
    if not (words.plain and words.html):
        return _text_entity(words.plain or words.html, "html" if words.html else "plain")
    inner = boundary + b"-2"
    forms = (_text_entity(words.plain, "plain"), _text_entity(words.html, "html"))
    body = b"".join(b"--" + inner + b"\r\n" + form for form in forms)
    return b'Content-Type: multipart/alternative;\r\n\tboundary="' + inner + b'"\r\n\r\n' + body + b"--" + inner + b"--\r\n"


def _text_entity(text: str, subtype: str) -> bytes:
    octets = text.strip("\n").replace("\n", "\r\n").encode("utf-8", "replace")
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Disposition: inline\r\n".encode()
    if octets.isascii() and max(map(len, octets.split(b"\r\n"))) < 900:
        return head + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + octets + b"\r\n"
    return head + b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(octets).replace(b"\n", b"\r\n")


# ---- small things


def _parsed(header: HeaderView) -> Message:
    """The fields that speak of content, as the standard library reads them."""
    text = b"".join(header.octets[one.start : one.end] for one in header.named(_CONTENT)).decode("latin-1")
    return HeaderParser(policy=compat32).parsestr(text)


def _has(content: Message, name: str, word: str) -> bool:
    return str(content.get(name, "")).strip().lower().startswith(word)


def _escaped(text: str) -> str:
    for plain, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, entity)
    return text.strip("\n").replace("\n", "<br>\r\n")


def _plain_of(html: str) -> str:
    """HTML without its tags, for parts that are plain text."""
    text = re.sub(r"(?i)<(?:br|/p|/div|/li)\b[^>]*>", "\n", html)
    text = re.sub(r"<[^>]*>", "", text)
    for plain, entity in (("<", "&lt;"), (">", "&gt;"), ("\u00a0", "&nbsp;"), ("&", "&amp;")):
        text = text.replace(entity, plain)
    return text
