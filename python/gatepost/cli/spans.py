"""Spans of time and sizes as people type them: '90s', '2h', '10K'. Pure; ValueError says what is expected."""

import re
from datetime import timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def parse_span(text: str) -> timedelta:
    """'90' or '90s', '10m', '2h', '3d', '1w', also joined: '1d12h'."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return timedelta(seconds=int(text))
    if not re.fullmatch(r"(?:\d{1,9}[smhdw])+", text):
        raise ValueError(f"{text!r} is not a span of time: write 90s, 10m, 2h, 3d or 1d12h")
    return timedelta(seconds=sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text)))


def parse_size(text: str) -> int:
    """'500', '10K', '5M', '1G'; multiples of 1024 octets."""
    found = re.fullmatch(r"(\d{1,12})([kmg]?)(?:i?b)?", text.lower())
    if not found:
        raise ValueError(f"{text!r} is not a size: write 500, 10K or 5M")
    return int(found[1]) * _SIZES[found[2]]
