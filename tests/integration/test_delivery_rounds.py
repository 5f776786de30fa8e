"""Rounds of local delivery: the store's thread takes, stores and journals; Python sees what is left. Real spool, real volume."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from gatepost.message.envelope import Notify
from gatepost.queue.transport import Job, JobResult
from integration.test_delivery_local import LocalLab


class CountingLab(LocalLab):
    """Counts the jobs that did not go in a round."""

    single = 0

    async def __aenter__(self) -> "CountingLab":
        await super().__aenter__()
        deliver = self.transport.deliver

        async def counted(destination: str, jobs: Sequence[Job]) -> Sequence[JobResult]:
            self.single += len(jobs)
            return await deliver(destination, jobs)

        self.transport.deliver = counted  # type: ignore[method-assign]
        return self


async def delivered(lab: LocalLab, count: int) -> None:
    """Wait until so many recipients are delivered and the queue is empty."""
    await lab.empty()
    await lab.until(lambda: lab.scheduler.counters["delivered"] == count)


async def test_a_mailbox_seen_before_takes_mail_without_a_call_per_message(tmp_path: Path) -> None:
    async with CountingLab(tmp_path) as lab:
        await lab.submit("alice@here.test")
        await delivered(lab, 1)
        assert lab.single == 1
        for _ in range(50):
            await lab.submit("alice@here.test", sender="bob@here.test")
        await delivered(lab, 51)
        assert lab.single == 1
        inbox = await lab.inbox()
        assert len(inbox) == 51
        assert inbox[-1].startswith(b"Return-Path: <bob@here.test>\r\nDelivered-To: alice@here.test\r\nReceived: ")


async def test_a_success_that_is_to_be_reported_is_reported(tmp_path: Path) -> None:
    async with CountingLab(tmp_path) as lab:
        await lab.submit("bob@here.test")
        await delivered(lab, 1)
        await lab.submit("bob@here.test", sender="alice@here.test", notify=Notify.SUCCESS)
        await delivered(lab, 3)
        assert lab.single >= 2
        (report,) = await lab.inbox()
        assert b"Action: delivered" in report


async def test_a_round_that_is_repeated_after_a_crash_stores_nothing_twice(tmp_path: Path) -> None:
    async with LocalLab(tmp_path) as lab:
        await lab.submit("alice@here.test")
        await delivered(lab, 1)
    async with LocalLab(tmp_path, start=False) as lab:
        for _ in range(10):
            await lab.submit("alice@here.test")
    shutil.copytree(tmp_path / "p0", tmp_path / "saved")
    async with LocalLab(tmp_path) as lab:
        await delivered(lab, 10)
    shutil.rmtree(tmp_path / "p0")
    (tmp_path / "saved").rename(tmp_path / "p0")
    async with LocalLab(tmp_path) as lab:  # the spool knows nothing of it
        await delivered(lab, 10)
        assert len(await lab.inbox()) == 11


async def test_whoever_watches_sees_every_delivery(tmp_path: Path) -> None:
    async with CountingLab(tmp_path) as lab:
        await lab.submit("alice@here.test")
        await delivered(lab, 1)
        seen: list[str] = []

        async def watch() -> None:
            async for event in lab.scheduler.events.watch():
                seen.append(event.kind)  # noqa: PERF401

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0)
        for _ in range(5):
            await lab.submit("alice@here.test")
        await lab.until(lambda: seen.count("delivered") == 5)
        watcher.cancel()
        assert lab.single == 6


async def test_a_volume_that_goes_away_keeps_the_mail(tmp_path: Path) -> None:
    async with LocalLab(tmp_path) as lab:
        await lab.submit("alice@here.test")
        await delivered(lab, 1)
        lab.volumes.update([])
        await lab.submit("alice@here.test")
        await lab.until(lambda: lab.scheduler.counters["deferred"] >= 1)
        assert lab.spool.stats()["messages"] == 1


async def test_mail_that_a_round_took_is_given_back_when_nobody_waits_for_it(tmp_path: Path) -> None:
    async with LocalLab(tmp_path, start=False) as lab:
        await lab.submit("alice@here.test")
        lab.spool.advance(lab.scheduler.now())
        task = asyncio.create_task(lab.transport.round("local:main", 10))  # the route is not known: the job is left
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await lab.until(lambda: lab.spool.destinations() == [("local:main", 1, 1, 0)])
