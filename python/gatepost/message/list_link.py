"""Signed words of mailing lists: what a link, or a mail that quotes it, may do. Pure.

Made by delivery (List-Unsubscribe, confirmations, notices to owners), read by delivery (commands by mail) and by control (links). A link
names one list, one action and whom or what it is about; it cannot be changed (HMAC-SHA256 under a key made from that of return paths) and
may expire. It does nothing when it is merely opened: the page behind it asks, or posts as RFC 8058 3.1 wants. Reading one fails with
ListLinkError.
"""

import base64
import binascii
import hmac
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

MAX_LINK = 1200
MAC = 16
VERSION = 1
NEVER = 0xFFFF_FFFF
_HEAD = 6
"""Octets before the addresses: version, action, expiry."""


class ListAction(StrEnum):
    """What a link does. options: it shows and changes how a member gets posts. approve, reject: `subject` is a message id."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    DIGEST = "digest"
    EACH = "each"
    OPTIONS = "options"
    APPROVE = "approve"
    REJECT = "reject"


_ORDER = tuple(ListAction)
"""New ones come behind: the place is what is signed."""


class ListLinkError(Exception):
    """No link of ours, or `expired`; the text is for whoever followed it."""

    def __init__(self, text: str, *, expired: bool = False) -> None:
        super().__init__(text)
        self.expired = expired


@dataclass(frozen=True, slots=True)
class ListLink:
    """`subject`: the member's address, or the id of a post in text form. expires: Unix seconds, or NEVER."""

    action: ListAction
    list: str
    subject: str
    expires: int = NEVER

    def sign(self, key: bytes) -> str:
        """The token: letters, digits, '-' and '_'."""
        head = bytes([VERSION, _ORDER.index(self.action)]) + min(self.expires, NEVER).to_bytes(4, "big")
        data = head + f"{self.list}\0{self.subject}".encode()
        return base64.urlsafe_b64encode(data + _mac(key, data)).decode().rstrip("=")


def read_list_link(token: str, key: bytes, now: float) -> ListLink:
    """Inverse of `sign`. Raises ListLinkError."""
    try:
        octets = base64.b64decode(token[: MAX_LINK + 1] + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ListLinkError("this is no link of this server") from None
    data, mac = octets[:-MAC], octets[-MAC:]
    if not key or len(token) > MAX_LINK or len(data) <= _HEAD or not hmac.compare_digest(mac, _mac(key, data)) or data[0] != VERSION:
        raise ListLinkError("this is no link of this server, or it was changed")
    expires = int.from_bytes(data[2:_HEAD], "big")
    if expires < now:
        raise ListLinkError("this link has expired: ask for another by mail to the list's -request address", expired=True)
    address, _, subject = data[_HEAD:].decode("utf-8", "replace").partition("\0")
    return ListLink(_ORDER[data[1]], address, subject, expires)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"gatepost list link\0" + data, sha256)[:MAC]
