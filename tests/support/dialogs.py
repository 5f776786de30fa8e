r"""Dialogs as files: what a client sends and what must come back, over a real socket.

A file has a head of `key: value` lines, an empty line, then steps. '#' starts a comment line.
    C: text      send the text and CR LF
    R: text      send the text as it is, with \r \n \0 \t \\ \xNN escapes and no line end added
    S: start     the next line from the server starts so; `S: /regex/` matches the whole line; `S: *` reads the rest of a multi-line reply
    T:           run the client's side of a TLS handshake
    E:           the server closes the connection, having sent nothing more
    M: n         by now n messages are in the queue
Head keys are for the runner's caller (`listener`, `trusted`, `settings`, …). Steps fail with the file, the line and what came instead.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

STEP_SECONDS = 5.0
_ESCAPES = {"r": b"\r", "n": b"\n", "0": b"\0", "t": b"\t", "\\": b"\\"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[rn0t\\])")


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a dialog."""

    line: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Dialog:
    """A parsed file."""

    path: Path
    head: dict[str, str]
    steps: list[Step] = field(default_factory=list)


def load(path: Path) -> Dialog:
    """Parse a file. Raises ValueError naming the line."""
    head: dict[str, str] = {}
    steps: list[Step] = []
    in_head = True
    for number, raw in enumerate(path.read_text("utf-8").splitlines(), 1):
        if raw.startswith("#"):
            continue
        if in_head:
            in_head = bool(raw.strip())
            if in_head:
                key, _, value = raw.partition(":")
                head[key.strip()] = value.strip()
        elif raw.strip():
            if raw[:2] not in {"C:", "R:", "S:", "T:", "E:", "M:"}:
                raise ValueError(f"{path.name}:{number}: not a step: {raw!r}")
            steps.append(Step(number, raw[0], raw[3:]))
    if not steps:
        raise ValueError(f"{path.name}: no steps")
    return Dialog(path, head, steps)


def unescape(text: str) -> bytes:
    """The octets an R: line stands for."""
    out, position = b"", 0
    for match in _ESCAPE.finditer(text):
        out += text[position : match.start()].encode()
        code = match[1]
        out += bytes([int(code[1:], 16)]) if code.startswith("x") else _ESCAPES[code]
        position = match.end()
    return out + text[position:].encode()


class Player:
    """The client's side of one connection."""

    def __init__(self, dialog: Dialog, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.dialog = dialog
        self.reader = reader
        self.writer = writer
        self.last = ""

    async def play(self, messages: Callable[[], int]) -> None:
        """Run all steps. Raises AssertionError."""
        for step in self.dialog.steps:
            try:
                await asyncio.wait_for(self._step(step, messages), STEP_SECONDS)
            except (TimeoutError, OSError) as error:
                raise AssertionError(
                    f"{self.dialog.path.name}:{step.line}: {step.kind}: {step.text}: {error!r}, last line {self.last!r}"
                ) from error

    async def _step(self, step: Step, messages: Callable[[], int]) -> None:
        where = f"{self.dialog.path.name}:{step.line}"
        if step.kind == "C":
            self.writer.write(step.text.encode() + b"\r\n")
        elif step.kind == "R":
            self.writer.write(unescape(step.text))
        elif step.kind == "S":
            await self._expect(step.text, where)
        elif step.kind == "T":
            await self._start_tls()
        elif step.kind == "E":
            rest = await self.reader.read(1000)
            assert rest == b"", f"{where}: expected the end, got {rest!r}"
        else:
            assert messages() == int(step.text), f"{where}: {messages()} messages in the queue"

    async def _line(self) -> str:
        self.last = (await self.reader.readline()).decode("utf-8", "replace")
        assert self.last.endswith("\r\n"), f"{self.dialog.path.name}: unfinished line {self.last!r}"
        return self.last[:-2]

    async def _expect(self, wanted: str, where: str) -> None:
        if wanted.strip() == "*":
            while self.last[3:4] == "-":
                await self._line()
            return
        line = await self._line()
        if wanted.startswith("/") and wanted.endswith("/"):
            assert re.fullmatch(wanted[1:-1], line), f"{where}: wanted {wanted}, got {line!r}"
        else:
            assert line.startswith(wanted), f"{where}: wanted {wanted!r}, got {line!r}"

    async def _start_tls(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await self.writer.start_tls(context)
