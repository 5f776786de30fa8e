"""What a worker tells the supervisor that executed it, over a pipe: one line of JSON each, short enough to be written at once.

Written by app.worker, read by app.pool. Kinds: `opening` (recovery goes on; the detail differs whenever it got further), `ready`, `failed`
(its partition or a volume is closed after an I/O error, the detail says what), `fault` (why it is about to end), `empty` (a surplus
partition is drained; the worker is about to end). A line that cannot be written is lost: nobody is left to read it.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Literal

Kind = Literal["opening", "ready", "failed", "fault", "empty"]
MAX_DETAIL = 1000
READ_OCTETS = 65_536


class ParentLine:
    """The worker's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, kind: Kind, detail: str = "") -> None:
        """Write one line."""
        with contextlib.suppress(OSError):
            os.write(self._fd, json.dumps({"kind": kind, "detail": detail[:MAX_DETAIL]}).encode() + b"\n")


class LineReader:
    """The supervisor's end. Lines that are none of ours are passed over: a worker that runs wild must not stop the supervisor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def read(self) -> Iterator[tuple[str, str]] | None:
        """(kind, detail) of the lines that are there; None when the worker has closed its end. Call it when the pipe is readable."""
        try:
            data = os.read(self._fd, READ_OCTETS)
        except BlockingIOError:
            return iter(())
        if not data:
            return None
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-READ_OCTETS:]
        return (told for line in lines if (told := _parse(line)) is not None)


def _parse(line: bytes) -> tuple[str, str] | None:
    try:
        told = json.loads(line)
        return str(told["kind"]), str(told["detail"])
    except (ValueError, TypeError, KeyError):
        return None
