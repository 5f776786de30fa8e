"""The directory's clock and its ids: Unix microseconds, UUIDv7 mailbox ids."""

import secrets
import time


def now_us() -> int:
    """Unix time in microseconds."""
    return time.time_ns() // 1000


def new_mailbox_id() -> bytes:
    """16 octets, UUIDv7 (RFC 9562 5.7). Python's own, not the native one: `gatepost user add` must not need a loaded spool."""
    milliseconds = time.time_ns() // 1_000_000
    random = bytearray(secrets.token_bytes(10))
    random[0] = 0x70 | random[0] & 0x0F
    random[2] = 0x80 | random[2] & 0x3F
    return milliseconds.to_bytes(6, "big") + bytes(random)
