"""What a mailing list changes in the header of a post (RFC 2369, RFC 2919). Pure: a header in, edits out.

Called by delivery/changes. Invariants: List-* fields of others go (RFC 2369 4: a list must not pass on what a post brought along), so
that each is there once and is ours; no other field is touched but Subject, Reply-To, Sender and Precedence, as the list's settings ask;
the author's signature fields stay, broken or not. Values are cleaned of line ends, so a setting cannot add a field.
"""

import re
from dataclasses import dataclass
from email.header import Header
from urllib.parse import quote

from gatepost.message.fields import HeaderView
from gatepost.message.verp import bounces_address

Edit = tuple[int, int, bytes]

_LIST_FIELDS = frozenset(
    {
        "list-id",
        "list-help",
        "list-subscribe",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "list-post",
        "list-owner",
        "list-archive",
        "precedence",
    }
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_PLAIN_PHRASE = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~.-]*\Z")


@dataclass(frozen=True, slots=True)
class ListLook:
    """How posts of a list look. `name`: for people, may be ''; `reply_to`: 'sender' (left alone), 'list', or an address; urls may be ''.
    one_click: where a POST signs this one recipient off (RFC 8058).
    """

    address: str
    name: str = ""
    subject_tag: str = ""
    reply_to: str = "sender"
    owner: str = ""
    unsubscribe: str = ""
    help_url: str = ""
    subscribe: str = ""
    one_click: str = ""


def list_id(address: str) -> str:
    """RFC 2919 2: the list's address with a dot for the at."""
    return address.lower().replace("@", ".")


def came_through(header: HeaderView, address: str) -> bool:
    """The message has passed this list before (RFC 2919 8): it goes in a circle."""
    own = f"<{list_id(address)}>".encode()
    return any(value.lower().endswith(own) for value in header.raw("list-id"))


def tag_edits(header: HeaderView, look: ListLook) -> list[Edit]:
    """What a list adds whose post another list, which is a member of it, sends on: that one's fields are those of the post."""
    marked = _tagged(header, look.subject_tag) if look.subject_tag else None
    return [marked] if marked is not None else []


def list_edits(header: HeaderView, look: ListLook) -> list[Edit]:
    """Edits of the header of a post. `header` ends with its empty line."""
    cut = set(_LIST_FIELDS) | {"sender"}
    fields = _fields(look)
    if look.reply_to != "sender":
        cut.add("reply-to")
        fields.append(("Reply-To", _mailbox(look.name if look.reply_to == "list" else "", _reply_address(look))))
    edits: list[Edit] = [(one.start, one.end, b"") for one in header.named(cut)]
    if look.subject_tag and (marked := _tagged(header, look.subject_tag)) is not None:
        edits.append(marked)
    at = len(header.octets) - 2 if header.octets.endswith(b"\r\n\r\n") else len(header.octets)
    octets = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields)
    return [*edits, (at, at, octets)]


def _fields(look: ListLook) -> list[tuple[str, str]]:
    address = _clean(look.address)
    fields = [
        ("Sender", f"<{bounces_address(address)}>"),
        ("Precedence", "list"),
        ("List-Id", f"{_phrase(look.name)} <{list_id(address)}>".lstrip()),
        ("List-Post", f"<mailto:{quote(address, safe='@+=')}>"),
    ]
    if look.unsubscribe or look.one_click:
        ways = [f"<{_uri(one)}>" for one in (look.one_click, look.unsubscribe) if one]
        fields.append(("List-Unsubscribe", ",\r\n\t".join(ways)))
    if look.one_click:
        fields.append(("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"))  # RFC 8058 2
    if look.subscribe:
        fields.append(("List-Subscribe", f"<{_uri(look.subscribe)}>"))
    if look.help_url:
        fields.append(("List-Help", f"<{_uri(look.help_url)}>"))
    if look.owner:
        fields.append(("List-Owner", f"<mailto:{quote(_clean(look.owner), safe='@+=')}>"))
    return fields


def _reply_address(look: ListLook) -> str:
    return look.address if look.reply_to == "list" else look.reply_to


def _tagged(header: HeaderView, tag: str) -> Edit | None:
    """The subject with the tag before what it says; None when it says it already, in whatever encoding."""
    places = header.named({"subject"})
    shown = _clean(tag)
    mark = shown if shown.isascii() else Header(shown, "utf-8", maxlinelen=60).encode()
    if not places:
        at = len(header.octets) - 2 if header.octets.endswith(b"\r\n\r\n") else len(header.octets)
        return at, at, f"Subject: {mark}\r\n".encode()
    if shown.lower() in header.text("subject").lower():
        return None
    # Behind the colon: what the author wrote stands as it stood, octet by octet.
    return places[0].value, places[0].value, f" {mark}".encode() + (b"" if _blank_follows(header, places[0].value) else b" ")


def _blank_follows(header: HeaderView, at: int) -> bool:
    return header.octets[at : at + 1] in (b" ", b"\t")


def _mailbox(name: str, address: str) -> str:
    return f"{_phrase(name)} <{_clean(address)}>".lstrip()


def _phrase(name: str) -> str:
    """A display name: as it is, quoted, or in encoded words (RFC 5322 3.2.5, RFC 2047 5)."""
    text = _clean(name)
    if not text.isascii():
        return Header(text, "utf-8", maxlinelen=60).encode()
    if _PLAIN_PHRASE.match(text) and "." not in text:
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _uri(text: str) -> str:
    return _clean(text).replace(" ", "%20").replace("<", "%3C").replace(">", "%3E")


def _clean(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()
