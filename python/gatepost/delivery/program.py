"""One run of a program with a message on its standard input, within limits. Called by pipe.py.

The program gets its arguments as they are given: `/bin/sh` sets the limits and replaces itself by the program, no text of a message or an
address is ever a word to it. Invariants: the environment is what `run` is given and nothing else; when the time is over, or when `run` is
cancelled, the whole process group is killed, and what the program started and left behind is killed with it; at most `output` octets of
what it says are kept. Never raises but CancelledError.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

_LIMITED = 'ulimit -c 0 && ulimit -v "$1" && shift && exec "$@"'
KILL_SECONDS = 5.0
LINGER_SECONDS = 0.2
"""How long the last words of a program that has ended are waited for when its children still hold its output."""
PIECE = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: of the clock; memory and output: octets."""

    seconds: float
    memory: int
    output: int


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How it ended. `code`: exit code, None when it was killed or never ran (`fault` says why); `output`: the beginning of what it said."""

    code: int | None
    output: bytes = b""
    fault: str = ""


async def run(argv: Sequence[str], environment: Mapping[str, str], content: AsyncIterator[bytes], limits: Limits) -> RunEnd:
    """Run it to its end."""
    try:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", _LIMITED, "sh", str(max(limits.memory >> 10, 1))),
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return RunEnd(None, fault=f"cannot be started: {error}")
    try:
        async with asyncio.timeout(limits.seconds):
            return await _through(process, content, limits)
    except TimeoutError:
        return RunEnd(None, fault=f"did not end within {limits.seconds:g} s and was killed")
    finally:
        await _kill(process)


async def _through(process: Process, content: AsyncIterator[bytes], limits: Limits) -> RunEnd:
    feeding = asyncio.create_task(_feed(process, content))
    listening = asyncio.create_task(_listen(process, limits.output))
    ending = asyncio.create_task(_exited(process.pid))
    try:
        await asyncio.wait({listening, ending}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and not listening.result()[1]:
            return RunEnd(None, listening.result()[0], f"wrote more than {limits.output} octets and was killed")
        await ending
        await asyncio.wait({listening}, timeout=LINGER_SECONDS)
        _kill_group(process)  # what was left behind may hold our end of the pipes
        output, _ = await listening
        code = await process.wait()
    finally:
        for task in (feeding, listening, ending):
            task.cancel()
        await asyncio.gather(feeding, listening, ending, return_exceptions=True)
    if code < 0:
        return RunEnd(None, output, f"was killed by signal {signal.Signals(-code).name if -code in set(signal.Signals) else -code}")
    return RunEnd(code, output)


async def _exited(pid: int) -> None:
    """Wait for the program itself, whatever its children hold open."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    over: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _done, over)
    try:
        await over
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _done(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def _feed(process: Process, content: AsyncIterator[bytes]) -> None:
    """A program may end without reading everything: that is its business."""
    stdin = process.stdin
    assert stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        async for piece in content:
            stdin.write(piece)
            await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


async def _listen(process: Process, most: int) -> tuple[bytes, bool]:
    """What it says, and whether that was all."""
    assert process.stdout is not None
    kept = b""
    while piece := await process.stdout.read(PIECE):
        kept += piece[: most + 1 - len(kept)]
        if len(kept) > most:
            return kept[:most], False
    return kept, True


def _kill_group(process: Process) -> None:
    """Whether its leader lives or not: the leader's id stays taken while the group has members."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


async def _kill(process: Process) -> None:
    _kill_group(process)
    if process.returncode is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await process.wait()
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
