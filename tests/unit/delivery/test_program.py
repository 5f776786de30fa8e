"""Programs run with a message on their standard input: real processes, within their limits."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from gatepost.delivery.program import Limits, RunEnd, run

LIMITS = Limits(30.0, 1 << 30, 4096)


async def content(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def python(code: str, *pieces: bytes, limits: Limits = LIMITS, environment: dict[str, str] | None = None) -> RunEnd:
    return await run((sys.executable, "-I", "-c", code), environment or {}, content(*pieces), limits)


async def test_the_message_comes_on_standard_input_and_the_exit_code_goes_back(tmp_path: Path) -> None:
    end = await python(
        f"import sys; open({str(tmp_path / 'out')!r}, 'wb').write(sys.stdin.buffer.read()); sys.exit(67)", b"a" * 300_000, b"z"
    )
    assert (end.code, end.fault) == (67, "")
    assert (tmp_path / "out").read_bytes() == b"a" * 300_000 + b"z"


async def test_the_environment_is_what_was_given_and_nothing_else() -> None:
    os.environ["GATEPOST_SECRET_OF_THE_TEST"] = "x"
    end = await run(("/usr/bin/env",), {"SENDER": "$(id)@x.test"}, content(), LIMITS)
    names = {line.partition("=")[0] for line in end.output.decode().splitlines()}
    assert "SENDER=$(id)@x.test" in end.output.decode().splitlines()
    assert names <= {"SENDER", "PWD", "_", "OLDPWD", "SHLVL"}


async def test_arguments_are_words_and_never_commands(tmp_path: Path) -> None:
    words = ("a b", "$(touch " + str(tmp_path / "pwned") + ")", "; id", "'", '"', "-n", "")
    end = await run((sys.executable, "-I", "-c", "import sys; print(sys.argv[1:])", *words), {}, content(), LIMITS)
    assert end.output.decode().strip() == str(list(words))
    assert not (tmp_path / "pwned").exists()


async def test_a_program_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, pathlib\n"
        "if os.fork() == 0:\n"
        f"    pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    end = await python(code, limits=Limits(4.0, 1 << 30, 4096))
    assert end.code is None and "4 s" in end.fault
    assert await gone(int((tmp_path / "child").read_text()))


async def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import os, time, pathlib\n"
        "r, w = os.pipe()\n"
        "if os.fork() == 0:\n"
        ""
        f"    pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(os.getpid()))\n"
        "    os.write(w, b'x'); time.sleep(60)\n"
        "os.read(r, 1)\n"
    )
    end = await python(code)
    assert end.code == 0
    assert await gone(int((tmp_path / "child").read_text()))


async def test_memory_beyond_the_limit_is_not_had() -> None:
    end = await python("x = bytearray(400 << 20)", limits=Limits(10.0, 200 << 20, 4096))
    assert end.code == 1 and b"MemoryError" in end.output


async def test_too_much_output_ends_it() -> None:
    end = await python("while True: print('x' * 1000)")
    assert end.code is None and len(end.output) == 4096 and "4096 octets" in end.fault


async def test_a_program_that_reads_nothing_may_still_succeed() -> None:
    assert (await python("pass", *[b"x" * 65536] * 50)).code == 0


async def test_a_program_that_is_not_there_says_so() -> None:
    end = await run(("/nonexistent/program",), {}, content(), LIMITS)
    assert end.code in (126, 127) and b"/nonexistent/program" in end.output


async def test_a_cancelled_run_leaves_no_process(tmp_path: Path) -> None:
    code = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    running = asyncio.create_task(python(code))
    deadline = time.monotonic() + 10
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await gone(int((tmp_path / "pid").read_text()))


async def gone(pid: int) -> bool:
    """A killed grandchild is reaped by init, or stays a zombie where there is none."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]  # noqa: ASYNC240
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        await asyncio.sleep(0.02)
    return False
