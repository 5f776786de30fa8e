"""The facade: deliveries complete, watchers hear of local and foreign changes, a broken volume does not take the others down."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gatepost.mailbox import Volumes
from gatepost.native import ClosedError, FormatVersionError, NotFoundError, Spool
from support.mailstore import MAILBOX, mail, spooled


@dataclass(frozen=True)
class _Place:
    name: str
    path: str


@dataclass(frozen=True)
class _Mailbox:
    mailbox_id: bytes
    volume: str


@dataclass(frozen=True)
class _Handle:
    native: Spool


@pytest.fixture
async def volumes(tmp_path: Path) -> AsyncIterator[Volumes]:
    place = _Place("main", str(tmp_path / "volume"))
    opened = await Volumes.open([place], stream="w0", mailboxes=lambda: {"alice@example.test": _Mailbox(MAILBOX, "main")})
    yield opened
    await opened.close()


async def test_a_mailbox_is_found_by_address_in_any_case(volumes: Volumes) -> None:
    store, mailbox = volumes.mailbox("Alice@Example.test")
    assert (store, mailbox) == (volumes.by_name("main"), MAILBOX)
    for address in ("bob@example.test", ""):
        with pytest.raises(NotFoundError):
            volumes.mailbox(address)
    with pytest.raises(NotFoundError):
        volumes.by_name("other")


async def test_deliveries_wake_watchers_at_once(volumes: Volumes, spool: Spool) -> None:
    store = volumes.by_name("main")
    await store.run("ensure_mailbox", MAILBOX)
    folder = (await store.run("folder", MAILBOX, "INBOX"))[0]
    told = asyncio.Event()
    store.watch(folder, told.set)
    await asyncio.sleep(0.3)
    told.clear()
    ids = spooled(spool, *[mail(str(n)) for n in range(50)])
    started = time.monotonic()
    results = await store.deliver([(i, 0, MAILBOX, "INBOX", b"", []) for i in ids], _Handle(spool))
    assert results == [None] * 50
    await asyncio.wait_for(told.wait(), 1)
    assert time.monotonic() - started < 1
    assert (await store.run("folder_by_id", folder))[6] == 50
    store.unwatch(folder, told.set)


async def test_concurrent_batches_all_complete(volumes: Volumes, spool: Spool) -> None:
    store = volumes.by_name("main")
    ids = spooled(spool, *[mail(str(n)) for n in range(60)])
    batches = [[(i, 0, MAILBOX, "INBOX", b"", []) for i in ids[n : n + 10]] for n in range(0, 60, 10)]
    results = await asyncio.gather(*(store.deliver(batch, _Handle(spool)) for batch in batches))
    assert results == [[None] * 10] * 6
    assert (await store.run("mailbox_usage", MAILBOX))[1] == 60


async def test_changes_by_another_process_reach_watchers_within_a_second(volumes: Volumes, tmp_path: Path) -> None:
    store = volumes.by_name("main")
    await store.run("ensure_mailbox", MAILBOX)
    folder = (await store.run("folder", MAILBOX, "INBOX"))[0]
    program = (
        "import sys; from gatepost.native import Store\n"
        f"store = Store({str(tmp_path / 'volume')!r}, stream='w1')\n"
        f"folder = store.folder({MAILBOX!r}, 'INBOX')[0]; print('ready', flush=True); sys.stdin.readline()\n"
        "appender = store.append(folder, [], 0); appender.feed(b'x: y\\r\\n\\r\\n'); appender.commit(); print('done', flush=True)\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert await child.stdout.readline() == b"ready\n"
        told = asyncio.Event()
        store.watch(folder, told.set)
        await asyncio.sleep(0.5)
        told.clear()
        child.stdin.write(b"\n")
        assert await child.stdout.readline() == b"done\n"
        await asyncio.wait_for(told.wait(), 1)
        assert (await store.run("folder_by_id", folder))[6] == 1
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_a_failing_watcher_does_not_silence_the_others(volumes: Volumes) -> None:
    store = volumes.by_name("main")
    await store.run("ensure_mailbox", MAILBOX)
    folder = (await store.run("folder", MAILBOX, "Drafts"))[0]

    def broken() -> None:
        raise RuntimeError("a bug in a session")

    told = asyncio.Event()
    store.watch(folder, broken)
    store.watch(folder, told.set)
    await store.run("subscribe", MAILBOX, "Drafts", False)
    await asyncio.wait_for(told.wait(), 2)


async def test_a_volume_that_cannot_be_opened_leaves_the_others_working(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "format").write_text("gatepost volume 99\n")
    places = [_Place("bad", str(bad)), _Place("good", str(tmp_path / "good"))]
    volumes = await Volumes.open(places, stream="w0")
    with pytest.raises(FormatVersionError):
        await volumes.by_name("bad").run("ensure_mailbox", MAILBOX)
    await volumes.by_name("good").run("ensure_mailbox", MAILBOX)
    volumes.update([*places, _Place("new", str(tmp_path / "new"))])
    await volumes.by_name("new").run("ensure_mailbox", MAILBOX)
    await volumes.close()
    with pytest.raises(FormatVersionError):
        await Volumes.open(places[:1], stream="w0")


async def test_a_volume_no_longer_listed_finishes_its_deliveries_and_is_closed(tmp_path: Path, spool: Spool) -> None:
    main, old = _Place("main", str(tmp_path / "volume")), _Place("old", str(tmp_path / "old"))
    volumes = await Volumes.open([main, old], stream="w0")
    store = volumes.by_name("old")
    ids = spooled(spool, *[mail(str(n)) for n in range(200)])
    under_way = [asyncio.create_task(store.deliver([(i, 0, MAILBOX, "INBOX", b"", [])], _Handle(spool))) for i in ids]
    await asyncio.sleep(0)
    volumes.update([main])
    with pytest.raises(NotFoundError):
        volumes.by_name("old")
    assert await asyncio.wait_for(asyncio.gather(*under_way), 30) == [[None]] * 200
    async with asyncio.timeout(10):
        while volumes._closing:
            await asyncio.sleep(0.01)
    with pytest.raises(ClosedError):
        await store.deliver([(ids[0], 0, MAILBOX, "INBOX", b"", [])], _Handle(spool))
    await volumes.by_name("main").run("ensure_mailbox", MAILBOX)
    volumes.update([main, old])
    assert (await volumes.by_name("old").run("mailbox_usage", MAILBOX))[1] == 200
    await volumes.close()


async def test_closing_waits_for_volumes_that_are_being_closed_and_a_new_place_is_used(tmp_path: Path) -> None:
    here, there = _Place("old", str(tmp_path / "here")), _Place("old", str(tmp_path / "there"))
    volumes = await Volumes.open([here], stream="w0")
    store = volumes.by_name("old")
    volumes.update([there])
    assert volumes.by_name("old").path == there.path
    await volumes.close()
    with pytest.raises(ClosedError):
        await store.run("ensure_mailbox", MAILBOX)
    again = await Volumes.open([here], stream="w0")  # the lock of the stream is free
    await again.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    volumes = await Volumes.open([_Place("main", str(tmp_path / "volume"))], stream="w0")
    store = volumes.by_name("main")
    await store.close()
    with pytest.raises(ClosedError):
        await store.run("ensure_mailbox", MAILBOX)
    await volumes.close()
