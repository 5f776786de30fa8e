"""MessageId: the 16-byte UUIDv7 of a message in our queue (not the Message-ID header field)."""

import uuid


def format_message_id(raw: bytes) -> str:
    """Canonical 8-4-4-4-12 form of 16 bytes."""
    return str(uuid.UUID(bytes=raw))


def parse_message_id(text: str) -> bytes:
    """Inverse of `format_message_id`. Raises ValueError."""
    return uuid.UUID(text).bytes
