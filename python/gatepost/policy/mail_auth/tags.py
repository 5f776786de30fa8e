"""Lists of tags as DKIM and DMARC write them, `a=1; b=2` (RFC 6376 3.2). Pure. Raises TagFault."""

import base64
import binascii
import re

OCTETS_MAX = 32_768
"""Of one list."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_BLANKS = re.compile(r"[ \t\r\n]+")


class TagFault(Exception):
    """It is no such list, or a tag says what it cannot say."""


def tags_of(octets: bytes) -> dict[str, str]:
    """Names as they stand, values without blanks around."""
    if len(octets) > OCTETS_MAX:
        raise TagFault(f"more than {OCTETS_MAX:,} octets")
    found: dict[str, str] = {}
    parts = octets.decode("utf-8", "replace").split(";")
    if not parts[-1].strip():
        parts.pop()
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not _NAME.match(name):
            raise TagFault(f"{part.strip()!r:.40} is no tag")
        if name in found:
            raise TagFault(f"{name}= stands twice")
        found[name] = value.strip(" \t\r\n")
    return found


def words_of(value: str) -> tuple[str, ...]:
    """A list with colons, in lower case."""
    return tuple(word for one in value.split(":") if (word := one.strip(" \t\r\n").lower()))


def octets_of(value: str) -> bytes:
    """What stands in base64, blanks anywhere (RFC 6376 2.10)."""
    try:
        return base64.b64decode(_BLANKS.sub("", value), validate=True)
    except (binascii.Error, ValueError):
        raise TagFault(f"{value!r:.30} is not base64") from None


def number_of(tags: dict[str, str], name: str) -> int | None:
    """A tag of digits; None when it is not there."""
    value = tags.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,76}", value):
        raise TagFault(f"{name}= is no number")
    return min(int(value), 1 << 62)
