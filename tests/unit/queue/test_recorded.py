"""Records of decisions: counted, bounded, read back whatever the end of a file looks like."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from gatepost.queue import recorded
from gatepost.queue.recorded import Asking, Recorder, read


async def flushed(recorder: Recorder) -> None:
    """What `run` does when it ends: everything noted is written."""
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_what_was_noted_is_read_back_with_its_count(tmp_path: Path) -> None:
    one, other = Recorder(tmp_path, 0), Recorder(tmp_path, 1)
    for _ in range(3):
        one.note(Asking("a@x.test", "b@y.test", True))
    one.note(Asking("", "ü@y.test", False))
    other.note(Asking("a@x.test", "b@y.test", True))
    await flushed(one)
    await flushed(other)
    found = [(key, times) for key, times, _ in read(tmp_path, time.time())]
    again, other_one = Asking("a@x.test", "b@y.test", True), Asking("", "ü@y.test", False)
    assert sorted(found) == [(other_one, 1), (again, 1), (again, 3)]


async def test_what_is_known_of_the_client_is_read_back_and_lines_of_older_versions_are_read_without(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0)
    whole = Asking("a@x.test", "b@y.test", False, "192.0.2.1", "alice@y.test", True, "mx.x.test", "smtp", "ab12", "CN=mx.x.test")
    recorder.sources.append(lambda: [(whole, 2)])
    recorder.note(whole)
    await flushed(recorder)
    (path,) = (tmp_path / "decisions").iterdir()
    path.write_text(path.read_text() + f'["old@x.test","b@y.test",true,1,{int(time.time())}]\n')
    found = [(asking, times) for asking, times, _ in read(tmp_path, time.time())]
    assert found == [(whole, 3), (Asking("old@x.test", "b@y.test", True), 1)]


async def test_a_torn_line_costs_itself_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0)
    recorder.note(Asking("a@x.test", "first@y.test", True))
    await flushed(recorder)
    (path,) = (tmp_path / "decisions").iterdir()
    path.write_bytes(path.read_bytes() + b'["a@x.test", "torn@y')
    recorder.note(Asking("a@x.test", "second@y.test", True))
    await flushed(recorder)
    path.write_bytes(
        path.read_bytes()
        + b'\xff\xff\n[1,2,3,4,5]\n{}\n["a@x.test","b@y.test",true,1]\n["a@x.test","b@y.test",true,1,9999999999,{"user":1}]\n'
    )
    assert [key[1] for key, _, _ in read(tmp_path, time.time())] == ["first@y.test", "second@y.test"]


async def test_neither_memory_nor_a_file_grows_beyond_its_bound(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recorded, "MAX_PENDING", 10)
    monkeypatch.setattr(recorded, "MAX_OCTETS", 1000)
    recorder = Recorder(tmp_path, 0)
    for turn in range(20):
        for n in range(100):
            recorder.note(Asking("a@x.test", f"{turn}-{n}@y.test", False))
        recorder.note(Asking("", "x" * 1000, False))
        await flushed(recorder)
    (path,) = (tmp_path / "decisions").iterdir()
    assert path.stat().st_size <= 1000
    assert len(list(read(tmp_path, time.time()))) >= 10


async def test_records_of_long_ago_are_not_read_and_go_with_the_next_day(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, 0)
    recorder.note(Asking("a@x.test", "b@y.test", True))
    old = tmp_path / "decisions" / "p0-100"
    old.parent.mkdir()
    old.write_text('["a@x.test","old@y.test",true,1,8640000]\n')
    assert list(read(tmp_path, time.time())) == []
    await flushed(recorder)
    assert not old.exists()
    assert [key[1] for key, _, _ in read(tmp_path, time.time())] == ["b@y.test"]
