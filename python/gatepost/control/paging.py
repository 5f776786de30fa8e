"""Pages of sorted lists: the token is the key of the last item given, so pages stay right when items come and go between calls."""

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import TypeVar

from gatepost.control.errors import invalid

DEFAULT_SIZE = 100
MAX_SIZE = 1000

T = TypeVar("T")


def page_size(wanted: int) -> int:
    """0 → the default; more than the maximum → the maximum. Raises ControlError for a negative one."""
    if wanted < 0:
        raise invalid("page_size", "must not be negative")
    return min(wanted or DEFAULT_SIZE, MAX_SIZE)


def encode_token(key: str) -> str:
    """Opaque text for a key."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decode_token(token: str) -> str:
    """Inverse of `encode_token`. Raises ControlError."""
    try:
        return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid("page_token", "is not one this server gave out") from None


def window(size: int, token: str) -> tuple[str, int]:
    """For lists that are read a page at a time: the key to begin behind, and how many to read, one more than the page holds."""
    return (decode_token(token) if token else ""), page_size(size) + 1


def cut(items: list[T], key: Callable[[T], str], limit: int) -> tuple[list[T], str]:
    """Of what was read with a `window`: the page and the next token."""
    chosen = items[: limit - 1]
    return chosen, encode_token(key(chosen[-1])) if len(items) == limit else ""


def page(items: Iterable[T], key: Callable[[T], str], size: int, token: str) -> tuple[list[T], str]:
    """The page after `token` of items in key order (they are sorted here), and the next token ('' = that was the last page)."""
    size = page_size(size)
    ordered = sorted(items, key=key)
    if token:
        after = decode_token(token)
        ordered = [item for item in ordered if key(item) > after]
    chosen = ordered[:size]
    return chosen, encode_token(key(chosen[-1])) if len(ordered) > size else ""
