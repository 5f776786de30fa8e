"""The documented examples do what they say, each as a process of its own."""

import asyncio
import sys
from pathlib import Path

from support.control import Plane

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


async def run(name: str, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / name), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode()


async def test_hold_and_release_lists_holds_and_releases_from_another_process(plane: Plane):
    ids = [plane.workers[number % 2].queue.add(number, f"u{number}@example.net") for number in range(1, 4)]
    plane.workers[0].queue.add(9, "other@example.com")
    code, out = await run("hold_and_release.py", "--data", str(plane.data), "--domain", "example.net", "--seconds", "0.1")
    assert code == 0, out
    assert all(one in out for one in ids)
    assert "3 held" in out
    assert "3 released" in out
    assert {call[0] for worker in plane.workers for call in worker.queue.calls} == {"hold", "release"}


async def test_hold_and_release_says_when_there_is_no_server(tmp_path: Path):
    code, out = await run("hold_and_release.py", "--data", str(tmp_path / "nowhere"), "--domain", "example.net")
    assert code == 1
    assert "start it with gatepost serve" in out


async def test_a_client_with_reflection_only_lists_holds_and_releases(plane: Plane):
    one = plane.workers[1].queue.add(1)
    code, out = await run("reflection_only.py", str(plane.data / "control.sock"))
    assert code == 0, out
    assert "gatepost.api.rules.v1.RulesService" in out
    assert one in out
    assert [call[0] for call in plane.workers[1].queue.calls] == ["hold", "release"]
