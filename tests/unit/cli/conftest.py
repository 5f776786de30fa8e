"""A running control plane, and the command in another process against it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.control import Plane


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        """Its standard output as text."""
        return self.raw.decode()

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    async with Plane(tmp_path) as running:
        yield running


RESIDENT = """
import io, json, os, sys
from gatepost.cli.main import main

real_in, real_out = sys.stdin, sys.stdout
clean = {key: value for key, value in os.environ.items() if not key.startswith("GATEPOST_")}
for line in real_in:
    order = json.loads(line)
    os.environ.clear()
    os.environ.update({**clean, **order["env"]})
    sys.stdin = io.TextIOWrapper(io.BytesIO(bytes.fromhex(order["text"])))
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    code = main(order["arguments"])
    sys.stdout.flush()
    answer = {"code": code, "out": sys.stdout.buffer.getvalue().hex(), "err": sys.stderr.buffer.getvalue().hex()}
    real_out.write(json.dumps(answer) + "\\n")
    real_out.flush()
"""


class Resident:
    """One process that runs one command after the other: what `gatepost` does, without the time that starting Python takes."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", RESIDENT]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, *arguments: str, text: str | bytes = "", env: dict[str, str] | None = None) -> Ran:
        """Run `gatepost ARGUMENTS`; blocks."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        octets = text.encode() if isinstance(text, str) else text
        order = {"arguments": arguments, "text": octets.hex(), "env": env or {}}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Ran(answer["code"], bytes.fromhex(answer["out"]), bytes.fromhex(answer["err"]).decode())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def resident() -> Iterator[Resident]:
    process = Resident()
    yield process
    process.close()


@pytest.fixture
def cli(plane: Plane, resident: Resident) -> Run:
    """`await cli("queue", "list")` against the plane; --data is added at the end."""

    async def run(*arguments: str, **more: Any) -> Ran:
        return await asyncio.to_thread(resident.run, *arguments, "--data", str(plane.data), **more)

    return run
